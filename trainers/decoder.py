"""Runs a language model one token at a time: prompts in, the last position's hidden state out.

`GenericDecoder` drives any Hugging Face model with its own cache. `LlamaDecoder` is the same computation for
small models of the Llama family, without the library's work per step: fused weights with the adapters added
in, rotary embeddings as one complex product, a cache allocated once. Knows nothing of sampling;
`trainers.sampling` draws the tokens.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from trainers.models import PolicyModel, pad
from trainers.sharding import is_sharded

COPY_PARAMETERS = 200_000_000
"""Up to this size the weights are copied into the fast decoder's layout before each round of sampling."""


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
    config = model.causal_model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    fits = (
        config.model_type in ("llama", "qwen2", "qwen3")
        and not is_sharded(model)
        and config.hidden_act == "silu"
        and not getattr(config, "use_sliding_window", False)
        and rope in ("default", "linear", "llama3", "yarn")
        and sum(parameter.numel() for parameter in model.trunk.parameters()) <= COPY_PARAMETERS
    )
    return LlamaDecoder(model) if fits else GenericDecoder(model)


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


class _Layer:
    """One layer's weights, fused: query, key and value in one product, gate and up in another."""

    def __init__(self, layer: Any, pairs: Tensor, heads: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        rotated = [_weight_and_bias(part) for part in (attention.q_proj, attention.k_proj)]
        rotated = [(_interleave(w, pairs), None if b is None else _interleave(b, pairs)) for w, b in rotated]
        self.qkv, self.qkv_bias = _fuse([*rotated, _weight_and_bias(attention.v_proj)])
        self.out, self.out_bias = _weight_and_bias(attention.o_proj)
        self.gate_up, self.gate_up_bias = _fuse(
            [_weight_and_bias(mlp.gate_proj), _weight_and_bias(mlp.up_proj)]
        )
        self.down, self.down_bias = _weight_and_bias(mlp.down_proj)
        self.norm_1 = layer.input_layernorm.weight
        self.norm_2 = layer.post_attention_layernorm.weight
        self.q_norm = self.k_norm = None
        if hasattr(attention, "q_norm"):
            self.q_norm, self.k_norm = attention.q_norm.weight[pairs], attention.k_norm.weight[pairs]


class LlamaDecoder:
    """Llama, Qwen2 and Qwen3 without the library's work per step; the same numbers to rounding."""

    @torch.no_grad()
    def __init__(self, model: PolicyModel) -> None:
        config = model.causal_model.config
        trunk: Any = model.trunk
        self.device = model.device
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_size: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.epsilon: float = config.rms_norm_eps
        half = torch.arange(self.head_size // 2)
        pairs = torch.stack([half, half + self.head_size // 2], dim=1).flatten().to(self.device)
        self.layers = [_Layer(layer, pairs, self.heads) for layer in trunk.layers]
        self.embedding: Tensor = trunk.embed_tokens.weight
        self.norm: Tensor = trunk.norm.weight
        self.rotary: nn.Module = trunk.rotary_emb

    def start(self, prompts: list[list[int]], max_new_tokens: int) -> Tensor:
        ids, mask = (tensor.to(self.device) for tensor in pad(prompts, 0, "left"))
        rows, width = ids.shape
        total = width + max_new_tokens
        shape = (len(self.layers), 2, rows, self.kv_heads, total, self.head_size)
        self.cache = torch.empty(shape, dtype=self.embedding.dtype, device=self.device)
        self.turns = self._turns(total)
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
            h = functional.rms_norm(x, self.norm.shape, layer.norm_1, self.epsilon)
            attended = self._attend(layer, cache, h, turns, bias)
            x = x + functional.linear(attended, layer.out, layer.out_bias)
            h = functional.rms_norm(x, self.norm.shape, layer.norm_2, self.epsilon)
            gate, up = functional.linear(h, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
            x = x + functional.linear(functional.silu(gate) * up, layer.down, layer.down_bias)
        self.column += ids.shape[1]
        return functional.rms_norm(x, self.norm.shape, self.norm, self.epsilon)

    def _attend(self, layer: _Layer, cache: Tensor, h: Tensor, turns: Tensor, bias: Tensor) -> Tensor:
        rows, length, _ = h.shape
        qkv = functional.linear(h, layer.qkv, layer.qkv_bias).view(rows, length, -1, self.head_size)
        turning = self.heads + self.kv_heads
        qk = qkv[:, :, :turning]
        if layer.q_norm is not None:
            q = functional.rms_norm(qk[:, :, : self.heads], layer.q_norm.shape, layer.q_norm, self.epsilon)
            k = functional.rms_norm(qk[:, :, self.heads :], layer.q_norm.shape, layer.k_norm, self.epsilon)
            qk = torch.cat([q, k], dim=2)
        pairs = torch.view_as_complex(qk.reshape(rows, length, turning, -1, 2).float())
        qk = torch.view_as_real(pairs * turns[:, :, None]).flatten(3).to(h.dtype)
        stop = self.column + length
        cache[0, :, :, self.column : stop] = qk[:, :, self.heads :].transpose(1, 2)
        cache[1, :, :, self.column : stop] = qkv[:, :, turning:].transpose(1, 2)
        keys, values = cache[0, :, :, :stop], cache[1, :, :, :stop]
        q = qk[:, :, : self.heads].transpose(1, 2)  # (B, heads, T, D)
        if length == 1:  # the heads that share a key stand in for query positions: no copy of the cache
            q = q.reshape(rows, self.kv_heads, -1, self.head_size)
            out = functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
            return out.reshape(rows, 1, -1)
        group = self.heads // self.kv_heads
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
        out = functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
        return out.transpose(1, 2).reshape(rows, length, -1)

    def _turns(self, positions: int) -> Tensor:
        """The rotary embedding of each position as unit complex numbers. -> (T, D / 2)"""
        index = torch.arange(positions, device=self.device)[None]
        cosine, sine = self.rotary(torch.empty(0, dtype=torch.float32, device=self.device), index)
        half = self.head_size // 2
        return torch.complex(cosine[0, :, :half], sine[0, :, :half])


def _weight_and_bias(layer: Any) -> tuple[Tensor, Tensor | None]:
    """A linear layer's weight and bias, the active adapters added in."""
    if not isinstance(layer, LoraLayer):
        return layer.weight, layer.bias
    base: Any = layer.get_base_layer()
    weight = base.weight
    if not layer.disable_adapters:
        for name in layer.active_adapters:
            if name in layer.lora_A:
                weight = weight + cast(Any, layer).get_delta_weight(name).to(weight.dtype)
    return weight, base.bias


def _interleave(tensor: Tensor, pairs: Tensor) -> Tensor:
    """Put the two numbers that rotate together next to each other, in each head. (heads * D, ...)"""
    heads = tensor.view(-1, len(pairs), *tensor.shape[1:])
    return heads[:, pairs].reshape(tensor.shape)


def _fuse(parts: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    biases = [bias for _, bias in parts if bias is not None]
    return torch.cat([weight for weight, _ in parts]), torch.cat(biases) if biases else None
