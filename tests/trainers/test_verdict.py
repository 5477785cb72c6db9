"""From counts to a decision, and that it seldom sees a difference where there is none."""

from __future__ import annotations

import random
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.evaluation import Interval, sign_test, wilson_interval
from trainers.verdict import (
    Decision,
    ReviewerAgreement,
    Shown,
    Tally,
    Vote,
    anytime_sign_test,
    judge_reviews,
    majority,
    reviewer_agreement,
    reviews_to_settle,
    win_rate,
)

COUNTS = st.integers(0, 60)


@cache
def decided(wins: int, ties: int, losses: int) -> Decision:
    return judge_reviews(Tally(wins, ties, losses)).decision


# --- several reviewers


@pytest.mark.parametrize(
    ("votes", "result"),
    [
        (["after", "after", "before"], "after"),
        (["after", "before"], "tie"),
        (["tie", "before"], "before"),  # of those with a preference
        (["tie", "tie", "after"], "after"),
        (["tie"], "tie"),
    ],
)
def test_majority_is_of_those_with_a_preference(votes: list[Vote], result: Vote) -> None:
    assert majority(votes) == result


def test_agreement_of_reviewers_by_hand() -> None:
    # pairs: 1 of 1, 1 of 3, 0 of 1 agree; the comparison with one reviewer tells nothing
    found = reviewer_agreement([["left", "left"], ["right", "right", "tie"], ["left", "right"], ["tie"]])
    assert (found.comparisons, found.share) == (3, 2 / 5)


