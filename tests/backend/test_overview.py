"""What is read from a workspace's rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend import registry
from backend.exclusions import exclude
from backend.overview import read_state
from backend.tables import ModelRow, PromptRow, RankingRow, RoundRow, WorkspaceRow
from tests.backend.web import SeededService, seeded


@pytest.fixture
def service(tmp_path: Path) -> SeededService:
    """A round with its verdict `better`, and a next round that has just begun."""
    made = seeded(tmp_path / "data")
    with made.store.session() as session:
        session.add(RoundRow(id="team-r2", workspace="team", number=2, state="rewarding"))
    return made


def test_last_verdicts_advice_stays_while_the_next_round_trains(service: SeededService) -> None:
    assert "promote" in {found.id for found in service.status("team").advice}


def test_last_verdicts_advice_ends_with_the_promotion(service: SeededService) -> None:
    with service.store.session() as session:
        session.get_one(WorkspaceRow, "team").serving_policy = "policy-team-1"
    assert "promote" not in {found.id for found in service.status("team").advice}


def test_last_verdicts_advice_ends_with_the_next_policy(service: SeededService) -> None:
    with service.store.session() as session:
        session.add(
            ModelRow(
                id="policy-team-2", workspace="team", kind="policy", round_id="team-r2", run_id="ppo-2",
                path="policy-team-2", base_model="embedded",
            )
        )  # fmt: skip
    assert "promote" not in {found.id for found in service.status("team").advice}


def test_annotations_that_cannot_be_read_are_told(service: SeededService) -> None:
    assert "unreadable" not in {told["id"] for told in service.status("team").problems}
    with service.store.session() as session:
        first, second = session.query(RankingRow).order_by(RankingRow.task).limit(2)
        first.state = second.state = "malformed"
    (told,) = (told for told in service.status("team").problems if told["id"] == "unreadable")
    assert told["zh"].startswith("2 份标注无法读取") and f"（任务 {first.task}、{second.task}）" in told["zh"]
    assert told["en"].startswith("2 annotations cannot be read") and "setup_project team`" in told["en"]


def test_rankings_that_tasks_still_take_count_each_task_once(service: SeededService) -> None:
    with service.store.session() as session:
        session.query(PromptRow).delete()
        session.query(RankingRow).delete()
        for name in ("p1", "p2", "p3"):
            session.add(
                PromptRow(workspace="team", prompt_id=name, text=name, split="train", state="published")
            )
        for number in (1, 2):
            session.add(
                RankingRow(
                    annotation_id=number, workspace="team", task=1, prompt_id="p1", annotator=number,
                    updated_at="", result_hash="", state="active", order=[],
                )
            )  # fmt: skip
    with service.store.session() as session:
        assert read_state(session, service.settings, "team").rankings_open == 2
        exclude(session, "team", 1, "")
        session.flush()
        assert read_state(session, service.settings, "team").rankings_open == 2  # another one is there
        exclude(session, "team", 2, "")
        session.flush()
        assert read_state(session, service.settings, "team").rankings_open == 3


def test_decision_stays_open_until_the_winner_is_promoted(tmp_path: Path) -> None:
    made = seeded(tmp_path / "other")

    def decision_open() -> bool:
        with made.store.reading() as session:
            return read_state(session, made.settings, "team").decision_open

    assert decision_open()
    with made.store.session() as session:  # new prompts have begun the next round
        session.add(RoundRow(id="team-r2", workspace="team", number=2, state="collecting"))
    assert decision_open()
    with made.store.session() as session:
        registry.promote(session, "team", "policy-team-1", "better")
    assert not decision_open()
    with made.store.session() as session:
        registry.rollback(session, "team")
    assert not decision_open()
