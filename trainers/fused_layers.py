"""Layers of the Llama family with fused weights, for small models in fp32.

Query, key and value are one product, gate and up another. Adapters are added into the weights, so that they
cost nothing in the forward pass; in the backward pass only they get a gradient, by products as thin as they
are. `layers_of` chooses between these and those of `trainers.llama_layers`, for `trainers.decoder`, which
works token by token, and for `trainers.packed_trunk`, which takes whole sequences.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.layer_functions import gated
from trainers.llama_layers import Adapter, Layer, Shape, base_and_adapters

COPY_PARAMETERS = 200_000_000
"""Up to this size the weights are copied into the fused layout whenever they have changed."""


def layers_of(
    trunk: nn.Module, first: int = 0, end: int | None = None, *, decoding: bool = False
) -> list[Layer]:
    """The trunk's layers from the `first` on and before the `end`, of the faster kind where it can be used.

    Args:
        trunk: `trainers.llama_layers.is_llama`.
        decoding: for few tokens at a time, without gradient.
    """
    parts, shape = cast(Any, trunk).layers[first:end], Shape.of(trunk)
    if can_fuse(trunk):
        return [FusedLayer(layer, shape, decoding=decoding) for layer in parts]
    return [Layer(layer, shape) for layer in parts]


def can_fuse(trunk: nn.Module) -> bool:
    """Whether the weights are small enough to copy, and precise enough to add adapters to."""
    return (
        cast(Any, trunk).dtype == torch.float32
        and sum(parameter.numel() for parameter in trunk.parameters()) <= COPY_PARAMETERS
    )


class FusedLayer(Layer):
    """One layer's weights in the fused layout."""

    def __init__(self, layer: Any, shape: Shape, *, decoding: bool = False) -> None:
        """
        Args:
            decoding: for few tokens at a time, without gradient.
        """
        self.decoding = decoding
        super().__init__(layer, shape)
        if self.q_norm is not None and self.k_norm is not None:
            self.q_norm = _interleave(self.q_norm, shape.head_size)
            self.k_norm = _interleave(self.k_norm, shape.head_size)

    def _take_products(self, attention: Any, mlp: Any) -> None:
        size = self.shape.head_size
        turning = [_Part.of(attention.q_proj).interleaved(size), _Part.of(attention.k_proj).interleaved(size)]
        self.qkv_in_one = FusedLinear([*turning, _Part.of(attention.v_proj)], self.decoding)
        self.gate_up_in_one = FusedLinear([_Part.of(mlp.gate_proj), _Part.of(mlp.up_proj)], self.decoding)
        self.merged_out = FusedLinear([_Part.of(attention.o_proj)], self.decoding)
        self.merged_down = FusedLinear([_Part.of(mlp.down_proj)], self.decoding)

    def _qk_and_v(self, x: Tensor) -> tuple[Tensor, Tensor]:
        heads, kv_heads, size, _ = self.shape
        products = self.qkv_in_one(self.normed_1(x))
        qk, v = torch.split(products, [(heads + kv_heads) * size, kv_heads * size], dim=-1)
        return qk, v

    def _out(self, attended: Tensor) -> Tensor:
        return self.merged_out(attended)

    def _gate_and_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = self.gate_up_in_one(self.normed_2(x)).chunk(2, dim=-1)
        return gate, up

    def _down(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.merged_down(gated(gate, up))

    def _turned(self, qk: Tensor, turns: Tensor) -> Tensor:
        """The two numbers that rotate together stand next to each other."""
        pairs = torch.view_as_complex(qk.reshape(*qk.shape[:-1], -1, 2).float())
        return torch.view_as_real(pairs * turns).flatten(-2).to(qk.dtype)


class FusedLinear:
    """Several linear layers of the same input as one; trains their adapters, or their weights."""

    def __init__(self, parts: list[_Part], decoding: bool) -> None:
        biases = [part.bias for part in parts if part.bias is not None]
        self.weight = _merged(parts)
        self.decoding = decoding
        if decoding:  # for few rows a product with (in, out) is faster: weights are read in order
            self.weight = self.weight.t().contiguous()
        self.bias = torch.cat(biases) if biases else None
        self.adapters: list[Tensor] = []  # A, B, A, B, …
        self.places: list[_Place] = []
        start = 0
        for part in parts:
            end = start + len(part.weight)
            for a, b, scale in part.adapters:
                self.adapters += [a, b]
                self.places.append(_Place(start, end, scale))
            start = end

    def __call__(self, x: Tensor) -> Tensor:
        if self.decoding:
            out = x @ self.weight
            return out if self.bias is None else out + self.bias
        if not self.adapters:
            return functional.linear(x, self.weight, self.bias)
        out = _AdaptedProduct.apply(x, self.weight, self.places, *self.adapters)  # type: ignore[no-untyped-call]
        return cast(Tensor, out if self.bias is None else out + self.bias)


class _Place(NamedTuple):
    """Where an adapter's outputs stand among those of the fused layer."""

    start: int
    end: int
    scale: float


class _AdaptedProduct(torch.autograd.Function):
    """x (W + Σ s B A)ᵀ, with gradients of x and of each A and B alone.

        ∂A = s Bᵀ gᵀ x        ∂B = s gᵀ x Aᵀ

    Both are computed from the side on which a thin matrix has long rows, which is up to seven times faster.
    Source: Hu et al. 2021, arXiv:2106.09685, eq. 3.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, merged: Tensor, places: list[_Place], *adapters: Tensor) -> Tensor:
        ctx.save_for_backward(x, merged, *adapters)
        ctx.places = places
        return functional.linear(x, merged)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, merged, *adapters = ctx.saved_tensors
        grad = grads[0]
        grad_x = grad @ merged if ctx.needs_input_grad[0] else None
        x, grad = x.flatten(0, -2), grad.flatten(0, -2)  # (N, in), (N, out)
        found = []
        for place, a, b in zip(ctx.places, adapters[::2], adapters[1::2], strict=True):
            own = grad[:, place.start : place.end]
            found += [((b.T @ own.T) * place.scale) @ x, (((a @ x.T) * place.scale) @ own).T]
        return grad_x, None, None, *found


class _Part(NamedTuple):
    """A linear layer: weights, bias, and its active adapters."""

    weight: Tensor
    bias: Tensor | None
    adapters: list[Adapter]

    @classmethod
    def of(cls, layer: Any) -> _Part:
        base, adapters = base_and_adapters(layer)
        return cls(base.weight, base.bias, adapters)

    def interleaved(self, head_size: int) -> _Part:
        adapters = [Adapter(a, _interleave(b, head_size), scale) for a, b, scale in self.adapters]
        bias = None if self.bias is None else _interleave(self.bias, head_size)
        return _Part(_interleave(self.weight, head_size), bias, adapters)


def _merged(parts: list[_Part]) -> Tensor:
    """The parts' weights with the adapters added in. No gradient flows to adapters, nor to weights below."""
    weights = [part.weight for part in parts]
    if not any(part.adapters for part in parts):
        return torch.cat(weights) if len(weights) > 1 else weights[0]
    with torch.no_grad():
        out = torch.cat(weights)
        for own, part in zip(torch.split(out, [len(weight) for weight in weights]), parts, strict=True):
            for a, b, scale in part.adapters:
                own.addmm_(b.to(own.dtype), a.to(own.dtype), alpha=scale)
    return out


def _interleave(tensor: Tensor, head_size: int) -> Tensor:
    """Put the two numbers that rotate together next to each other, in each head. (heads * D, ...)"""
    halves = tensor.view(-1, 2, head_size // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)