def test_agreement_of_krippendorffs_two_observers() -> None:
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section A."""
    meg, owen = "0100000010", "1110010000"
    sides: dict[str, Shown] = {"0": "left", "1": "right"}
    found = reviewer_agreement([[sides[a], sides[b]] for a, b in zip(meg, owen, strict=True)])
    assert found.share == 0.6
    assert found.krippendorff_alpha == pytest.approx(0.095, abs=5e-4)


def test_agreement_is_by_side_and_not_by_model() -> None:
    rng = random.Random(0)
    comparisons: list[list[Shown]] = []
    for _ in range(200):  # the new model wins nearly always, and reviewers are 95 % sure of that
        side, other = rng.choice([("left", "right"), ("right", "left")])
        comparisons.append([side if rng.random() < 0.95 else other for _ in range(3)])  # type: ignore[misc]
    found = reviewer_agreement(comparisons)
    assert found.share == pytest.approx(0.905, abs=0.03)  # 0.95² + 0.05²
    assert found.krippendorff_alpha == pytest.approx(0.81, abs=0.06)  # 1 − (1 − 0.905)/½


def test_agreement_of_one_reviewer_is_unknown() -> None:
    assert reviewer_agreement([["left"], []]) == ReviewerAgreement(0, None, None)


# --- win rate


@pytest.mark.parametrize(
    ("wins", "losses", "reviews", "low", "high"),
    [
        (1, 7, 21, -0.517, -0.026),  # Fagerland, Lydersen & Laake 2014, doi:10.1002/sim.6148, table V
        (40, 20, 160, 0.0309, 0.2181),  # scoreci.mp(40, 20, 160) of the R package PropCIs 0.3
    ],
)
def test_interval_of_published_figures(wins: int, losses: int, reviews: int, low: float, high: float) -> None:
    interval = win_rate(Tally(wins, reviews - wins - losses, losses)).interval
    assert 2 * interval.low - 1 == pytest.approx(low, abs=5e-4)
    assert 2 * interval.high - 1 == pytest.approx(high, abs=5e-4)


@given(COUNTS, COUNTS)
def test_interval_without_ties_is_wilsons(wins: int, losses: int) -> None:
    interval, wilson = win_rate(Tally(wins, 0, losses)).interval, wilson_interval(wins, wins + losses)
    assert (interval.low, interval.high) == pytest.approx((wilson.low, wilson.high), abs=1e-8)


@given(COUNTS, COUNTS, COUNTS)
def test_interval_holds_the_rate_and_mirrors(wins: int, ties: int, losses: int) -> None:
    rate, mirrored = win_rate(Tally(wins, ties, losses)), win_rate(Tally(losses, ties, wins))
    assert 0 <= rate.interval.low <= rate.interval.high <= 1
    if rate.value is not None:
        assert rate.interval.low - 1e-9 <= rate.value <= rate.interval.high + 1e-9
    assert mirrored.interval.high == pytest.approx(1 - rate.interval.low)


def test_tie_counts_half_and_narrows_the_interval() -> None:
    rate = win_rate(Tally(6, 2, 2))
    assert rate.value == pytest.approx(0.7)
    ties, halves = win_rate(Tally(6, 28, 6)).interval, win_rate(Tally(20, 0, 20)).interval
    assert ties.high - ties.low < 0.62 * (halves.high - halves.low)  # √0.3 = 0.55 of it and a little


def test_only_ties_leave_little_room() -> None:
    # z²/(n + z²) = 3.841/45.841 of a difference, half of that of a win rate
    assert win_rate(Tally(0, 42, 0)).interval.high == pytest.approx(0.5 + 0.0838 / 2, abs=1e-4)


def test_win_rate_of_nothing_is_unknown() -> None:
    assert win_rate(Tally()).value is None
    assert win_rate(Tally()).interval == Interval(0.0, 1.0)


def test_interval_holds_the_true_rate_in_95_of_100_reviews() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(1000):
        draws = rng.choices(("win", "tie", "loss"), (0.4, 0.4, 0.2), k=40)
        interval = win_rate(Tally(draws.count("win"), draws.count("tie"), draws.count("loss"))).interval
        held += interval.low <= 0.6 <= interval.high
    assert 0.93 <= held / 1000 <= 0.97


# --- decisions


@pytest.mark.parametrize(
    ("wins", "ties", "losses", "decision"),
    [
        (15, 0, 5, "better"),
        (5, 0, 15, "worse"),
        (14, 0, 6, "not_enough_evidence"),  # p = 0.115
        (15, 100, 5, "better"),  # ties are left out of the test
        (20, 0, 20, "no_difference"),  # 1.645·√(¼/40 + 2.71/6400)/(1 + 2.71/40) = 0.126
        (22, 0, 18, "not_enough_evidence"),  # 0.047 more
        (0, 42, 0, "no_difference"),
        (5, 0, 5, "not_enough_evidence"),
        (0, 0, 0, "not_enough_evidence"),
    ],
)
def test_decision_of_a_complete_review(wins: int, ties: int, losses: int, decision: Decision) -> None:
    assert decided(wins, ties, losses) == decision


def test_no_difference_says_which_differences_the_data_exclude() -> None:
    assert judge_reviews(Tally(20, 0, 20)).largest_difference == pytest.approx(0.126, abs=5e-4)
    assert judge_reviews(Tally(6, 28, 6)).largest_difference < 0.08
    assert judge_reviews(Tally()).largest_difference == 0.5


@given(COUNTS, COUNTS, COUNTS, st.integers(0, 5))
def test_decision_of_swapped_sides_is_the_opposite(wins: int, ties: int, losses: int, pending: int) -> None:
    opposite: dict[Decision, Decision] = {"better": "worse", "worse": "better"}
    found = judge_reviews(Tally(wins, ties, losses), pending=pending)
    swapped = judge_reviews(Tally(losses, ties, wins), pending=pending)
    assert swapped.decision == opposite.get(found.decision, found.decision)
    assert swapped.p_value == pytest.approx(found.p_value)


# --- a review that was ended early


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    [
        (5, 0, 6 / 32),
        (8, 0, 9 / 256),
        (17, 3, 21 * 1140 / 2**20),
        (3, 17, 21 * 1140 / 2**20),
        (4, 4, 1.0),  # 9·70/256 is more than 1
        (0, 0, 1.0),
    ],
)
def test_anytime_p_value_by_hand(wins: int, losses: int, p_value: float) -> None:
    assert anytime_sign_test(wins, losses) == pytest.approx(p_value)


def test_few_missing_judgements_that_cannot_change_it_change_nothing() -> None:
    assert judge_reviews(Tally(28, 0, 10), pending=2).decision == "better"  # 28 to 12: p = 0.017
    assert judge_reviews(Tally(26, 0, 12), pending=2).decision == "not_enough_evidence"  # 26 to 14: p = 0.08
    assert judge_reviews(Tally(10, 0, 28), pending=2).decision == "worse"
    assert judge_reviews(Tally(6, 26, 6), pending=2).decision == "no_difference"
    assert judge_reviews(Tally(6, 6, 6), pending=22).decision == "not_enough_evidence"
    assert judge_reviews(Tally(9, 20, 5), pending=4).decision == "not_enough_evidence"  # 13 to 5 is open


def test_review_ended_early_is_held_to_the_stricter_test() -> None:
    assert decided(15, 0, 5) == "better"
    assert judge_reviews(Tally(15, 0, 5), pending=20).decision == "not_enough_evidence"
    assert judge_reviews(Tally(16, 0, 4), pending=20).decision == "not_enough_evidence"  # p = 0.097
    assert judge_reviews(Tally(17, 0, 3), pending=20).decision == "better"  # p = 0.023
    assert judge_reviews(Tally(3, 0, 17), pending=20).decision == "worse"


def test_comparisons_judged_by_some_of_their_reviewers_may_still_turn() -> None:
    judged, settled = Tally(28, 0, 12), Tally(26, 0, 12)
    assert judge_reviews(judged).decision == "better"
    assert judge_reviews(judged, settled=settled, pending=2).decision == "not_enough_evidence"


# --- how many more reviews


@pytest.mark.parametrize(
    ("tally", "needed"),
    [
        (Tally(8, 0, 2), 10),  # P(15 wins or more of 20 | 0.8) = 0.804
        (Tally(8, 10, 2), 20),  # half of them are ties: 40
        (Tally(5, 0, 5), 90),  # ¼(1.645 + 1.282)²/0.15² = 95.2
        (Tally(), 100),
        (Tally(0, 5, 0), 10),
        (Tally(60, 0, 40), 10),  # at 110: better with 0.54, no difference with 0.28
    ],
)
def test_reviews_needed_by_hand(tally: Tally, needed: int) -> None:
    assert reviews_to_settle(tally) == needed


@pytest.mark.parametrize(
    "tally", [Tally(13, 0, 7), Tally(7, 0, 13), Tally(5, 0, 5), Tally(6, 10, 4), Tally(9, 8, 3)]
)
def test_review_of_the_size_asked_for_is_settled_in_four_of_five_cases(tally: Tally) -> None:
    rng = random.Random(0)
    size = tally.reviews + reviews_to_settle(tally)
    settled = 0
    for _ in range(1000):
        drawn = rng.choices(("win", "tie", "loss"), (tally.wins, tally.ties, tally.losses), k=size)
        settled += (
            decided(drawn.count("win"), drawn.count("tie"), drawn.count("loss")) != "not_enough_evidence"
        )
    assert 0.77 <= settled / 1000 <= 0.95


# --- rounds in which nothing changed


def null_votes(rng: random.Random, ties: float, reviewers: int, shared: float) -> list[list[Vote]]:
    """Forty comparisons (15 seen, 25 unseen) of a model with its equal.

    Args:
        ties: probability that a reviewer has no preference.
        reviewers: of each comparison.
        shared: probability that a reviewer is of the comparison's common opinion instead of an own one.
    """

    def opinion() -> Vote:
        return "tie" if rng.random() < ties else rng.choice(("after", "before"))

    def comparison() -> list[Vote]:
        common = opinion()
        return [common if rng.random() < shared else opinion() for _ in range(reviewers)]

    return [comparison() for _ in range(40)]


def tally(votes: list[list[Vote]]) -> Tally:
    results = [majority(found) for found in votes if found]
    return Tally(results.count("after"), results.count("tie"), results.count("before"))


@cache
def sign_p_value(wins: int, losses: int) -> float:
    return sign_test(wins, losses).p_value


@cache
def decision_of(judged: Tally, settled: Tally, pending: int) -> Decision:
    return judge_reviews(judged, settled=settled, pending=pending).decision


def decision_after(votes: list[list[Vote]], reviewers: int) -> Decision:
    settled = [found for found in votes if len(found) == reviewers]
    return decision_of(tally(votes), tally(settled), len(votes) - len(settled))


TEAMS = pytest.mark.parametrize(("reviewers", "shared"), [(1, 0.0), (3, 0.0), (3, 0.6)])


@TEAMS
@pytest.mark.parametrize("ties", [0.0, 0.3, 0.7])
def test_null_model_is_called_better_in_at_most_5_percent(ties: float, reviewers: int, shared: float) -> None:
    rng = random.Random(0)
    rounds = [null_votes(rng, ties, reviewers, shared) for _ in range(1000)]
    decisions = [decision_after(votes, reviewers) for votes in rounds]
    assert decisions.count("better") <= 50
    assert decisions.count("worse") <= 50


@pytest.mark.slow
@TEAMS
@pytest.mark.parametrize("ties", [0.0, 0.3, 0.7])
def test_null_model_is_not_called_better_by_ending_the_review_at_the_right_moment(
    ties: float, reviewers: int, shared: float
) -> None:
    """Someone looks after every judgement and ends the review as soon as the new model looks better.

    The sign test alone, which allows a single look, would be fooled in up to 12 % of the reviews.
    """
    rng = random.Random(0)
    better = tempted = 0
    for _ in range(1000):
        votes = null_votes(rng, ties, reviewers, shared)
        order = [(comparison, reviewer) for comparison in range(40) for reviewer in range(reviewers)]
        rng.shuffle(order)
        so_far: list[list[Vote]] = [[] for _ in votes]
        looks_better = False
        for comparison, reviewer in order:
            so_far[comparison].append(votes[comparison][reviewer])
            judged = tally(so_far)
            if judged.wins > judged.losses and sign_p_value(judged.wins, judged.losses) < 0.05:
                looks_better = True
                if decision_after(so_far, reviewers) == "better":
                    better += 1
                    break
        tempted += looks_better
    assert better <= 50
    assert better < tempted
