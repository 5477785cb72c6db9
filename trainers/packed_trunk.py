"""A trunk's forward pass over token sequences, of which only some positions' states are wanted.

The tokens of a batch stand in one row, and only attention sees them as sequences: no product is spent on
padding. What several sequences begin with, a template, a system message or a whole prompt, is computed once.
The last layer computes what follows its attention for the wanted positions alone. Serves the Llama family
(`trainers.llama_layers`); for all others `trainers.rollout` and `trainers.models` ask the library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainers.layer_functions import rms_norm
from trainers.llama_layers import Layer, Shape, turns_of_positions
from trainers.passes import common_beginning


class Packed(NamedTuple):
    """B sequences as U tokens, each with all that stands before it: equal beginnings are there once.

    As attention sees them, the sequences have B * T places, the padding behind them; all tensors are on the
    CPU, as a GPU would be waited for.
    """

    ids: Tensor
    """(U,)"""
    tokens: Tensor
    """Which token is at each place; padding has any. (B, T)"""
    places: Tensor
    """The first place of each token. (U,)"""
    repeats: Tensor
    """The other places that are no padding."""


def pack(rows: Sequence[Sequence[int]]) -> Packed:
    """Token sequences, none of them empty."""
    width = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    ids: list[int] = []
    places: list[int] = []
    repeats: list[int] = []
    above = 0  # in lexicographic order each row has the longest beginning in common with the one before it
    for number in sorted(range(len(rows)), key=lambda number: tuple(rows[number])):
        row, first = rows[number], number * width
        shared = common_beginning(rows[above], row) if ids else 0
        tokens[number, :shared] = tokens[above, :shared]
        tokens[number, shared : len(row)] = torch.arange(len(ids), len(ids) + len(row) - shared)
        ids += row[shared:]
        places += range(first + shared, first + len(row))
        repeats += range(first, first + shared)
        above = number
    return Packed(torch.tensor(ids), tokens, torch.tensor(places), torch.tensor(repeats, dtype=torch.long))


def wanted_states(
    trunk: nn.Module,
    layers: Sequence[Layer],
    states: Tensor,
    packed: Packed,
    wanted: Tensor,
    *,
    first_layer: int = 0,
    features_after: int | None = None,
    checkpointing: bool = False,
    remember: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Hidden states after the last layer.

    Args:
        layers: those to run, up to the last (`trainers.fused_layers.layers_of`).
        states: what goes into the first of them for each token. (U, H)
        packed: the sequences.
        wanted: True where the state is wanted; on the CPU. (B, T) bool
        first_layer: how many are below them.
        features_after: give the wanted states after this many layers too.
        checkpointing: keep the layers' inputs only, and compute the rest again in the backward pass.
        remember: takes each layer's number, from 0, its input, (U, H), and its keys and values,
            (B, kv heads, T, D) each.
    Returns:
        Those states, and those after `features_after` layers, in the order of the places. (W, H) each
    """
    parts: Any = trunk
    shape, x = Shape.of(trunk), states
    rows, width = packed.tokens.shape
    turns = turns_of_positions(trunk, width, x.device)[(packed.places % width).to(x.device)]  # (U, D / 2)
    padding = _Padding.of(packed, x.device)
    places = wanted.flatten().nonzero().squeeze(1).to(x.device)  # (W,)
    kept = padding.tokens[places]
    features = x[kept] if features_after == first_layer else None

    def run(number: int, layer: Layer, x: Tensor) -> Tensor:
        q, keys, values = (
            cast(Tensor, _Padded.apply(part, padding))  # type: ignore[no-untyped-call]
            .view(rows, width, *part.shape[1:])
            .transpose(1, 2)
            for part in layer.queries_keys_values(x, turns)
        )  # each (B, heads, T, D)
        if remember is not None:
            remember(number, x, keys, values)
        attended = _attend(q, keys, values).transpose(1, 2).reshape(rows * width, -1)
        if layer is layers[-1]:
            return layer.rest(x[kept], _Taken.apply(attended, places))  # type: ignore[no-untyped-call]
        return layer.rest(x, _Taken.apply(attended, padding.places))  # type: ignore[no-untyped-call]

    for number, layer in enumerate(layers, first_layer):
        if checkpointing and torch.is_grad_enabled():
            x = cast(Tensor, checkpoint(run, number, layer, x, use_reentrant=False))
        else:
            x = run(number, layer, x)
        if number + 1 == features_after:
            features = x if layer is layers[-1] else x[kept]
    return rms_norm(x, parts.norm.weight, shape.epsilon), features


class _Padding(NamedTuple):
    """`Packed` where the states are."""

    tokens: Tensor
    """(B * T,)"""
    places: Tensor
    """(U,)"""
    repeats: Tensor
    """Places."""
    repeated: Tensor
    """Their tokens."""

    @classmethod
    def of(cls, packed: Packed, device: torch.device) -> _Padding:
        tokens = packed.tokens.flatten()
        parts = (tokens, packed.places, packed.repeats, tokens[packed.repeats])
        return cls(*(part.to(device) for part in parts))


class _Padded(torch.autograd.Function):
    """Tokens at all of their places. (U, …) -> (B * T, …)

    Padding repeats some token. It stands behind all that is real, where causal attention does not look:
    nothing reads it, and its gradient is zero.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, padding: _Padding) -> Tensor:
        ctx.padding = padding
        return tokens.index_select(0, padding.tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        padding: _Padding = ctx.padding
        found = grads[0].index_select(0, padding.places)
        if len(padding.repeats):
            found.index_add_(0, padding.repeated, grads[0].index_select(0, padding.repeats))
        return found, None


class _Taken(torch.autograd.Function):
    """What is at these places, each named at most once. (B * T, …) -> (U, …)"""

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
