"""Rounds across stops, a lost DBOS database and a Label Studio that times out; the same rows in the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backend import store
from backend.rounds import build_report
from tests.backend.whole import Whole
from tests.fake_label_studio import ranking_result


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at once: the tests' people don't annotate in bursts."""
    monkeypatch.setattr("backend.service.DEBOUNCE_S", 0.05)


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    whole = Whole(tmp_path)
    yield whole
    whole.service.stop()


def slow(whole: Whole, stage: str) -> None:
    """Make the service anew, with one stage that takes longer than any test."""
    whole.service.stop()
    whole.environment = {"SLOW_STAGE": stage, "SLOW_S": "120"}
    whole.service = whole.make_service()
    whole.service.start()


def fast(whole: Whole) -> None:
    whole.environment = {}
    whole.restart()


def wait_for_stage(whole: Whole, kind: str) -> None:
    """Until the stage is held up."""

    def held_up() -> bool:
        runs = [run for run in whole.service.status("team").runs if run.kind == kind]
        return bool(runs) and (runs[-1].state, runs[-1].progress_done) == ("running", 1)

    whole.wait(held_up)


def end_round(whole: Whole) -> None:
    whole.wait_for_round("reviewing")
    whole.review()
    whole.wait_for_round("decided")


def assert_one_of_each(whole: Whole, prompts: int, rankings: int) -> None:
    status = whole.service.status("team")
    assert [(run.kind, run.state) for run in status.runs] == [
        (kind, "succeeded") for kind in ("generate", "reward", "ppo", "compare")
    ]
    assert [model.kind for model in status.models] == ["reward", "policy"]
    keys = [task["data"]["source_key"] for task in whole.tasks("ranking") + whole.tasks("review")]
    assert len(keys) == len(set(keys)) == prompts + status.counts.comparisons
    with whole.service.store.reading() as session:
        reward = next(run for run in store.runs(session, "team") if run.kind == "reward")
        assert len(reward.snapshot) == rankings
    assert sorted(path.name for path in whole.settings.models_dir.iterdir()) == [
        "policy-team-1",
        "reward-team-1",
    ]


def test_server_stopped_in_every_stage_goes_on_with_it(whole: Whole) -> None:
    slow(whole, "generate")
    whole.import_prompts(20)
    wait_for_stage(whole, "generate")
    fast(whole)
    whole.wait(lambda: whole.published() == 20)
    slow(whole, "reward")
    whole.rank(6)
    for stage, following in (("reward", "ppo"), ("ppo", "compare"), ("compare", "")):
        wait_for_stage(whole, stage)
        slow(whole, following)
    end_round(whole)
    assert_one_of_each(whole, prompts=20, rankings=6)


def test_lost_workflow_database_loses_nothing(whole: Whole) -> None:
    whole.service.start()
    whole.import_prompts(20)
    whole.wait(lambda: whole.published() == 20)
    slow(whole, "ppo")
    whole.rank(6)
    wait_for_stage(whole, "ppo")
    whole.service.stop()
    for path in whole.directory.glob("workflows.sqlite3*"):
        path.unlink()
    whole.environment = {}
    whole.service = whole.make_service()
    whole.service.start()
    end_round(whole)
    assert_one_of_each(whole, prompts=20, rankings=6)


def test_lease_of_a_server_that_was_killed_holds_nothing_up(whole: Whole) -> None:
    slow(whole, "generate")
    whole.import_prompts(4)
    wait_for_stage(whole, "generate")
    whole.service.stop()
    whole.environment = {}
    whole.service = whole.make_service()
    with whole.service.store.session() as session:
        (run,) = store.runs(session, "team")
        run.lease_until = time.time() + 3600  # what kill -9 leaves
    whole.service.start()
    whole.wait(lambda: whole.published() == 4)


