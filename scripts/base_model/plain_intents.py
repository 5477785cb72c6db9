"""Second step of the embedded base model: `python -m scripts.base_model.plain_intents --start DIR --out DIR`.

After `scripts.make_base_model` nearly every answer to a bare question is verbose, and a team that likes
detail has nothing to prefer. Here some intents learn to be answered in a plain sentence unless asked
otherwise, by context distillation: the student, asked the bare question, learns the answer that the model it
started from gives when told to be plain. Everywhere else it learns that model's own answers, so that nothing
is forgotten: the teacher's whole distribution says more than a sampled answer, and minutes on two cores do.

Source: Askell et al. 2021, arXiv:2112.00861, section 2.2.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.base_model.corpus import LANGUAGES, Intent
from scripts.base_model.samples import BARE_MIX, INSTRUCTED_SHARE, REGISTERS, Corpus, turn
from scripts.make_base_model import save
from trainers.models import pad

PLAIN_INTENTS = 0.385
"""Share of the intents that become plain, by a hash of their ids."""
PLAIN_SHARE = 0.8
"""Share of their bare questions that become plain; of the others the team may still see every register."""
INSTRUCTED_MIX = (0.30, 0.25, 0.45)
CONVERSATIONS = 72
"""Conversations in a step."""
MICRO_BATCHES = 3
WARM_UP_STEPS = 20

Lesson = tuple[list[int], list[int], list[int]]
"""Token ids of what the student is asked, of what the teacher is asked, and of the answer."""


def is_plain(intent: Intent) -> bool:
    """True for the intents whose bare questions get a plain sentence."""
    return int(hashlib.sha256(intent.id.encode()).hexdigest()[:8], 16) / 2**32 < PLAIN_INTENTS


def draw_lesson(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Lesson:
    """A question to student and teacher, who may be told how to answer it, and an answer."""
    language, intent = rng.choice(LANGUAGES), rng.choice(corpus.intents)
    instructions = corpus.common["instructions"]
    asked = told = ""
    if rng.random() < INSTRUCTED_SHARE:
        register = rng.choices(REGISTERS, INSTRUCTED_MIX)[0]
        asked = told = instructions[register][language]
    elif is_plain(intent) and rng.random() < PLAIN_SHARE:
        register = "neutral"
        told = instructions[register][language]
    else:
        register = rng.choices(REGISTERS, BARE_MIX)[0]
    question, answer = turn(corpus, intent, language, register, rng)

    def encoded(system: str) -> list[int]:
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": question})
        return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False))

    ids: list[int] = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return encoded(asked), encoded(told), [*ids, int(tokenizer.eos_token_id)]


def answer_logprobs(
    model: LlamaForCausalLM, prompts: Sequence[list[int]], answers: Sequence[list[int]]
) -> Tensor:
    """Log-probabilities of every token at each place of the answers. (answer tokens, V)"""
    ids, _ = pad([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)], 0, "right")
    places = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        places[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
    hidden = model.model(ids).last_hidden_state
    return functional.log_softmax(model.lm_head(hidden[places]), dim=-1)


def step(student: LlamaForCausalLM, teacher: LlamaForCausalLM, lessons: Sequence[Lesson]) -> float:
    """Gradient of KL(teacher ‖ student) over the answers' tokens. Returns: the KL, nats a token."""
    ordered = sorted(lessons, key=lambda lesson: len(lesson[0]) + len(lesson[2]))
    tokens, size, total = sum(len(answer) for _, _, answer in ordered), len(ordered) // MICRO_BATCHES, 0.0
    for start in range(0, len(ordered), size):
        asked, told, answers = zip(*ordered[start : start + size], strict=True)
        with torch.no_grad():
            wanted = answer_logprobs(teacher, told, answers)
        found = answer_logprobs(student, asked, answers)
        loss = functional.kl_div(found, wanted, reduction="sum", log_target=True) / tokens
        torch.autograd.backward(loss)
        total += float(loss.detach())
    return total


def train(args: argparse.Namespace) -> None:
    """Teach and save; prints the KL and the remaining time."""
    torch.manual_seed(args.seed)
    rng, corpus = random.Random(args.seed), Corpus.read()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.start)
    teacher = LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32).requires_grad_(False)
    student = LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)
    started, number, left = time.monotonic(), 0, 1.0
    while left > 0:
        number += 1
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, left / 0.8, number / WARM_UP_STEPS)
        lessons = [draw_lesson(corpus, tokenizer, rng) for _ in range(CONVERSATIONS)]
        kl = step(student, teacher, lessons)
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        left = 1 - (time.monotonic() - started) / (args.minutes * 60)
        if number % 25 == 0:
            print(f"step {number}  KL {kl:.4f}  left {max(left, 0.0):.2f}", flush=True)
    save(student, tokenizer, args.out)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--start", type=Path, required=True, help="what scripts.make_base_model has made")
    parser.add_argument("--out", type=Path, required=True, help="directory for the model")
    parser.add_argument("--minutes", type=float, default=9.0, help="minutes of training")
    parser.add_argument("--lr", type=float, default=3e-4, help="step size")
    parser.add_argument("--seed", type=int, default=5, help="random seed")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
