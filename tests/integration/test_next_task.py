"""Which task a real Label Studio opens for an annotator after a reward model was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.annotations import ranking_task_data
from backend.label_studio import LabelStudioClient
from backend.settings import Settings
from backend.store import Store
from backend.tables import PromptRow, ResponseRow
from backend.writeback import WriteBack
from scripts.accounts import invitation, sign_up
from scripts.label_studio_server import LabelStudioServer
from scripts.setup_project import set_up_workspace
from tests.fake_label_studio import ranking_result

pytestmark = pytest.mark.integration

GAPS: Mapping[str, float] = {"d": 2.0, "a": 0.1, "f": 6.0, "b": 0.5, "e": 4.0, "c": 1.0}
"""How far apart the reward model puts the two answers of each prompt."""
BY_PLACE = sorted(GAPS)


@pytest.fixture
def place(label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[Place]:
    made = Place(label_studio, tmp_path)
    yield made
    made.client.close()
    made.store.close()


class Place:
    """A workspace with ranking tasks whose answers have scores, and one task without."""

    def __init__(self, label_studio: LabelStudioServer, directory: Path) -> None:
        settings = Settings(
            label_studio_url=label_studio.url, label_studio_api_key=label_studio.token, password="a-password",
            webhook_secret="a-secret", data_dir=directory, backend_url="http://127.0.0.1:9",
        )  # fmt: skip
        self.url = label_studio.url
        self.client = LabelStudioClient.of(settings)
        self.project = set_up_workspace(settings, "next").projects["ranking"]
        self.store = Store(settings.store_url)
        keys = [*GAPS, "new"]
        data = [
            ranking_task_data(f"{key}?", _answers(key), source_key=f"ranking:next:1:{key}") for key in keys
        ]
        self.tasks = dict(zip(keys, self.client.import_tasks(self.project, data), strict=True))
        with self.store.session() as session:
            for key, task in self.tasks.items():
                session.add(
                    PromptRow(
                        workspace="next", prompt_id=key, text=f"{key}?", split="train", state="published",
                        ranking_task=task,
                    )
                )  # fmt: skip
                for number, (answer, text) in enumerate(_answers(key)):
                    score = GAPS[key] * number if key in GAPS else None
                    row = ResponseRow(id=answer, workspace="next", prompt_id=key, text=text, policy="base")
                    row.score, row.reward_model = score, None if score is None else "reward-next-1"
                    session.add(row)

    def next_task(self, token: str) -> dict[str, Any]:
        """What the labeling page opens next; the SDK has no call for it."""
        answer = httpx.get(
            f"{self.url}/api/projects/{self.project}/next",
            headers={"Authorization": f"Token {token}"},
            timeout=60,
        )
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def rank(self, token: str, task: dict[str, Any]) -> None:
        ids = [answer["id"] for answer in task["data"]["answers"]]
        httpx.post(
            f"{self.url}/api/tasks/{task['id']}/annotations/",
            headers={"Authorization": f"Token {token}"},
            json={"result": ranking_result(*ids), "lead_time": 9},
            timeout=60,
        ).raise_for_status()


def _answers(key: str) -> list[tuple[str, str]]:
    return [(f"{key}-0", "one"), (f"{key}-1", "two")]


def test_annotator_gets_the_most_useful_tasks_first_and_sees_no_prediction(
    place: Place, label_studio: LabelStudioServer
) -> None:
    token = sign_up(
        invitation(label_studio.url, label_studio.token), "nia@example.com", "a-long-password"
    ).token
    place.client.update_project(place.project, sampling="Sequential sampling")  # as someone may have set it
    written = WriteBack(place.store, place.client).publish_predictions("next", "reward-next-1", "both")
    assert written == len(GAPS)

    project = place.client.project(place.project)
    assert (project["sampling"], project["model_version"]) == ("Uncertainty sampling", "reward-next-1")
    assert project["show_collab_predictions"] is False
    served = []
    for _ in place.tasks:
        task = place.next_task(token)
        assert task["predictions"] == []
        served.append(next(key for key, number in place.tasks.items() if number == task["id"]))
        place.rank(token, task)
    assert served == [*BY_PLACE, "new"]


def test_of_two_annotators_each_gets_one_of_the_first_three(
    place: Place, label_studio: LabelStudioServer
) -> None:
    WriteBack(place.store, place.client).publish_predictions("next", "reward-next-1", "both")
    link = invitation(label_studio.url, label_studio.token)
    people = [sign_up(link, f"{name}@example.com", "a-long-password").token for name in ("ola", "pia")]
    left = list(BY_PLACE)
    for token in (*people, *people, *people):
        task = place.next_task(token)
        assert task["id"] in {place.tasks[key] for key in left[:3]}  # so that they do not meet
        place.rank(token, task)
        left.remove(next(key for key in left if place.tasks[key] == task["id"]))
