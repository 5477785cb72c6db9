"""Ranked answers as tensors: every answer is one row, and pairs and rankings point at the rows.

One forward pass over each answer gives the scores; what they cost is Bradley-Terry over all pairs or
Plackett-Luce over each annotator's ranking. Knows token ids and indices, nothing of prompts, texts or
training; `trainers.reward` makes the answers, `trainers.ranking_trainer` learns from them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.config import RankingLoss
from trainers.losses import bradley_terry_loss, plackett_luce_loss


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
    ranking_weights: tuple[float, ...] = ()
    """Weight of each ranking; empty is 1 for each."""
    head_weights: tuple[float, ...] = (1.0,)
    """Weight of the prompt for each score head."""


@dataclass(frozen=True)
class Judgements:
    """Pairs and rankings of several prompts, as indices into all their rows."""

    chosen: Tensor
    """(pairs,) long"""
    rejected: Tensor
    """(pairs,) long"""
    pair_weights: Tensor
    """(pairs, heads)"""
    answers: Tensor
    """Rows of each ranking; shorter ones are filled up with any row. (rankings, K) long"""
    ranks: Tensor
    """Place of each, −1 where filled up or not ranked. (rankings, K) long"""
    ranking_weights: Tensor
    """(rankings, heads)"""

    def weights(self, loss: RankingLoss) -> Tensor:
        """Of what the loss is a mean over. (pairs or rankings, heads)"""
        return self.ranking_weights if loss == "listwise" else self.pair_weights

    def to(self, device: torch.device) -> Judgements:
        return Judgements(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def rows_of(ranked: Sequence[RankedAnswers]) -> list[tuple[int, ...]]:
    """All answers, each once, in the order to which `judgements_of` points."""
    return [row for answers in ranked for row in answers.rows]


def judgements_of(ranked: Sequence[RankedAnswers]) -> Judgements:
    """The judgements of some prompts, with at least one pair and one ranking in all."""
    pairs: list[tuple[int, int]] = []
    pair_weights: list[list[float]] = []
    rankings: list[tuple[list[int], tuple[int, ...]]] = []
    ranking_weights: list[list[float]] = []
    first = 0
    for own in ranked:
        at = list(range(first, first + len(own.rows)))
        pairs += [(at[chosen], at[rejected]) for chosen, rejected, _ in own.pairs]
        pair_weights += [[weight * head for head in own.head_weights] for _, _, weight in own.pairs]
        rankings += [(at, ranks) for ranks in own.rankings]
        weights = own.ranking_weights or (1.0,) * len(own.rankings)
        ranking_weights += [[weight * head for head in own.head_weights] for weight in weights]
        first += len(own.rows)
    answers = torch.zeros((len(rankings), max(len(at) for at, _ in rankings)), dtype=torch.long)
    ranks = torch.full_like(answers, -1)
    for index, (at, own_ranks) in enumerate(rankings):
        answers[index, : len(at)] = torch.tensor(at)
        ranks[index, : len(at)] = torch.tensor(own_ranks)
    return Judgements(
        chosen=torch.tensor([chosen for chosen, _ in pairs]),
        rejected=torch.tensor([rejected for _, rejected in pairs]),
        pair_weights=torch.tensor(pair_weights),
        answers=answers,
        ranks=ranks,
        ranking_weights=torch.tensor(ranking_weights),
    )


def ranking_loss(scores: Tensor, judgements: Judgements, loss: RankingLoss, weight: Tensor | float) -> Tensor:
    """Losses of all pairs or all rankings by each head, weighted, added up and divided. A scalar

    Args:
        scores: of each row by each head. (rows, heads)
        weight: to divide by. For a batch it is what as many prompts weigh on average over all that is learned
            from: by its own weights, old rankings would count in full wherever they are among themselves.
    """
    if loss == "listwise":
        ranked = scores[judgements.answers].movedim(-1, 0)  # (heads, rankings, K)
        losses = plackett_luce_loss(ranked, judgements.ranks.expand_as(ranked)).T
    else:
        losses = bradley_terry_loss(scores[judgements.chosen], scores[judgements.rejected])
    return (losses * judgements.weights(loss)).sum() / weight


def centring_loss(scores: Tensor, judgements: Judgements) -> Tensor:
    """Mean (chosen + rejected)² over pairs and heads. A scalar

    Preferences decide differences only: without it every head puts the zero of every prompt somewhere else,
    and heads disagree about answers that all of them order alike.

    Args:
        scores: of each row by each head. (rows, heads)
    Source: Eisenstein et al. 2023, arXiv:2312.09244, sec. 2.
    """
    return (scores[judgements.chosen] + scores[judgements.rejected]).square().mean()


def bootstrap_weights(key: str, heads: int, seed: int) -> tuple[float, ...]:
    """Each head's own weight of a prompt: every head learns as if from another sample of the prompts.

    Exponential, a smooth bootstrap: no prompt is without weight. One head weighs all prompts alike.

    Source: Rubin 1981, "The Bayesian bootstrap", doi:10.1214/aos/1176345338.
    """
    rng = random.Random(f"{seed}:{key}")
    return tuple(rng.expovariate(1.0) for _ in range(heads)) if heads > 1 else (1.0,)


def count_correct(margins: Tensor) -> float:
    """How many pairs are the right way round; equal scores count half."""
    return float((margins > 0).sum()) + 0.5 * float((margins == 0).sum())
