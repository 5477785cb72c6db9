"""A trunk's forward pass over sequences without padding, where only some positions' states are wanted.

All tokens of a batch stand in one row of N, and only attention sees them as sequences: no product is spent on
padding. The last layer computes what follows its attention for the wanted positions alone. Serves the Llama
family (`trainers.llama_layers`); for all others `trainers.rollout` asks the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainers.layer_functions import rms_norm
from trainers.llama_layers import Layer, Shape, turns_of_positions


def wanted_states(
    trunk: nn.Module,
    layers: Sequence[Layer],
    states: Tensor,
    lengths: Sequence[int],
    wanted: Tensor,
    *,
    first_layer: int = 0,
    features_after: int | None = None,
    checkpointing: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Hidden states after the last layer.

    Args:
        layers: those to run, up to the last (`trainers.fused_layers.layers_of`).
        states: what goes into the first of them, sequence after sequence. (N, H)
        lengths: tokens of each sequence, N in all.
        wanted: True where the state is wanted; on the CPU, a GPU would be waited for. (N,) bool
        first_layer: how many are below them.
        features_after: give the wanted states after this many layers too.
        checkpointing: keep the layers' inputs only, and compute the rest again in the backward pass.
    Returns:
        Those states, and those after `features_after` layers, in the order of the tokens. (W, H) each
    """
    parts: Any = trunk
    shape, x = Shape.of(trunk), states
    count, width = len(lengths), max(lengths)
    real = torch.arange(width)[None] < torch.tensor(lengths)[:, None]  # (B, T)
    places = real.flatten().nonzero().squeeze(1).to(x.device)  # (N,): of each token among B * T
    source = torch.zeros(count * width, dtype=torch.long, device=x.device)  # (B * T,): token at each place
    source[places] = torch.arange(len(places), device=x.device)
    positions = torch.cat([torch.arange(length) for length in lengths]).to(x.device)
    turns = turns_of_positions(trunk, width, x.device)[positions]  # (N, D / 2)
    keep = wanted.nonzero().squeeze(1).to(x.device)
    features = x[keep] if features_after == first_layer else None

    def run(layer: Layer, x: Tensor) -> Tensor:
        padded = [
            cast(Tensor, _Padded.apply(part, source, places))  # type: ignore[no-untyped-call]
            .view(count, width, *part.shape[1:])
            .transpose(1, 2)
            for part in layer.queries_keys_values(x, turns)
        ]  # each (B, heads, T, D)
        attended = _attend(*padded).transpose(1, 2).reshape(count * width, -1)
        if layer is layers[-1]:
            return layer.rest(x[keep], _Taken.apply(attended, places[keep]))  # type: ignore[no-untyped-call]
        return layer.rest(x, _Taken.apply(attended, places))  # type: ignore[no-untyped-call]

    for number, layer in enumerate(layers, first_layer + 1):
        if checkpointing and torch.is_grad_enabled():
            x = cast(Tensor, checkpoint(run, layer, x, use_reentrant=False))
        else:
            x = run(layer, x)
        if number == features_after:
            features = x if layer is layers[-1] else x[keep]
    return rms_norm(x, parts.norm.weight, shape.epsilon), features


class _Padded(torch.autograd.Function):
    """Tokens at their places among B * T. (N, …) -> (B * T, …)

    Padding repeats the first token. It stands behind all that is real, where causal attention does not look:
    nothing reads it, and its gradient is zero.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, source: Tensor, places: Tensor) -> Tensor:
        ctx.places = places
        return tokens.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.places), None, None


class _Taken(torch.autograd.Function):
    """The tokens at these places, each at most once. (B * T, …) -> (N, …)"""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Tensor) -> Tensor:
        ctx.places, ctx.shape = places, padded.shape
        return padded.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].new_zeros(ctx.shape).index_copy_(0, ctx.places, grads[0]), None


def _attend(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    group = q.shape[1] // keys.shape[1]
    if group > 1 and q.device.type == "cpu":  # where kernels do not know heads that share a key
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    is_grouped = keys.shape[1] < q.shape[1]
    return functional.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=is_grouped)
