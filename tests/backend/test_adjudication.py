"""The tasks that divide the team, as Label Studio shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import label_config
from backend.adjudication import MOST_MARKED, TAB, mark_contested
from backend.annotations import ranking_task_data
from backend.errors import UnreachableError
from backend.label_studio import LabelStudioClient
from backend.reconcile import Changes, reconcile
from backend.store import Store
from backend.tables import PromptRow, ResponseRow, WorkspaceRow
from tests.fake_label_studio import TOKEN, FakeLabelStudio, ranking_result


class Team:
    """A fake Label Studio with a ranking project, and a store that follows it."""

    def __init__(self) -> None:
        self.fake = FakeLabelStudio()
        self.client = LabelStudioClient(self.fake.url, TOKEN, transport=self.fake.transport(), backoff_s=0)
        self.store = Store("sqlite://")
        self.store.create_all()
        made = {
            kind: self.client.create_project(title=kind, label_config=label_config.read(kind))["id"]
            for kind in ("prompts", "ranking", "review")
        }
        self.project = made["ranking"]
        with self.store.session() as session:
            fields = {f"{kind}_project": project for kind, project in made.items()}
            session.add(WorkspaceRow(id="team", title="Team", **fields))

    def task(self, name: str) -> int:
        """A published task of ours with the answers `name1`, `name2` and `name3`."""
        ids = [f"{name}{n}" for n in (1, 2, 3)]
        data = ranking_task_data("?", [(key, key) for key in ids], source_key=f"ranking:{name}")
        task = self.fake.add_task(self.project, data)
        with self.store.session() as session:
            session.add_all(
                ResponseRow(id=key, workspace="team", prompt_id=name, text=key, policy="base") for key in ids
            )
            session.add(
                PromptRow(
                    workspace="team", prompt_id=name, text=name, split="train", state="published",
                    ranking_task=task,
                )
            )  # fmt: skip
        return task

    def rank(self, task: int, *orders: str) -> None:
        """One order a person, in the places of the answers: `321` is the third answer first."""
        for user, order in enumerate(orders, start=10):
            ids = [answer["id"] for answer in self.fake.task_rows[task]["data"]["answers"]]
            self.fake.annotate(task, ranking_result(*(ids[int(n) - 1] for n in order)), user=user)

    def look(self) -> Changes:
        return reconcile(self.store, self.client, "team", full=False)

    def mark(self, *, one_more: bool = False) -> int:
        return mark_contested(self.store, self.client, "team", one_more=one_more)

    def marks(self) -> dict[int, Any]:
        rows = self.fake.task_rows.items()
        return {task: row["data"]["disagreement"] for task, row in rows if "disagreement" in row["data"]}

    def writes(self) -> list[tuple[str, str]]:
        return [request for request in self.fake.requests if request[0] != "GET"]


@pytest.fixture
def team() -> Iterator[Team]:
    made = Team()
    yield made
    made.client.close()
    made.store.close()


def test_tasks_on_which_people_disagree_more_than_they_agree_are_marked(team: Team) -> None:
    opposed, near, alike, alone = (team.task(name) for name in "abcd")
    team.rank(opposed, "123", "321")
    team.rank(near, "123", "213")
    team.rank(alike, "123", "123")
    team.rank(alone, "123")
    team.look()
    before = team.fake.task_rows[opposed]["data"]
    assert team.mark() == 1
    assert team.marks() == {opposed: 100}
    assert team.fake.task_rows[opposed]["data"] == {**before, "disagreement": 100}
    assert "overlap" not in team.fake.task_rows[opposed]  # it is shown, not sent on


def test_marking_changes_none_of_our_rows(team: Team) -> None:
    task = team.task("a")
    team.rank(task, "123", "321")
    assert team.look().rankings == 2
    team.mark(one_more=True)
    assert not team.look()


def test_marking_again_writes_nothing(team: Team) -> None:
    task = team.task("a")
    team.rank(task, "123", "321")
    team.look()
    team.mark()
    written = len(team.writes())
    assert team.mark() == 1
    assert len(team.writes()) == written


def test_a_mark_goes_when_the_team_has_agreed(team: Team) -> None:
    task = team.task("a")
    team.rank(task, "123", "321")
    team.look()
    team.mark()
    for annotation in list(team.fake.annotation_rows):
        team.fake.edit(annotation, ranking_result("a1", "a2", "a3"))
    team.look()
    assert team.mark() == 0
    assert team.marks() == {}
    assert team.fake.task_rows[task]["data"]["answers"]


def test_one_tab_shows_the_marked_tasks_with_the_most_divisive_first(team: Team) -> None:
    team.mark()
    assert team.fake.tab_rows == {}  # nothing to show
    for name in "ab":
        team.rank(team.task(name), "123", "321")
        team.look()
        team.mark()
    (tab,) = team.fake.tab_rows.values()
    assert tab["data"]["title"] == TAB
    assert tab["data"]["ordering"] == ["-tasks:data.disagreement"]
    assert "tasks:data.answers" in tab["data"]["hiddenColumns"]["explore"]


def test_sending_on_asks_for_one_person_more_than_have_ranked(team: Team) -> None:
    two, three, agreed = (team.task(name) for name in "abc")
    team.rank(two, "123", "321")
    team.rank(three, "123", "231", "312")
    team.rank(agreed, "123", "123")
    team.look()
    team.mark()
    for _ in range(2):  # doing it twice asks for no more
        assert team.mark(one_more=True) == 2
        asked = {
            task: (row.get("overlap"), row.get("is_labeled")) for task, row in team.fake.task_rows.items()
        }
        assert asked == {two: (3, False), three: (4, False), agreed: (None, None)}


def test_the_most_divisive_are_marked_where_there_are_many(team: Team) -> None:
    for number in range(MOST_MARKED):
        team.rank(team.task(f"x{number}-"), "123", "312")  # a third of the pairs agree
    worst = team.task("worst-")
    team.rank(worst, "123", "321")
    team.look()
    assert team.mark() == MOST_MARKED
    assert team.marks()[worst] == 100


def test_a_deleted_task_is_no_obstacle(team: Team) -> None:
    gone, kept = team.task("a"), team.task("b")
    team.rank(gone, "123", "321")
    team.rank(kept, "123", "321")
    team.look()
    team.fake.remove_task(gone)
    assert team.mark() == 1
    assert team.marks() == {kept: 100}


def test_without_label_studio_it_says_so(team: Team) -> None:
    team.fake.up = False
    with pytest.raises(UnreachableError):
        team.mark()
