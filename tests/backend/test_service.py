"""The journey as people see it, on a whole backend over the fake Label Studio; stages learn nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import ConflictError, NotFoundInStoreError
from backend.exclusions import exclude
from tests.backend.whole import Whole


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at once: the tests' people don't annotate in bursts."""
    monkeypatch.setattr("backend.service.DEBOUNCE_S", 0.05)


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    whole = Whole(tmp_path)
    whole.service.start()
    yield whole
    whole.service.stop()


def to_review(whole: Whole, prompts: int = 30, rankings: int = 6) -> None:
    whole.import_prompts(prompts)
    whole.wait(lambda: whole.published() == prompts)
    whole.rank(rankings)
    whole.wait_for_round("reviewing")


def test_whole_journey_ends_with_a_verdict_a_report_and_one_model_of_each_kind(whole: Whole) -> None:
    assert whole.service.status("team").steps[0].state == "waiting"
    to_review(whole)
    status = whole.service.status("team")
    assert [step.state for step in status.steps] == ["done", "done", "done", "done", "people"]
    assert len(whole.tasks("review")) == status.counts.comparisons == 6
    whole.review()
    whole.wait_for_round("decided")
    status = whole.service.status("team")
    assert status.round and status.round.verdict
    assert status.round.verdict["seen"] == {"wins": 3, "ties": 0, "losses": 0}
    assert status.round.verdict["verdict"] == "better"
    assert [(model.id, model.parent) for model in status.models] == [
        ("reward-team-1", "base"),
        ("policy-team-1", "base"),
    ]
    whole.wait(lambda: whole.tasks("report"))
    (report,) = whole.tasks("report")
    assert "新模型更好" in report["data"]["report"]
    assert status.serving_policy == "base"
    assert "promote" in [advice.id for advice in status.advice]


def test_review_tasks_do_not_tell_which_side_is_which(tmp_path: Path) -> None:
    whole = Whole(tmp_path, review_seen=10, review_unseen=10)
    whole.service.start()
    try:
        to_review(whole, prompts=40)
        on_the_left = set()
        for task in whole.tasks("review"):
            assert set(task["data"]) == {"prompt", "left", "right", "source_key"}
            on_the_left.add(task["data"]["left"].split()[0])
        assert on_the_left == {"BEFORE", "AFTER"}  # one of them alone: once in 2¹⁵ runs
    finally:
        whole.service.stop()


def test_answers_are_shown_in_a_shuffled_order(whole: Whole) -> None:
    whole.import_prompts(40)
    whole.wait(lambda: whole.published() == 40)
    orders = {
        tuple(len(answer["body"].split("short")) for answer in task["data"]["answers"])
        for task in whole.tasks("ranking")
    }
    assert len(orders) == 3  # the short one comes first, second and third somewhere


def test_predictions_come_from_the_stored_scores(whole: Whole) -> None:
    project = whole.projects["ranking"]
    assert whole.service.model_version(project) == "none"
    to_review(whole)
    answers = whole.tasks("ranking")[0]["data"]["answers"]
    (found, unknown) = whole.service.predictions(
        project, [[a["id"] for a in answers], ["a00000000", answers[0]["id"]]]
    )
    by_length = [a["id"] for a in sorted(answers, key=lambda a: len(a["body"]))]
    assert found and list(found.order) == by_length and 0 <= found.score <= 1
    assert found.model_version == whole.service.model_version(project) == "reward-team-1"
    assert unknown is None
    assert whole.service.predictions(99, [["a"]]) == [None]


def test_tasks_that_nobody_ranked_get_a_prediction_to_be_served_by(whole: Whole) -> None:
    to_review(whole, prompts=30, rankings=6)
    tasks = {row["task"] for row in whole.label_studio.prediction_rows}
    assert len(tasks) == 24
    project = whole.label_studio.project_rows[whole.projects["ranking"]]
    assert (project["model_version"], project["sampling"]) == ("reward-team-1", "Uncertainty sampling")


def test_threshold_holds_training_back_and_start_training_does_not(whole: Whole) -> None:
    whole.import_prompts(20)
    whole.wait(lambda: whole.published() == 20)
    whole.rank(4)
    whole.wait(lambda: whole.service.status("team").counts.rankings == 4)
    counts = whole.service.status("team").counts
    assert (counts.rankings_new, counts.rankings_needed) == (4, 2)
    answer = whole.service.start_training(whole.projects["ranking"])
    assert answer.started and answer.run_id and answer.run_id.startswith("reward-")
    whole.wait_for_round("reviewing")


