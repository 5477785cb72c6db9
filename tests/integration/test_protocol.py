"""A real Label Studio talks to the real web application: connect, predict, versions, train, hints."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backend import wsgi
from backend.label_studio import LabelStudioClient
from backend.tables import ModelRow, ResponseRow
from scripts.label_studio_server import LabelStudioServer, free_port
from scripts.setup_project import set_up_workspace
from tests.backend.web import SeededService, settings
from tests.fake_label_studio import ranking_result

pytestmark = pytest.mark.integration

IDS = ("a00000001", "a00000002", "a00000003")
BEST_FIRST = ("a00000002", "a00000003", "a00000001")


@dataclass(frozen=True)
class Connected:
    """A workspace whose ranking project is connected to our application."""

    service: SeededService
    client: LabelStudioClient
    project: int
    ml_backend: dict[str, Any]

    def wait_for(self, call: tuple[object, ...]) -> bool:
        deadline = threading.Event()
        return any(call in self.service.calls or deadline.wait(0.1) for _ in range(100))


@pytest.fixture(scope="module")
def connected(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connected]:
    directory: Path = tmp_path_factory.mktemp("protocol")
    port = free_port()
    service = SeededService(
        settings(
            directory,
            port=port,
            backend_url=f"http://127.0.0.1:{port}",
            label_studio_url=label_studio.url,
            label_studio_api_key=label_studio.token,
        )
    )
    server = wsgi.server(service, threads=4)
    thread = threading.Thread(target=server.run)
    thread.start()
    with LabelStudioClient.of(service.settings) as client:
        setup = set_up_workspace(service.settings, "protocol", client=client)
        assert setup.connected, setup.notes
        with service.store.session() as session:
            for place, (answer, score) in enumerate(zip(IDS, (-1.0, 2.0, 0.5), strict=True)):
                session.add(
                    ResponseRow(
                        id=answer,
                        workspace="protocol",
                        prompt_id="p1",
                        text="…",
                        policy="base",
                        position=place,
                        score=score,
                        reward_model="reward-protocol-1",
                    )
                )
            session.add(
                ModelRow(id="reward-protocol-1", workspace="protocol", kind="reward", run_id="r", path="x")
            )
        project = setup.projects["ranking"]
        (ml_backend,) = client.ml_backends(project)
        yield Connected(service, client, project, ml_backend)
    server.close()
    thread.join(10)


def test_label_studio_calls_us_connected_and_shows_our_version(connected: Connected) -> None:
    assert connected.ml_backend["state"] == "CO"
    assert connected.ml_backend["error_message"] is None
    (again,) = connected.client.ml_backends(connected.project)  # runs health and setup again
    assert again["state"] == "CO"
    assert again["model_version"] == "reward-protocol-1"


def test_versions_are_listed(connected: Connected) -> None:
    found = connected.client.sdk.ml.list_model_versions(connected.ml_backend["id"])
    assert found.versions == ["reward-protocol-1"]


def test_label_all_tasks_stores_our_order(connected: Connected) -> None:
    client, project = connected.client, connected.project
    answers = [{"id": answer, "body": answer} for answer in IDS]
    data = {"prompt": "?", "answers": answers, "source_key": "protocol-1"}
    unknown = {
        **data,
        "answers": [{"id": f"x{i}", "body": "?"} for i in range(3)],
        "source_key": "protocol-0",
    }
    task, without_scores = client.import_tasks(project, [data, unknown])
    client.sdk.actions.create(
        id="retrieve_tasks_predictions",
        project=project,
        ordering=[],
        selected_items={"all": False, "included": [task, without_scores]},
    )
    assert client.sdk.predictions.list(task=without_scores) == []
    (prediction,) = client.sdk.predictions.list(task=task)
    assert prediction.model_version == "reward-protocol-1"
    assert 0 < prediction.score <= 1
    assert prediction.result[0]["value"] == {"ranker": {"ranking": list(BEST_FIRST)}}


def test_start_training_reaches_the_service(connected: Connected) -> None:
    connected.client.sdk.ml.train(connected.ml_backend["id"], use_ground_truth=False)
    assert connected.service.calls.count(("start_training", connected.project)) == 1


def test_an_annotation_arrives_as_a_hint(connected: Connected) -> None:
    client = connected.client
    answers = [{"id": f"b{i}", "body": "…"} for i in range(2)]
    data = {"prompt": "!", "answers": answers, "source_key": "protocol-2"}
    (task,) = client.import_tasks(connected.project, [data])
    client.create_annotation(task, ranking_result("b1", "b0"), lead_time=5)
    assert connected.wait_for(("hint", connected.project, "ANNOTATION_CREATED"))


def test_no_webhook_without_a_secret_is_left(connected: Connected) -> None:
    hooks = connected.client.webhooks(connected.project)
    assert [hook["headers"].get("X-Webhook-Secret") for hook in hooks] == ["a-secret-for-hooks"]
