"""Answers of two models to the same prompts, for blind review.

Greedy by default: what a user of the model would see. Knows nothing of Label Studio; the backend shuffles the
sides and makes review tasks of `output/comparisons.jsonl`.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from trainers.config import CompareConfig
from trainers.conversations import encode_prompts, load_tokenizer
from trainers.errors import DataError
from trainers.metrics import Metrics
from trainers.model_files import load_config, longest_prompt
from trainers.models import load_policy
from trainers.records import Comparison, Prompt, Response, read_jsonl, write_jsonl
from trainers.run_dir import RunDir
from trainers.sampling import response_texts, sample
from trainers.text import is_garbled, is_repetitive


def run(config: CompareConfig, run_dir: RunDir) -> dict[str, Any]:
    """Write `output/comparisons.jsonl`.

    Returns: comparisons, length_before, length_after (mean characters), garbled_after (share), seconds.
    Raises: DataError: there are no prompts.
    """
    started = time.monotonic()
    torch.set_num_threads(config.threads or torch.get_num_threads())

    # 1. The prompts.
    prompts = read_jsonl(run_dir.input("prompts.jsonl"), Prompt)
    if not prompts:
        raise DataError(
            "there are no prompts to compare on; choose some of the training and some unseen ones"
        )

    # 2. Both answers to each; one model in memory at a time.
    with run_dir.metrics() as metrics:
        before = _answers(config, config.before_id, config.before, prompts, metrics, 0)
        after = _answers(config, config.after_id, config.after, prompts, metrics, len(prompts))

    # 3. Pair them.
    comparisons = [
        Comparison(_comparison_id(b, a), prompt, prompt.split == "train", b, a)
        for prompt, b, a in zip(prompts, before, after, strict=True)
    ]
    write_jsonl(run_dir.output("comparisons.jsonl"), comparisons)
    return {
        "comparisons": len(comparisons),
        "length_before": round(fmean(len(answer.text) for answer in before), 1),
        "length_after": round(fmean(len(answer.text) for answer in after), 1),
        "garbled_after": round(fmean(_is_faulty(answer) for answer in after), 4),
        "seconds": round(time.monotonic() - started, 1),
    }


def _answers(
    config: CompareConfig,
    model_id: str,
    directory: str,
    prompts: Sequence[Prompt],
    metrics: Metrics,
    done: int,
) -> list[Response]:
    tokenizer = load_tokenizer(config.base_model)
    most = longest_prompt(
        load_config(config.base_model), config.max_prompt_tokens, config.max_response_tokens
    )
    rollout = sample(
        load_policy(config.base_model, directory),
        tokenizer,
        encode_prompts(tokenizer, prompts, max_tokens=most),
        temperature=config.temperature,
        max_new_tokens=config.max_response_tokens,
        generator=torch.Generator().manual_seed(config.seed),
        batch_size=config.batch_size,
        progress=lambda count: metrics.progress(done + count, 2 * len(prompts), "answers"),
    )
    texts = response_texts(tokenizer, rollout)
    return [
        Response(
            id="a" + secrets.token_hex(4),
            prompt_id=prompt.id,
            text=text,
            policy=model_id,
            temperature=config.temperature,
            finished=finished,
        )
        for prompt, text, finished in zip(prompts, texts, rollout.finished.tolist(), strict=True)
    ]


def _comparison_id(before: Response, after: Response) -> str:
    """The same for the same answers of the same models, so that a repeated run adds no second review."""
    parts = (before.prompt_id, before.policy, before.text, after.policy, after.text)
    return "c" + hashlib.sha256("\0".join(parts).encode("utf-8", errors="replace")).hexdigest()[:12]


def _is_faulty(answer: Response) -> bool:
    return (
        not answer.finished
        or not answer.text.strip()
        or is_garbled(answer.text)
        or is_repetitive(answer.text)
    )