def test_start_training_counts_rankings_that_no_webhook_told_of(tmp_path: Path) -> None:
    whole = Whole(tmp_path, train_after_rankings=0, reconcile_seconds=3600)
    whole.service.start()
    try:
        whole.import_prompts(10)
        whole.wait(lambda: whole.published() == 10)
        whole.rank(5)
        whole.service.start_training(whole.projects["ranking"])
        assert whole.service.status("team").counts.rankings == 5
    finally:
        whole.service.stop()


def test_burst_of_start_training_gives_one_run(tmp_path: Path) -> None:
    whole = Whole(tmp_path, train_after_rankings=0, training_cooldown_s=60)
    whole.service.start()
    try:
        whole.import_prompts(10)
        whole.wait(lambda: whole.published() == 10)
        whole.rank(5)
        answers = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(whole.service.start_training(whole.projects["ranking"]))
            )
            for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(answer.started for answer in answers) == 1
        runs = [run for run in whole.service.status("team").runs if run.kind == "reward"]
        assert len(runs) == 1
    finally:
        whole.service.stop()


def test_start_training_without_rankings_or_workspace_says_why(whole: Whole) -> None:
    answer = whole.service.start_training(whole.projects["ranking"])
    assert not answer.started and "No rankings yet" in answer.reason_en
    assert "no workspace" in whole.service.start_training(4711).reason_en


def test_training_again_with_nothing_new_is_refused(whole: Whole) -> None:
    to_review(whole)
    whole.review()
    whole.wait_for_round("decided")
    answer = whole.service.start_training(whole.projects["ranking"])
    assert not answer.started and "Nothing has changed" in answer.reason_en
    status = whole.service.status("team")
    assert status.round and status.round.number == 1  # no empty round was begun


def test_gate_that_does_not_pass_collects_again_and_can_be_overruled(tmp_path: Path) -> None:
    whole = Whole(tmp_path)
    whole.environment = {"OUTCOME": "not_enough_evidence"}
    whole.service = whole.make_service()
    whole.service.start()
    try:
        whole.import_prompts(40)
        whole.wait(lambda: whole.published() == 40)
        whole.rank(6)
        whole.wait_for_round("gated")
        status = whole.service.status("team")
        assert status.counts.rankings_needed == 30
        assert status.steps[2].state == "attention" and "30" in status.steps[2].reason_en
        assert [model.kind for model in status.models] == ["reward"]
        assert "rank_more" in [advice.id for advice in status.advice]
        whole.rank(30)  # the next reward run starts by itself, in the same round
        whole.wait(lambda: len([m for m in whole.service.status("team").models if m.kind == "reward"]) == 2)
        whole.wait_for_round("gated")
        assert whole.service.start_ppo("team").started
        whole.wait_for_round("reviewing")
    finally:
        whole.service.stop()


def test_ppo_waits_for_a_person_if_the_settings_say_so(tmp_path: Path) -> None:
    whole = Whole(tmp_path, auto_ppo=False)
    whole.service.start()
    try:
        whole.import_prompts(20)
        whole.wait(lambda: whole.published() == 20)
        whole.rank(6)
        whole.wait_for_round("gated")
        assert whole.service.status("team").steps[3].state == "attention"
        assert whole.service.start_ppo("team").started
        whole.wait_for_round("reviewing")
        assert not whole.service.start_ppo("team").started
    finally:
        whole.service.stop()


def test_better_policy_is_promoted_by_itself_and_writes_the_next_candidates(tmp_path: Path) -> None:
    whole = Whole(tmp_path, auto_promote="better")
    whole.service.start()
    try:
        to_review(whole)
        whole.review()
        whole.wait_for_round("decided")
        assert whole.service.status("team").serving_policy == "policy-team-1"
        whole.import_prompts(10, "another question")
        whole.wait(lambda: whole.published() == 40)
        runs = whole.service.status("team").runs
        with whole.service.store.reading() as session:
            from backend import store

            config = store.run(session, [run.id for run in runs if run.kind == "generate"][-1]).config
        assert config["policy_ids"] == ["policy-team-1"]
        status = whole.service.status("team")
        assert status.round and (status.round.number, status.round.state) == (2, "collecting")
        assert whole.service.rollback("team") == "base"
    finally:
        whole.service.stop()


