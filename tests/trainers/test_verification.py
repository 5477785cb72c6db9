"""Which look is best, and when training must stop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest

from trainers.config import PPOConfig
from trainers.verification import (
    Look,
    Stop,
    StopReason,
    is_best,
    objective,
    stop_after_look,
    stop_after_update,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = PPOConfig(base_model="b", reward_model="m:f", kl_coef=0.1, convergence_patience=3, max_garbled=0.1)


def a_look(update: int, score: float = 0.0, **values: Any) -> Look:
    defaults = {"kl": 0.0, "length": 50.0, "garbled": 0.0, "unfinished": 0.0}
    defaults |= {"entropy": 0.5, "train_score": 0.0}
    return Look(update=update, score=score, score_deviation=2.0, **{**defaults, **values})


def test_objective_is_the_gain_in_deviations_less_the_price_of_kl() -> None:
    # (7 − 1) / 2 − 0.1 · 5
    assert objective(a_look(4, 7.0, kl=5.0), a_look(0, 1.0), 0.1) == pytest.approx(2.5)


def test_a_higher_score_is_best_unless_bought_with_kl() -> None:
    first = a_look(0)
    assert is_best([first, a_look(4, 2.0, kl=1.0)], 0, CONFIG)
    assert not is_best([first, a_look(4, 2.0, kl=20.0)], 0, CONFIG)


@pytest.mark.parametrize(
    "hacked",
    [{"garbled": 0.2}, {"unfinished": 0.2}, {"length": 1.5}, {"entropy": 0.01}, {"kl": 31.0}],
    ids=str,
)
def test_what_a_guard_would_end_the_run_for_is_never_best(hacked: dict[str, float]) -> None:
    assert is_best([a_look(0), a_look(4, 100.0)], 0, CONFIG)
    assert not is_best([a_look(0), a_look(4, 100.0, **hacked)], 0, CONFIG)


def test_a_gain_within_noise_is_not_better() -> None:
    assert not is_best([a_look(0), a_look(4, 0.01)], 0, CONFIG)


CASES: list[tuple[Stop | None, list[Look], int]] = [
    (None, [a_look(0)], 0),
    (None, [a_look(0), a_look(4, 1.0), a_look(8, 0.9), a_look(12, 0.8)], 4),
    (
        Stop("converged", 3, 3),
        [a_look(0), a_look(4, 1.0), a_look(8, 0.9), a_look(12, 0.9), a_look(16, 1.0)],
        4,
    ),
    (None, [a_look(4 * number) for number in range(6)], 0),
    (Stop("converged", 6, 6), [a_look(4 * number) for number in range(7)], 0),
    (Stop("garbled", 0.11, 0.1), [a_look(0), a_look(4, 1.0, garbled=0.11)], 0),
    (Stop("kl", 31.0, 30.0), [a_look(0), a_look(4, 1.0, kl=31.0)], 0),
    (  # and not "converged", which it is too
        Stop("kl", 31.0, 30.0),
        [a_look(0), a_look(4, 1.0), a_look(8), a_look(12), a_look(16, 1.1, kl=31.0)],
        4,
    ),
    (None, [a_look(0, garbled=0.5), a_look(4, 1.0, garbled=0.55)], 4),
    (Stop("garbled", 0.65, 0.6), [a_look(0, garbled=0.5), a_look(4, 1.0, garbled=0.65)], 4),
    (Stop("length_explosion", 0.2, 0.1), [a_look(0), a_look(4, 1.0, unfinished=0.2, length=120.0)], 0),
    (Stop("length_collapse", 1.5, 3.0), [a_look(0), a_look(4, 1.0, length=1.5)], 4),
    (None, [a_look(0, length=2.0), a_look(4, 1.0, length=1.5)], 4),
    (Stop("entropy_collapse", 0.04, 0.05), [a_look(0), a_look(4, 1.0, entropy=0.04)], 4),
    (None, [a_look(0), a_look(4, 1.0, entropy=0.06)], 4),
    (
        Stop("over_optimisation", 0.3, 0.1),  # (1.0 − 0.4) / 2
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
def test_a_look_ends_the_run_with_its_reason_and_number(
    expected: Stop | None, looks: list[Look], best_update: int
) -> None:
    found = stop_after_look(looks, best_update, CONFIG)
    assert (found is None) == (expected is None)
    if found and expected:
        assert found.reason == expected.reason
        assert (found.measured, found.limit) == pytest.approx((expected.measured, expected.limit))


def test_without_a_floor_entropy_never_ends_the_run() -> None:
    config = dataclasses.replace(CONFIG, min_entropy_share=0.0)
    assert stop_after_look([a_look(0), a_look(4, 1.0, entropy=0.0)], 4, config) is None


@pytest.mark.parametrize(
    ("expected", "values"),
    [
        (None, {}),
        (Stop("diverged", 0, 1), {"stepped": False}),
        (Stop("kl", 31.0, 30.0), {"kl": 31.0}),
        (None, {"kl": 30.0}),
        (Stop("updates", 40, 40), {"update": 40}),
        (Stop("garbled", 0.5, 0.1), {"update": 4}),  # only the update after which the look was made
    ],
)
def test_an_update_ends_the_run_with_its_reason_and_number(
    expected: Stop | None, values: dict[str, Any]
) -> None:
    looks = [a_look(0), a_look(4, 1.0, garbled=0.5)]
    given = {"update": 7, "kl": 1.0, "stepped": True, **values}
    assert stop_after_update(CONFIG, looks, 0, **given) == expected


def test_every_reason_to_stop_is_documented_and_has_a_name_in_the_console() -> None:
    metrics = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    texts = (ROOT / "backend" / "console" / "static" / "texts.js").read_text(encoding="utf-8")
    for reason in get_args(StopReason):
        assert f"| `{reason}` |" in metrics
        assert f"  stop_{reason}: [" in texts
