"""Looks at the verification prompts: what a look found, which one is best, and when training must stop.

Pure: numbers in, decisions out. `trainers.ppo` samples the answers and fills the `Look`s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainers.config import PPOConfig

StopReason = Literal[
    "converged",  # the verification score no longer rises
    "kl",  # the policy went too far from the reference
    "length_collapse",  # answers became all but empty
    "length_explosion",  # answers no longer end
    "garbled",  # answers repeat themselves or are noise
    "over_optimisation",  # the reward rises in training while it falls on the verification prompts
    "diverged",  # no optimiser step had a finite gradient
    "updates",  # the most updates were made
]

LEAST_GAIN = 0.02
"""A better look has an objective higher by at least this, in deviations of the first scores."""
OVER_OPTIMISATION_DROP = 0.1
"""Fall of the score over the last three looks, same unit, that counts while the training score rises."""
SLOW_START = 2
"""A run that has not gained anything yet is given this many times the patience."""
SHORTEST_MEAN_LENGTH = 3.0
"""Answers with a shorter mean length, in tokens with EOS, have collapsed, unless they began like that."""


@dataclass(frozen=True)
class Look:
    """What the policy did on the verification prompts after an update; update 0 is the start."""

    update: int
    score: float
    """Mean score, as the reward gives it."""
    score_deviation: float
    kl: float
    """Mean KL to the reference, nats a response."""
    length: float
    """Mean length in tokens, EOS included."""
    garbled: float
    """Share of repetitive or broken responses."""
    unfinished: float
    """Share of responses that were cut at the length limit."""
    train_score: float
    """Mean score of the rollouts since the look before."""

    @property
    def unusable(self) -> float:
        return self.garbled + self.unfinished


def objective(look: Look, first: Look, kl_coef: float) -> float:
    """What chooses a checkpoint: the gain in score, in deviations of the first scores, less a price on KL."""
    unit = max(first.score_deviation, 1e-6)
    return (look.score - first.score) / unit - kl_coef * look.kl


def is_best(looks: Sequence[Look], best_update: int, config: PPOConfig) -> bool:
    """True if the last look beats the best so far, and its answers are usable."""
    first, last = looks[0], looks[-1]
    best = next(look for look in looks if look.update == best_update)
    gain = objective(last, first, config.kl_coef) - objective(best, first, config.kl_coef)
    return gain > LEAST_GAIN and not _too_garbled(looks, config)


def stop_reason(looks: Sequence[Look], best_update: int, config: PPOConfig) -> StopReason | None:
    """Why training must stop after these looks, if it must."""
    first, last = looks[0], looks[-1]
    if last.length < SHORTEST_MEAN_LENGTH <= first.length:
        return "length_collapse"
    if _too_garbled(looks, config):
        grown = last.unfinished - first.unfinished
        return "length_explosion" if grown > last.garbled - first.garbled else "garbled"
    if _over_optimised(looks):
        return "over_optimisation"
    since_best = sum(look.update > best_update for look in looks)
    patience = config.convergence_patience * (1 if best_update else SLOW_START)
    return "converged" if since_best >= patience else None


def _too_garbled(looks: Sequence[Look], config: PPOConfig) -> bool:
    return looks[-1].unusable > looks[0].unusable + config.max_garbled


def _over_optimised(looks: Sequence[Look]) -> bool:
    if len(looks) < 4:  # the first look has no training score
        return False
    unit = max(looks[0].score_deviation, 1e-6)
    before, between, last = looks[-3:]
    falls = before.score > between.score > last.score
    rises = before.train_score < between.train_score < last.train_score
    return falls and rises and (before.score - last.score) / unit > OVER_OPTIMISATION_DROP
