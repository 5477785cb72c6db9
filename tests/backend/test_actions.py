"""Advice that is applied: the next run has the changed setting, and the reason is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend import store
from backend.errors import ConflictError
from backend.exclusions import exclude
from backend.rounds import build_report
from backend.tables import ResponseRow
from tests.backend.whole import Whole


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.service.DEBOUNCE_S", 0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    made: list[Whole] = []

    def start_one(**environment: str) -> Whole:
        whole = Whole(tmp_path)
        whole.environment = environment
        whole.service = whole.make_service()
        whole.service.start()
        made.append(whole)
        return whole

    yield start_one
    for whole in made:
        whole.service.stop()


def to_verdict(whole: Whole, prefer: str, number: int = 1) -> None:
    whole.wait_for_round("reviewing", number)
    whole.review(prefer)
    whole.wait_for_round("decided", number)


def in_review(start: Any) -> Whole:
    """A round whose PPO ended by collapsed lengths, and whose review is open."""
    whole: Whole = start(STOP_REASON="length_collapse")
    whole.import_prompts(30)
    whole.wait(lambda: whole.published() == 30)
    whole.rank(6)
    whole.wait_for_round("reviewing")
    return whole


def advice_ids(whole: Whole) -> set[str]:
    return {found.id for found in whole.service.status("team").advice}


def test_ppo_runs_again_with_the_changed_setting_and_the_reason_is_kept(start: Any) -> None:
    whole = start(STOP_REASON="kl")
    whole.import_prompts(30)
    whole.wait(lambda: whole.published() == 30)
    whole.rank(6)
    to_verdict(whole, "BEFORE")
    assert {"kl_stop", "over_optimised"} <= advice_ids(whole)

    applied = whole.service.apply("team", "kl_stop")
    assert "→ 0.0005" in applied.zh and "→ 0.0005" in applied.en
    assert not {"kl_stop", "over_optimised"} & advice_ids(whole)  # both would run PPO again
    with pytest.raises(ConflictError, match="`kl_stop` is not given now"):
        whole.service.apply("team", "kl_stop")
    to_verdict(whole, "AFTER", 2)

    status = whole.service.status("team")
    ppo = [run for run in status.runs if run.kind == "ppo"]
    assert [run.round_id for run in ppo] == ["team-r1", "team-r2"] and ppo[1].id == applied.run_id
    assert status.steps[2].state == "done"  # the reward model of the first round
    (action,) = status.actions
    assert (action.advice, action.run_id, action.round_id) == ("kl_stop", applied.run_id, "team-r2")
    assert "KL was too large" in action.en and "学习率 自动 → 0.0005" in action.changed_zh
    with whole.service.store.reading() as session:
        assert store.run(session, ppo[1].id).config["learning_rate"] == 0.0005
        report = build_report(session, whole.settings, store.round_by_id(session, "team-r2"))
        earlier = build_report(session, whole.settings, store.round_by_id(session, "team-r1"))
    assert report.actions == status.actions and not earlier.actions
    assert report.reward["accuracy"] == 0.92
    (shown,) = [row for row in whole.tasks("report") if "第 2 轮" in row["data"]["report"]]
    assert "KL was too large" in shown["data"]["report"]
    assert shown["data"]["round"].startswith("第 2 轮 · Round 2: ")

    assert whole.service.apply("team", "promote").run_id is None
    with whole.service.store.reading() as session:
        promotion = store.promotions(session, "team")[-1]
    assert promotion.model == "policy-team-2" and "The new model wins 100%" in promotion.reason


def test_while_a_review_is_open_only_the_setting_changes(start: Any) -> None:
    whole = in_review(start)
    applied = whole.service.apply("team", "length_collapse")
    assert applied.run_id is None and "next time" in applied.en
    assert whole.service.settings_of("team")["kl_coef"] == 1.0
    status = whole.service.status("team")
    assert status.round and (status.round.number, status.round.state) == (1, "reviewing")


def test_what_advice_changed_is_taken_back_once_and_can_be_applied_again(start: Any) -> None:
    whole = in_review(start)
    with pytest.raises(ConflictError, match="what can be taken back: none"):
        whole.service.revert("team", "length_collapse")
    whole.service.apply("team", "length_collapse")
    assert "length_collapse" not in advice_ids(whole)

    taken_back = whole.service.revert("team", "length_collapse")
    assert "1 → 0.5" in taken_back.en
    assert whole.service.settings_of("team")["kl_coef"] == 0.5
    assert "length_collapse" in advice_ids(whole)
    applied, reverted = whole.service.status("team").actions
    assert not applied.can_revert and reverted.reverts and not reverted.can_revert
    with pytest.raises(ConflictError, match="no change by the advice `length_collapse` is in force"):
        whole.service.revert("team", "length_collapse")

    whole.service.apply("team", "length_collapse")
    with whole.service.store.session() as session:
        workspace = store.workspace(session, "team")
        workspace.settings = {**workspace.settings, "kl_coef": 4.0}
    with pytest.raises(ConflictError, match=r"`kl_coef` is 4.0 now, not 1.0"):
        whole.service.revert("team", "length_collapse")


def test_prompts_with_alike_answers_get_others_and_ranked_tasks_stay(start: Any) -> None:
    whole = start()
    whole.import_prompts(6, "alike")
    whole.wait(lambda: whole.published() == 6)
    whole.import_prompts(2, "flagged")  # a run of its own, the newest: the advice looks at all prompts
    whole.wait(lambda: whole.service.status("team").counts.prompts_flagged == 2)
    whole.rank(2)
    whole.wait(lambda: whole.service.status("team").counts.rankings == 2)
    before = {row["id"]: row["data"] for row in whole.tasks("ranking")}
    ranked = {row["task"] for row in whole.label_studio.annotation_rows.values()}

    applied = whole.service.apply("team", "candidates_variants")
    assert applied.run_id and "0.85 → 0.6" in applied.en
    whole.wait(lambda: whole.published() == 6)
    after = {row["id"]: row["data"] for row in whole.tasks("ranking")}
    assert {task: before[task] for task in ranked} == {task: after[task] for task in ranked}
    assert len(after) == 6 and before.keys() & after.keys() == ranked
    renewed = [data for task, data in after.items() if task not in ranked]
    assert all("longest answer" in str(data["answers"]) for data in renewed)
    with whole.service.store.reading() as session:
        assert session.query(ResponseRow).count() == 3 * 6
    assert whole.service.status("team").counts.rankings == 2


def test_task_that_was_ranked_a_moment_ago_stays(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = start()
    whole.import_prompts(3, "alike")
    whole.wait(lambda: whole.published() == 3)
    whole.wait(lambda: "candidates_variants" in advice_ids(whole))
    monkeypatch.setattr(whole.service, "_look", lambda *_: None)  # what comes now is not in our rows
    for user in (1, 2, 3):
        whole.rank(3, user=user)
    with pytest.raises(ConflictError, match="rankings stay"):
        whole.service.apply("team", "candidates_variants")
    assert len(whole.tasks("ranking")) == 3


def test_what_cannot_be_applied_says_what_can(start: Any) -> None:
    whole = start()
    whole.import_prompts(3, "alike")
    whole.wait(lambda: whole.published() == 3)
    with pytest.raises(
        ConflictError, match="is for people to follow; what can be applied: `candidates_variants`"
    ):
        whole.service.apply("team", "few_prompts")
    with pytest.raises(ConflictError, match="`nonsense` is not given now"):
        whole.service.apply("team", "nonsense")


def test_training_again_leaves_out_what_was_excluded(start: Any) -> None:
    whole = start(OUTCOME="not_enough_evidence")
    whole.import_prompts(30)
    whole.wait(lambda: whole.published() == 30)
    whole.rank(3, user=1)
    whole.rank(3, user=2)
    whole.wait_for_round("gated")
    with whole.service.store.session() as session:
        exclude(session, "team", 2, "")
    assert "retrain" in advice_ids(whole)

    applied = whole.service.apply("team", "retrain")
    whole.wait(lambda: "retrain" not in advice_ids(whole) and len(whole.service.status("team").models) == 2)
    newest = whole.service.status("team").models[-1]
    assert (newest.run_id, newest.rankings, newest.removed) == (applied.run_id, 3, 0)
