"""Is the new model better than the one before? From blind judgements to a decision that holds.

Pure: counts in, results with their intervals out; knows nothing of models, rows or reviewers' names. The
backend counts (`backend.verdict`) and shows. `trainers.length_control` asks the same with the answers'
lengths set aside, `trainers.leaderboard` over all rounds.

A model that is no better is called better in at most 5 % of the reviews, however often someone looks and
whenever the review is ended: 2½ % by the exact test of the complete review, 2½ % by ending it early.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from trainers.concordance import krippendorff_alpha
from trainers.evaluation import Interval, sign_test

Vote = Literal["after", "before", "tie"]
Shown = Literal["left", "tie", "right"]
"""A vote by what the reviewer saw."""
Decision = Literal["better", "worse", "no_difference", "not_enough_evidence"]

ALPHA = 0.05
"""Accepted probability of seeing a difference, in either direction, where there is none."""
INDIFFERENCE = 0.15
"""Win rates of which none is farther from ½ than this are no difference."""
POWER = 0.8
"""Chance that a review of the size asked for settles it, if the rates stay what they are."""
_SEARCH_LIMIT = 10_000
_PLACES: dict[Shown, float] = {"left": -1.0, "tie": 0.0, "right": 1.0}


@dataclass(frozen=True)
class Tally:
    """What the comparisons of a review said, one result each."""

    wins: int = 0
    """Comparisons in which the new model's answer is preferred."""
    ties: int = 0
    losses: int = 0

    @property
    def reviews(self) -> int:
        return self.wins + self.ties + self.losses


def majority(votes: Iterable[Vote]) -> Vote:
    """One result of several reviewers' votes on a comparison: what most of those with a preference prefer.

    Evenly split is a tie, and so is a comparison in which nobody has a preference.
    """
    balance = sum((vote == "after") - (vote == "before") for vote in votes)
    return "after" if balance > 0 else "before" if balance < 0 else "tie"


@dataclass(frozen=True)
class ReviewerAgreement:
    """How far several reviewers of the same comparisons agree."""

    comparisons: int
    """Those that two or more judged."""
    share: float | None
    """Of every two reviewers of a comparison, how many gave the same vote; `None` without two."""
    krippendorff_alpha: float | None
    """1 is perfect agreement, 0 what chance gives; `None` where nobody's vote differs."""


def reviewer_agreement(comparisons: Iterable[Sequence[Shown]]) -> ReviewerAgreement:
    """Agreement of blind votes, by the side on which the preferred answer was displayed.

    Sides are shuffled, so that chance gives each of them equally often. By model it would give the better one
    nearly always, and α would be near 0 however well the reviewers agree. A tie lies between the sides.

    Args:
        comparisons: the votes of each.
    """
    shared = [votes for votes in comparisons if len(votes) > 1]
    pairs = [first == second for votes in shared for first, second in combinations(votes, 2)]
    return ReviewerAgreement(
        len(shared),
        sum(pairs) / len(pairs) if pairs else None,
        krippendorff_alpha([_PLACES[vote] for vote in votes] for votes in shared),
    )


@dataclass(frozen=True)
class WinRate:
    """Share of the comparisons that the new model wins, a tie counting as half."""

    value: float | None
    """`None` without a comparison."""
    interval: Interval


def win_rate(tally: Tally, *, confidence: float = 0.95) -> WinRate:
    """Win rate with Tango's score interval, sound for small numbers, for many ties and at 0 and 1.

    The win rate is ½ + Δ/2, with Δ = P(win) − P(loss) a difference of paired proportions. The interval holds
    each Δ that the score test of a paired difference does not reject:

        |w − l − nΔ| ≤ z √(n (2q + Δ(1 − Δ)))

    with q the likeliest probability of a loss at this Δ. Without ties it is Wilson's interval.

    Args:
        tally: the results; none gives [0, 1].
        confidence: share of such intervals that contain the true win rate.
    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design", Statistics in Medicine 17:891-908, eq. 8 and 11.
    """
    if not tally.reviews:
        return WinRate(None, Interval(0.0, 1.0))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    low = -_upper_difference(tally.losses, tally.wins, tally.reviews, z)
    high = _upper_difference(tally.wins, tally.losses, tally.reviews, z)
    value = 0.5 + (tally.wins - tally.losses) / tally.reviews / 2
    return WinRate(value, Interval(0.5 + low / 2, 0.5 + high / 2))


@dataclass(frozen=True)
class Verdict:
    """What blind reviews say of the new model."""

    decision: Decision
    win_rate: WinRate
    p_value: float
    """Of the sign test, as if the review had been meant to have just these comparisons."""
    anytime_p_value: float
    """Of the test that may be looked at after every judgement: one ended early is held to it."""
    largest_difference: float
    """How far from ½ the win rate may be: the data exclude more, at 5 % (a 90 % interval)."""


