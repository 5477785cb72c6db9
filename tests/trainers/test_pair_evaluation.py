from __future__ import annotations

import math
import random

import pytest

from trainers.evaluation import Accuracy, Interval, pair_accuracy
from trainers.pair_evaluation import (
    accuracy_by_kind,
    calibration,
    clustered_interval,
    compare_scores,
)
from trainers.records import Candidates, Preference, Prompt, Response


def prompt_with(number: int, *margins: float) -> tuple[list[Preference], dict[str, float]]:
    """A prompt with a pair of answers for each margin, the preferred one's score higher by it."""
    preferences, scores = [], {}
    for index, margin in enumerate(margins):
        chosen, rejected = f"{number}-{index}a", f"{number}-{index}b"
        preferences.append(Preference(f"p{number}", chosen, rejected))
        scores |= {chosen: margin, rejected: 0.0}
    return preferences, scores


def prompts_with(*prompts: tuple[float, ...]) -> tuple[list[Preference], dict[str, float]]:
    preferences: list[Preference] = []
    scores: dict[str, float] = {}
    for number, margins in enumerate(prompts):
        own, own_scores = prompt_with(number, *margins)
        preferences += own
        scores |= own_scores
    return preferences, scores


# --- interval by prompts


def test_bootstrap_interval_of_single_pairs_is_that_of_the_binomial() -> None:
    # 3 of 4 right: resamples are binomial(4, ¾); P(0) = 0.4 %, P(≤ 1) = 5.1 %, P(4) = 31.6 %
    assert clustered_interval(*prompts_with((1,), (1,), (1,), (-1,))) == Interval(0.25, 1.0)


def test_bootstrap_draws_prompts_and_weighs_them_by_their_pairs() -> None:
    # one prompt with 1 of 1, one with 0 of 3: both (¼), twice the first (1), or twice the second (0)
    preferences, scores = prompts_with((1,), (-1, -1, -1))
    assert clustered_interval(preferences, scores) == Interval(0.0, 1.0)
    assert clustered_interval(preferences, scores, confidence=0.4) == Interval(0.25, 0.25)


def test_bootstrap_of_nothing_that_differs_is_unknown() -> None:
    assert clustered_interval(*prompts_with()) is None
    assert clustered_interval(*prompts_with((1, -1))) is None
    assert clustered_interval(*prompts_with((1, 1), (1,))) is None


def test_same_seed_same_interval() -> None:
    rng = random.Random(0)
    data = prompts_with(*[tuple(rng.gauss(0.5, 1) for _ in range(1 + n % 5)) for n in range(200)])
    assert clustered_interval(*data, seed=1) == clustered_interval(*data, seed=1)
    assert clustered_interval(*data, seed=1) != clustered_interval(*data, seed=2)


def test_interval_by_prompts_covers_where_the_one_by_pairs_does_not() -> None:
    rng = random.Random(0)
    covered = {"prompts": 0, "pairs": 0}
    runs = 150
    for _ in range(runs):  # all three pairs of a prompt are right together, in 70 % of the prompts
        sides = [1.0 if rng.random() < 0.7 else -1.0 for _ in range(50)]
        preferences, scores = prompts_with(*[(side,) * 3 for side in sides])
        by_prompts, by_pairs = (
            clustered_interval(preferences, scores),
            pair_accuracy(preferences, scores).interval,
        )
        assert by_prompts is not None
        covered["prompts"] += by_prompts.low <= 0.7 <= by_prompts.high
        covered["pairs"] += by_pairs.low <= 0.7 <= by_pairs.high
    assert covered["prompts"] / runs >= 0.9
    assert covered["pairs"] / runs <= 0.85


# --- against a baseline


def test_with_one_pair_a_prompt_the_comparison_is_mcnemars() -> None:
    preferences, scores = prompts_with(*[(1,)] * 15, *[(-1,)] * 5, *[(1,)] * 7)
    baseline = prompts_with(*[(-1,)] * 15, *[(1,)] * 5, *[(1,)] * 7)[1]
    test = compare_scores(preferences, scores, baseline)
    assert (test.wins, test.losses) == (15, 5)
    assert test.p_value == pytest.approx(0.0414, abs=5e-5)  # what both get right does not count


def test_pairs_of_a_prompt_are_one_win_or_loss() -> None:
    preferences, scores = prompts_with((1, 1, 1), (1, -1), (-1, -1, 1))
    baseline = prompts_with((-1, -1, 1), (-1, 1), (1, -1, 1))[1]
    test = compare_scores(preferences, scores, baseline)
    assert (test.wins, test.losses, test.p_value) == (1, 1, 1.0)


