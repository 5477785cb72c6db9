"""Which look is best, and when training must stop."""

from __future__ import annotations

from typing import Any

import pytest

from trainers.config import PPOConfig
from trainers.verification import Look, StopReason, is_best, objective, stop_reason

CONFIG = PPOConfig(base_model="b", reward_model="m:f", kl_coef=0.1, convergence_patience=3, max_garbled=0.1)


def a_look(update: int, score: float = 0.0, **values: Any) -> Look:
    defaults = {"kl": 0.0, "length": 50.0, "garbled": 0.0, "unfinished": 0.0, "train_score": 0.0}
    return Look(update=update, score=score, score_deviation=2.0, **{**defaults, **values})


def test_objective_is_the_gain_in_deviations_less_the_price_of_kl() -> None:
    # (7 − 1) / 2 − 0.1 · 5
    assert objective(a_look(4, 7.0, kl=5.0), a_look(0, 1.0), 0.1) == pytest.approx(2.5)


def test_a_higher_score_is_best_unless_bought_with_kl() -> None:
    first = a_look(0)
    assert is_best([first, a_look(4, 2.0, kl=1.0)], 0, CONFIG)
    assert not is_best([first, a_look(4, 2.0, kl=20.0)], 0, CONFIG)


def test_nonsense_is_never_best() -> None:
    assert not is_best([a_look(0), a_look(4, 100.0, garbled=0.2)], 0, CONFIG)


def test_a_gain_within_noise_is_not_better() -> None:
    assert not is_best([a_look(0), a_look(4, 0.01)], 0, CONFIG)


CASES: list[tuple[StopReason | None, list[Look], int]] = [
    (None, [a_look(0)], 0),
    (None, [a_look(0), a_look(4, 1.0), a_look(8, 0.9), a_look(12, 0.8)], 4),
    ("converged", [a_look(0), a_look(4, 1.0), a_look(8, 0.9), a_look(12, 0.9), a_look(16, 1.0)], 4),
    (None, [a_look(4 * number) for number in range(6)], 0),
    ("converged", [a_look(4 * number) for number in range(7)], 0),
    ("garbled", [a_look(0), a_look(4, 1.0, garbled=0.11)], 0),
    (None, [a_look(0, garbled=0.5), a_look(4, 1.0, garbled=0.55)], 4),
    ("length_explosion", [a_look(0), a_look(4, 1.0, unfinished=0.2, length=120.0)], 0),
    ("length_collapse", [a_look(0), a_look(4, 1.0, length=1.5)], 4),
    (None, [a_look(0, length=2.0), a_look(4, 1.0, length=1.5)], 4),
    (
        "over_optimisation",
        [
            a_look(0),
            a_look(4, 1.0, train_score=1.0),
            a_look(8, 0.7, train_score=2.0),
            a_look(12, 0.4, train_score=3.0),
        ],
        4,
    ),
    (
        None,  # both fall: bad luck, not over-optimisation
        [
            a_look(0),
            a_look(4, 1.0, train_score=3.0),
            a_look(8, 0.7, train_score=2.0),
            a_look(12, 0.4, train_score=1.0),
        ],
        4,
    ),
]


@pytest.mark.parametrize(("expected", "looks", "best_update"), CASES)
def test_stop_reason(expected: StopReason | None, looks: list[Look], best_update: int) -> None:
    assert stop_reason(looks, best_update, CONFIG) == expected
