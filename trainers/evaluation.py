"""Is it good enough, and is it better? Results are objects with their interval, not bare numbers.

Knows scipy and nothing of models: takes counts and scores. The reward stage takes the gate's outcome from
here, the backend's verdict wraps `judge_reviews`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from scipy.stats import binomtest

from trainers.records import Preference

Outcome = Literal["passed", "not_enough_evidence", "failed"]
Decision = Literal["better", "worse", "no_difference", "not_enough_evidence"]

RANKINGS_STEP = (20, 50)
"""Fewest and most rankings to ask for at a time; after them the gate is looked at again."""
INDIFFERENCE = 0.15
"""A win rate whose whole interval lies within ½ ± this is no difference."""
_POWER = 0.8  # chance that the number of reviews asked for settles it, if the win rate stays what it is
_SEARCH_LIMIT = 10_000


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a share."""

    low: float
    high: float


def wilson_interval(successes: float, trials: int, *, confidence: float = 0.95) -> Interval:
    """Interval of a share, sound for small numbers and at 0 and 1.

        (p̂ + z²/2n ± z √(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n)

    Args:
        successes: may be fractional where a tie counts as half; the interval is then a little too wide.
        trials: 0 gives [0, 1].
        confidence: share of such intervals that contain the true value.
    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"`{successes}` of `{trials}` is no share")
    if trials == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    middle = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return Interval(max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale))


@dataclass(frozen=True)
class Accuracy:
    """Share of the pairs in which the preferred answer has the higher score."""

    correct: float
    """Equal scores count half."""
    pairs: int

    @property
    def value(self) -> float | None:
        return self.correct / self.pairs if self.pairs else None

    @property
    def interval(self) -> Interval:
        return wilson_interval(self.correct, self.pairs)


def pair_accuracy(preferences: Iterable[Preference], scores: Mapping[str, float]) -> Accuracy:
    """Accuracy of scores against preferences, counted over pairs.

    Args:
        preferences: what people prefer.
        scores: response id -> score, higher is better; a baseline such as "longer wins" is scores too.
    """
    correct, pairs = 0.0, 0
    for preference in preferences:
        chosen, rejected = scores[preference.chosen_id], scores[preference.rejected_id]
        correct += 1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0
        pairs += 1
    return Accuracy(correct, pairs)


@dataclass(frozen=True)
class Gate:
    """Whether a reward model may guide PPO."""

    outcome: Outcome
    accuracy: Accuracy
    rankings_needed: int
    """Rankings to add before looking again, 20 to 50; 0 if passed."""


def decide_gate(
    accuracy: Accuracy, *, gate_accuracy: float, gate_margin: float, heldout_pairs_per_ranking: float = 1.2
) -> Gate:
    """Hold a held-out accuracy against the gate.

    passed: the accuracy reaches the gate, and the interval's lower bound reaches the gate minus the margin.
    failed: the interval's upper bound is below the gate. Anything else is not enough evidence.

    Args:
        accuracy: on prompts that the model did not learn from.
        gate_accuracy: what it must reach.
        gate_margin: how far the lower bound may stay below that.
        heldout_pairs_per_ranking: how many held-out pairs a ranking adds on average; the default is three
            answers a ranking and 40 % of the prompts held out.
    """
    interval, value = accuracy.interval, accuracy.value
    if value is not None and value >= gate_accuracy and interval.low >= gate_accuracy - gate_margin:
        return Gate("passed", accuracy, 0)
    fewest, most = RANKINGS_STEP
    if interval.high < gate_accuracy:
        return Gate("failed", accuracy, most)
    pairs = _pairs_to_decide(value, gate_accuracy, gate_margin)
    rankings = math.ceil((pairs - accuracy.pairs) / heldout_pairs_per_ranking)
    return Gate("not_enough_evidence", accuracy, min(max(_round_up(rankings, 10), fewest), most))


@dataclass(frozen=True)
class SignTest:
    """Exact two-sided test of "both are equally good", ties left out. Source: Dixon & Mood 1946."""

    wins: int
    losses: int
    p_value: float


def sign_test(wins: int, losses: int) -> SignTest:
    """The probability of a split at least as uneven, if each side were as likely to win."""
    decided = wins + losses
    p_value = float(binomtest(wins, decided, 0.5).pvalue) if decided else 1.0
    return SignTest(wins, losses, p_value)


@dataclass(frozen=True)
class WinRate:
    """Share of the comparisons that the new model wins, a tie counting as half."""

    value: float | None
    """`None` without a comparison."""
    interval: Interval


def win_rate(wins: int, ties: int, losses: int) -> WinRate:
    """Win rate with its Wilson interval, which ties make a little too wide, never too narrow."""
    reviews = wins + ties + losses
    points = wins + ties / 2
    return WinRate(points / reviews if reviews else None, wilson_interval(points, reviews))


@dataclass(frozen=True)
class Verdict:
    """What blind reviews say of the new model."""

    decision: Decision
    wins: int
    ties: int
    losses: int
    win_rate: WinRate
    p_value: float
    """Of the sign test."""
    reviews_needed: int
    """Estimate of how many more reviews would settle it, in tens; 0 if it is settled."""


def judge_reviews(wins: int, ties: int, losses: int, *, alpha: float = 0.05) -> Verdict:
    """Decide from blind reviews.

    better, worse: the sign test's p-value is below `alpha`. no_difference: the whole interval of the win rate
    lies within ½ ± `INDIFFERENCE`. Anything else is not enough evidence.

    Args:
        wins: reviews that prefer the new model.
        ties: reviews that prefer neither.
        losses: reviews that prefer the old model.
        alpha: accepted probability of seeing a difference where there is none.
    """
    rate = win_rate(wins, ties, losses)
    p_value = sign_test(wins, losses).p_value
    decision: Decision = "not_enough_evidence"
    if p_value < alpha:
        decision = "better" if wins > losses else "worse"
    elif rate.interval.low >= 0.5 - INDIFFERENCE and rate.interval.high <= 0.5 + INDIFFERENCE:
        decision = "no_difference"
    needed = _reviews_to_settle(wins, ties, losses, alpha) if decision == "not_enough_evidence" else 0
    return Verdict(decision, wins, ties, losses, rate, p_value, needed)


def _pairs_to_decide(value: float | None, gate_accuracy: float, gate_margin: float) -> int:
    """Pairs at which the gate would decide if the accuracy stayed what it is."""
    share = gate_accuracy if value is None else value
    for pairs in range(10, _SEARCH_LIMIT, 10):
        interval = wilson_interval(share * pairs, pairs)
        passed = share >= gate_accuracy and interval.low >= gate_accuracy - gate_margin
        if passed or interval.high < gate_accuracy:
            return pairs
    return _SEARCH_LIMIT


def _reviews_to_settle(wins: int, ties: int, losses: int, alpha: float) -> int:
    """More reviews until better, worse or no difference, whichever comes first at the rates seen so far."""
    reviews = wins + ties + losses
    indifferent = next(
        (n for n in range(1, _SEARCH_LIMIT) if wilson_interval(n / 2, n).low >= 0.5 - INDIFFERENCE),
        _SEARCH_LIMIT,
    )
    different = _SEARCH_LIMIT
    if wins != losses:
        share = wins / (wins + losses)
        z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(_POWER)
        decided = ((z_alpha / 2 + z_power * math.sqrt(share * (1 - share))) / (share - 0.5)) ** 2
        different = math.ceil(decided * reviews / (wins + losses))
    return max(10, _round_up(min(indifferent, different) - reviews, 10))


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
