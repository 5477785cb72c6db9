"""Our rows against what Label Studio holds, whatever was lost, repeated or reordered on the way."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select

from backend import people
from backend import store as queries
from backend.annotations import ranking_task_data, review_source_key, review_task_data
from backend.errors import NotFoundError, NotFoundInStoreError, UnauthorisedError, UnreachableError
from backend.inputs import prompt_record
from backend.reconcile import reconcile
from backend.tables import ComparisonRow, JudgementRow, PromptRow, RankingRow, ResponseRow
from tests.backend.team import Followed
from tests.fake_label_studio import ranking_result, verdict_result
from trainers.preferences import prompt_id


class World(Followed):
    """With tasks of all three projects."""

    def ranking_task(self, name: str = "x") -> int:
        """A task of ours with the answers `x1` and `x2`."""
        ids = [f"{name}1", f"{name}2"]
        with self.store.session() as session:
            session.add_all(
                ResponseRow(id=key, workspace="team", prompt_id=f"p-{name}", text=key, policy="base")
                for key in ids
            )
        data = ranking_task_data("?", [(key, key) for key in ids], source_key=f"ranking:{name}")
        return self.fake.add_task(self.ranking, data)

    def review_task(self, name: str, *, after_side: str, noted: bool = True) -> int:
        key = review_source_key("team", name)
        task = self.fake.add_task(self.review, review_task_data("?", "l", "r", source_key=key))
        with self.store.session() as session:
            session.add(
                ComparisonRow(
                    id=name, workspace="team", round_id="team-r1", prompt_id="p", prompt="?", seen=True,
                    before="b", after="a", after_side=after_side, review_task=task if noted else None,
                )
            )  # fmt: skip
        return task

    def rankings(self) -> dict[int, RankingRow]:
        with self.store.reading() as session:
            return {row.annotation_id: row for row in session.scalars(select(RankingRow))}

    def judgements(self) -> dict[int, JudgementRow]:
        with self.store.reading() as session:
            return {row.annotation_id: row for row in session.scalars(select(JudgementRow))}

    def prompt_rows(self) -> dict[str, PromptRow]:
        with self.store.reading() as session:
            return {row.text: row for row in queries.prompts(session, "team")}

    def problems(self) -> dict[str, int]:
        with self.store.reading() as session:
            return {p["id"]: p["count"] for p in queries.workspace(session, "team").problems}

    def dataset_hash(self) -> str:
        with self.store.reading() as session:
            return queries.dataset_hash(session, "team")

    def close(self) -> None:
        self.client.close()
        self.store.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


# --- prompts ---


def test_imported_prompts_become_new_rows_with_a_split(world: World) -> None:
    first = world.fake.add_task(world.prompts, {"prompt": "  你好 "})
    world.fake.add_task(world.prompts, {"$undefined$": "How are you?"})
    assert world.look().prompts == 2
    row = world.prompt_rows()["你好"]
    assert (row.prompt_id, row.source_task, row.state) == (prompt_id("你好"), first, "new")
    assert row.split in ("train", "verification", "unseen")


def test_conversation_is_a_prompt_with_what_was_said_before(world: World) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    world.fake.add_task(
        world.prompts, {"prompt": "And?", "system": "Be brief.", "history": json.dumps(turns)}
    )
    world.fake.add_task(world.prompts, {"prompt": "Why?", "history": "Hi; Hello!"})
    world.look()
    asked = prompt_record(world.prompt_rows()["And?"])
    assert asked.system == "Be brief."
    assert [turn.to_json() for turn in asked.history] == turns
    assert world.problems() == {"bad_history": 1}


def test_looking_again_changes_nothing(world: World) -> None:
    world.fake.add_task(world.prompts, {"prompt": "a"})
    world.fake.annotate(world.ranking_task(), ranking_result("x2", "x1"))
    assert world.look()
    assert not world.look()
    assert not world.look(full=True)


def test_unusable_prompts_are_reported_and_the_others_used(world: World) -> None:
    for data in (
        {"prompt": "a"},
        {"prompt": "a "},
        {"prompt": ""},
        {"question": "b"},
        {"prompt": "x" * 5000},
    ):
        world.fake.add_task(world.prompts, data)
    for _ in range(3):
        world.look()
        assert list(world.prompt_rows()) == ["a"]
        assert world.problems() == {"duplicate": 1, "empty": 1, "missing_column": 1, "too_long": 1}
    world.look(full=True)
    assert world.problems() == {"duplicate": 1, "empty": 1, "missing_column": 1, "too_long": 1}


def test_problem_ends_when_its_task_is_mended_or_deleted(world: World) -> None:
    wrong = world.fake.add_task(world.prompts, {"question": "b"})
    empty = world.fake.add_task(world.prompts, {"prompt": ""})
    world.look()
    world.fake.task_rows[wrong].update(data={"prompt": "b"}, updated_at=world.fake.tick())
    world.look()
    assert world.problems() == {"empty": 1}
    world.fake.remove_task(empty)
    world.look(full=True)
    assert world.problems() == {}


def test_same_import_twice_makes_no_second_row(world: World) -> None:
    for _ in range(2):
        for text in ("a", "b"):
            world.fake.add_task(world.prompts, {"prompt": text})
        world.look()
    assert sorted(world.prompt_rows()) == ["a", "b"]
    assert world.problems() == {"duplicate": 2}


def test_more_prompts_than_the_limit_are_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.prompt_rows.MAX_PROMPTS", 3)
    for number in range(10):
        world.fake.add_task(world.prompts, {"prompt": f"prompt {number}"})
    world.look()
    assert sorted(world.prompt_rows()) == ["prompt 0", "prompt 1", "prompt 2"]
    assert world.problems() == {"too_many": 7}


def test_number_of_problems_stays_true_beyond_the_tasks_that_are_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.prompt_rows.MAX_PROBLEM_TASKS", 3)
    for _ in range(10):
        world.fake.add_task(world.prompts, {"prompt": ""})
    for full in (True, False, False, True):
        world.look(full=full)
        assert world.problems() == {"empty": 10}


def test_problem_is_told_with_its_number_and_tasks(world: World) -> None:
    first, second = (world.fake.add_task(world.prompts, {"prompt": ""}) for _ in range(2))
    world.look()
    with world.store.reading() as session:
        (problem,) = queries.workspace(session, "team").problems
    assert problem["zh"] == f"2 条内容为空，已跳过（任务 {first}、{second}）。"
    assert problem["en"] == f"2 empty, skipped (task {first}, {second})."


def test_deleted_prompt_is_noticed_by_a_full_pass_and_can_come_back(world: World) -> None:
    task = world.fake.add_task(world.prompts, {"prompt": "a"})
    world.look()
    world.fake.remove_task(task)
    assert not world.look()
    assert world.look(full=True).prompts == 1
    assert world.prompt_rows()["a"].state == "deleted"
    again = world.fake.add_task(world.prompts, {"prompt": "a"})
    world.look(full=True)
    assert (world.prompt_rows()["a"].state, world.prompt_rows()["a"].source_task) == ("new", again)


def test_prompt_lives_on_while_a_twin_of_its_task_does(world: World) -> None:
    first, second = (world.fake.add_task(world.prompts, {"prompt": "a"}) for _ in range(2))
    world.look()
    world.fake.remove_task(first)
    world.look(full=True)
    row = world.prompt_rows()["a"]
    assert (row.state, row.source_task, world.problems()) == ("new", second, {})


def test_prompt_that_did_not_come_from_the_project_is_never_deleted(world: World) -> None:
    with world.store.session() as session:
        session.add(PromptRow(workspace="team", prompt_id="p1", text="own", split="train"))
    world.look(full=True)
    assert world.prompt_rows()["own"].state == "new"


# --- rankings ---


def test_ranking_is_stored_with_what_it_says(world: World) -> None:
    task = world.ranking_task()
    key = world.fake.annotate(task, ranking_result("x2", "x1", choice="close"), user=4, lead_time=7.0)
    assert world.look().rankings == 1
    row = world.rankings()[key]
    assert (row.state, row.order, row.close, row.all_bad) == ("active", [["x2"], ["x1"]], True, False)
    assert (row.prompt_id, row.annotator, row.task, row.lead_time) == ("p-x", 4, task, 7.0)


def test_annotators_get_their_names_and_keep_none_that_label_studio_does_not_know(world: World) -> None:
    def shown() -> list[str]:
        with world.store.reading() as session:
            return [people.shown(number, people.names(session)) for number in (1, 4)]

    for user in (1, 4):
        world.fake.annotate(world.ranking_task(f"of{user}"), ranking_result("x2", "x1"), user=user)
    world.look()
    assert shown() == ["user1@example.com (#1)", "#4"]
    asked = len(world.fake.requests)
    world.look()
    assert "/api/users" not in [path for _, path in world.fake.requests[asked:]]  # 4 is not asked for again
    world.fake.names[1] = ("Lin", "Wang")
    world.look()
    assert shown()[0] == "user1@example.com (#1)"
    world.look(full=True)
    assert shown() == ["Lin Wang (#1)", "#4"]


def test_names_that_may_not_be_read_hold_nothing_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise UnauthorisedError("not for you")

    monkeypatch.setattr(world.client, "users", refuse)
    key = world.fake.annotate(world.ranking_task(), ranking_result("x2", "x1"))
    assert world.look(full=True).rankings == 1
    assert world.rankings()[key].state == "active"


def test_edit_replaces_what_it_said(world: World) -> None:
    key = world.fake.annotate(world.ranking_task(), ranking_result("x2", "x1"))
    world.look()
    before = world.dataset_hash()
    world.fake.edit(key, ranking_result("x1", "x2"))
    assert world.look().rankings == 1
    assert world.rankings()[key].order == [["x1"], ["x2"]]
    assert world.dataset_hash() != before


def test_newest_of_one_person_counts_and_each_person_counts(world: World) -> None:
    task = world.ranking_task()
    old = world.fake.annotate(task, ranking_result("x2", "x1"), user=1)
    other = world.fake.annotate(task, ranking_result("x2", "x1"), user=2)
    new = world.fake.annotate(task, ranking_result("x1", "x2"), user=1)
    world.look()
    assert {k: row.state for k, row in world.rankings().items()} == {
        old: "superseded", other: "active", new: "active",
    }  # fmt: skip


def test_empty_second_try_does_not_displace_the_ranking(world: World) -> None:
    task = world.ranking_task()
    good = world.fake.annotate(task, ranking_result("x2", "x1"))
    empty = world.fake.annotate(task, [])
    world.look()
    assert {k: row.state for k, row in world.rankings().items()} == {good: "active", empty: "malformed"}


def test_skip_after_a_ranking_takes_it_back(world: World) -> None:
    task = world.ranking_task()
    ranked = world.fake.annotate(task, ranking_result("x2", "x1"))
    skipped = world.fake.annotate(task, [], was_cancelled=True)
    world.look()
    assert {k: row.state for k, row in world.rankings().items()} == {
        ranked: "superseded", skipped: "cancelled",
    }  # fmt: skip


def test_rankings_of_deleted_accounts_do_not_displace_each_other(world: World) -> None:
    task = world.ranking_task()
    for _ in range(2):
        world.fake.annotate(task, ranking_result("x2", "x1"), user=None)
    world.look()
    assert [row.state for row in world.rankings().values()] == ["active", "active"]


def test_deleted_ranking_is_noticed_at_once_and_the_older_one_counts_again(world: World) -> None:
    task = world.ranking_task()
    old = world.fake.annotate(task, ranking_result("x2", "x1"))
    new = world.fake.annotate(task, ranking_result("x1", "x2"))
    world.look()
    world.fake.remove_annotation(new)
    world.look()
    assert {k: row.state for k, row in world.rankings().items()} == {old: "active", new: "deleted"}


def test_deleted_task_takes_its_rankings_along_at_the_next_full_pass(world: World) -> None:
    task = world.ranking_task()
    key = world.fake.annotate(task, ranking_result("x2", "x1"))
    world.look()
    world.fake.remove_task(task)
    world.look(full=True)
    assert world.rankings()[key].state == "deleted"


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"prompt": "?"},
        ranking_task_data("?", [("z1", "a"), ("z2", "b")], source_key="k"),
        ranking_task_data("?", [("x1", "a"), ("y1", "b")], source_key="k"),  # of two prompts
    ],
)
def test_ranking_of_a_task_that_is_not_ours_is_malformed(world: World, data: Any) -> None:
    world.ranking_task("x")
    world.ranking_task("y")
    key = world.fake.annotate(world.fake.add_task(world.ranking, data), ranking_result("x1", "y1"))
    world.look()
    assert (world.rankings()[key].state, bool(world.rankings()[key].reason)) == ("malformed", True)


def test_late_answer_of_label_studio_does_not_undo_a_newer_one(world: World) -> None:
    task = world.ranking_task()
    key = world.fake.annotate(task, ranking_result("x2", "x1"))
    earlier = dict(world.fake.annotation_rows[key])
    world.fake.edit(key, ranking_result("x1", "x2"))
    world.look()
    world.fake.annotation_rows[key] = earlier
    world.look(full=True)
    assert world.rankings()[key].order == [["x1"], ["x2"]]


# --- judgements ---


@pytest.mark.parametrize(
    ("side", "choice", "verdict"),
    [
        ("left", "left", "after"),
        ("left", "right", "before"),
        ("right", "right", "after"),
        ("left", "tie", "tie"),
    ],
)
def test_judgement_is_told_by_the_side_that_only_we_know(
    world: World, side: str, choice: str, verdict: str
) -> None:
    key = world.fake.annotate(world.review_task("c1", after_side=side), verdict_result(choice), user=3)
    assert world.look().judgements == 1
    row = world.judgements()[key]
    assert (row.verdict, row.reviewer, row.comparison_id, row.state) == (verdict, 3, "c1", "active")


def test_judgement_of_a_task_whose_id_we_could_not_note_is_found(world: World) -> None:
    task = world.review_task("c1", after_side="left", noted=False)
    key = world.fake.annotate(task, verdict_result("left"))
    world.look()
    assert world.judgements()[key].verdict == "after"


def test_empty_skipped_and_foreign_judgements_do_not_count(world: World) -> None:
    task = world.review_task("c1", after_side="left")
    empty = world.fake.annotate(task, [], user=1)
    skipped = world.fake.annotate(task, [], user=2, was_cancelled=True)
    foreign = world.fake.add_task(world.review, review_task_data("?", "a", "b", source_key="review:x:c1"))
    world.fake.annotate(foreign, verdict_result("left"))
    world.look()
    assert {k: row.state for k, row in world.judgements().items()} == {
        empty: "malformed", skipped: "cancelled",
    }  # fmt: skip


# --- Label Studio away, or not ours ---


def test_nothing_is_missed_while_label_studio_was_away(world: World) -> None:
    world.look()
    world.fake.up = False
    key = world.fake.annotate(world.ranking_task(), ranking_result("x2", "x1"))
    for _ in range(100):
        world.fake.tick()  # longer than the margin
    with pytest.raises(UnreachableError):
        world.look()
    world.fake.up = True
    world.look()
    assert world.rankings()[key].state == "active"


def test_change_that_was_committed_late_is_still_seen(world: World) -> None:
    """Label Studio sets the time when it begins to write; until it commits, no look finds the change."""
    key = world.fake.annotate(world.ranking_task(), ranking_result("x2", "x1"))
    uncommitted = world.fake.annotation_rows.pop(key)
    for _ in range(30):
        world.fake.tick()
    world.look()
    world.fake.annotation_rows[key] = uncommitted
    world.look()
    assert world.rankings()[key].state == "active"


def test_deleted_project_is_an_error_and_deletes_no_row(world: World) -> None:
    key = world.fake.annotate(world.ranking_task(), ranking_result("x2", "x1"))
    world.look()
    del world.fake.project_rows[world.ranking]
    with pytest.raises(NotFoundError):
        world.look(full=True)
    assert world.rankings()[key].state == "active"


def test_unknown_workspace_is_an_error(world: World) -> None:
    with pytest.raises(NotFoundInStoreError):
        reconcile(world.store, world.client, "other", full=False)


# --- any order, repetition or loss ---


class Reordered(RuleBasedStateMachine):
    """People annotate; two backends look at different moments and in different ways.

    Whatever was looked at and when, after a last full look both hold the same dataset, and it is the one that
    follows from Label Studio's annotations alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.annotations: list[int] = []

    @initialize()
    def tasks(self) -> None:
        self.names = {self.world.ranking_task(name): name for name in "xyz"}

    @rule(at=st.integers(0, 2), user=st.integers(1, 3), swap=st.booleans(), kind=st.sampled_from("rrrts0"))
    def annotate(self, at: int, user: int, swap: bool, kind: str) -> None:
        task = list(self.names)[at]
        if task not in self.world.fake.task_rows:
            return
        ids = [f"{self.names[task]}{n}" for n in ((2, 1) if swap else (1, 2))]
        result = {"r": ranking_result(*ids), "t": ranking_result(choice="tie"), "s": [], "0": []}[kind]
        made = self.world.fake.annotate(task, result, user=user, was_cancelled=kind == "s")
        self.annotations.append(made)

    @rule(at=st.integers(0, 50), swap=st.booleans())
    def edit(self, at: int, swap: bool) -> None:
        if alive := [key for key in self.annotations if key in self.world.fake.annotation_rows]:
            key = alive[at % len(alive)]
            name = self.names[self.world.fake.annotation_rows[key]["task"]]
            self.world.fake.edit(key, ranking_result(*[f"{name}{n}" for n in ((2, 1) if swap else (1, 2))]))

    @rule(at=st.integers(0, 50))
    def delete(self, at: int) -> None:
        if alive := [key for key in self.annotations if key in self.world.fake.annotation_rows]:
            self.world.fake.remove_annotation(alive[at % len(alive)])

    @rule(at=st.integers(0, 2))
    def delete_task(self, at: int) -> None:
        if (task := list(self.names)[at]) in self.world.fake.task_rows:
            self.world.fake.remove_task(task)

    @rule(full=st.booleans(), times=st.integers(1, 2))
    def look(self, full: bool, times: int) -> None:
        for _ in range(times):
            self.world.look(full=full)

    @rule(seconds=st.integers(1, 200))
    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.world.fake.tick()

    @invariant()
    def partial_looks_never_hold_a_ranking_twice(self) -> None:
        active = [(r.task, r.annotator) for r in self.world.rankings().values() if r.state == "active"]
        assert len(active) == len(set(active))

    def teardown(self) -> None:
        self.world.look(full=True)
        fresh = World()
        try:
            for name in "xyz":
                fresh.ranking_task(name)
            fresh.fake, fresh.client = self.world.fake, self.world.client
            fresh.look(full=True)
            assert self.world.dataset_hash() == fresh.dataset_hash()
            assert self._active(self.world) == self._active(fresh) == self._expected()
        finally:
            fresh.store.close()
            self.world.close()

    @staticmethod
    def _active(world: World) -> set[int]:
        return {key for key, row in world.rankings().items() if row.state == "active"}

    def _expected(self) -> set[int]:
        """Straight from the rule: of each person and task the newest that is no blank, if it is no skip."""
        newest: dict[tuple[int, int], dict[str, Any]] = {}
        for row in sorted(self.world.fake.annotation_rows.values(), key=lambda row: row["updated_at"]):
            if row["result"] or row["was_cancelled"]:
                newest[row["task"], row["completed_by"]] = row
        return {row["id"] for row in newest.values() if not row["was_cancelled"]}


TestReordered = Reordered.TestCase
TestReordered.settings = hypothesis_settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_shuffled_listing_gives_the_same_rows(world: World) -> None:
    task = world.ranking_task()
    for user in (1, 2, 1, 2, 3):
        world.fake.annotate(task, ranking_result("x2", "x1"), user=user)
    world.look(full=True)
    before = {key: (row.state, row.order) for key, row in world.rankings().items()}
    rows = list(world.fake.annotation_rows.items())
    random.Random(0).shuffle(rows)
    world.fake.annotation_rows = dict(rows)
    assert not world.look(full=True)
    assert {key: (row.state, row.order) for key, row in world.rankings().items()} == before
