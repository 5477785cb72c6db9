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
from trainers.packed_trunk import pack, wanted_states

COLUMNS = 16
"""The cache's columns come in multiples of this, as a GPU's attention kernels like them."""


class Decoder(Protocol):
    """A model between two tokens."""

    lower: LowerStates | None
    """Kept where the model is split and they are exactly what training computes."""

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


class LowerStates:
    """What the layers below the trained ones compute for the tokens that a decoder reads."""

    def __init__(self, prompts: list[Tensor]) -> None:
        """
        Args:
            prompts: the states of each prompt's tokens. (T, H) each
        """
        self.prompts = prompts
        self.rows = torch.arange(len(prompts), device=prompts[0].device)
        self.steps: list[tuple[Tensor, Tensor]] = []

    def add(self, states: Tensor) -> None:
        """Of one more token of each row that is still there. (B, H)"""
        self.steps.append((self.rows, states))

    def keep(self, rows: Tensor) -> None:
        self.rows = self.rows[rows]

    def of_each_row(self) -> list[Tensor]:
        """Of the prompt and of all steps; where a row was gone, zeros. Each (T, H)"""
        read = self.prompts[0].new_zeros(len(self.prompts), len(self.steps), self.prompts[0].shape[1])
        for step, (rows, states) in enumerate(self.steps):
            read[rows, step] = states
        return [torch.cat(both) for both in zip(self.prompts, read, strict=True)]


class GenericDecoder:
    """Any causal model, through its own forward pass and cache."""

    def __init__(self, model: PolicyModel) -> None:
        self.model = model
        self.lower: LowerStates | None = None

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
        self.lower: LowerStates | None = None
        # in bf16 decoding and training round differently
        self.split = model.split.layer if model.split and model.dtype == torch.float32 else None

    def start(self, prompts: list[list[int]], max_new_tokens: int) -> Tensor:
        packed, lengths = pack(prompts), torch.tensor([len(prompt) for prompt in prompts])
        rows, width = packed.tokens.shape
        total = -(-(width + max_new_tokens) // COLUMNS) * COLUMNS
        shape = (len(self.layers), 2, rows, self.shape.kv_heads, total, self.shape.head_size)
        self.cache = torch.empty(shape, dtype=self.embedding.dtype, device=self.device)
        self.turns = turns_of_positions(self.trunk, total, self.device)
        self.lowest = torch.finfo(self.embedding.dtype).min
        self.bias = torch.zeros(rows, 1, 1, total, dtype=self.embedding.dtype, device=self.device)
        padding = torch.arange(width) >= lengths[:, None]
        self.bias[:, 0, 0, :width].masked_fill_(padding.to(self.device), self.lowest)

        def remember(number: int, x: Tensor, keys: Tensor, values: Tensor) -> None:
            self.cache[number, 0, :, :, :width], self.cache[number, 1, :, :, :width] = keys, values
            if number == self.split:
                places = zip(packed.tokens.to(self.device), lengths, strict=True)
                self.lower = LowerStates([x[tokens[:length]] for tokens, length in places])

        states = functional.embedding(packed.ids.to(self.device), self.embedding)
        last = torch.arange(width) == lengths[:, None] - 1
        hidden, _ = wanted_states(self.trunk, self.layers, states, packed, last, remember=remember)
        self.lengths, self.column = lengths.to(self.device), width
        return hidden

    def step(self, tokens: Tensor) -> Tensor:
        hidden = self._read(tokens, self.bias[..., : self.column + 1])
        self.lengths = self.lengths + 1
        self.column += 1
        return hidden

    def keep(self, rows: Tensor) -> None:
        kept = torch.empty_like(self.cache[:, :, : len(rows)])
        kept[..., : self.column, :] = self.cache[:, :, rows, :, : self.column]
        self.cache = kept
        self.bias, self.lengths = self.bias[rows], self.lengths[rows]
        if self.lower is not None:
            self.lower.keep(rows)

    def _read(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """One more token of each row. (B,), (B, 1, 1, columns to attend to) -> (B, H)"""
        x, turns = functional.embedding(tokens, self.embedding), self.turns[self.lengths]
        for number, (layer, cache) in enumerate(zip(self.layers, self.cache, strict=True)):
            if number == self.split and self.lower is not None:
                self.lower.add(x)
            q, key, value = layer.queries_keys_values(x, turns)  # (B, heads, D)
            keys, values = self._remember(cache, key, value)
            # the heads that share a key stand in for query positions: no copy of the cache
            grouped = q.view(len(q), self.shape.kv_heads, -1, self.shape.head_size)
            attended = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias)
            x = layer.rest(x, attended.flatten(1))
        return rms_norm(x, self.norm, self.shape.epsilon)

    def _remember(self, cache: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put a token's key and value into a layer's cache, and give all that are to be attended to.

        Args:
            cache: (2, B, kv heads, columns, D)
            key, value: (B, kv heads, D)
        """
        cache[0, :, :, self.column], cache[1, :, :, self.column] = key, value
        return cache[0, :, :, : self.column + 1], cache[1, :, :, : self.column + 1]


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
        self._clear_free_columns()
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
        self._clear_free_columns()
        self.tokens = self.tokens[rows]
        self.graph, self.is_warm = None, False

    def _clear_free_columns(self) -> None:
        """What is masked counts for nothing, but if it were no number, nothing would be one."""
        self.cache[..., self.column :, :] = 0

    def _read_tokens(self) -> Tensor:
        self.bias.index_fill_(-1, self.place, 0.0)
        hidden = self._read(self.tokens, self.bias)
        self.lengths += 1
        self.place += 1
        return hidden

    def _remember(self, cache: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        cache[0].index_copy_(2, self.place, key[:, :, None])
        cache[1].index_copy_(2, self.place, value[:, :, None])
        return cache[0], cache[1]
