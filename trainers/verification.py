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
    "entropy_collapse",  # the policy all but always says the same: nothing is left to explore
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
class Stop:
    """Why a run ends, with the number that decided it."""

    reason: StopReason
    measured: float
    limit: float
    """What `measured` came to or went beyond; docs/metrics.md says what each reason measures."""


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
    entropy: float
    """Mean entropy in nats a token, estimated from the sampled tokens."""
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
    """True if the last look beats the best so far and is none that a guard would end the run for."""
    first, last = looks[0], looks[-1]
    best = next(look for look in looks if look.update == best_update)
    gain = objective(last, first, config.kl_coef) - objective(best, first, config.kl_coef)
    return gain > LEAST_GAIN and not _hacked(looks, config)


def stop_after_update(
    config: PPOConfig, looks: Sequence[Look], best_update: int, *, update: int, kl: float, stepped: bool
) -> Stop | None:
    """Why training must end after an update, if it must.

    Args:
        looks: all so far; the last one may be of an earlier update.
        kl: of this update's rollouts to the reference, nats a response.
        stepped: False if none of the update's gradients was finite.
    """
    if not stepped:
        return Stop("diverged", 0, 1)
    if kl > config.kl_stop:
        return Stop("kl", kl, config.kl_stop)
    if looks[-1].update == update and (found := stop_after_look(looks, best_update, config)):
        return found
    return Stop("updates", update, config.updates) if update >= config.updates else None


def stop_after_look(looks: Sequence[Look], best_update: int, config: PPOConfig) -> Stop | None:
    """Why training must end after these looks, if it must: a guard, or the score no longer rises."""
    since_best = sum(look.update > best_update for look in looks)
    patience = config.convergence_patience * (1 if best_update else SLOW_START)
    guard = _hacked(looks, config) or _over_optimised(looks)
    return guard or (Stop("converged", since_best, patience) if since_best >= patience else None)


def _hacked(looks: Sequence[Look], config: PPOConfig) -> Stop | None:
    """What is wrong with the policy of the last look, whatever it scores."""
    if looks[-1].kl > config.kl_stop:
        return Stop("kl", looks[-1].kl, config.kl_stop)
    return _collapsed(looks, config) or _broken(looks, config)


def _collapsed(looks: Sequence[Look], config: PPOConfig) -> Stop | None:
    first, last = looks[0], looks[-1]
    if last.length < SHORTEST_MEAN_LENGTH <= first.length:
        return Stop("length_collapse", last.length, SHORTEST_MEAN_LENGTH)
    least = config.min_entropy_share * first.entropy
    return Stop("entropy_collapse", last.entropy, least) if last.entropy < least else None


def _broken(looks: Sequence[Look], config: PPOConfig) -> Stop | None:
    first, last = looks[0], looks[-1]
    if last.unusable <= first.unusable + config.max_garbled:
        return None
    grown = last.unfinished - first.unfinished
    reason: StopReason = "length_explosion" if grown > last.garbled - first.garbled else "garbled"
    return Stop(reason, last.unusable, first.unusable + config.max_garbled)


def _over_optimised(looks: Sequence[Look]) -> Stop | None:
    if len(looks) < 4:  # the first look has no training score
        return None
    unit = max(looks[0].score_deviation, 1e-6)
    before, between, last = looks[-3:]
    falls = before.score > between.score > last.score
    rises = before.train_score < between.train_score < last.train_score
    drop = (before.score - last.score) / unit
    if falls and rises and drop > OVER_OPTIMISATION_DROP:
        return Stop("over_optimisation", drop, OVER_OPTIMISATION_DROP)
    return None
