"""Rounds of teams that one would not wish for: their report holds in every form, and claims nothing.

The whole backend runs; only learning is left out. The gate is the real one.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.__main__ import main
from tests.backend.whole import Whole
from tests.fake_label_studio import TOKEN, ranking_result, verdict_result


class Team(Whole):
    """People who rank and review as a test tells them to."""

    def rank_all(self, *people: str) -> None:
        """Each person ranks every task: `shorter` or `longer` first, `tie`, or `skip`."""
        for task in self.tasks("ranking"):
            for user, way in enumerate(people, start=1):
                answers = sorted(task["data"]["answers"], key=lambda answer: len(answer["body"]))
                ids = [answer["id"] for answer in (answers[::-1] if way == "longer" else answers)]
                result = ranking_result(*ids, choice="tie" if way == "tie" else None)
                self.label_studio.annotate(task["id"], result, user=user, was_cancelled=way == "skip")
        self.service.hint(self.projects["ranking"], "ANNOTATION_CREATED")

    def review_all(self, *people: str) -> None:
        """Each person judges every comparison: for `AFTER` or `BEFORE`, `tie`, or `skip`."""
        for task in self.tasks("review"):
            for user, way in enumerate(people, start=1):
                side = "left" if task["data"]["left"].startswith(way) else "right"
                result = verdict_result("tie" if way in ("tie", "skip") else side)
                self.label_studio.annotate(task["id"], result, user=user, was_cancelled=way == "skip")
        self.service.hint(self.projects["review"], "ANNOTATION_CREATED")

    def to_review(self) -> None:
        """PPO by hand where the gate did not pass."""
        self.wait(lambda: self.state() in ("gated", "reviewing"))
        if self.state() == "gated":
            assert self.service.start_ppo("team").started
        self.wait_for_round("reviewing")

    def state(self) -> str:
        found = self.service.status("team").round
        return found.state if found else ""


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    monkeypatch.setattr("backend.service.DEBOUNCE_S", 0.05)
    for name, value in {"DATA_DIR": str(tmp_path), "LABEL_STUDIO_API_KEY": TOKEN, "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SETTINGS_FILE", str(tmp_path / "none.env"))
    team = Team(tmp_path, rankings_per_task=2, reviews_per_comparison=2)
    team.environment = {"REAL_GATE": "1"}
    team.service = team.make_service()
    team.service.start()
    yield team
    team.service.stop()


def reports(capsys: pytest.CaptureFixture[str]) -> tuple[str, Any, str]:
    """The round's report as the command prints it: text, JSON, HTML."""
    printed = []
    for form in ("text", "json", "html"):
        capsys.readouterr()
        assert main(["report", "team-r1", "--format", form]) == 0
        printed.append(capsys.readouterr().out)
    text, found, page = printed
    assert "第 1 轮 · Round 1" in text and text.endswith("\n")
    ET.fromstring(page[page.index("<div") : page.rindex("</div>") + 6])  # noqa: S314 - our own output
    assert "nan" not in text.lower().split() and "None" not in text
    return text, json.loads(found), page


def prepared(team: Team, prompts: int = 30) -> Team:
    team.import_prompts(prompts)
    team.wait(lambda: team.published() == prompts)
    return team


def shown_in_label_studio(team: Team) -> str:
    team.wait(lambda: team.tasks("report"))
    (task,) = team.tasks("report")
    ET.fromstring(task["data"]["report"])  # noqa: S314 - our own output
    return str(task["data"]["report"])


def test_one_annotator_has_no_agreement_and_a_verdict(team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(team).rank_all("shorter")
    team.to_review()
    team.review_all("AFTER")
    team.wait(lambda: team.service.status("team").counts.judgements == 6)
    team.service.conclude("team")  # the second reviewer never comes
    team.wait_for_round("decided")
    text, found, _ = reports(capsys)
    assert found["reward"]["agreement"] is None and found["reward"]["ceiling"] is None
    assert "two annotators agree" not in text and "agreement of the reviewers" not in text
    assert found["verdict"]["seen"]["wins"] == 3 and found["verdict"]["pending"] == 6
    assert found["verdict"]["verdict"] == "not_enough_evidence"  # six of six, ended early
    assert "Not enough evidence" in shown_in_label_studio(team)


def test_rankings_that_all_tie_end_the_round_with_what_to_do(
    team: Team, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(team).rank_all("tie", "tie")
    team.wait_for_round("failed")
    text, found, page = reports(capsys)
    assert "prefer no answer to another" in text and "prefer no answer to another" in page
    assert (found["verdict"], found["model"], found["reward"]) == ({}, "—", {})
    assert "No verdict yet" in text


def test_rankings_that_are_all_skipped_begin_no_round(team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(team, 8).rank_all("skip", "skip")
    team.wait(lambda: len(team.label_studio.annotation_rows) == 16)
    assert not team.service.start_training(team.projects["ranking"]).started
    assert team.service.status("team").round is None or team.state() == "collecting"
    assert main(["report"]) in (0, 2)
    printed = capsys.readouterr()
    assert "No verdict yet" in printed.out or "there is no round yet" in printed.err


def test_review_that_all_skip_says_nothing_about_the_model(
    team: Team, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(team).rank_all("shorter", "shorter")
    team.to_review()
    team.review_all("skip", "skip")
    team.wait_for_round("decided")
    text, found, _ = reports(capsys)
    verdict = found["verdict"]
    assert (verdict["verdict"], verdict["win_rate"], verdict["judged"]) == ("not_enough_evidence", None, 0)
    assert verdict["interval"] == [0.0, 1.0] and found["leaderboard"] == []
    assert verdict["reviews_needed"] >= 100 and "Not enough evidence" in text
    assert "Not enough evidence" in shown_in_label_studio(team)


def test_review_of_ties_finds_no_winner(team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(team).rank_all("shorter", "shorter")
    team.to_review()
    team.review_all("tie", "tie")
    team.wait_for_round("decided")
    _, found, _ = reports(capsys)
    assert found["verdict"]["win_rate"] == 0.5 and found["verdict"]["p_value"] == 1.0
    assert found["verdict"]["verdict"] in ("no_difference", "not_enough_evidence")
    assert found["verdict"]["reviewers"]["share"] == 1.0


def test_contradictory_team_is_told_to_agree_first(team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(team).rank_all("shorter", "longer", "shorter")
    team.to_review()
    team.review_all("AFTER", "BEFORE")
    team.wait_for_round("decided")
    text, found, page = reports(capsys)
    assert found["reward"]["agreement"] == pytest.approx(1 / 3)
    assert found["reward"]["team"]["contested_prompts"] == 30
    assert found["verdict"]["win_rate"] == 0.5 and found["verdict"]["reviewers"]["share"] == 0.0
    advice = {one["id"]: one for one in found["advice"]}
    assert "question" in advice["agreement_low"]["en"] and "33%" in advice["agreement_low"]["en"]
    assert "discuss the tasks that divide you" in text and "每两位标注者" in page
    assert "33%" in shown_in_label_studio(team)


def test_two_prompts_are_too_few_and_that_is_said(team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(team, 2).rank_all("shorter", "shorter")
    assert team.service.start_training(team.projects["ranking"]).started
    team.wait_for_round("failed")
    text, found, _ = reports(capsys)
    assert "rank more prompts" in text
    assert "few_prompts" in {one["id"] for one in found["advice"]}
