"""Layers of the Llama family on a model's own weights, without the library's work around them.

Adapters are thin products beside the weights: in bf16 they would be lost if they were added in. Gradients
flow to whatever requires them. Whoever uses a layer makes it anew when weights have changed. For small models
in fp32 there is a faster kind, `trainers.fused_layers`, which also chooses between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional

from trainers.layer_functions import gated, rms_norm, turned


def is_llama(trunk: nn.Module) -> bool:
    """Whether the layers of this trunk compute what `Layer` does, and their weights are whole."""
    config = cast(Any, trunk).config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return (
        config.model_type in ("llama", "qwen2", "qwen3")
        and not isinstance(trunk, FSDPModule)
        and config.hidden_act == "silu"
        and not getattr(config, "use_sliding_window", False)
        and rope in ("default", "linear", "llama3", "yarn")
        # else it is quantised
        and all(weights.is_floating_point() for weights in cast(Any, trunk).layers[0].parameters())
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

    def __init__(self, layer: Any, shape: Shape) -> None:
        attention, self.shape = layer.self_attn, shape
        self.normed_1 = partial(rms_norm, weight=layer.input_layernorm.weight, epsilon=shape.epsilon)
        self.normed_2 = partial(rms_norm, weight=layer.post_attention_layernorm.weight, epsilon=shape.epsilon)
        self.q_norm: Tensor | None = attention.q_norm.weight if hasattr(attention, "q_norm") else None
        self.k_norm: Tensor | None = attention.k_norm.weight if hasattr(attention, "k_norm") else None
        self._take_products(attention, layer.mlp)

    def queries_keys_values(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With their places turned in. (..., H), (..., D / 2) complex -> each (..., heads, D)"""
        shape = self.shape
        qk, v = (t.view(*x.shape[:-1], -1, shape.head_size) for t in self._qk_and_v(x))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = torch.split(qk, [shape.heads, shape.kv_heads], dim=-2)
            q, k = rms_norm(q, self.q_norm, shape.epsilon), rms_norm(k, self.k_norm, shape.epsilon)
            qk = torch.cat([q, k], dim=-2)
        q, k = torch.split(self._turned(qk, turns[..., None, :]), [shape.heads, shape.kv_heads], dim=-2)
        return q, k, v

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows attention. Both (..., H) -> (..., H)"""
        x = x + self._out(attended)
        gate, up = self._gate_and_up(x)
        return x + self._down(gate, up)

    def _take_products(self, attention: Any, mlp: Any) -> None:
        self.qkv = AdaptedLinears(attention.q_proj, attention.k_proj, attention.v_proj, before=self.normed_1)
        self.out = AdaptedLinears(attention.o_proj)
        self.gate_up = AdaptedLinears(mlp.gate_proj, mlp.up_proj, before=self.normed_2)
        self.down = AdaptedLinears(mlp.down_proj, before=gated)

    def _qk_and_v(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv(x)
        return torch.cat([q, k], dim=-1), v

    def _out(self, attended: Tensor) -> Tensor:
        return self.out(attended)[0]

    def _gate_and_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = self.gate_up(x)
        return gate, up

    def _down(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.down(gate, up)[0]

    def _turned(self, qk: Tensor, turns: Tensor) -> Tensor:
        """(..., heads, D), (..., 1, D / 2) -> (..., heads, D)"""
        return turned(qk, turns)


def turns_of_positions(trunk: nn.Module, positions: int, device: torch.device) -> Tensor:
    """The rotary embedding of each position as unit complex numbers. -> (T, D / 2)"""
    index = torch.arange(positions, device=device)[None]
    rotary = cast(nn.Module, trunk.rotary_emb)
    cosine, sine = rotary(torch.empty(0, dtype=torch.float32, device=device), index)
    half = cosine.shape[-1] // 2
    return torch.complex(cosine[0, :, :half], sine[0, :, :half])


class Adapter(NamedTuple):
    """What a linear layer adds: scale · x Aᵀ Bᵀ."""

    a: Tensor
    b: Tensor
    scale: float


def base_and_adapters(layer: Any) -> tuple[Any, list[Adapter]]:
    """A linear layer of the model, and the adapters on it that are active."""
    if not isinstance(layer, LoraLayer):
        return layer, []
    names = () if layer.disable_adapters else layer.active_adapters
    found: list[Any] = [
        Adapter(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
        for name in names
        if name in layer.lora_A
    ]
    return layer.get_base_layer(), found


class AdaptedLinears:
    """Linear layers of the same input, adapters beside them; trains the adapters, or else the weights."""

    def __init__(self, *layers: Any, before: Callable[..., Tensor] = lambda x: x) -> None:
        """
        Args:
            before: makes the layers' input of what comes in. In the backward pass it is computed again: it
                takes little time, and what it makes would take memory in every layer.
        """
        self.before = before
        parts = [base_and_adapters(layer) for layer in layers]
        self.bases = [(base.weight, base.bias) for base, _ in parts]
        self.adapters = [adapter for _, adapters in parts for adapter in adapters]
        self.owners = [number for number, (_, adapters) in enumerate(parts) for _ in adapters]
        if self.adapters:
            dtype = self.bases[0][0].dtype
            with torch.no_grad():
                self.down = torch.cat([adapter.a for adapter in self.adapters]).to(dtype)  # (Σ r, in)
                self.ups = [(adapter.scale * adapter.b).to(dtype) for adapter in self.adapters]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What `before` makes (..., in) of -> (..., out) of each"""
        if not self.adapters:
            x = self.before(*inputs)
            return tuple(functional.linear(x, weight, bias) for weight, bias in self.bases)
        flat = [part.flatten(0, -2) for part in inputs]
        trained = [tensor for adapter in self.adapters for tensor in (adapter.a, adapter.b)]
        outs = _AdaptedProducts.apply(self, len(flat), *flat, *trained)  # type: ignore[no-untyped-call]
        return tuple(out.view(*inputs[0].shape[:-1], -1) for out in outs)


