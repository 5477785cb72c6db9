"""Train the embedded base model from scratch: `python -m scripts.make_base_model --out DIR`.

The corpus beside this file becomes conversations (`scripts.base_model.samples`), these train a small Llama.
The weights in `scripts/base_model/weights` came from this script and from a second step after it,
`scripts.base_model.plain_intents`; nobody needs to run either to use them.
A GPU takes minutes, two CPU cores many hours. `python -m scripts.base_model.exam` examines the result.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.base_model.samples import Corpus, common_characters, draw
from scripts.base_model.tokenizer import train_tokenizer

WEIGHTS_DIR = Path(__file__).parent / "base_model" / "weights"
MOST_TOKENS = 224
_IGNORED = -100


@dataclass(frozen=True)
class Example:
    """Token ids of a conversation; the loss counts from `answer_start` on."""

    ids: NDArray[np.uint16]
    answer_start: int


def make_tokenizer(corpus: Corpus, vocabulary: int) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on a sample of the conversations."""
    rng = random.Random(0)
    texts = [text for _ in range(20_000) for text in _texts(corpus, rng)]
    return train_tokenizer(texts, common_characters(), vocabulary)


def _texts(corpus: Corpus, rng: random.Random) -> tuple[str, str]:
    conversation = draw(corpus, rng)
    return conversation.question, conversation.answer


def make_examples(count: int, seed: int, tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    """`count` examples; the same seed gives the same ones."""
    corpus, rng = Corpus.read(), random.Random(seed)
    prefixes, answers = [], []
    for _ in range(count):
        conversation = draw(corpus, rng)
        turns = [("system", conversation.system)] if conversation.system else []
        for question, answer in conversation.history:
            turns += [("user", question), ("assistant", answer)]
        turns.append(("user", conversation.question))
        messages = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
        prefixes.append(messages + "<|im_start|>assistant\n")
        answers.append(conversation.answer + "<|im_end|>")
    prefix_ids = tokenizer(prefixes, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
    pairs = zip(prefix_ids, answer_ids, strict=True)
    return [
        Example(np.array(p + a, dtype=np.uint16), len(p)) for p, a in pairs if len(p) + len(a) <= MOST_TOKENS
    ]


def batches(
    examples: list[Example], tokens: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of about `tokens` tokens, alike in length, right-padded: (ids, labels), each (B, T)."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids) + rng.random() * 8)
    groups, group = [], []
    for index in order:
        group.append(index)
        if len(group) * len(examples[index].ids) >= tokens:
            groups.append(group)
            group = []
    rng.shuffle(groups)
    for group in groups:
        longest = max(len(examples[i].ids) for i in group)
        ids = torch.zeros(len(group), longest, dtype=torch.long)
        labels = torch.full((len(group), longest), _IGNORED)
        for row, index in enumerate(group):
            example = examples[index]
            ids[row, : len(example.ids)] = torch.from_numpy(example.ids.astype(np.int64))
            labels[row, example.answer_start : len(example.ids)] = ids[
                row, example.answer_start : len(example.ids)
            ]
        yield ids, labels


def make_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaForCausalLM:
    """A small Llama with tied embeddings."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def make_optimizers(model: LlamaForCausalLM, muon_lr: float, adamw_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(args: argparse.Namespace) -> None:
    """Train and save; prints the loss and the remaining time."""
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer(Corpus.read(), args.vocabulary)
    examples = _examples_in_parallel(args, tokenizer)
    model = make_model(tokenizer, args.width, args.layers).to(args.device)
    model.config.dtype = "float32"
    if args.device == "cuda":
        torch.set_float32_matmul_precision("high")
    optimizers = make_optimizers(model, args.muon_lr, args.adamw_lr)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, {len(examples)} examples",
        flush=True,
    )
    started, step, rng = time.monotonic(), 0, random.Random(args.seed)
    while step < args.steps and time.monotonic() - started < args.minutes * 60:
        for ids, labels in batches(examples, args.batch_tokens, rng):
            spent = (time.monotonic() - started) / (args.minutes * 60)
            left = max(0.0, 1 - max(step / args.steps, spent))
            loss = _step(model, ids.to(args.device), labels.to(args.device), optimizers, min(1.0, left / 0.7))
            step += 1
            if step % 200 == 0:
                seconds = time.monotonic() - started
                print(f"step {step}  loss {loss.item():.4f}  left {left:.2f}  {seconds:.0f} s", flush=True)
            if step >= args.steps or left == 0:
                break
    save(model, tokenizer, args.out)


def _examples_in_parallel(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    workers = args.workers
    jobs = [(args.examples // workers, args.seed * 1000 + worker, tokenizer) for worker in range(workers)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return [example for part in pool.starmap(make_examples, jobs) for example in part]


def _step(
    model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor,
    optimizers: list[torch.optim.Optimizer], schedule: float,
) -> torch.Tensor:  # fmt: skip
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("peak_lr", group["lr"])
            group["lr"] = group["peak_lr"] * schedule
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
        hidden = model.model(ids[:, :-1]).last_hidden_state
        wanted = labels[:, 1:] != _IGNORED
        logits = model.lm_head(hidden[wanted])  # (answer tokens, V)
    loss = functional.cross_entropy(logits.float(), labels[:, 1:][wanted])
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model in Hugging Face layout, fp16 on disk."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.cpu().half().save_pretrained(out)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(out)
    print(f"saved to {out}")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for the model")
    parser.add_argument("--width", type=int, default=256, help="hidden size, a multiple of 64")
    parser.add_argument("--layers", type=int, default=4, help="transformer layers")
    parser.add_argument("--vocabulary", type=int, default=6144, help="tokenizer entries")
    parser.add_argument("--examples", type=int, default=2_000_000, help="conversations drawn from the corpus")
    parser.add_argument("--batch-tokens", type=int, default=32768, help="tokens in a batch")
    parser.add_argument("--steps", type=int, default=20_000, help="most optimiser steps")
    parser.add_argument("--minutes", type=float, default=60.0, help="most minutes of training")
    parser.add_argument("--muon-lr", type=float, default=0.02, help="step size of the hidden matrices")
    parser.add_argument("--adamw-lr", type=float, default=3e-3, help="step size of embedding and norms")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument(
        "--workers", type=int, default=multiprocessing.cpu_count(), help="processes that draw examples"
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda"
    )
    train(parser.parse_args())


if __name__ == "__main__":
    main()
