from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from trainers.evaluation import (
    Accuracy,
    Interval,
    Supply,
    decide_gate,
    pair_accuracy,
    sign_test,
    wilson_interval,
)
from trainers.records import Preference


def gate_of(correct: float, pairs: int, supply: Supply | None = None, **settings: float) -> tuple[str, int]:
    wanted = {"gate_accuracy": 0.85, "gate_margin": 0.10, **settings}
    gate = decide_gate(Accuracy(correct, pairs), **wanted, supply=supply)
    return gate.outcome, gate.rankings_needed


# --- intervals


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (17, 20, 0.64, 0.95),
        (85, 100, 0.77, 0.91),
        (170, 200, 0.79, 0.89),
        (0, 10, 0.0, 0.278),  # z²/(n + z²) = 3.841/13.841
        (10, 10, 0.722, 1.0),
    ],
)
def test_wilson_interval_of_published_figures(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, trials)
    assert interval.low == pytest.approx(low, abs=0.006)
    assert interval.high == pytest.approx(high, abs=0.006)


def test_wilson_interval_of_nothing_is_everything() -> None:
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3), (1, 0)])
def test_wilson_interval_of_no_share_is_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson_interval(successes, trials)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_scipys(counts: tuple[int, int]) -> None:
    expected = binomtest(*counts).proportion_ci(method="wilson")
    interval = wilson_interval(*counts)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


# --- accuracy and gate


def test_accuracy_counts_pairs_and_halves_equal_scores() -> None:
    preferences = [Preference("p1", "a", "b"), Preference("p1", "c", "a"), Preference("p2", "d", "e")]
    accuracy = pair_accuracy(preferences, {"a": 2.0, "b": 1.0, "c": 0.0, "d": 0.5, "e": 0.5})
    assert (accuracy.correct, accuracy.pairs, accuracy.value) == (1.5, 3, 0.5)


def test_accuracy_of_no_pairs_is_unknown() -> None:
    accuracy = pair_accuracy([], {})
    assert accuracy.value is None
    assert accuracy.interval == Interval(0.0, 1.0)


@pytest.mark.parametrize(
    ("correct", "pairs", "outcome"),
    [
        (90, 100, "passed"),
        (85, 100, "passed"),  # lower bound 0.767 ≥ 0.75
        (84, 100, "not_enough_evidence"),  # below the gate, upper bound 0.899
        (18, 20, "not_enough_evidence"),  # 0.9, but the lower bound is 0.699
        (20, 20, "passed"),  # lower bound 0.839
        (7, 7, "not_enough_evidence"),  # lower bound 0.646
        (76, 100, "failed"),  # upper bound 0.833
        (2, 20, "failed"),
        (0, 0, "not_enough_evidence"),
    ],
)
def test_gate_has_three_outcomes(correct: float, pairs: int, outcome: str) -> None:
    assert gate_of(correct, pairs)[0] == outcome


def test_gate_asks_for_20_to_50_rankings_unless_passed() -> None:
    assert gate_of(90, 100) == ("passed", 0)
    assert gate_of(2, 20) == ("failed", 50)
    assert gate_of(0, 0) == ("not_enough_evidence", 50)  # far from 85 % of 70 pairs
    assert gate_of(18, 20) == ("not_enough_evidence", 20)  # at 0.9 the gate passes with 40 pairs: 20/1.2 → 20
    # at 17 of 20 it passes with 70 pairs (lower bound 0.749 < 0.75 at 70, so 80): 60/1.2 = 50
    assert gate_of(17, 20) == ("not_enough_evidence", 50)
    assert gate_of(17, 20, Supply(pairs_per_ranking=2.0)) == ("not_enough_evidence", 30)


def test_gate_that_lacks_only_evidence_counts_on_heldout_prompts_first() -> None:
    # at 17 of 20 the gate lacks 60 pairs
    assert gate_of(17, 20, Supply(1.2, 3.0, heldout_unranked=100))[1] == 20  # 60/3
    assert gate_of(17, 20, Supply(1.2, 3.0, heldout_unranked=15))[1] == 30  # 15, and 15 pairs more: 13
    below = Accuracy(16, 20)
    assert below.value is not None and below.value < 0.85
    assert gate_of(16, 20, Supply(1.2, 3.0, heldout_unranked=100)) == gate_of(16, 20)  # it may have to learn


def test_gate_seldom_passes_a_72_percent_model() -> None:
    rng = random.Random(0)
    passed = sum(
        gate_of(sum(rng.random() < 0.72 for _ in range(100)), 100)[0] == "passed" for _ in range(500)
    )
    assert passed / 500 < 0.01


# --- sign test


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    [
        (15, 5, 0.0414),
        (21, 9, 0.0428),
        (61, 39, 0.0352),
        (5, 15, 0.0414),
        (3, 0, 0.25),
        (0, 0, 1.0),
        (4, 4, 1.0),
    ],
)
def test_sign_test_of_published_figures(wins: int, losses: int, p_value: float) -> None:
    assert sign_test(wins, losses).p_value == pytest.approx(p_value, abs=5e-5)
