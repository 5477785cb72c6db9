"""The order of all versions, against published figures and by hand."""

from __future__ import annotations

import math
import random

import pytest

from trainers.leaderboard import Match, Standing, rank_versions
from trainers.verdict import Tally


def by_version(*matches: Match) -> dict[str, Standing]:
    return {standing.version: standing for standing in rank_versions(matches)}


def log_odds(share: float | None) -> float:
    assert share is not None
    return math.log(share / (1 - share))


def test_strengths_of_published_figures() -> None:
    """Agresti 2002, "Categorical Data Analysis", tables 10.10 and 10.11: baseball, American League 1987."""
    teams = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
    wins = [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
    matches = [
        Match(teams[j], teams[i], Tally(wins[i][j], 0, wins[j][i]))
        for j in range(6, -1, -1)
        for i in range(j)
    ]
    standings = rank_versions(matches, prior=0.0)
    assert [standing.version for standing in standings] == list(teams)
    published = [1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0.0]
    assert [log_odds(standing.win_rate) for standing in standings] == pytest.approx(published, abs=0.005)
    milwaukee = standings[0].interval
    assert milwaukee is not None
    # the standard error of BradleyTerry2 (R): 0.343
    assert log_odds(milwaukee.high) - log_odds(milwaukee.low) == pytest.approx(2 * 1.96 * 0.343, abs=0.005)


def test_prior_is_half_a_win_of_each_and_keeps_who_never_lost_finite() -> None:
    found = by_version(Match("base", "p1", Tally(40, 0, 0)), Match("p1", "p2", Tally(30, 0, 10)))
    assert found["p1"].win_rate == pytest.approx(40.5 / 41)
    assert log_odds(found["p2"].win_rate) == pytest.approx(math.log(40.5 / 0.5) + math.log(30.5 / 10.5))
    interval = found["p1"].interval
    assert interval is not None
    # Gart 1966: the variance of the log odds is 1/(wins + ½) + 1/(losses + ½)
    reach = 1.96 * math.sqrt(1 / 40.5 + 1 / 0.5)
    assert log_odds(interval.low) == pytest.approx(math.log(81) - reach, abs=1e-3)
    assert interval.high < 1


def test_order_is_by_strength_and_the_anchor_is_what_the_first_review_began_from() -> None:
    standings = rank_versions(
        [
            Match("base", "p1", Tally(30, 0, 10)),
            Match("p1", "p2", Tally(5, 0, 35)),
            Match("p1", "p3", Tally(25, 0, 15)),
        ]
    )
    assert [standing.version for standing in standings] == ["p3", "p1", "base", "p2"]
    base = standings[2]
    assert (base.win_rate, base.interval and base.interval.low) == (0.5, 0.5)
    assert standings[1].tally == Tally(30 + 35 + 15, 0, 10 + 5 + 25)


def test_tie_is_half_a_win_of_each() -> None:
    ties = by_version(Match("base", "p1", Tally(15, 20, 5)))["p1"]
    assert ties.win_rate == pytest.approx(25.5 / 41)
    assert ties.tally == Tally(15, 20, 5)


def test_places_are_a_range_where_the_order_is_open() -> None:
    found = by_version(Match("base", "p1", Tally(36, 0, 4)), Match("p1", "p2", Tally(22, 0, 18)))
    places = {name: (standing.best_place, standing.worst_place) for name, standing in found.items()}
    assert places == {"p1": (1, 2), "p2": (1, 2), "base": (3, 3)}
    # 29 to 11 is clear between these two, though both are known less well against base
    found = by_version(Match("base", "p1", Tally(36, 0, 4)), Match("p1", "p2", Tally(29, 0, 11)))
    assert (found["p2"].worst_place, found["p1"].best_place) == (1, 2)


def test_version_without_a_way_to_the_anchor_comes_last_without_a_rate() -> None:
    standings = rank_versions([Match("base", "p1", Tally(3, 0, 9)), Match("x", "y", Tally(9, 0, 3))])
    assert [standing.version for standing in standings] == ["base", "p1", "x", "y"]
    assert standings[3].win_rate is None and standings[3].best_place is None
    assert standings[3].tally == Tally(9, 0, 3)


def test_nothing_judged_is_no_leaderboard() -> None:
    assert rank_versions([]) == []
    assert rank_versions([Match("base", "p1", Tally())]) == []


def test_intervals_hold_the_truth_and_equals_are_seldom_told_apart() -> None:
    rng = random.Random(0)
    truth = {"base": 0.0, "p1": 0.8, "p2": 0.8, "p3": 2.0}
    steps = [("base", "p1"), ("p1", "p2"), ("p2", "p3")]
    held = told_apart = 0
    for _ in range(500):
        matches = []
        for before, after in steps:
            chance = 1 / (1 + math.exp(truth[before] - truth[after]))
            wins = sum(rng.random() < chance for _ in range(40))
            matches.append(Match(before, after, Tally(wins, 0, 40 - wins)))
        found = by_version(*matches)
        interval = found["p3"].interval
        assert interval is not None
        held += log_odds(interval.low) <= 2.0 <= log_odds(interval.high)
        first, second = found["p1"], found["p2"]
        assert first.worst_place and second.best_place and second.worst_place and first.best_place
        told_apart += first.worst_place < second.best_place or second.worst_place < first.best_place
    assert 0.93 <= held / 500 <= 0.985
    assert told_apart / 500 <= 0.05