def test_import_that_times_out_after_it_was_done_makes_no_twins(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.workflow._FIRST_PAUSE_S", 0.05)
    answer = whole.label_studio._import
    timeouts = iter([True, True, False])

    def import_and_time_out(project: int, **request: object) -> object:
        found = answer(project, **request)
        if project == whole.projects["ranking"] and next(timeouts, False):
            raise httpx.ReadTimeout("too late")
        return found

    monkeypatch.setattr(whole.label_studio, "_import", import_and_time_out)
    whole.service.start()
    whole.import_prompts(10)
    whole.wait(lambda: whole.published() == 10)
    assert len(whole.tasks("ranking")) == 10


def test_refused_import_is_told_and_tried_again(whole: Whole) -> None:
    ranking = whole.label_studio.project_rows[whole.projects["ranking"]]
    ours, ranking["label_config"] = ranking["label_config"], '<View><Text value="$other"/></View>'
    whole.service.start()
    whole.import_prompts(5)
    whole.wait(lambda: "refused" in whole.service.check_label_studio())
    ranking["label_config"] = ours
    whole.wait(lambda: whole.published() == 5)
    whole.wait(lambda: not whole.service.check_label_studio())


def test_run_that_fails_ends_the_round_with_its_reason(whole: Whole) -> None:
    whole.service.start()
    whole.import_prompts(20)
    whole.wait(lambda: whole.published() == 20)
    whole.service.stop()
    whole.environment = {"OUTCOME": "passed", "FAIL_STAGE": "ppo"}
    whole.service = whole.make_service()
    whole.service.start()
    whole.rank(6)
    whole.wait_for_round("failed")
    status = whole.service.status("team")
    assert status.round and status.round.reason_en == "the policy fell over"
    assert status.steps[3].state == "attention" and "fell over" in status.next_en
    assert status.next_zh == (
        "失败：可用的数据不足：请导入题目或再做一些排序，然后重试（详情：the policy fell over）"
    )
    with whole.service.store.reading() as session:
        failed = store.round_by_id(session, status.round.id)
        assert build_report(session, whole.settings, failed).reason[0] in status.next_zh
    run = next(run for run in status.runs if run.kind == "ppo")
    fast(whole)
    whole.service.retry(run.id)
    end_round(whole)
    assert_one_of_each(whole, prompts=20, rankings=6)


def test_new_rankings_during_a_round_begin_the_next_when_its_winner_is_promoted(whole: Whole) -> None:
    slow(whole, "ppo")
    whole.import_prompts(30)
    whole.wait(lambda: whole.published() == 30)
    whole.rank(6)
    wait_for_stage(whole, "ppo")
    whole.rank(8)
    whole.wait(lambda: whole.service.status("team").counts.rankings_new == 8)
    assert [run.kind for run in whole.service.status("team").runs].count("reward") == 1
    fast(whole)
    whole.wait_for_round("reviewing")
    whole.review()
    whole.wait_for_round("decided")
    assert "promote it first" in whole.service.status("team").steps[1].reason_en
    whole.service.promote("team", "policy-team-1", "it won")
    whole.wait_for_round("reviewing", number=2)
    first, second = whole.service.status("team").rounds
    assert (first.state, second.state) == ("decided", "reviewing")


def test_tasks_that_divide_the_team_are_marked_once_the_reward_model_is_trained(whole: Whole) -> None:
    whole.service.start()
    whole.import_prompts(5)
    whole.wait(lambda: whole.published() == 5)
    whole.rank(4)
    divided = whole.tasks("ranking")[0]
    ids = [answer["id"] for answer in sorted(divided["data"]["answers"], key=lambda a: -len(a["body"]))]
    whole.label_studio.annotate(divided["id"], ranking_result(*ids), user=2)  # longer answers first
    whole.rank(1)  # the sixth ranking starts the training
    whole.wait_for_round("reviewing")
    marks = {task["id"]: task["data"].get("disagreement") for task in whole.tasks("ranking")}
    assert marks == {task: 100 if task == divided["id"] else None for task in marks}