def test_what_an_excluded_annotator_ranked_is_served_again_by_the_server(whole: Whole) -> None:
    whole.import_prompts(4)
    whole.wait(lambda: whole.published() == 4)
    whole.rank(1, user=2)
    whole.wait(lambda: whole.service.status("team").counts.rankings == 1)
    with whole.service.store.session() as session:
        exclude(session, "team", 2, "")
    whole.service.hint(whole.projects["ranking"], "COMMAND")
    whole.wait(lambda: [row["overlap"] for row in whole.tasks("ranking") if "overlap" in row] == [2])


def test_models_are_trained_again_without_an_excluded_annotator_or_a_deleted_ranking(tmp_path: Path) -> None:
    whole = Whole(tmp_path, auto_promote="better", train_after_rankings=12, training_cooldown_s=0)
    whole.service.start()
    try:
        whole.import_prompts(30)
        whole.wait(lambda: whole.published() == 30)
        whole.rank(6, user=1)
        whole.rank(6, user=2)
        whole.wait_for_round("reviewing")
        whole.review()
        whole.wait_for_round("decided")
        assert whole.service.status("team").serving_policy == "policy-team-1"
        assert "retrain" not in {advice.id for advice in whole.service.status("team").advice}

        with whole.service.store.session() as session:
            assert exclude(session, "team", 2, "") == 6
        whole.label_studio.remove_annotation(
            next(key for key, row in whole.label_studio.annotation_rows.items() if row["completed_by"] == 1)
        )
        whole.service.hint(whole.projects["ranking"], "ANNOTATION_DELETED")
        whole.wait(lambda: whole.service.status("team").counts.rankings == 5)
        status = whole.service.status("team")
        assert [(model.rankings, model.removed) for model in status.models] == [(12, 7), (12, 7)]
        assert {"retrain", "retrain_from"} <= {advice.id for advice in status.advice}

        with pytest.raises(NotFoundInStoreError):
            whole.service.start_training(whole.projects["ranking"], serve="policy-team-9")
        answer = whole.service.start_training(whole.projects["ranking"], serve="base")
        assert answer.started
        whole.wait_for_round("reviewing", 2)
        status = whole.service.status("team")
        assert [(model.id, model.rankings, model.removed, model.parent) for model in status.models[2:]] == [
            ("reward-team-2", 5, 0, "base"),
            ("policy-team-2", 5, 0, "base"),
        ]
        assert status.serving_policy == "base"
        assert not {"retrain", "retrain_from"} & {advice.id for advice in status.advice}
    finally:
        whole.service.stop()


def test_prompts_imported_during_the_review_leave_it_the_current_round(whole: Whole) -> None:
    to_review(whole)
    whole.import_prompts(5, "another question")
    whole.wait(lambda: whole.published() == 35)
    whole.review()
    whole.wait_for_round("decided")


def test_worse_policy_is_not_promoted(tmp_path: Path) -> None:
    whole = Whole(tmp_path, auto_promote="better")
    whole.service.start()
    try:
        to_review(whole)
        whole.review(prefer="BEFORE")
        whole.wait_for_round("decided")
        status = whole.service.status("team")
        assert status.round and status.round.verdict and status.round.verdict["verdict"] == "worse"
        assert status.serving_policy == "base"
    finally:
        whole.service.stop()


def test_review_can_be_concluded_early(whole: Whole) -> None:
    to_review(whole)
    with pytest.raises(ConflictError, match="nothing was judged"):
        whole.service.conclude("team")
    task = whole.tasks("review")[0]
    from tests.fake_label_studio import verdict_result

    whole.label_studio.annotate(task["id"], verdict_result("tie"))
    whole.service.hint(whole.projects["review"], "ANNOTATION_CREATED")
    whole.wait(lambda: whole.service.status("team").counts.judgements == 1)
    whole.service.conclude("team")
    whole.wait_for_round("decided")
    status = whole.service.status("team")
    assert status.round and status.round.verdict
    assert status.round.verdict["verdict"] == "not_enough_evidence"


def test_prompts_that_cannot_be_ranked_are_set_aside(whole: Whole) -> None:
    whole.import_prompts(3, "flagged")
    whole.import_prompts(5)
    whole.wait(lambda: whole.service.status("team").counts.prompts_flagged == 3)
    whole.wait(lambda: whole.published() == 5)
    assert len(whole.tasks("ranking")) == 5