def test_of_two_equals_one_is_seldom_called_better() -> None:
    rng = random.Random(0)
    better = 0
    for _ in range(300):
        preferences, scores, baseline = [], {}, {}
        for number in range(60):
            quality = {f"{number}{key}": rng.gauss(0, 1) for key in "abcd"}
            order = sorted(quality, key=lambda key: -quality[key])
            preferences += [
                Preference(f"p{number}", one, two) for i, one in enumerate(order) for two in order[i + 1 :]
            ]
            scores |= {key: value + rng.gauss(0, 0.8) for key, value in quality.items()}
            baseline |= {key: value + rng.gauss(0, 0.8) for key, value in quality.items()}
        test = compare_scores(preferences, scores, baseline)
        better += test.wins > test.losses and test.p_value < 0.05
    assert better / 300 <= 0.03


# --- calibration


def test_probabilities_that_come_true_have_no_calibration_error() -> None:
    # σ(ln 3) = ¾, and three of four are preferred
    found = calibration(*prompts_with(*[(math.log(3),)] * 3, (-math.log(3),)))
    assert found.error == pytest.approx(0.0, abs=1e-9)
    assert [(p.predicted, p.observed, p.pairs) for p in found.points] == [(pytest.approx(0.75), 0.75, 4)]


def test_calibration_error_is_a_mean_over_bins_of_equal_count() -> None:
    likely, sure = math.log(1.5), math.log(9)  # σ = 0.6 and 0.9
    margins = [likely] * 6 + [-likely] * 4 + [sure] * 7 + [-sure] * 3
    found = calibration(*prompts_with(*[(margin,) for margin in margins]))
    assert [(p.predicted, p.observed, p.pairs) for p in found.points] == [
        (pytest.approx(0.6), 0.6, 10),
        (pytest.approx(0.9), 0.7, 10),
    ]
    assert found.error == pytest.approx((0.0 + 0.2) / 2)


def test_noise_is_the_error_that_perfect_calibration_would_show() -> None:
    # of one pair at ¾: ¼ off three times in four, ¾ off otherwise: 0.375
    found = calibration(*prompts_with((math.log(3),)))
    assert found.noise == pytest.approx(0.375, abs=0.05)
    many = calibration(*prompts_with(*[(math.log(3),)] * 1000))
    assert many.noise is not None
    assert many.noise < 0.06


def test_equal_scores_predict_a_half_and_are_half_right() -> None:
    found = calibration(*prompts_with((0.0,)))
    assert (found.error, found.points[0].predicted, found.points[0].observed) == (0.0, 0.5, 0.5)


def test_extreme_margins_and_no_pairs_are_no_error() -> None:
    assert calibration([], {}).error is None
    assert calibration(*prompts_with((1e6,))).error == pytest.approx(0.0)


# --- by kind of pair


def test_accuracy_by_kind_of_pair() -> None:
    texts = {"a": ("x" * 100, "brief"), "b": ("x" * 95, "brief"), "c": ("x" * 40, "verbose"), "d": ("x", "")}
    responses = tuple(Response(key, "p", text, "base", style=style) for key, (text, style) in texts.items())
    shorter, longer = Response("y", "q", "z", "base"), Response("z", "q", "yy", "base")
    candidates = [
        Candidates(Prompt("p", "How do I descale a kettle?"), responses),
        Candidates(Prompt("q", "水壶怎么除垢？"), (shorter, longer)),
    ]
    ranking = ["a", "b", "c", "d"]  # best first
    preferences = [Preference("p", x, y) for i, x in enumerate(ranking) for y in ranking[i + 1 :]]
    preferences.append(Preference("q", "y", "z"))
    scores = {"a": 4.0, "b": 3.0, "c": 3.5, "d": 0.0, "y": 0.0, "z": 1.0}  # wrong: b against c, y against z
    assert accuracy_by_kind(preferences, candidates, scores) == {
        "rank": {"adjacent": Accuracy(2, 4), "between": Accuracy(2, 2), "first_last": Accuracy(1, 1)},
        "style": {"different": Accuracy(4, 5), "same": Accuracy(1, 2)},
        "length": {"about_equal": Accuracy(1, 1), "longer": Accuracy(4, 5), "shorter": Accuracy(0, 1)},
        "language": {"en": Accuracy(5, 6), "zh": Accuracy(0, 1)},
    }


def test_ties_leave_neighbours_without_an_answer_between() -> None:
    responses = tuple(Response(key, "p", key, "base") for key in "abc")
    preferences = [Preference("p", "a", "b"), Preference("p", "a", "c")]  # b and c are tied
    found = accuracy_by_kind(
        preferences, [Candidates(Prompt("p", "hi"), responses)], dict.fromkeys("abc", 0.0)
    )
    assert found["rank"] == {"adjacent": Accuracy(1.0, 2)}