class _AdaptedProducts(torch.autograd.Function):
    """x Wᵀ + s x Aᵀ Bᵀ of each layer, with gradients of x and of each A and B alone. (N, in) -> (N, out) each

    All A are one product, and nothing but what x is made of and x Aᵀ is kept.
        ∂A = s Bᵀ gᵀ x        ∂B = s gᵀ x Aᵀ        ∂x = g W + s g B A
    Source: Hu et al. 2021, arXiv:2106.09685, eq. 3.
    """

    @staticmethod
    def forward(ctx: Any, layers: AdaptedLinears, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = tensors[:count]  # the adapters, behind them, are in `layers` too
        x = layers.before(*inputs)
        outs = [functional.linear(x, weight, bias) for weight, bias in layers.bases]
        inner = x @ layers.down.t()  # (N, Σ r)
        own = torch.split(inner, [up.shape[1] for up in layers.ups], dim=1)
        for owner, part, up in zip(layers.owners, own, layers.ups, strict=True):
            outs[owner].addmm_(part, up.t())
        ctx.save_for_backward(inner, *inputs)
        ctx.layers = layers
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inner, *inputs = ctx.saved_tensors
        layers: AdaptedLinears = ctx.layers
        inputs = [part.detach().requires_grad_(ctx.needs_input_grad[2]) for part in inputs]
        with torch.enable_grad():
            x = layers.before(*inputs)
        ranks = [up.shape[1] for up in layers.ups]
        per_adapter = [grads[owner] for owner in layers.owners]
        grad_inner = torch.cat([g @ up for g, up in zip(per_adapter, layers.ups, strict=True)], dim=1)
        grad_inputs: Sequence[Tensor | None] = [None] * len(inputs)
        if x.requires_grad:
            grad_x = grad_inner @ layers.down
            for g, (weight, _) in zip(grads, layers.bases, strict=True):
                grad_x.addmm_(g, weight)
            grad_inputs = torch.autograd.grad(x, inputs, grad_x)
        found: list[Tensor] = []
        grads_a = torch.split(grad_inner.t() @ x, ranks)
        own = torch.split(inner, ranks, dim=1)
        for adapter, grad_a, part, g in zip(layers.adapters, grads_a, own, per_adapter, strict=True):
            found += [grad_a.to(adapter.a.dtype), (g.t() @ part).to(adapter.b.dtype) * adapter.scale]
        return None, None, *grad_inputs, *found
