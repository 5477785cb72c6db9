"""Norm, gate and rotary embedding of the Llama family, which keep and compute less than the library's."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / √(mean(x²) + ε) · weight, over the last dimension."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return functional.rms_norm(x, weight.shape, weight, epsilon)  # on a GPU it is one kernel
    if not torch.is_grad_enabled():  # between two tokens autograd's work would take longer than the norm
        return (x * _inverse_of_size(x, epsilon)).mul_(weight)
    return cast(Tensor, _RMSNorm.apply(x, weight, epsilon))  # type: ignore[no-untyped-call]


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, of which nothing but the two is kept."""
    if not torch.is_grad_enabled():
        return functional.silu(gate).mul_(up)
    return cast(Tensor, _Gated.apply(gate, up))  # type: ignore[no-untyped-call]


def turned(qk: Tensor, turns: Tensor) -> Tensor:
    """Turned by complex numbers of length one; the two numbers that turn together stand half a head apart.

    Args:
        qk: (…, D)
        turns: (…, D / 2) complex
    """
    return cast(Tensor, _Turned.apply(qk, turns))  # type: ignore[no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    """On a CPU the library's goes over x some ten times there and back; this one half as often.

    With r = 1 / √(mean(x²) + ε) and g = ∂out · weight:  ∂x = r g − r³ mean(g x) x
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        scale = _inverse_of_size(x, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad = grads[0] * weight
        along_x = torch.linalg.vecdot(grad, x).unsqueeze(-1).div_(x.shape[-1]).mul_(scale.pow(3))
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grads[0] * x).mul_(scale).flatten(0, -2).sum(dim=0)
        return grad.mul_(scale).addcmul_(along_x, x, value=-1), grad_weight, None


def _inverse_of_size(x: Tensor, epsilon: float) -> Tensor:
    """1 / √(mean(x²) + ε) (…, 1)"""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_up = functional.silu(gate).mul_(grads[0])
        return torch.ops.aten.silu_backward(grads[0] * up, gate), grad_up


class _Turned(torch.autograd.Function):
    """The gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, qk: Tensor, turns: Tensor) -> Tensor:
        ctx.turns = turns
        return _turn(qk, turns)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _turn(grads[0], ctx.turns.conj()), None


def _turn(qk: Tensor, turns: Tensor) -> Tensor:
    real, imaginary = qk.float().chunk(2, dim=-1)
    product = torch.complex(real, imaginary) * turns
    return torch.cat([product.real, product.imag], dim=-1).to(qk.dtype)
