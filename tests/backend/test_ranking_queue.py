"""Which tasks come next: of the rows, those that are open and scored; and the advice that names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from backend import store
from backend.ranking_queue import next_tasks, prompts_to_name
from backend.rounds import advice_for
from backend.settings import Settings
from backend.store import Store
from backend.tables import PromptRow, RankingRow, ResponseRow, RoundRow, RunRow, WorkspaceRow

SETTINGS = Settings(label_studio_url="http://x", label_studio_api_key="f" * 40)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = Store(f"sqlite:///{tmp_path}/rows.sqlite")
    opened.create_all()
    with opened.session() as session:
        session.add(
            WorkspaceRow(id="team", title="T", prompts_project=1, ranking_project=2, review_project=3)
        )
        session.add(RoundRow(id="team-r1", workspace="team", number=1, state="gated"))
        session.flush()
        yield session
    opened.close()


def add_prompt(session: Session, key: str, scores: tuple[float | None, ...], split: str = "train") -> None:
    """A published prompt; its task's number is how many there are."""
    task = len(store.prompts(session, "team")) + 1
    session.add(
        PromptRow(
            workspace="team", prompt_id=key, text=f"what about {key}?", split=split, ranking_task=task,
            state="published",
        )
    )  # fmt: skip
    for number, score in enumerate(scores):
        answer = ResponseRow(id=f"{key}{number}", workspace="team", prompt_id=key, text="…", policy="base")
        answer.score = score
        session.add(answer)
    session.flush()


def rank(session: Session, key: str) -> None:
    prompt = next(row for row in store.prompts(session, "team") if row.prompt_id == key)
    session.add(
        RankingRow(
            annotation_id=prompt.ranking_task, workspace="team", task=prompt.ranking_task, prompt_id=key,
            annotator=1, order=[[f"{key}0"], [f"{key}1"]], updated_at="", result_hash="", state="active",
        )
    )  # fmt: skip
    session.flush()


def gate(session: Session, outcome: str, accuracy: float) -> None:
    result: dict[str, Any] = {"outcome": outcome, "accuracy": accuracy, "rankings_needed": 30}
    session.add(
        RunRow(
            id="reward-1", workspace="team", round_id="team-r1", kind="reward", dataset_hash="h", config={},
            snapshot=[], state="succeeded", result=result,
        )
    )  # fmt: skip
    session.flush()


def advice(session: Session, wanted: str) -> tuple[str, str]:
    current = store.current_round(session, "team")
    given = advice_for(session, SETTINGS, store.workspace(session, "team"), current)
    found = next(advice for advice in given if advice.id == wanted)
    return found.zh, found.en


def test_open_tasks_with_scores_come_by_what_they_teach(session: Session) -> None:
    add_prompt(session, "sure", (0.0, 4.0, 9.0))
    add_prompt(session, "new", (None, None))
    add_prompt(session, "ranked", (0.0, 0.1))
    add_prompt(session, "unsure", (2.0, 7.0, 1.9))
    rank(session, "ranked")
    unsure, sure = next_tasks(session, "team", "both")
    assert (unsure.prompt_id, unsure.task, unsure.order) == ("unsure", 4, ("unsure1", "unsure0", "unsure2"))
    assert (sure.prompt_id, sure.task, sure.order) == ("sure", 1, ("sure2", "sure1", "sure0"))
    assert 0 < unsure.place < sure.place < 1


def test_only_prompts_that_serve_the_aim_are_named(session: Session) -> None:
    add_prompt(session, "a", (0.0, 1.0))
    add_prompt(session, "b", (0.0, 1.0), "unseen")
    add_prompt(session, "c", (0.0, 1.0), "verification")
    tasks = next_tasks(session, "team", "measure")
    assert {found.prompt_id for found in tasks[:2]} == {"b", "c"}
    assert set(prompts_to_name(tasks, "measure")) == {"b", "c"}
    assert prompts_to_name(tasks, "learn") == ["a"]
    assert len(prompts_to_name(tasks, "both")) == 3


def test_advice_names_the_tasks_that_come_first(session: Session) -> None:
    for key, gap in (("p1", 3.0), ("p2", 0.2), ("p3", 5.0), ("p4", 1.0)):
        add_prompt(session, key, (0.0, gap))
    gate(session, "failed", 0.6)
    named = "“what about p2?”, “what about p4?”, “what about p1?”"
    zh, en = advice(session, "rank_more")
    assert f"模型最拿不准的题目，如 {named}。" in zh
    assert "rank 30 more tasks; Label Studio serves those whose answers the model can hardly order" in en
    assert f" first, such as {named}." in en


def test_advice_asks_for_new_prompts_where_none_is_left_to_measure_by(session: Session) -> None:
    add_prompt(session, "p1", (0.0, 1.0))
    gate(session, "not_enough_evidence", 0.9)
    zh, en = advice(session, "rank_more")
    assert zh.endswith("请先导入新题目。") and en.endswith("so import more prompts first.")
    add_prompt(session, "p2", (0.0, 1.0), "unseen")
    zh, en = advice(session, "rank_more")
    assert "用来检验它的题目，如 “what about p2?”" in zh
    assert "serves those that measure it first, such as “what about p2?”" in en
