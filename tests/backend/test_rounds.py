"""How a round ends: what the verdict counts, and the order of all versions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from backend import store
from backend.report import to_html
from backend.rounds import Rounds, leaderboard, pending_comparisons
from backend.settings import Settings
from backend.store import Store
from backend.tables import ComparisonRow, JudgementRow, JudgementVerdict, ModelRow, RoundRow, WorkspaceRow

_IDS = count(1)


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    settings = Settings(
        label_studio_url="http://x",
        label_studio_api_key="f" * 40,
        data_dir=tmp_path,
        reviews_per_comparison=2,
    )
    opened = Store(settings.store_url)
    opened.create_all()
    with opened.session() as session:
        session.add(
            WorkspaceRow(id="team", title="Team", prompts_project=1, ranking_project=2, review_project=3)
        )
    yield Rounds(settings, opened)
    opened.close()


def add_round(rounds: Rounds, number: int, parent: str, wins: int, losses: int, *, reviewers: int = 2) -> str:
    """A round whose review says so."""
    round_id = f"team-r{number}"
    with rounds.store.session() as session:
        session.add(RoundRow(id=round_id, workspace="team", number=number, state="reviewing"))
        session.add(
            ModelRow(
                id=f"policy-team-{number}", workspace="team", kind="policy", round_id=round_id,
                run_id=f"ppo-{number}", path="x", parent=parent,
            )
        )  # fmt: skip
        for n in range(wins + losses):
            comparison = ComparisonRow(
                id=f"c{number}-{n}", workspace="team", round_id=round_id, prompt_id=f"p{n}", prompt="?",
                seen=n % 2 == 0, before="x" * 50, after="y" * (40 + n), after_side="left",
            )  # fmt: skip
            session.add(comparison)
            for reviewer in range(reviewers):
                add_judgement(session, comparison, reviewer, "after" if n < wins else "before")
    return round_id


def add_judgement(
    session: Session, comparison: ComparisonRow, reviewer: int, verdict: JudgementVerdict | None
) -> None:
    session.add(
        JudgementRow(
            annotation_id=next(_IDS), comparison_id=comparison.id,
            workspace="team", task=1, reviewer=reviewer, verdict=verdict, updated_at="",
            state="active" if verdict else "cancelled",
        )
    )  # fmt: skip


def test_skipped_comparison_is_not_pending(rounds: Rounds) -> None:
    round_id = add_round(rounds, 1, "base", 3, 0, reviewers=1)
    with rounds.store.session() as session:
        add_judgement(session, session.get_one(ComparisonRow, "c1-1"), 5, None)
    with rounds.store.reading() as session:
        current = store.round_by_id(session, round_id)
        assert pending_comparisons(session, rounds.settings, current) == {"c1-0", "c1-2"}


def test_review_ended_before_every_reviewer_had_a_say_is_held_to_more(rounds: Rounds) -> None:
    whole = add_round(rounds, 1, "base", 15, 5)
    half = add_round(rounds, 2, "base", 15, 5, reviewers=1)
    assert rounds.reach_verdict(whole) == "better"
    assert rounds.reach_verdict(half) == "not_enough_evidence"
    with rounds.store.reading() as session:
        verdict = store.round_by_id(session, half).verdict
        assert verdict is not None and verdict["pending"] == 20


def test_leaderboard_is_of_the_reviews_that_have_ended(rounds: Rounds) -> None:
    first = add_round(rounds, 1, "base", 30, 10)
    second = add_round(rounds, 2, "policy-team-1", 24, 16)
    add_round(rounds, 3, "policy-team-2", 0, 40)
    rounds.reach_verdict(first)
    rounds.reach_verdict(second)
    with rounds.store.reading() as session:
        standings = leaderboard(session, "team")
        assert [standing.version for standing in standings] == ["policy-team-2", "policy-team-1", "base"]
        assert standings[1].tally.reviews == 80
        assert store.newest_round(session).number == 2  # the third has no verdict yet
    workspace, report = rounds.report(second)
    assert (workspace, report.number, report.model, report.before) == (
        "team",
        2,
        "policy-team-2",
        "policy-team-1",
    )
    html = to_html(report)
    assert "All versions" in html and "1–2" in html
