"""All versions of a model in one order, from every comparison that was ever made.

Pure: results of reviews in, standings with intervals out. Versions need not have met: each is compared with
the others along the chain of reviews between them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from trainers.evaluation import Interval
from trainers.verdict import Tally

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """A review of two versions."""

    before: str
    after: str
    tally: Tally
    """Wins are those of `after`."""


@dataclass(frozen=True)
class Standing:
    """One version among all."""

    version: str
    tally: Tally
    """All its comparisons; wins are its own."""
    win_rate: float | None
    """Against the anchor; `None` if no chain of reviews leads there."""
    interval: Interval | None
    best_place: int | None
    """One more than the number of versions that are surely better; 1 is the top."""
    worst_place: int | None
    """The number of versions that are not surely worse, itself included."""


def rank_versions(
    matches: Sequence[Match], *, prior: float = 1.0, confidence: float = 0.95
) -> list[Standing]:
    """Standings by the Bradley-Terry model, best first; versions without a way to the anchor last.

        P(i beats j) = σ(θᵢ − θⱼ)        θ = 0 for the anchor, which the first match had as `before`

    A tie is half a win of each, which makes the intervals (Wald's) a little too wide. Prior: every two
    versions that met are given one more tie. It keeps a version that never lost finite, and it is Jeffreys'
    prior where the reviews form a chain: the likeliest P is then (wins + ½) / (n + 1) of each review.

    Args:
        matches: oldest first; those of the same two versions are added up, empty ones left out.
        prior: ties given to every two versions that met; 0 is maximum likelihood.
        confidence: of each interval, and of each pair's difference that the places rest on.
    Source: Bradley & Terry 1952, doi:10.2307/2334029; prior: Firth 1993, doi:10.1093/biomet/80.1.27; ranges
        of places as in Chiang et al. 2024, arXiv:2403.04132.
    """
    played = [match for match in matches if match.tally.reviews]
    if not played:
        return []
    totals, points = _add_up(played)
    versions = _connected(played[0].before, points)
    won = [[points[i, j] + prior / 2 if (i, j) in points else 0.0 for j in versions] for i in versions]
    strengths, covariance = _fit(np.array(won))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    errors = np.sqrt(np.diag(covariance))
    variances = np.add.outer(errors**2, errors**2) - 2 * covariance
    surely_above = np.subtract.outer(strengths, strengths) > z * np.sqrt(np.maximum(variances, 1e-12))
    standings = [
        Standing(
            version=versions[i],
            tally=totals[versions[i]],
            win_rate=float(expit(strengths[i])),
            interval=Interval(*(float(expit(strengths[i] + side * z * errors[i])) for side in (-1, 1))),
            best_place=1 + int(surely_above[:, i].sum()),
            worst_place=len(versions) - int(surely_above[i].sum()),
        )
        for i in np.argsort(-strengths, kind="stable")
    ]
    apart = sorted(totals.keys() - set(versions))
    return standings + [Standing(version, totals[version], None, None, None, None) for version in apart]


def _add_up(played: Sequence[Match]) -> tuple[dict[str, Tally], dict[tuple[str, str], float]]:
    """The tally of every version, and its points against every other that it met."""
    totals: dict[str, Tally] = defaultdict(Tally)
    points: dict[tuple[str, str], float] = defaultdict(float)
    for match in played:
        wins, ties, losses = match.tally.wins, match.tally.ties, match.tally.losses
        after, before = totals[match.after], totals[match.before]
        totals[match.after] = Tally(after.wins + wins, after.ties + ties, after.losses + losses)
        totals[match.before] = Tally(before.wins + losses, before.ties + ties, before.losses + wins)
        points[match.after, match.before] += wins + ties / 2
        points[match.before, match.after] += losses + ties / 2
    return dict(totals), dict(points)


def _connected(anchor: str, points: dict[tuple[str, str], float]) -> list[str]:
    """The versions that a chain of reviews joins with the anchor, which is the first of them."""
    found = [anchor]
    for version in found:  # grows while it is walked
        found += [other for own, other in points if own == version and other not in found]
    return found


def _fit(won: Floats) -> tuple[Floats, Floats]:
    """Strengths and their covariance, the first version's fixed at 0.

    Args:
        won: points of the version of the row against that of the column. (V, V)
    """
    met = won + won.T

    def strengths(free: Floats) -> Floats:
        return np.concatenate([[0.0], free])

    def loss(free: Floats) -> Any:
        theta = strengths(free)
        return (won * np.logaddexp(0.0, np.subtract.outer(theta, theta).T)).sum()

    def gradient(free: Floats) -> Any:
        theta = strengths(free)
        return (met * expit(np.subtract.outer(theta, theta)) - won).sum(axis=1)[1:]

    def information(free: Floats) -> Any:
        theta = strengths(free)
        predicted = expit(np.subtract.outer(theta, theta))
        weights = met * predicted * (1 - predicted)
        return (np.diag(weights.sum(axis=1)) - weights)[1:, 1:]

    found = minimize(loss, np.zeros(len(won) - 1), jac=gradient, hess=information, method="trust-exact").x
    covariance = np.zeros_like(won)
    covariance[1:, 1:] = np.linalg.inv(information(found))
    return strengths(found), covariance