def judge_reviews(judged: Tally, *, settled: Tally | None = None, pending: int = 0) -> Verdict:
    """Decide from blind reviews.

    A complete review: better, worse where the exact sign test's p-value is below `ALPHA`; no_difference where
    the win rate cannot be farther from ½ than `INDIFFERENCE`; else not enough evidence.

    A review ended early (`pending` > 0): what it would be found complete, if that holds whatever the pending
    comparisons said; better, worse also where `anytime_p_value` is below `ALPHA`; else not enough evidence.

    Args:
        judged: every comparison with a judgement.
        settled: those of them that have all judgements asked for; all, if left out.
        pending: comparisons that still lack a judgement.
    Source: equivalence by two one-sided tests: Schuirmann 1987, doi:10.1007/BF01068419.
    """
    settled = judged if settled is None else settled
    extremes = {  # of what the complete review may say; one and the same if nothing is pending
        Tally(settled.wins, settled.ties, settled.losses + pending),
        Tally(settled.wins + pending, settled.ties, settled.losses),
    }
    difference = max(_largest_difference(tally) for tally in extremes)
    decisions = {_decide(tally, difference) for tally in extremes}
    decision: Decision = decisions.pop() if len(decisions) == 1 else "not_enough_evidence"
    anytime = anytime_sign_test(judged.wins, judged.losses)
    if pending and decision == "not_enough_evidence" and anytime < ALPHA:
        decision = "better" if judged.wins > judged.losses else "worse"
    p_value = sign_test(judged.wins, judged.losses).p_value
    return Verdict(decision, win_rate(judged), p_value, anytime, difference)


def anytime_sign_test(wins: int, losses: int) -> float:
    """p-value of "both are equally good" that holds whenever one stops, ties left out.

        p = min(1, (n + 1) C(n, wins) / 2ⁿ)        n = wins + losses

    the inverse of a likelihood ratio: all win rates alike (a uniform prior) against ½. Its expectation never
    rises if both are equally good, so that it ever exceeds 1/α with probability α at most.

    Source: Ville 1939; Darling & Robbins 1968, doi:10.1073/pnas.61.3.804; Ramdas et al. 2023,
        arXiv:2210.01948, section 3.
    """
    decided = wins + losses
    return min(1.0, (decided + 1) * math.comb(decided, wins) / (1 << decided))


def reviews_to_settle(tally: Tally) -> int:
    """How many more comparisons than these a review needs to end in better, worse or no difference.

    With probability `POWER`, if wins, ties and losses keep their shares; in tens, 10 at least. Without a
    comparison: if the models are equal and nothing is a tie.

    Source: power of the sign test from the binomial distribution; of the equivalence test by the normal
        approximation, Chow, Shao & Wang 2008, "Sample Size Calculations in Clinical Research", 4.1.
    """
    from scipy.stats import binom, norm  # which take a second to import

    reviews, decided = tally.reviews, tally.wins + tally.losses
    decided_share = decided / reviews if reviews else 1.0
    sizes = np.arange(10, _SEARCH_LIMIT + 1, 10)
    settled = np.zeros(len(sizes))  # the probability of it
    if tally.wins != tally.losses:
        trials = np.floor(sizes * decided_share)
        most = binom.isf(ALPHA / 2, trials, 0.5)  # more wins than these are significant
        settled += binom.sf(most, trials, max(tally.wins, tally.losses) / decided)
    difference = (tally.wins - tally.losses) / reviews if reviews else 0.0
    error = np.sqrt(np.maximum(decided_share - difference**2, 1 / sizes) / sizes) / 2  # of the win rate
    room = INDIFFERENCE - norm.isf(ALPHA) * error  # a win rate this far from ½ at most is no difference
    inside = norm.cdf((room - difference / 2) / error) - norm.cdf((-room - difference / 2) / error)
    settled += np.maximum(inside, 0.0)
    enough = settled >= POWER
    size = int(sizes[np.argmax(enough)]) if enough.any() else _SEARCH_LIMIT
    return max(10, -(-(size - reviews) // 10) * 10)


def _decide(tally: Tally, difference: float) -> Decision:
    """The decision of a complete review."""
    if sign_test(tally.wins, tally.losses).p_value < ALPHA:
        return "better" if tally.wins > tally.losses else "worse"
    return "no_difference" if difference <= INDIFFERENCE else "not_enough_evidence"


def _largest_difference(tally: Tally) -> float:
    interval = win_rate(tally, confidence=1 - 2 * ALPHA).interval
    return max(interval.high - 0.5, 0.5 - interval.low)


def _upper_difference(wins: int, losses: int, reviews: int, z: float) -> float:
    """The largest P(win) − P(loss) in Tango's interval."""
    observed = (wins - losses) / reviews
    if observed == 1.0:
        return 1.0

    def excess(difference: float) -> float:
        b = (2 * reviews - wins + losses) * difference - wins - losses
        c = -losses * difference * (1 - difference)
        loss = (math.sqrt(max(0.0, b * b - 8 * reviews * c)) - b) / (4 * reviews)
        variance = reviews * (2 * loss + difference * (1 - difference))
        return (wins - losses - reviews * difference) ** 2 - z * z * variance

    return float(brentq(excess, observed + 1e-9, 1.0))  # at the edges `observed` itself is a root
