"""Runs a language model one token at a time: prompts in, the last position's hidden state out.

`GenericDecoder` drives any Hugging Face model with its own cache. `LlamaDecoder` is the same computation for
the Llama family, without the library's work per step: the layers of `trainers.fused_layers` and a cache
allocated once. On a GPU `GraphDecoder` replays it. Knows nothing of sampling; `trainers.sampling` draws the
tokens.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from trainers.fused_layers import layers_of
from trainers.layer_functions import rms_norm
from trainers.llama_layers import Shape, is_llama, turns_of_positions
from trainers.models import PolicyModel, pad

COLUMNS = 16
"""The cache's columns come in multiples of this, as a GPU's attention kernels like them."""


class Decoder(Protocol):
    """A model between two tokens."""

    def start(self, prompts: list[list[int]], max_new_tokens: int) -> Tensor:
        """Read the prompts; the hidden state from which the first token is drawn. -> (B, H)"""

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each row. (B,) -> (B, H)"""

    def keep(self, rows: Tensor) -> None:
        """Forget all other rows."""


def decoder_for(model: PolicyModel) -> Decoder:
    """The fastest decoder that this model can use."""
    if not is_llama(model.trunk):
        return GenericDecoder(model)
    return GraphDecoder(model) if model.device.type == "cuda" else LlamaDecoder(model)


