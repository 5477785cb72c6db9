"""A reward model before, while and after it learns: made from the base model, saved, and asked for scores.

Knows nothing of rankings or training; `trainers.ranking_trainer` trains what comes from here,
`trainers.reward` saves it. Who uses a finished one loads it with `trainers.models.load_reward_model`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainers.adapters import new_adapter
from trainers.config import RewardConfig
from trainers.conversations import load_tokenizer
from trainers.model_files import local_directory
from trainers.models import (
    HEAD_ZEROS_FILE,
    RewardModel,
    count_parameters,
    device_and_dtype,
    load_classifier,
    loadable_config,
    resolve_tuning,
)
from trainers.passes import LENGTH_SPREAD, by_beginning, by_length
from trainers.sharding import is_sharded


def new_reward_model(config: RewardConfig) -> tuple[RewardModel, Literal["full", "lora"]]:
    """The base model with its score heads, ready to be trained, and how it will be tuned.

    A single head starts at zero: before it has learnt anything every answer scores the same. Heads of an
    ensemble start at random, each with scores of about unit variance: what the rankings do not decide, they
    go on seeing differently.

    Raises: ModelError: the base model is missing, damaged, unsafe or too large.
    """
    device, dtype = device_and_dtype()
    tuning = resolve_tuning(config, count_parameters(config.base_model))
    if tuning == "full":
        dtype = torch.float32  # AdamW's small steps vanish in bf16
    source = local_directory(config.base_model)
    settings = loadable_config(source)
    torch.manual_seed(config.seed)
    classifier: Any = load_classifier(source, settings, config.ensemble, dtype)
    if config.ensemble > 1:
        nn.init.normal_(classifier.score.weight, std=classifier.score.in_features**-0.5)
    else:
        nn.init.zeros_(classifier.score.weight)
    if tuning == "lora":
        classifier = new_adapter(classifier, config.lora_rank, "SEQ_CLS", seed=config.seed)
    tokenizer = load_tokenizer(source, "right")
    return RewardModel(classifier, tokenizer).to(device), tuning


def save_reward_model(reward: RewardModel, directory: Path) -> None:
    """Write full weights, or adapter and score heads, the heads' zeros and the tokenizer into a directory."""
    model = reward.classifier
    if isinstance(model, PeftModel):
        model.save_pretrained(str(directory), safe_serialization=True)
        (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card
    else:
        cast(PreTrainedModel, model).save_pretrained(directory)
    if reward.heads > 1:
        save_file({"zeros": reward.head_zeros.cpu()}, directory / HEAD_ZEROS_FILE)
    reward.tokenizer.save_pretrained(str(directory))


def scores_with_gradient(reward: RewardModel, rows: Sequence[Sequence[int]], rows_per_pass: int) -> Tensor:
    """Each head's score of each row of token ids, in their order; see `head_scores`. (rows, heads)"""
    if reward.shares_beginnings:
        passes = by_beginning(rows, rows_per_pass)
    else:  # processes that share a base's weights make equally many passes, whatever their rows
        passes = by_length(rows, rows_per_pass, math.inf if is_sharded(reward) else LENGTH_SPREAD)
    scores = [reward.head_scores([rows[number] for number in numbers]) for numbers in passes]
    order = torch.tensor([number for numbers in passes for number in numbers])
    return torch.cat(scores)[order.argsort().to(scores[0].device)]


@torch.no_grad()
def head_scores(reward: RewardModel, rows: Sequence[Sequence[int]], batch_size: int) -> Tensor:
    """Each head's score of each row of token ids, in their order; on the CPU. (rows, heads)

    Args:
        rows: prompt, response and end token, from `trainers.conversations.encode_conversations`.
        batch_size: rows in one forward pass at most.
    """
    return scores_with_gradient(reward, rows, batch_size).cpu() if rows else torch.zeros(0, reward.heads)


def centre_heads(reward: RewardModel, rows: Sequence[Sequence[int]], batch_size: int) -> None:
    """Put the zero of every head where its mean score of these rows is.

    Preferences decide differences only, so each head's zero is arbitrary; without a common one the heads
    would disagree by the same amount about everything.
    """
    reward.head_zeros += head_scores(reward, rows, batch_size).mean(dim=0).to(reward.head_zeros.device)


def score_rows(reward: RewardModel, rows: Sequence[Sequence[int]], batch_size: int) -> list[float]:
    """One score for each row: the mean of the heads'. See `head_scores`."""
    return cast(list[float], head_scores(reward, rows, batch_size).mean(dim=1).tolist())


def disagreement(scores: Tensor) -> Tensor:
    """Standard deviation of the heads' scores of each row. (rows, heads) -> (rows,)

    Source: Coste et al. 2024, arXiv:2310.02743; heads on one trunk: Zhang et al. 2024, arXiv:2401.16635.
    """
    return scores.std(dim=1)
