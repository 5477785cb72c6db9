"""Layers of the Llama family with fused weights, for small models in fp32.

Query, key and value are one product, gate and up another. Adapters are added into the weights, so that they
cost nothing in the forward pass; in the backward pass only they get a gradient, by products as thin as they
are. Whoever uses a layer makes it anew when weights have changed. Used by `trainers.decoder`, token by token,
and `trainers.packed_trunk`, for whole sequences.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional

COPY_PARAMETERS = 200_000_000
"""Up to this size the weights are copied into the fused layout whenever they have changed."""


def can_fuse(trunk: nn.Module) -> bool:
    """Whether the layers of this trunk compute what `Layer` does, and are whole and small enough to copy."""
    config: Any = trunk.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return (
        config.model_type in ("llama", "qwen2", "qwen3")
        and not isinstance(trunk, FSDPModule)
        and config.hidden_act == "silu"
        and not getattr(config, "use_sliding_window", False)
        and rope in ("default", "linear", "llama3", "yarn")
        and all(parameter.is_floating_point() for parameter in trunk.parameters())  # else it is quantised
        and sum(parameter.numel() for parameter in trunk.parameters()) <= COPY_PARAMETERS
    )


class Shape(NamedTuple):
    """What all layers of a trunk have in common."""

    heads: int
    kv_heads: int
    head_size: int
    epsilon: float

    @classmethod
    def of(cls, trunk: nn.Module) -> Shape:
        config: Any = trunk.config
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(heads, config.num_key_value_heads, size, config.rms_norm_eps)


class Layer:
    """One layer's weights; see the module."""

    def __init__(self, layer: Any, shape: Shape, *, decoding: bool = False) -> None:
        """
        Args:
            decoding: for few tokens at a time, without gradient.
        """
        attention, mlp, self.shape = layer.self_attn, layer.mlp, shape
        size = shape.head_size
        turning = [_Part.of(attention.q_proj).interleaved(size), _Part.of(attention.k_proj).interleaved(size)]
        self.qkv = FusedLinear([*turning, _Part.of(attention.v_proj)], decoding)
        self.out = FusedLinear([_Part.of(attention.o_proj)], decoding)
        self.gate_up = FusedLinear([_Part.of(mlp.gate_proj), _Part.of(mlp.up_proj)], decoding)
        self.down = FusedLinear([_Part.of(mlp.down_proj)], decoding)
        self.norm_1: Tensor = layer.input_layernorm.weight
        self.norm_2: Tensor = layer.post_attention_layernorm.weight
        self.q_norm: Tensor | None = None
        self.k_norm: Tensor | None = None
        if hasattr(attention, "q_norm"):
            self.q_norm = _interleave(attention.q_norm.weight, size)
            self.k_norm = _interleave(attention.k_norm.weight, size)

    def queries_keys_values(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With their places turned in. (..., H), (..., D / 2) complex -> each (..., heads, D)"""
        shape = self.shape
        h = functional.rms_norm(x, self.norm_1.shape, self.norm_1, shape.epsilon)
        qkv = self.qkv(h).view(*x.shape[:-1], -1, shape.head_size)
        qk, v = torch.split(qkv, [shape.heads + shape.kv_heads, shape.kv_heads], dim=-2)
        if self.q_norm is not None:
            q, k = torch.split(qk, [shape.heads, shape.kv_heads], dim=-2)
            q = functional.rms_norm(q, self.q_norm.shape, self.q_norm, shape.epsilon)
            k = functional.rms_norm(k, self.q_norm.shape, self.k_norm, shape.epsilon)
            qk = torch.cat([q, k], dim=-2)
        pairs = torch.view_as_complex(qk.reshape(*qk.shape[:-1], -1, 2).float())
        qk = torch.view_as_real(pairs * turns[..., None, :]).flatten(-2).to(x.dtype)
        q, k = torch.split(qk, [shape.heads, shape.kv_heads], dim=-2)
        return q, k, v

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows attention. Both (..., H) -> (..., H)"""
        x = x + self.out(attended)
        h = functional.rms_norm(x, self.norm_2.shape, self.norm_2, self.shape.epsilon)
        gate, up = self.gate_up(h).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


def turns_of_positions(trunk: nn.Module, positions: int, device: torch.device) -> Tensor:
    """The rotary embedding of each position as unit complex numbers. -> (T, D / 2)"""
    index = torch.arange(positions, device=device)[None]
    rotary = cast(nn.Module, trunk.rotary_emb)
    cosine, sine = rotary(torch.empty(0, dtype=torch.float32, device=device), index)
    half = cosine.shape[-1] // 2
    return torch.complex(cosine[0, :, :half], sine[0, :, :half])


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
    """A linear layer: weights, bias, and its active adapters as (A, B, scale)."""

    weight: Tensor
    bias: Tensor | None
    adapters: tuple[tuple[Tensor, Tensor, float], ...]

    @classmethod
    def of(cls, layer: Any) -> _Part:
        if not isinstance(layer, LoraLayer):
            return cls(layer.weight, layer.bias, ())
        base: Any = layer.get_base_layer()
        names = () if layer.disable_adapters else layer.active_adapters
        found: Any = [
            (layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
            for name in names
            if name in layer.lora_A
        ]
        return cls(base.weight, base.bias, tuple(found))

    def interleaved(self, head_size: int) -> _Part:
        adapters = tuple((a, _interleave(b, head_size), scale) for a, b, scale in self.adapters)
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
