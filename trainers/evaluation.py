"""Is it good enough? Results are objects with their interval, not bare numbers.

Knows scipy and nothing of models: takes counts and scores. The reward stage takes the gate's outcome from
here; `trainers.verdict` asks whether a policy is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from trainers.records import Preference

Outcome = Literal["passed", "not_enough_evidence", "failed"]

RANKINGS_STEP = (20, 50)
"""Fewest and most rankings to ask for at a time; after them the gate is looked at again."""
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
class Supply:
    """What more rankings would give the gate to measure with."""

    pairs_per_ranking: float = 1.2
    """Held-out pairs that a ranking adds on average; the default is three answers, 40 % of them held out."""
    pairs_per_heldout_ranking: float = 3.0
    """Held-out pairs that the ranking of a held-out prompt adds."""
    heldout_unranked: int = 0
    """Held-out prompts that nobody has ranked."""

    def rankings_for(self, pairs: float, *, heldout_first: bool) -> int:
        """Rankings that add so many held-out pairs."""
        first = min(self.heldout_unranked, math.ceil(pairs / self.pairs_per_heldout_ranking))
        first = max(first, 0) if heldout_first else 0
        rest = max(pairs - first * self.pairs_per_heldout_ranking, 0.0)
        return first + math.ceil(rest / self.pairs_per_ranking)


@dataclass(frozen=True)
class Gate:
    """Whether a reward model may guide PPO."""

    outcome: Outcome
    accuracy: Accuracy
    rankings_needed: int
    """Rankings to add before looking again, 20 to 50; 0 if passed."""


def decide_gate(
    accuracy: Accuracy, *, gate_accuracy: float, gate_margin: float, supply: Supply | None = None
) -> Gate:
    """Hold a held-out accuracy against the gate.

    passed: the accuracy reaches the gate, and the interval's lower bound reaches the gate minus the margin.
    failed: the interval's upper bound is below the gate. Anything else is not enough evidence; it asks for
    the rankings with which the gate would decide if the accuracy stayed what it is. An accuracy at the gate
    or above only has to be measured: then held-out prompts are ranked first (`trainers.acquisition`).

    Args:
        accuracy: on prompts that the model did not learn from.
        gate_accuracy: what it must reach.
        gate_margin: how far the lower bound may stay below that.
        supply: what more rankings would add.
    """
    interval, value = accuracy.interval, accuracy.value
    reached = value is not None and value >= gate_accuracy
    if reached and interval.low >= gate_accuracy - gate_margin:
        return Gate("passed", accuracy, 0)
    fewest, most = RANKINGS_STEP
    if interval.high < gate_accuracy:
        return Gate("failed", accuracy, most)
    pairs = _pairs_to_decide(value, gate_accuracy, gate_margin) - accuracy.pairs
    rankings = (supply or Supply()).rankings_for(pairs, heldout_first=reached)
    return Gate("not_enough_evidence", accuracy, min(max(_round_up(rankings, 10), fewest), most))


@dataclass(frozen=True)
class SignTest:
    """Exact two-sided test of "both are equally good", ties left out. Source: Dixon & Mood 1946."""

    wins: int
    losses: int
    p_value: float


def sign_test(wins: int, losses: int) -> SignTest:
    """The probability of a split at least as uneven, if each side were as likely to win."""
    from scipy.stats import binomtest  # which takes a second to import

    decided = wins + losses
    p_value = float(binomtest(wins, decided, 0.5).pvalue) if decided else 1.0
    return SignTest(wins, losses, p_value)


def _pairs_to_decide(value: float | None, gate_accuracy: float, gate_margin: float) -> int:
    """Pairs at which the gate would decide if the accuracy stayed what it is."""
    share = gate_accuracy if value is None else value
    for pairs in range(10, _SEARCH_LIMIT, 10):
        interval = wilson_interval(share * pairs, pairs)
        passed = share >= gate_accuracy and interval.low >= gate_accuracy - gate_margin
        if passed or interval.high < gate_accuracy:
            return pairs
    return _SEARCH_LIMIT


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
