"""Would the new model still win if its answers were as long as the old one's?

Pure: outcomes and lengths in, a win rate with its interval out, or why there is none. A team that likes brief
answers rightly prefers a model that is only briefer; this tells it what the win rate owes to that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from trainers.evaluation import Interval
from trainers.verdict import Vote

Floats = NDArray[np.float64]
Obstacle = Literal[
    "shorter_wins",  # the shorter answer wins every comparison that is won
    "longer_wins",  # the longer one does
    "one_sided",  # one model wins all of them, whatever the lengths
    "separated",  # a difference of lengths tells every win from every loss
    "no_spread",  # the lengths differ by the same factor everywhere
    "no_reviews",
]
"""Why the part of length in the outcomes cannot be told from the part of the rest."""

_POINTS: dict[Vote, float] = {"after": 1.0, "tie": 0.5, "before": 0.0}


@dataclass(frozen=True)
class LengthControlled:
    """The win rate with lengths set aside, or what stands in its way."""

    win_rate: float | None
    """Where both answers are equally long; `None` if it cannot be told."""
    interval: Interval | None
    obstacle: Obstacle | None = None
    extrapolated: bool = False
    """The same model's answer is longer in all comparisons: no pair is near to equal length."""


@dataclass(frozen=True)
class Outcome:
    """One comparison."""

    result: Vote
    length_before: int
    """In characters."""
    length_after: int


def length_controlled(outcomes: Sequence[Outcome], *, confidence: float = 0.95) -> LengthControlled:
    """Win rate at equal length, from a logistic regression of the outcome on the difference of log lengths.

        P(the new answer wins) = σ(α + β ln(length_after / length_before))        win rate = σ(α)

    A tie counts as half a win, which makes the interval (Wald's, of α) a little too wide. The terms of the
    source for each question and model are left out: there is one pair of models and one answer a question.
    Nothing pulls the coefficients towards zero, so that they exist only where wins and losses overlap.

    Args:
        outcomes: one a comparison; an empty answer counts as one character.
        confidence: share of such intervals that contain the true win rate, if the model is right.
    Source: Dubois et al. 2024, "Length-Controlled AlpacaEval", arXiv:2404.04475; existence: Albert & Anderson
        1984, doi:10.1093/biomet/71.1.1.
    """
    points = np.array([_POINTS[outcome.result] for outcome in outcomes])
    longer = np.array(
        [math.log(max(1, found.length_after) / max(1, found.length_before)) for found in outcomes]
    )
    if (obstacle := _obstacle(points, longer)) is not None:
        return LengthControlled(None, None, obstacle)
    intercept, error = _fit(points, longer)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    interval = Interval(float(expit(intercept - reach)), float(expit(intercept + reach)))
    extrapolated = bool(longer.min() > 0 or longer.max() < 0)
    return LengthControlled(float(expit(intercept)), interval, extrapolated=extrapolated)


def _obstacle(points: Floats, longer: Floats) -> Obstacle | None:
    """Why the regression has no finite solution; none if it has one."""
    if not len(points):
        return "no_reviews"
    wins, losses = longer[points > 0], longer[points < 1]  # a tie is both
    apart = not len(wins) or not len(losses) or wins.max() <= losses.min() or losses.max() <= wins.min()
    if not apart:
        return None
    winner_longer = ((points - 0.5) * longer)[points != 0.5]
    if len(winner_longer) and (winner_longer < 0).all():
        return "shorter_wins"
    if len(winner_longer) and (winner_longer > 0).all():
        return "longer_wins"
    if np.ptp(longer) == 0:
        return "no_spread"
    return "separated" if len(wins) and len(losses) else "one_sided"


def _fit(points: Floats, longer: Floats) -> tuple[float, float]:
    """Maximum likelihood. Returns: α and its standard error."""
    design = np.stack([np.ones_like(longer), longer], axis=1)

    def loss(coefficients: Floats) -> Any:
        logits = design @ coefficients
        return (np.logaddexp(0.0, logits) - points * logits).sum()

    def gradient(coefficients: Floats) -> Any:
        return design.T @ (expit(design @ coefficients) - points)

    def information(coefficients: Floats) -> Any:
        predicted = expit(design @ coefficients)
        return design.T @ (design * (predicted * (1 - predicted))[:, None])

    found = minimize(loss, np.zeros(2), jac=gradient, hess=information, method="trust-exact").x
    return float(found[0]), float(np.sqrt(np.linalg.inv(information(found))[0, 0]))
