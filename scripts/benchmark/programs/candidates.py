"""Candidate answers from the embedded base model: ours, and transformers' `generate()` in two ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from scripts.benchmark.programs import meter
from scripts.benchmark.programs.devices import Device
from scripts.make_base_model import WEIGHTS_DIR
from scripts.prompt_file import read_prompts
from trainers.config import GenerationConfig
from trainers.conversations import encode_prompts, load_tokenizer
from trainers.models import load_policy
from trainers.records import Prompt
from trainers.sampling import sample

PROMPTS = Path(__file__).resolve().parents[2] / "demo_prompts.csv"


def measure(options: dict[str, Any]) -> dict[str, float]:
    """Candidates a CPU second, and their mean length in tokens, the end included.

    Args:
        options: `way` (`ours`, `one prompt` or `batched`), `prompts`, `candidates` (of each),
            `response_tokens`, `seed`; `every` (n: only each n-th prompt is answered).
    """
    Device()
    way = {"ours": ours, "one prompt": prompt_by_prompt, "batched": batched}[options["way"]]
    tokenizer = load_tokenizer(WEIGHTS_DIR)
    texts = read_prompts(PROMPTS)
    wanted = [texts[index % len(texts)] for index in range(0, options["prompts"], options.get("every", 1))]
    prompt_ids = encode_prompts(tokenizer, [Prompt(str(i), text) for i, text in enumerate(wanted)])
    run = way(options, tokenizer)
    run(prompt_ids[:2])  # warms up
    clock = meter.CpuClock()
    tokens = run(prompt_ids)
    count = len(prompt_ids) * options["candidates"]
    return {"candidates_per_second": count / clock.seconds(), "mean_tokens": tokens / count}


def ours(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Any:
    """As `trainers.generate` draws them."""
    policy = load_policy(str(WEIGHTS_DIR))
    config = GenerationConfig(base_model=str(WEIGHTS_DIR))

    def run(prompt_ids: list[list[int]]) -> int:
        rollout = sample(
            policy, tokenizer, prompt_ids * options["candidates"], max_new_tokens=options["response_tokens"],
            generator=torch.Generator().manual_seed(options["seed"]), batch_size=config.batch_size,
        )  # fmt: skip
        return int(rollout.lengths.sum())

    return run


def prompt_by_prompt(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Any:
    """One call of `generate()` a prompt, which returns all its candidates."""
    generate = _generate(options, tokenizer)
    return lambda prompt_ids: sum(generate([ids]) for ids in prompt_ids)


def batched(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Any:
    """As many rows in a call as ours, padded on the left."""
    prompts = GenerationConfig(base_model=str(WEIGHTS_DIR)).batch_size // options["candidates"]
    generate = _generate(options, tokenizer)

    def run(prompt_ids: list[list[int]]) -> int:
        starts = range(0, len(prompt_ids), prompts)
        return sum(generate(prompt_ids[start : start + prompts]) for start in starts)

    return run


def _generate(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Any:
    """A function from prompts to the number of tokens that were generated for them."""
    torch.manual_seed(options["seed"])
    model: Any = AutoModelForCausalLM.from_pretrained(WEIGHTS_DIR, dtype=torch.float32)

    def run(prompt_ids: list[list[int]]) -> int:
        padded = tokenizer.pad({"input_ids": prompt_ids}, return_tensors="pt")
        made = model.generate(
            **padded, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=options["candidates"], max_new_tokens=options["response_tokens"],
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        new = made[:, padded["input_ids"].shape[1] :]
        return int((new != tokenizer.pad_token_id).sum())

    return run


if __name__ == "__main__":
    meter.main(measure)