class GenericDecoder:
    """Any causal model, through its own forward pass and cache."""

    def __init__(self, model: PolicyModel) -> None:
        self.model = model

    def start(self, prompts: list[list[int]], max_new_tokens: int) -> Tensor:
        ids, mask = pad(prompts, 0, "left")
        room = torch.ones(len(prompts), max_new_tokens, dtype=torch.bool)
        self.mask = torch.cat([mask, room], dim=1).long().to(self.model.device)
        self.width = ids.shape[1]
        self.lengths = mask.sum(dim=1).to(self.model.device)
        self.cache = DynamicCache(config=self.model.causal_model.config)
        positions = (self.mask[:, : self.width].cumsum(dim=1) - 1).clamp(min=0)
        return self._forward(ids.to(self.model.device), positions)

    def step(self, tokens: Tensor) -> Tensor:
        self.width += 1
        hidden = self._forward(tokens[:, None], self.lengths[:, None])
        self.lengths = self.lengths + 1
        return hidden

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self.model.trunk(
            input_ids=ids,
            attention_mask=self.mask[:, : self.width],
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return cast(Tensor, output.last_hidden_state[:, -1])


class LlamaDecoder:
    """Llama, Qwen2 and Qwen3 without the library's work per step; the same numbers to rounding."""

    @torch.no_grad()
    def __init__(self, model: PolicyModel) -> None:
        trunk: Any = model.trunk
        self.device = model.device
        self.shape = Shape.of(trunk)
        self.layers = layers_of(trunk, decoding=True)
        self.trunk = trunk
        self.embedding: Tensor = trunk.embed_tokens.weight
        self.norm: Tensor = trunk.norm.weight

    def start(self, prompts: list[list[int]], max_new_tokens: int) -> Tensor:
        ids, mask = (tensor.to(self.device) for tensor in pad(prompts, 0, "left"))
        rows, width = ids.shape
        total = -(-(width + max_new_tokens) // COLUMNS) * COLUMNS
        shape = (len(self.layers), 2, rows, self.shape.kv_heads, total, self.shape.head_size)
        self.cache = torch.zeros(shape, dtype=self.embedding.dtype, device=self.device)
        self.turns = turns_of_positions(self.trunk, total, self.device)
        self.lengths = mask.sum(dim=1)
        self.column = 0
        self.lowest = torch.finfo(self.embedding.dtype).min
        self.bias = torch.zeros(rows, 1, 1, total, dtype=self.embedding.dtype, device=self.device)
        self.bias[:, 0, 0, :width].masked_fill_(~mask, self.lowest)
        causal = torch.full((width, width), self.lowest, dtype=self.bias.dtype, device=self.device).triu(1)
        positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        bias = torch.maximum(self.bias[..., :width] + causal, self.bias.new_tensor(self.lowest))
        hidden = self._forward(ids, self.turns[positions], bias)[:, -1]
        self.column = width
        return hidden

    def step(self, tokens: Tensor) -> Tensor:
        turns = self.turns[self.lengths][:, None]
        hidden = self._forward(tokens[:, None], turns, self.bias[..., : self.column + 1])[:, -1]
        self.lengths = self.lengths + 1
        self.column += 1
        return hidden

    def keep(self, rows: Tensor) -> None:
        kept = torch.zeros_like(self.cache[:, :, : len(rows)])
        kept[..., : self.column, :] = self.cache[:, :, rows, :, : self.column]
        self.cache = kept
        self.bias, self.lengths = self.bias[rows], self.lengths[rows]

    def _forward(self, ids: Tensor, turns: Tensor, bias: Tensor) -> Tensor:
        """Read (B, T) tokens at the cache's next T columns. -> (B, T, H)"""
        x = functional.embedding(ids, self.embedding)  # (B, T, H)
        for layer, cache in zip(self.layers, self.cache, strict=True):
            q, keys, values = (t.transpose(1, 2) for t in layer.queries_keys_values(x, turns))
            keys, values = self._remember(cache, keys, values)
            attended = self._attend(q, keys, values, bias)
            x = layer.rest(x, attended.transpose(1, 2).reshape(*x.shape[:2], -1))
        return rms_norm(x, self.norm, self.shape.epsilon)

    def _remember(self, cache: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put T tokens' keys and values into a layer's cache, and give all that are to be attended to.

        Args:
            cache: (2, B, kv heads, columns, D)
            keys, values: (B, kv heads, T, D)
        """
        stop = self.column + keys.shape[2]
        cache[0, :, :, self.column : stop], cache[1, :, :, self.column : stop] = keys, values
        return cache[0, :, :, :stop], cache[1, :, :, :stop]

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """(B, heads, T, D) -> (B, heads, T, D)"""
        if q.shape[2] == 1:  # the heads that share a key stand in for query positions: no copy of the cache
            grouped = q.view(len(q), self.shape.kv_heads, -1, self.shape.head_size)
            out = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias)
            return out.reshape(q.shape)
        group = self.shape.heads // self.shape.kv_heads
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
        return functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias)


class GraphDecoder(LlamaDecoder):
    """The same on a GPU, on which a token's hundreds of small kernels take longer to start than to run.

    One step is recorded as a CUDA graph and replayed. A graph always reads and writes the same memory: so all
    that changes from step to step are tensors changed in place, and attention reads the whole cache, with the
    columns that are still to be written masked. Source: https://docs.pytorch.org/docs/stable/notes/cuda.html
    """

    graph: torch.cuda.CUDAGraph | None
    is_warm: bool
    """Whether a step has run as it is, which loads its kernels: the next one is recorded."""

    def start(self, prompts: list[list[int]], max_new_tokens: int) -> Tensor:
        hidden = super().start(prompts, max_new_tokens)
        self.bias[..., self.column :] = self.lowest
        self.place = torch.tensor([self.column], device=self.device)
        self.tokens = self.lengths.clone()
        self.graph, self.is_warm = None, False
        return hidden

    def step(self, tokens: Tensor) -> Tensor:
        self.tokens.copy_(tokens)
        if self.graph is None and self.is_warm:
            self.graph = graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.hidden = self._read_tokens()
        if self.graph is not None:
            self.graph.replay()
        else:
            self.hidden, self.is_warm = self._read_tokens(), True
        self.column += 1
        return self.hidden

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.tokens = self.tokens[rows]
        self.graph, self.is_warm = None, False

    def _read_tokens(self) -> Tensor:
        self.bias.index_fill_(-1, self.place, 0.0)
        hidden = self._forward(self.tokens[:, None], self.turns[self.lengths][:, None], self.bias)[:, -1]
        self.lengths += 1
        self.place += 1
        return hidden

    def _remember(self, cache: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if keys.shape[2] > 1:
            return super()._remember(cache, keys, values)
        cache[0].index_copy_(2, self.place, keys)
        cache[1].index_copy_(2, self.place, values)
        return cache[0], cache[1]
