"""How many people Label Studio asks to rank a task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend import overlap
from backend.adjudication import send_on
from backend.errors import UnreachableError
from backend.exclusions import exclude, include
from tests.backend.team import Team


@pytest.fixture
def team() -> Iterator[Team]:
    made = Team()
    yield made
    made.client.close()
    made.store.close()


def serve(team: Team) -> int:
    team.look()
    return overlap.serve(team.store, team.client, team.settings, "team")


def take_out(team: Team, *annotators: int) -> None:
    with team.store.session() as session:
        for annotator in annotators:
            exclude(session, "team", annotator, "")


def take_back(team: Team, annotator: int) -> None:
    with team.store.session() as session:
        include(session, "team", annotator)


def test_tasks_that_only_an_excluded_person_ranked_are_served_until_that_is_undone(team: Team) -> None:
    alone, shared, untouched = (team.task(name) for name in "abc")
    team.rank(alone, "123")
    team.rank(shared, "123", "123")
    assert serve(team) == 0
    take_out(team, 10)
    assert serve(team) == 1
    assert team.served(alone, shared, untouched) == [(2, True), None, None]
    assert serve(team) == 0  # once is enough
    take_back(team, 10)
    assert serve(team) == 1
    assert team.served(alone, shared, untouched) == [(1, False), None, None]
    assert len(team.fake.annotation_rows) == 3  # nobody's work is deleted


def test_every_excluded_person_is_replaced(team: Team) -> None:
    team.settings = team.two_each()
    task, third = team.task("a"), team.task("b")
    team.rank(task, "123", "123")
    team.rank(third, "123", "123", "123")
    serve(team)
    take_out(team, 10, 11)
    serve(team)
    assert team.served(task, third) == [(4, True), (4, True)]
    take_back(team, 10)
    serve(team)
    assert team.served(task, third) == [(4, True), (3, False)]  # the first is open either way
    team.rank_as(13, task, "123")
    serve(team)
    assert team.served(task) == [(3, False)]


def test_task_ranked_by_someone_else_meanwhile_is_left_alone(team: Team) -> None:
    task = team.task("a")
    team.rank(task, "123")
    team.look()
    take_out(team, 10)
    serve(team)
    team.rank_as(11, task, "321")
    assert serve(team) == 0
    take_back(team, 10)
    assert serve(team) == 0


def test_task_that_an_excluded_person_ranks_later_is_served_again(team: Team) -> None:
    first, second = team.task("a"), team.task("b")
    team.rank(first, "123")
    team.look()
    take_out(team, 10)
    serve(team)
    team.rank_as(10, second, "321")
    assert serve(team) == 1
    assert team.served(second) == [(2, True)]


def test_skipped_task_is_left_to_label_studio(team: Team) -> None:
    first, skipped = team.task("a"), team.task("b")
    team.rank(first, "123")
    team.fake.annotate(skipped, [], user=10, was_cancelled=True)
    team.look()
    take_out(team, 10)
    serve(team)
    assert team.served(skipped) == [None]


def test_task_that_was_sent_on_stays_so_when_an_exclusion_is_undone(team: Team) -> None:
    team.settings = team.two_each()
    task = team.task("a")
    team.rank(task, "123", "321")
    team.look()
    assert send_on(team.store, team.client, team.settings, "team") == 1
    assert team.served(task) == [(3, True)]
    take_out(team, 10)
    serve(team)  # one that counts and two more are wanted; Label Studio asks for one, and then again
    team.rank_as(12, task, "321")
    serve(team)
    assert team.served(task) == [(4, True)]
    take_back(team, 10)
    serve(team)
    assert team.served(task) == [(3, False)]


def test_interrupted_telling_goes_on_where_it_was(team: Team) -> None:
    tasks = [team.task(name) for name in "ab"]
    for task in tasks:
        team.rank(task, "123")
    team.look()
    take_out(team, 10)
    team.fake.up = False
    with pytest.raises(UnreachableError):
        overlap.serve(team.store, team.client, team.settings, "team")
    team.fake.up = True
    assert serve(team) == 2
    assert team.served(*tasks) == [(2, True), (2, True)]


def test_deleted_task_is_no_obstacle(team: Team) -> None:
    gone, kept = team.task("a"), team.task("b")
    for task in (gone, kept):
        team.rank(task, "123")
    team.look()
    take_out(team, 10)
    team.fake.remove_task(gone)
    serve(team)
    assert team.served(kept) == [(2, True)]
