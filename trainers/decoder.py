"""Runs a language model one token at a time: prompts in, the last position's hidden state out.

`GenericDecoder` drives any Hugging Face model with its own cache. `LlamaDecoder` is the same computation for
small models of the Llama family, without the library's work per step: the layers of `trainers.fused_layers`
and a cache allocated once. Knows nothing of sampling; `trainers.sampling` draws the tokens.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from trainers.fused_layers import Layer, Shape, can_fuse, turns_of_positions
from trainers.models import PolicyModel, pad


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
    return LlamaDecoder(model) if can_fuse(model.trunk) else GenericDecoder(model)


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
        self.layers = [Layer(layer, self.shape, decoding=True) for layer in trunk.layers]
        self.trunk = trunk
        self.embedding: Tensor = trunk.embed_tokens.weight
        self.norm: Tensor = trunk.norm.weight

    def start(self, prompts: list[list[int]], max_new_tokens: int) -> Tensor:
        ids, mask = (tensor.to(self.device) for tensor in pad(prompts, 0, "left"))
        rows, width = ids.shape
        total = width + max_new_tokens
        shape = (len(self.layers), 2, rows, self.shape.kv_heads, total, self.shape.head_size)
        self.cache = torch.empty(shape, dtype=self.embedding.dtype, device=self.device)
        self.turns = turns_of_positions(self.trunk, total, self.device)
        self.lengths = mask.sum(dim=1)
        self.column = 0
        lowest = torch.finfo(self.embedding.dtype).min
        self.bias = torch.zeros(rows, 1, 1, total, dtype=self.embedding.dtype, device=self.device)
        self.bias[:, 0, 0, :width].masked_fill_(~mask, lowest)
        causal = torch.full((width, width), lowest, dtype=self.bias.dtype, device=self.device).triu(1)
        positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        bias = torch.maximum(self.bias[..., :width] + causal, self.bias.new_tensor(lowest))
        return self._forward(ids, self.turns[positions], bias)[:, -1]

    def step(self, tokens: Tensor) -> Tensor:
        turns = self.turns[self.lengths][:, None]
        self.lengths = self.lengths + 1
        return self._forward(tokens[:, None], turns, self.bias[..., : self.column + 1])[:, -1]

    def keep(self, rows: Tensor) -> None:
        kept = torch.empty_like(self.cache[:, :, : len(rows)])
        kept[..., : self.column, :] = self.cache[:, :, rows, :, : self.column]
        self.cache = kept
        self.bias, self.lengths = self.bias[rows], self.lengths[rows]

    def _forward(self, ids: Tensor, turns: Tensor, bias: Tensor) -> Tensor:
        """Read (B, T) tokens at the cache's next T columns. -> (B, T, H)"""
        x = functional.embedding(ids, self.embedding)  # (B, T, H)
        for layer, cache in zip(self.layers, self.cache, strict=True):
            x = layer.rest(x, self._attend(*layer.queries_keys_values(x, turns), cache, bias))
        self.column += ids.shape[1]
        return functional.rms_norm(x, self.norm.shape, self.norm, self.shape.epsilon)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, cache: Tensor, bias: Tensor) -> Tensor:
        """Attention to the cache, with these keys and values put into it. (B, T, heads, D) -> (B, T, H)"""
        rows, length, _, _ = q.shape
        stop = self.column + length
        cache[0, :, :, self.column : stop] = keys.transpose(1, 2)
        cache[1, :, :, self.column : stop] = values.transpose(1, 2)
        keys, values = cache[0, :, :, :stop], cache[1, :, :, :stop]
        q = q.transpose(1, 2)  # (B, heads, T, D)
        if length == 1:  # the heads that share a key stand in for query positions: no copy of the cache
            q = q.reshape(rows, self.shape.kv_heads, -1, self.shape.head_size)
            out = functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
            return out.reshape(rows, 1, -1)
        group = self.shape.heads // self.shape.kv_heads
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
        out = functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
        return out.transpose(1, 2).reshape(rows, length, -1)
