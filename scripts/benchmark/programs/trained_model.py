"""Trains a model of half a million parameters on the English half of the embedded corpus.

    base/            in Hugging Face layout
    prompts.jsonl    questions of the corpus, without instructions
    start.json       the mean programmatic reward of its answers to them

It answers known questions in a style of its own, mostly at length; that is all PPO needs here.
"""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.base_model.samples import Conversation, Corpus, draw
from scripts.base_model.tokenizer import train_tokenizer
from scripts.benchmark.programs import meter
from scripts.benchmark.programs.devices import Device
from scripts.benchmark.programs.target import brevity
from scripts.make_base_model import make_model, make_optimizers
from trainers.conversations import encode_prompts, load_tokenizer
from trainers.models import load_policy, pad
from trainers.records import Prompt, write_jsonl
from trainers.sampling import response_texts, sample

MUON_STEP, ADAMW_STEP = 0.02, 5e-3
ROWS = 48
ANSWERS_A_PROMPT = 4


def measure(options: dict[str, Any]) -> dict[str, float]:
    """Write the directory.

    Args:
        options: `out`, `width`, `layers`, `vocabulary`, `steps`, `prompts`, `response_tokens`.
    """
    Device()
    out = Path(options["out"])
    corpus, rng = Corpus.read(), random.Random(0)
    tokenizer = make_tokenizer(corpus, options["vocabulary"])
    torch.manual_seed(0)
    model = make_model(tokenizer, options["width"], options["layers"])
    loss = train(model, tokenizer, corpus, rng, options["steps"])
    model.save_pretrained(out / "base")
    tokenizer.save_pretrained(str(out / "base"))
    questions = list(dict.fromkeys(english(corpus, rng).question for _ in range(4 * options["prompts"])))
    prompts = [Prompt(f"p{index}", text) for index, text in enumerate(questions[: options["prompts"]])]
    write_jsonl(out / "prompts.jsonl", prompts)
    reward = mean_reward(out / "base", prompts, options["response_tokens"])
    (out / "start.json").write_text(json.dumps({"reward": reward, "loss": loss}), encoding="utf-8")
    return {}


def english(corpus: Corpus, rng: random.Random) -> Conversation:
    """An English conversation of one turn without an instruction."""
    while True:
        drawn = draw(corpus, rng)
        if drawn.language == "en" and not drawn.system and not drawn.history:
            return drawn


def make_tokenizer(corpus: Corpus, vocabulary: int) -> PreTrainedTokenizerFast:
    rng = random.Random(0)
    drawn = [english(corpus, rng) for _ in range(4000)]
    texts = [text for one in drawn for text in (one.question, one.answer)]
    return train_tokenizer(texts, sorted({*"".join(texts)}), vocabulary)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    rng: random.Random,
    steps: int,
) -> float:
    """Muon and AdamW with a step size that falls to zero. Returns the last loss."""
    optimizers = make_optimizers(model, MUON_STEP, ADAMW_STEP)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    loss = torch.zeros(())
    for step in range(steps):
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * min(1.0, (step + 1) / 20, (steps - step) / (0.7 * steps))
        ids, is_answer = _batch([english(corpus, rng) for _ in range(ROWS)], tokenizer)
        hidden = model.model(ids[:, :-1]).last_hidden_state
        wanted = is_answer[:, 1:]
        loss = functional.cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"step {step} of {steps}, loss {float(loss.detach()):.3f}", flush=True)
    return float(loss.detach())


def _batch(
    drawn: list[Conversation], tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, and where the answers are. ((B, T), (B, T) bool)"""
    asked = encode_prompts(tokenizer, [Prompt("p", one.question) for one in drawn])
    answers = tokenizer([one.answer for one in drawn], add_special_tokens=False)["input_ids"]
    rows = [a + b + [tokenizer.eos_token_id] for a, b in zip(asked, answers, strict=True)]
    ids, real = pad(rows, 0, "right")
    starts = torch.tensor([len(one) for one in asked])
    return ids, real & (torch.arange(ids.shape[1]) >= starts[:, None])


def mean_reward(base: Path, prompts: list[Prompt], response_tokens: int) -> float:
    """Of answers sampled at temperature 1."""
    tokenizer, policy = load_tokenizer(base), load_policy(str(base))
    rollout = sample(
        policy, tokenizer, encode_prompts(tokenizer, prompts) * ANSWERS_A_PROMPT,
        max_new_tokens=response_tokens, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return statistics.fmean(brevity(text) for text in response_texts(tokenizer, rollout))


if __name__ == "__main__":
    meter.main(measure)
