"""The tasks that divide the team, as Label Studio shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from backend.adjudication import MOST_MARKED, TAB, mark_contested, send_on
from backend.errors import UnreachableError
from tests.backend.team import Team
from tests.fake_label_studio import ranking_result


@pytest.fixture
def team() -> Iterator[Team]:
    made = Team()
    yield made
    made.client.close()
    made.store.close()


def mark(team: Team) -> int:
    return mark_contested(team.store, team.client, "team")


def marks(team: Team) -> dict[int, Any]:
    rows = team.fake.task_rows.items()
    return {task: row["data"]["disagreement"] for task, row in rows if "disagreement" in row["data"]}


def send(team: Team) -> int:
    return send_on(team.store, team.client, team.settings, "team")


def test_tasks_on_which_people_disagree_more_than_they_agree_are_marked(team: Team) -> None:
    opposed, near, alike, alone = (team.task(name) for name in "abcd")
    team.rank(opposed, "123", "321")
    team.rank(near, "123", "213")
    team.rank(alike, "123", "123")
    team.rank(alone, "123")
    team.look()
    before = team.fake.task_rows[opposed]["data"]
    assert mark(team) == 1
    assert marks(team) == {opposed: 100}
    assert team.fake.task_rows[opposed]["data"] == {**before, "disagreement": 100}
    assert team.served(opposed) == [None]  # it is shown, not sent on


def test_marking_changes_none_of_our_rows(team: Team) -> None:
    task = team.task("a")
    team.rank(task, "123", "321")
    assert team.look().rankings == 2
    send(team)
    assert not team.look()


def test_marking_again_writes_nothing(team: Team) -> None:
    task = team.task("a")
    team.rank(task, "123", "321")
    team.look()
    mark(team)
    written = len(team.writes())
    assert mark(team) == 1
    assert len(team.writes()) == written


def test_a_mark_goes_when_the_team_has_agreed(team: Team) -> None:
    task = team.task("a")
    team.rank(task, "123", "321")
    team.look()
    mark(team)
    for annotation in list(team.fake.annotation_rows):
        team.fake.edit(annotation, ranking_result("a1", "a2", "a3"))
    team.look()
    assert mark(team) == 0
    assert marks(team) == {}
    assert team.fake.task_rows[task]["data"]["answers"]


def test_one_tab_shows_the_marked_tasks_with_the_most_divisive_first(team: Team) -> None:
    mark(team)
    assert team.fake.tab_rows == {}  # nothing to show
    for name in "ab":
        team.rank(team.task(name), "123", "321")
        team.look()
        mark(team)
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
    mark(team)
    for _ in range(2):  # doing it twice asks for no more
        assert send(team) == 2
        assert team.served(two, three, agreed) == [(3, True), (4, True), None]


def test_the_most_divisive_are_marked_where_there_are_many(team: Team) -> None:
    for number in range(MOST_MARKED):
        team.rank(team.task(f"x{number}-"), "123", "312")  # a third of the pairs agree
    worst = team.task("worst-")
    team.rank(worst, "123", "321")
    team.look()
    assert mark(team) == MOST_MARKED
    assert marks(team)[worst] == 100


def test_a_deleted_task_is_no_obstacle(team: Team) -> None:
    gone, kept = team.task("a"), team.task("b")
    team.rank(gone, "123", "321")
    team.rank(kept, "123", "321")
    team.look()
    team.fake.remove_task(gone)
    assert mark(team) == 1
    assert marks(team) == {kept: 100}


def test_without_label_studio_it_says_so(team: Team) -> None:
    team.fake.up = False
    with pytest.raises(UnreachableError):
        mark(team)
