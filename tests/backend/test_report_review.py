"""What a report says of the blind review: the words of the verdict, the figures, the leaderboard."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest

from backend.report import Report, to_html, to_json, to_page, to_text
from backend.report_review import OBSTACLES, VERDICTS, verdict_words
from backend.verdict import judge_round
from trainers.leaderboard import Match, rank_versions
from trainers.verdict import Tally

NONE = {"wins": 0, "ties": 0, "losses": 0}
VERDICT: dict[str, Any] = {
    **judge_round([], []), "verdict": "better", "seen": {"wins": 12, "ties": 2, "losses": 1},
    "unseen": {"wins": 18, "ties": 3, "losses": 4}, "win_rate": 0.8125, "interval": [0.66, 0.9],
    "p_value": 0.0003, "judged": 40, "comparisons": 40, "length_before": 112.4, "length_after": 31.2,
}  # fmt: skip
REPORT = Report("Team", 2, "policy-team-2", VERDICT)
STANDINGS = rank_versions(
    [
        Match("base", "policy-team-1", Tally(30, 2, 8)),
        Match("policy-team-1", "policy-team-2", Tally(18, 4, 18)),
        Match("policy-team-7", "<b>", Tally(3, 0, 1)),
    ]
)


def shown(report: Report) -> str:
    """The text of the page, and the text form, which must say the same."""
    html = "".join(ET.fromstring(to_html(report)).itertext())  # noqa: S314 - our own output
    return html + to_text(report)


def with_verdict(**changes: Any) -> Report:
    return replace(REPORT, verdict={**VERDICT, **changes})


def test_no_difference_says_larger_than_what() -> None:
    report = with_verdict(verdict="no_difference", largest_difference=0.126)
    assert "没有超过 13 个百分点的差别 · No difference larger than 13 points" in shown(report)
    assert "distance of the win rate from 50 %: 至多 13 个百分点 points at most" in shown(report)


def test_every_verdict_has_words_and_none_is_said_before_the_review_has_ended() -> None:
    for verdict in VERDICTS:
        zh, en, colour = verdict_words({"verdict": verdict})
        assert zh and en and colour.startswith("#")
    text = shown(Report("Team", 2, "policy-team-2", {}))
    assert "No verdict yet" in text and "Blind review" not in text and "win rate" not in text


def test_win_rate_at_equal_length_is_shown_with_its_interval() -> None:
    controlled = {"win_rate": 0.52, "interval": [0.3, 0.73], "obstacle": None, "extrapolated": False}
    text = shown(with_verdict(length_controlled=controlled))
    assert "win rate at equal length: 52% (30% – 73%)" in text and "extrapolated" not in text
    text = shown(with_verdict(length_controlled={**controlled, "extrapolated": True}))
    assert "没有长度相同的对比 extrapolated" in text


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_stands_in_the_way_of_it_is_said(obstacle: str) -> None:
    found = {"win_rate": None, "interval": None, "obstacle": obstacle, "extrapolated": False}
    assert OBSTACLES[obstacle] in shown(with_verdict(length_controlled=found))


def test_agreement_is_shown_only_if_somebody_shared_a_comparison() -> None:
    assert "agreement of the reviewers" not in shown(REPORT)
    reviewers = {"people": 3, "comparisons": 40, "share": 0.8, "krippendorff_alpha": 0.614}
    assert "80%, α = 0.61 (3 人 people, 40 组 comparisons)" in shown(with_verdict(reviewers=reviewers))
    unanimous = {**reviewers, "share": 1.0, "krippendorff_alpha": None}
    assert "100%, α = —" in shown(with_verdict(reviewers=unanimous))


def test_review_that_was_ended_early_says_so_with_the_test_that_it_is_held_to() -> None:
    assert "ended early" not in shown(REPORT)
    text = shown(with_verdict(pending=20, anytime_p_value=0.31, judged=20))
    assert "20 组未评完" in text and "any-time test p = 0.31" in text and "20 / 40" in text


def test_leaderboard_shows_every_version_from_the_second_round_on() -> None:
    text = shown(replace(REPORT, leaderboard=STANDINGS))
    for expected in ("1–2", "policy-team-2", "48 / 6 / 26", "8 / 2 / 30", "对 base 的胜率", "where it began",
                     "not connected", "<b>"):  # fmt: skip
        assert expected in text, expected
    assert "All versions" not in shown(replace(REPORT, leaderboard=STANDINGS[:2]))


def test_long_row_of_flawless_rounds_keeps_its_beginning() -> None:
    flawless = rank_versions([Match(f"v{n}", f"v{n + 1}", Tally(40, 0, 0)) for n in range(30)])
    assert "对 v0 的胜率" in shown(replace(REPORT, leaderboard=flawless))


def test_intervals_are_drawn_where_they_are() -> None:
    report = replace(REPORT, leaderboard=STANDINGS)
    drawings = list(ET.fromstring(to_html(report)).iter("svg"))[2:]  # noqa: S314 - our own output
    assert len(drawings) == 3  # not those that nothing joins to the others
    interval = STANDINGS[0].interval
    assert interval is not None
    drawn = drawings[0][1]
    assert float(drawn.get("x", "")) == pytest.approx(200 * interval.low, abs=0.06)
    assert float(drawn.get("width", "")) == pytest.approx(200 * (interval.high - interval.low), abs=0.06)


def test_page_says_in_which_characters_it_is_written_and_hostile_titles_stay_text() -> None:
    page = to_page(replace(REPORT, title="<script>"))
    assert page.startswith("<!doctype html>") and '<meta charset="utf-8">' in page
    assert "<script" not in page


def test_json_holds_everything_and_no_figure_that_json_does_not_know() -> None:
    assert '"version": "policy-team-2"' in to_json(replace(REPORT, leaderboard=STANDINGS))
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(with_verdict(p_value=float("nan")))
