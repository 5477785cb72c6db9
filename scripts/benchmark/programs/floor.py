"""How near our PPO update comes to what its matrix products alone would take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, PreTrainedConfig

from scripts.benchmark.programs import meter, our_ppo
from scripts.benchmark.programs.devices import Device
from trainers.conversations import encode_prompts, load_tokenizer
from trainers.models import device_and_dtype
from trainers.records import Prompt, read_jsonl
from trainers.value_model import FIT_BATCH, FIT_STEPS, WIDTH

RATE_SECONDS = 4.0
"""Spent on measuring the rate, about as many as an update takes: the machine's speed goes up and down."""
LEAST_FLOPS = 1e9
"""Of what is timed at once: some milliseconds, which every clock can tell from nothing."""
KEY_AND_VALUE, QUERY_KEY_VALUE = (1, 2), 3
"""Places in `layer_shapes`."""


def measure(options: dict[str, Any]) -> dict[str, float]:
    """The update's seconds, the floor's, and their ratio; options as in `our_ppo`, `tuning` is `lora`.

    There are two floors. One has a single rate of products for all operations; the other has those of
    sampling, in which a product has as many rows as responses are sampled, at the rate of so few rows.
    """
    found = our_ppo.measure(options)
    device = Device()
    model = Path(options["model"])
    config = AutoConfig.from_pretrained(model / "base")
    prompts = read_jsonl(model / "prompts.jsonl", Prompt)
    tokenizer = load_tokenizer(str(model / "base"))
    lengths = [len(ids) for ids in encode_prompts(tokenizer, prompts)] * (options["rollouts"] // len(prompts))
    of_each = [necessary_flops(config, length, options) for length in lengths]
    stepwise = sum(flops.stepwise for flops in of_each)
    together = sum(flops.together for flops in of_each)
    together += value_model_flops(config, len(lengths) * options["response_tokens"])
    tokens = options["micro_batch"] * (sum(lengths) // len(lengths) + options["response_tokens"])
    rate = matrix_product_rate(config, tokens, device)
    rate_of_rows = matrix_product_rate(config, min(options["rows_at_once"], options["rollouts"]), device)
    floor, floor_of_rows = (stepwise + together) / rate, stepwise / rate_of_rows + together / rate
    return {
        **found,
        "floor_seconds": floor,
        "share_percent": 100 * floor / found["seconds"],
        "floor_of_rows_seconds": floor_of_rows,
        "share_of_rows_percent": 100 * floor_of_rows / found["seconds"],
        "gflop": (stepwise + together) / 1e9,
        "gflop_stepwise": stepwise / 1e9,
        "gflop_per_second": rate / 1e9,
        "gflop_per_second_of_rows": rate_of_rows / 1e9,
    }


class Flops(NamedTuple):
    """Floating-point operations."""

    stepwise: float
    """While one token is drawn after the other."""
    together: float
    """Over all tokens at once."""


def necessary_flops(config: PreTrainedConfig, prompt: int, options: dict[str, Any]) -> Flops:
    """What one response cannot do without in an update with an adapter, the value model apart.

    Its tokens pass once through the model while they are sampled, once through the reward model, once through
    the reference, and in each epoch forward and back; what is below the adapters is known from sampling.
    Only the response's positions are looked at in the end, of the reward model's only the last: of the others
    the last layer needs keys and values alone. The base's weights are frozen: they pass gradients on but have
    none, and below the first adapters nothing is passed on.
    """
    response = options["response_tokens"]
    read = prompt + response - 1  # nothing follows the last token
    layers, trained = config.num_hidden_layers, options["trained_layers"]
    sampling = _Pass.of(config, layers, read, looked_at=response)
    upper = _Pass.of(config, trained, read, looked_at=response, rank=options["lora_rank"])
    reward = _Pass.of(config, layers, read + 2, looked_at=1)  # it reads the last token and the end
    logits = 2 * config.hidden_size * config.vocab_size * response
    first_token = _Pass.of(config, layers, prompt, looked_at=1).forward
    once = first_token + reward.forward + upper.forward + logits
    epoch = upper.forward + logits + upper.back + logits + 3 * upper.adapters
    return Flops(sampling.forward - first_token + logits, once + options["epochs"] * epoch)


def value_model_flops(config: PreTrainedConfig, tokens: int) -> float:
    """What the value model's fit and its estimates cannot do without.

    Forward and for the gradient of its weights: nothing is passed on to the features.
    """
    a_state = 2 * (config.hidden_size + 1) * WIDTH  # the second layer has one output
    return float(a_state * (tokens + 2 * FIT_STEPS * FIT_BATCH))


class _Pass(NamedTuple):
    """Operations of one sequence in the upper layers."""

    forward: float
    back: float
    """Of the gradient that is passed on."""
    adapters: float
    """Of the adapters, forward."""

    @classmethod
    def of(cls, config: PreTrainedConfig, layers: int, read: int, looked_at: int, rank: int = 0) -> _Pass:
        shapes, heads = layer_shapes(config), config.num_attention_heads * head_size(config)
        forward = back = adapters = 0.0
        for layer in range(layers):
            unread = read - looked_at if layer == layers - 1 else 0
            tokens = [read if place in KEY_AND_VALUE else read - unread for place in range(len(shapes))]
            products = [2 * a * b * count for (a, b), count in zip(shapes, tokens, strict=True)]
            attention = 4 * heads * (read * (read + 1) - unread * (unread + 1)) / 2  # causal
            forward += sum(products) + attention
            back += sum(products[0 if layer else QUERY_KEY_VALUE :]) + 2 * attention
            adapters += sum(2 * rank * (a + b) * count for (a, b), count in zip(shapes, tokens, strict=True))
        return cls(forward, back, adapters)


def layer_shapes(config: PreTrainedConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of a layer's weights: query, key, value, output, gate, up, down."""
    width, inner, size = config.hidden_size, config.intermediate_size, head_size(config)
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    return [(width, queries), (width, keys), (width, keys), (queries, width),
            (width, inner), (width, inner), (inner, width)]  # fmt: skip


def head_size(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


@torch.no_grad()
def matrix_product_rate(config: PreTrainedConfig, tokens: int, device: Device) -> float:
    """Mean FLOP/s of a layer's products on this many tokens, in the trainer's dtype on this device."""
    place, dtype = device_and_dtype()
    weights = [torch.randn(b, a, device=place, dtype=dtype) for a, b in layer_shapes(config)]
    inputs = {a: torch.randn(tokens, a, device=place, dtype=dtype) for a, _ in layer_shapes(config)}
    flops = 2 * tokens * sum(a * b for a, b in layer_shapes(config))
    repeats = math.ceil(LEAST_FLOPS / flops)

    def products() -> None:
        for weight in weights * repeats:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    products()
    rounds, began = 0, device.now()
    while (seconds := device.now() - began) < RATE_SECONDS:
        products()
        rounds += 1
    return rounds * repeats * flops / seconds


if __name__ == "__main__":
    meter.main(measure)
