"""A language model's layers in two parts: the lower ones, which training leaves alone, and the trained ones.

What the lower part computes for a token sequence stays the same while adapters on the upper part learn, so it
is computed once an update: `trainers.decoder` keeps it while sampling, or else `trainers.ppo_run` asks for it
once more; `trainers.rollout` goes on from it. Where the layers are not our own (`trainers.llama_layers`), the
library runs both parts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

SPLIT_TYPES = ("llama", "qwen2", "qwen3")
"""Model types whose trunk is an embedding, layers and a norm, with nothing between them."""


class SplitTrunk:
    """Both parts share all weights with the trunk they came from; `layer` is the first of the upper one."""

    def __init__(self, trunk: nn.Module, layer: int) -> None:
        self.layer = layer
        layers = cast(Any, trunk).layers
        self._lower, self._upper = _shallow_copy(trunk), _shallow_copy(trunk)
        self._lower.layers, self._lower.norm = layers[:layer], nn.Identity()
        self._upper.layers = layers[layer:]

    @torch.no_grad()
    def lower(self, input_ids: Tensor) -> Tensor:
        """Hidden states below the trained layers; padding on the right. (B, T) -> (B, T, H)"""
        return cast(Tensor, self._lower(input_ids=input_ids, use_cache=False).last_hidden_state)

    def upper(self, rows: Sequence[Tensor]) -> Tensor:
        """Hidden states after the last layer, from each row's states below. B tensors (T, H) -> (B, T, H)"""
        padded = pad_sequence(list(rows), batch_first=True)
        return cast(Tensor, self._upper(inputs_embeds=padded, use_cache=False).last_hidden_state)


def split_below(trunk: nn.Module, layer: int) -> SplitTrunk | None:
    """The trunk in two parts, the upper beginning with this layer; `None` where it must run as a whole."""
    config = cast(Any, trunk).config
    whole = config.model_type not in SPLIT_TYPES or getattr(config, "use_sliding_window", False)
    return None if whole or layer == 0 else SplitTrunk(trunk, layer)


def _shallow_copy(module: nn.Module) -> Any:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)  # so that replacing a child leaves the original as it is
    return copied