def test_same_import_twice_makes_one_ranking_task_a_prompt(whole: Whole) -> None:
    whole.import_prompts(8)
    whole.wait(lambda: whole.published() == 8)
    whole.import_prompts(8)
    whole.wait(lambda: whole.service.status("team").problems)
    assert len(whole.tasks("ranking")) == 8
    assert whole.service.status("team").counts.prompts == 8


def test_prompts_imported_while_the_backend_was_down_are_found(tmp_path: Path) -> None:
    whole = Whole(tmp_path)
    for n in range(5):
        whole.label_studio.add_task(whole.projects["prompts"], {"prompt": f"q {n}"})
    whole.service.start()
    try:
        whole.wait(lambda: whole.published() == 5)
    finally:
        whole.service.stop()


def test_label_studio_being_away_is_told_and_nothing_is_lost(whole: Whole) -> None:
    whole.label_studio.up = False
    for n in range(5):
        whole.label_studio.add_task(whole.projects["prompts"], {"prompt": f"q {n}"})
    whole.wait(lambda: whole.service.check_label_studio())
    assert "does not answer" in whole.service.status("team").label_studio_error
    whole.label_studio.up = True
    whole.wait(lambda: whole.published() == 5)
    whole.wait(lambda: not whole.service.check_label_studio())


def test_label_studio_of_another_version_is_told_and_nothing_is_lost(whole: Whole) -> None:
    whole.service.stop()
    whole.label_studio.release = "1.24.0"
    whole.service = whole.make_service()
    whole.service.start()
    whole.import_prompts(5)
    whole.wait(lambda: "is Label Studio 1.24.0; needed is 1.23.x" in whole.service.check_label_studio())
    assert whole.published() == 0
    whole.label_studio.release = "1.23.2"
    whole.wait(lambda: whole.published() == 5)
    assert whole.service.check_label_studio() == ""


def test_second_server_on_one_data_directory_is_refused(whole: Whole) -> None:
    second = whole.make_service()
    with pytest.raises(ConflictError, match=r"another backend \(process \d+\)"):
        second.start()
    second.stop()
    assert whole.service.status("team").workspace == "team"


def test_cancelled_training_waits_to_be_asked_again(tmp_path: Path) -> None:
    whole = Whole(tmp_path)
    whole.environment = {"SLOW_STAGE": "reward", "SLOW_S": "60"}
    whole.service = whole.make_service()
    whole.service.start()
    try:
        whole.import_prompts(20)
        whole.wait(lambda: whole.published() == 20)
        whole.rank(6)
        whole.wait_for_round("rewarding")
        run = next(run for run in whole.service.status("team").runs if run.kind == "reward")
        whole.service.cancel(run.id)
        whole.wait_for_round("failed")
        time.sleep(0.6)  # some looks later
        assert [r.state for r in whole.service.status("team").runs if r.kind == "reward"] == ["cancelled"]
        assert whole.service.status("team").steps[2].state == "attention"
        whole.environment = {}
        whole.restart()
        whole.service.retry(run.id)
        whole.wait_for_round("reviewing")
        with pytest.raises(ConflictError):
            whole.service.retry(run.id)
    finally:
        whole.service.stop()


def test_unknown_names_are_errors(whole: Whole) -> None:
    with pytest.raises(NotFoundInStoreError):
        whole.service.status("nobody")
    with pytest.raises(NotFoundInStoreError):
        whole.service.cancel("reward-00000000")
    with pytest.raises(NotFoundInStoreError):
        whole.service.promote("team", "policy-team-9", "")
    assert not whole.service.owns_project(4711)


def test_settings_shown_hold_no_secret_and_the_workspaces_own(whole: Whole) -> None:
    with whole.service.store.session() as session:
        from backend import store

        store.workspace(session, "team").settings = {"gate_accuracy": 0.7, "password": "x", "data_dir": "/"}
    shown = whole.service.settings_of("team")
    assert shown["gate_accuracy"] == 0.7
    assert shown["data_dir"] == whole.settings.data_dir
    assert not {"password", "label_studio_api_key", "webhook_secret", "database_url"} & set(shown)


def test_frozen_label_studio_is_told_of_while_the_request_waits(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.service.SILENT_S", 0.2)
    whole.label_studio.answers.clear()
    try:
        whole.wait(lambda: "has not answered for" in whole.service.check_label_studio())
    finally:
        whole.label_studio.answers.set()
    whole.wait(lambda: whole.service.check_label_studio() == "")
