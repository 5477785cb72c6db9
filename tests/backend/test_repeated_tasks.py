"""Tasks that are served a second time: they measure their author and count for nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend import store as queries
from backend.label_studio import LabelStudioClient
from backend.overview import read_state
from backend.reconcile import reconcile
from backend.rounds import build_report
from backend.settings import Settings
from backend.store import Store
from backend.tables import PromptRow, ResponseRow, RoundRow, WorkspaceRow
from backend.writeback import WriteBack
from tests.fake_label_studio import TOKEN, FakeLabelStudio, ranking_result


class Team:
    """A fake Label Studio and a store whose prompts have answers and wait for their tasks."""

    def __init__(self, prompts: int) -> None:
        self.fake = FakeLabelStudio()
        self.client = LabelStudioClient(self.fake.url, TOKEN, transport=self.fake.transport(), backoff_s=0)
        self.store = Store("sqlite://")
        self.store.create_all()
        projects = [
            self.client.create_project(title=title)["id"] for title in ("prompts", "ranking", "review")
        ]
        with self.store.session() as session:
            fields = dict(
                zip(("prompts_project", "ranking_project", "review_project"), projects, strict=True)
            )
            session.add(WorkspaceRow(id="team", title="Team", **fields))
            for n in range(prompts):
                name = f"p{n}"
                session.add(
                    PromptRow(workspace="team", prompt_id=name, text=name, split="train", state="ready")
                )
                session.add_all(
                    ResponseRow(
                        id=f"{name}-{place}", workspace="team", prompt_id=name, text="x", policy="base",
                        position=place,
                    )
                    for place in range(3)
                )  # fmt: skip

    def publish(self, repeated: float) -> int:
        return WriteBack(self.store, self.client).publish_rankings("team", repeated)

    def tasks(self, kind: str) -> list[dict[str, Any]]:
        rows = self.fake.task_rows.values()
        return [row for row in rows if row["data"]["source_key"].startswith(f"{kind}:")]

    def rank(self, task: dict[str, Any], order: str, user: int) -> None:
        """`210` is the answer at place 2 of the first showing, then 1, then 0."""
        name = task["data"]["answers"][0]["id"].split("-")[0]
        self.fake.annotate(task["id"], ranking_result(*(f"{name}-{place}" for place in order)), user=user)

    def look(self) -> None:
        reconcile(self.store, self.client, "team", full=True)


@pytest.fixture
def team() -> Iterator[Team]:
    made = Team(prompts=4)
    yield made
    made.client.close()
    made.store.close()


def test_by_default_no_task_is_repeated(team: Team) -> None:
    assert Settings(label_studio_api_key=TOKEN).repeated_tasks == 0
    assert team.publish(0.0) == 4
    assert (len(team.tasks("ranking")), len(team.tasks("repeat"))) == (4, 0)


def test_a_repeat_shows_the_same_answers_the_other_way_round_after_all_first_tasks(team: Team) -> None:
    assert team.publish(1.0) == 4  # prompts, not tasks
    first, again = team.tasks("ranking"), team.tasks("repeat")
    assert max(task["id"] for task in first) < min(task["id"] for task in again)
    for one, other in zip(first, again, strict=True):
        assert other["data"]["prompt"] == one["data"]["prompt"]
        assert other["data"]["answers"] == one["data"]["answers"][::-1]
    with team.store.reading() as session:
        published = {prompt.ranking_task for prompt in queries.prompts(session, "team", "published")}
    assert published == {task["id"] for task in first}


def test_publishing_again_makes_no_twin(team: Team) -> None:
    team.publish(1.0)
    with team.store.session() as session:  # as if the process had ended before it could note the tasks
        for prompt in queries.prompts(session, "team"):
            prompt.state, prompt.ranking_task = "ready", None
    team.publish(1.0)
    assert len(team.fake.task_rows) == 8


def test_about_the_share_of_the_tasks_is_repeated_and_more_of_them_with_a_larger_share() -> None:
    chosen = []
    for share in (0.1, 0.3):
        team = Team(prompts=300)
        team.publish(share)
        chosen.append({task["data"]["prompt"] for task in team.tasks("repeat")})
    assert 15 <= len(chosen[0]) <= 45 and 65 <= len(chosen[1]) <= 115
    assert chosen[0] < chosen[1]


def test_a_repeat_is_no_second_opinion(team: Team) -> None:
    team.publish(1.0)
    team.rank(team.tasks("ranking")[0], "012", user=7)
    team.look()
    settings = Settings(label_studio_api_key=TOKEN, rankings_per_task=2)

    def seen() -> tuple[Any, ...]:
        with team.store.reading() as session:
            active = [row.annotation_id for row in queries.active_rankings(session, "team")]
            state = read_state(session, settings, "team")
            return active, queries.dataset_hash(session, "team"), queries.new_rankings(session, "team"), state

    before = seen()
    team.rank(team.tasks("repeat")[0], "210", user=7)
    team.rank(team.tasks("repeat")[1], "210", user=8)  # who never saw the first
    team.look()
    assert seen() == before
    with team.store.reading() as session:
        assert len(queries.repeated_rankings(session, "team")) == 2


def test_skipped_and_unreadable_repeats_stay_what_they_are(team: Team) -> None:
    team.publish(1.0)
    skipped, empty, twice = (task["id"] for task in team.tasks("repeat")[:3])
    team.fake.annotate(skipped, [], user=7, was_cancelled=True)
    team.fake.annotate(empty, ranking_result("p1-0"), user=7)
    team.rank(team.fake.task_rows[twice], "012", user=7)
    team.rank(team.fake.task_rows[twice], "210", user=7)
    team.look()
    with team.store.reading() as session:
        (row,) = queries.repeated_rankings(session, "team")
    assert row.order == [["p2-2"], ["p2-1"], ["p2-0"]]  # the newer one


def test_report_says_how_far_people_agree_with_themselves(team: Team, tmp_path: Path) -> None:
    team.publish(1.0)
    for first, again, orders in zip(
        team.tasks("ranking"), team.tasks("repeat"), ("012 012", "012 210", "012 021", "012 012"), strict=True
    ):
        one, other = orders.split()
        team.rank(first, one, user=7)
        team.rank(again, other, user=8 if first is team.tasks("ranking")[3] else 7)
    team.look()
    with team.store.session() as session:
        session.add(RoundRow(id="team-r1", workspace="team", number=1))
    with team.store.reading() as session:
        current = queries.round_by_id(session, "team-r1")
        report = build_report(session, Settings(label_studio_api_key=TOKEN, data_dir=tmp_path), current)
    shown = {en: value for _, en, value in report.data}["the same person again"]
    # 3 + 0 + 2 of 9 judgements, τ 1, −1, ⅓; the fourth was ranked by two people
    assert shown == "56%, τ 0.11 (3 题 prompts); #7: 56%, τ 0.11, 3 题 prompts"
