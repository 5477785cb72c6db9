"""The win rate at equal length: by hand, on teams that only like brevity, and where it cannot be told."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from trainers.length_control import Outcome, length_controlled
from trainers.verdict import Vote


def outcomes(*groups: tuple[int, Vote, int, int]) -> list[Outcome]:
    """Of (how often, result, length before, length after)."""
    return [Outcome(result, before, after) for number, result, before, after in groups for _ in range(number)]


def drawn(rng: random.Random, number: int, alpha: float, beta: float, mean: float = -0.5) -> list[Outcome]:
    """Outcomes of the model itself."""
    made = []
    for _ in range(number):
        after = round(1000 * math.exp(rng.gauss(mean, 0.6)))
        chance = 1 / (1 + math.exp(-alpha - beta * math.log(after / 1000)))
        made.append(Outcome("after" if rng.random() < chance else "before", 1000, after))
    return made


def test_rate_is_half_way_between_two_opposite_differences() -> None:
    # half as long: 15 of 20 won, log odds ln 3; twice as long: 8 of 20, ln ⅔; the middle is ln √2
    found = length_controlled(
        outcomes(
            (15, "after", 100, 50), (5, "before", 100, 50), (8, "after", 50, 100), (12, "before", 50, 100)
        )
    )
    odds = math.sqrt(2)
    assert found.win_rate == pytest.approx(odds / (1 + odds), abs=1e-5)
    # variance: a quarter of 1/15 + 1/5 + 1/8 + 1/12
    reach = 1.96 * math.sqrt((1 / 15 + 1 / 5 + 1 / 8 + 1 / 12) / 4)
    assert found.interval is not None
    low = odds * math.exp(-reach)
    assert found.interval.low == pytest.approx(low / (1 + low), abs=1e-3)
    assert found.obstacle is None and not found.extrapolated


def test_tie_is_half_a_win() -> None:
    ties = length_controlled(outcomes((20, "tie", 100, 50), (10, "after", 50, 100), (10, "before", 50, 100)))
    assert ties.win_rate == pytest.approx(0.5)


def test_model_that_is_only_briefer_is_no_better_at_equal_length() -> None:
    made = drawn(random.Random(0), 4000, alpha=0.0, beta=-2.0)
    assert sum(found.result == "after" for found in made) / 4000 > 0.65
    assert length_controlled(made).win_rate == pytest.approx(0.5, abs=0.03)


def test_model_that_is_better_and_briefer_stays_better() -> None:
    found = length_controlled(drawn(random.Random(0), 4000, alpha=1.0, beta=-2.0))
    assert found.win_rate == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)


def test_swapped_sides_give_the_rest() -> None:
    made = drawn(random.Random(1), 60, alpha=0.5, beta=-1.0)
    swap: dict[Vote, Vote] = {"after": "before", "before": "after", "tie": "tie"}
    swapped = [Outcome(swap[found.result], found.length_after, found.length_before) for found in made]
    assert length_controlled(swapped).win_rate == pytest.approx(1 - (length_controlled(made).win_rate or 0))


def test_interval_holds_the_true_rate() -> None:
    rng = random.Random(0)
    held = found = 0
    for _ in range(500):
        result = length_controlled(drawn(rng, 40, alpha=0.5, beta=-1.0))
        if result.interval is not None:
            found += 1
            held += result.interval.low <= 1 / (1 + math.exp(-0.5)) <= result.interval.high
    assert found > 450
    assert 0.93 <= held / found <= 0.99


@pytest.mark.parametrize(
    ("made", "obstacle"),
    [
        ([], "no_reviews"),
        (outcomes((30, "after", 100, 30)), "shorter_wins"),
        (outcomes((9, "after", 100, 30), (1, "after", 100, 40), (4, "before", 30, 90)), "shorter_wins"),
        (outcomes((9, "after", 100, 30), (3, "tie", 50, 50), (4, "before", 30, 90)), "shorter_wins"),
        (outcomes((9, "after", 30, 100), (4, "before", 90, 30)), "longer_wins"),
        (outcomes((9, "after", 30, 100), (4, "after", 90, 30)), "one_sided"),
        (outcomes((9, "after", 100, 30), (4, "before", 100, 60)), "separated"),
        (outcomes((9, "after", 100, 50), (4, "before", 80, 40)), "no_spread"),
        (outcomes((9, "after", 70, 70), (4, "before", 80, 80)), "no_spread"),
    ],
)
def test_what_cannot_be_told_apart_is_said(made: Sequence[Outcome], obstacle: str) -> None:
    found = length_controlled(made)
    assert (found.win_rate, found.interval, found.obstacle) == (None, None, obstacle)


def test_rate_far_from_any_pair_of_equal_length_is_marked() -> None:
    made = outcomes(
        (9, "after", 100, 20), (4, "before", 100, 30), (9, "after", 100, 60), (2, "before", 100, 15)
    )
    found = length_controlled(made)
    assert found.extrapolated and found.win_rate is not None


def test_empty_answer_counts_as_one_character() -> None:
    made = outcomes((5, "after", 100, 0), (5, "before", 100, 0), (5, "after", 0, 100), (5, "before", 0, 100))
    assert length_controlled(made).win_rate == pytest.approx(0.5)
