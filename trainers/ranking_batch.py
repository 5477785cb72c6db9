"""Ranked answers as tensors: every answer is one row, and pairs and rankings point at the rows.

One forward pass over each answer gives the scores; what they cost is Bradley-Terry over all pairs or
Plackett-Luce over each annotator's ranking. Knows token ids and indices, nothing of prompts, texts or
training; `trainers.reward` makes the answers, `trainers.ranking_trainer` learns from the batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.config import RankingLoss
from trainers.losses import bradley_terry_loss, plackett_luce_loss
from trainers.models import pad

LENGTH_SPREAD = 1.3
"""The longest row of a forward pass is at most this many times its shortest."""


@dataclass(frozen=True)
class RankedAnswers:
    """The answers to one prompt as token ids, and what people think of them."""

    rows: tuple[tuple[int, ...], ...]
    """Prompt, answer and end token of each answer."""
    pairs: tuple[tuple[int, int, float], ...]
    """(index of the preferred answer, index of the other, weight)."""
    rankings: tuple[tuple[int, ...], ...]
    """For each annotator who prefers an answer the place of every row: 0 is best, equal is tied, −1 is not
    ranked."""
    ranking_weight: float = 1.0
    """Weight of each ranking: a prompt that three people ranked counts as much as one that one ranked."""


@dataclass(frozen=True)
class Judgements:
    """Pairs and rankings of several prompts, as indices into all their rows."""

    chosen: Tensor
    """(pairs,) long"""
    rejected: Tensor
    """(pairs,) long"""
    pair_weights: Tensor
    """(pairs,)"""
    answers: Tensor
    """Rows of each ranking; shorter ones are filled up with any row. (rankings, K) long"""
    ranks: Tensor
    """Place of each, −1 where filled up or not ranked. (rankings, K) long"""
    ranking_weights: Tensor
    """(rankings,)"""

    def to(self, device: torch.device) -> Judgements:
        return Judgements(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class RankingBatch:
    """What one optimiser step learns from."""

    passes: tuple[tuple[Tensor, Tensor], ...]
    """Token ids and mask of each forward pass; their rows in this order are what the judgements point at."""
    judgements: Judgements


def judgements_of(ranked: Sequence[RankedAnswers], places: Sequence[int] | None = None) -> Judgements:
    """The judgements of some prompts.

    Args:
        ranked: at least one pair and one ranking in all.
        places: where each row stands after all rows were put into another order.
    """
    pairs: list[tuple[int, int, float]] = []
    rankings: list[tuple[list[int], tuple[int, ...], float]] = []
    first = 0
    for own in ranked:
        rows = range(first, first + len(own.rows))
        at = [places[row] if places is not None else row for row in rows]
        pairs += [(at[chosen], at[rejected], weight) for chosen, rejected, weight in own.pairs]
        rankings += [(at, ranks, own.ranking_weight) for ranks in own.rankings]
        first += len(own.rows)
    answers = torch.zeros((len(rankings), max(len(at) for at, _, _ in rankings)), dtype=torch.long)
    ranks = torch.full_like(answers, -1)
    for index, (at, own_ranks, _) in enumerate(rankings):
        answers[index, : len(at)] = torch.tensor(at)
        ranks[index, : len(at)] = torch.tensor(own_ranks)
    return Judgements(
        chosen=torch.tensor([chosen for chosen, _, _ in pairs]),
        rejected=torch.tensor([rejected for _, rejected, _ in pairs]),
        pair_weights=torch.tensor([weight for _, _, weight in pairs]),
        answers=answers,
        ranks=ranks,
        ranking_weights=torch.tensor([weight for _, _, weight in rankings]),
    )


def ranking_batch(ranked: Sequence[RankedAnswers], pad_id: int, rows_per_pass: int) -> RankingBatch:
    """All answers once, in forward passes of similar length.

    Args:
        pad_id: any token that does not end a row.
        rows_per_pass: answers in one forward pass at most.
    """
    rows = [row for answers in ranked for row in answers.rows]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    places = [0] * len(rows)
    for place, index in enumerate(order):
        places[index] = place
    parts = split_by_length([rows[index] for index in order], rows_per_pass)
    passes = tuple(pad(part, pad_id, "right") for part in parts)
    return RankingBatch(passes, judgements_of(ranked, places))


def ranking_loss(scores: Tensor, judgements: Judgements, loss: RankingLoss) -> Tensor:
    """Weighted mean loss over all pairs or all rankings. A scalar

    Args:
        scores: of each row. (rows,)
    """
    if loss == "listwise":
        losses = plackett_luce_loss(scores[judgements.answers], judgements.ranks)
        return _weighted_mean(losses, judgements.ranking_weights)
    losses = bradley_terry_loss(scores[judgements.chosen], scores[judgements.rejected])
    return _weighted_mean(losses, judgements.pair_weights)


def count_correct(margins: Tensor) -> float:
    """How many pairs are the right way round; equal scores count half."""
    return float((margins > 0).sum()) + 0.5 * float((margins == 0).sum())


def split_by_length(rows: Sequence[Sequence[int]], most: int) -> list[list[Sequence[int]]]:
    """Split rows that are sorted by length so that each part holds at most `most` rows of similar length."""
    parts: list[list[Sequence[int]]] = []
    for row in rows:
        if not parts or len(parts[-1]) == most or len(row) > LENGTH_SPREAD * len(parts[-1][0]):
            parts.append([])
        parts[-1].append(row)
    return parts


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum()
