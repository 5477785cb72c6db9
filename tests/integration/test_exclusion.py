"""Whom a real Label Studio serves the tasks that an excluded person has ranked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from backend import overlap
from backend.annotations import ranking_task_data
from backend.exclusions import exclude, include
from backend.label_studio import LabelStudioClient
from backend.reconcile import reconcile
from backend.settings import Settings
from backend.store import Store
from backend.tables import PromptRow, ResponseRow
from scripts.accounts import Account, invitation, sign_up
from scripts.label_studio_server import LabelStudioServer
from scripts.setup_project import set_up_workspace
from tests.fake_label_studio import ranking_result

pytestmark = pytest.mark.integration


_names = (f"away{number}" for number in itertools.count(1))


class Place:
    """A workspace with three published tasks, and three people."""

    def __init__(self, label_studio: LabelStudioServer, directory: Path) -> None:
        self.name = next(_names)
        self.settings = Settings(
            label_studio_url=label_studio.url, label_studio_api_key=label_studio.token, password="a-password",
            webhook_secret="a-secret", data_dir=directory, backend_url="http://127.0.0.1:9",
        )  # fmt: skip
        self.client = LabelStudioClient.of(self.settings)
        self.project = set_up_workspace(self.settings, self.name).projects["ranking"]
        self.store = Store(self.settings.store_url)
        link = invitation(label_studio.url, label_studio.token)
        self.ann, self.ben, self.cleo = (
            sign_up(link, f"{name}-{self.name}@example.com", "a-long-password")
            for name in ("ann", "ben", "cleo")
        )
        data = [
            ranking_task_data(f"{key}?", [(f"{key}1", "one"), (f"{key}2", "two")], source_key=key)
            for key in "abc"
        ]
        self.tasks = self.client.import_tasks(self.project, data)
        with self.store.session() as session:
            for key, task in zip("abc", self.tasks, strict=True):
                session.add(
                    PromptRow(
                        workspace=self.name, prompt_id=key, text=key, split="train", state="published",
                        ranking_task=task,
                    )
                )  # fmt: skip
                for answer in (f"{key}1", f"{key}2"):
                    row = ResponseRow(id=answer, workspace=self.name, prompt_id=key, text="", policy="base")
                    session.add(row)

    def rank(self, person: Account, task: int) -> None:
        key = "abc"[self.tasks.index(task)]
        with LabelStudioClient(self.settings.label_studio_url, person.token) as client:
            client.create_annotation(task, ranking_result(f"{key}1", f"{key}2"), lead_time=9.0)

    def number_of(self, person: Account) -> int:
        return next(user["id"] for user in self.client.users() if user["email"] == person.email)

    def served(self, person: Account) -> int | None:
        """What the labeling page opens next; the SDK has no call for it."""
        answer = httpx.get(
            f"{self.settings.label_studio_url}/api/projects/{self.project}/next",
            headers={"Authorization": f"Token {person.token}"},
            timeout=60,
        )
        return int(answer.json()["id"]) if answer.status_code == 200 else None

    def look(self) -> int:
        """As the server does after every hint. Returns: how many tasks Label Studio was told of."""
        reconcile(self.store, self.client, self.name, full=False)
        return overlap.serve(self.store, self.client, self.settings, self.name)


@pytest.fixture
def place(label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[Place]:
    made = Place(label_studio, tmp_path)
    yield made
    made.client.close()
    made.store.close()


def test_only_what_an_excluded_person_ranked_alone_is_served_to_others_until_that_is_undone(
    place: Place,
) -> None:
    first, second, third = place.tasks
    for task in place.tasks:
        place.rank(place.ann, task)
    place.rank(place.ben, second)  # it has been ranked by someone who counts
    assert place.look() == 0
    assert [place.served(person) for person in (place.ann, place.ben, place.cleo)] == [None] * 3
    number = place.number_of(place.ann)
    with place.store.session() as session:
        assert exclude(session, place.name, number, "guesses") == 3
    assert place.look() == 2
    assert place.served(place.ann) is None
    mended = place.served(place.ben)
    assert mended in (first, third)
    place.rank(place.ben, mended)
    assert place.look() == 0
    left = third if mended == first else first
    assert place.served(place.ben) == left
    with place.store.session() as session:
        include(session, place.name, number)
    assert place.look() == 1
    assert [place.served(person) for person in (place.ann, place.ben, place.cleo)] == [None] * 3
    kept = {task["id"]: len(task["annotations"]) for task in place.client.tasks(place.project)}
    assert kept == {mended: 2, second: 2, left: 1}


def test_changed_number_of_rankings_reaches_every_task(place: Place) -> None:
    first, second, _ = place.tasks
    place.rank(place.ann, first)
    place.rank(place.ann, second)
    place.look()
    number = place.number_of(place.ann)
    with place.store.session() as session:
        exclude(session, place.name, number, "")
    assert place.look() == 2
    place.rank(place.ben, second)
    place.settings = replace(place.settings, rankings_per_task=2)
    assert "maximum_annotations" in " ".join(set_up_workspace(place.settings, place.name).notes)

    def asked() -> list[int]:
        tasks = place.client.sdk.tasks
        return [int(tasks.get(str(task)).overlap or 0) for task in place.tasks]

    assert asked() == [2, 2, 2]
    place.rank(place.cleo, second)
    assert place.look() == 0  # the first is open either way; of the second two count
    place.rank(place.ben, first)
    assert place.look() == 1
    assert asked() == [3, 2, 2]
