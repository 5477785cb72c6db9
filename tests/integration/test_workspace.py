"""A workspace on a real Label Studio: set up, imported into, ranked, and followed by our rows."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backend import store as queries
from backend.annotations import ranking_task_data
from backend.label_studio import LabelStudioClient
from backend.reconcile import reconcile
from backend.settings import Settings
from backend.store import Store
from backend.tables import ResponseRow
from scripts.import_prompts import import_prompts
from scripts.label_studio_server import LabelStudioServer
from scripts.setup_project import HOOK_PATH, SECRET_HEADER, set_up_workspace
from tests.fake_label_studio import ranking_result

pytestmark = pytest.mark.integration


class Backend:
    """Answers Label Studio as an ML backend does, and notes what it was sent."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        calls = self.calls

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                calls.append((self.path, headers, json.loads(body or b"{}")))
                answer = json.dumps({"status": "UP", "model_version": "none", "versions": []}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET  # noqa: N815 - the server's name for it

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def hints(self) -> list[tuple[str | None, str]]:
        """Secret and action of each webhook that arrived."""
        return [
            (headers.get(SECRET_HEADER.lower()), body["action"])
            for path, headers, body in self.calls
            if path == HOOK_PATH
        ]


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_workspace_from_set_up_to_dataset(
    label_studio: LabelStudioServer, backend: Backend, tmp_path: Path
) -> None:
    settings = Settings(
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.token,
        backend_url=backend.url,
        password="a-password",
        webhook_secret="a-secret",
        data_dir=tmp_path / "data",
    )
    setup = set_up_workspace(settings, "real")
    assert setup.connected
    assert set_up_workspace(settings, "real").notes == []
    client = LabelStudioClient.of(settings)
    for kind in ("prompts", "ranking", "review"):
        # the webhook that Label Studio makes for an ML backend by itself is gone
        assert [hook["url"] for hook in client.webhooks(setup.projects[kind])] == [backend.url + HOOK_PATH]
    assert len(client.ml_backends(setup.projects["ranking"])) == 1

    path = tmp_path / "p.csv"
    path.write_text("prompt\n你好\n你好\nHow are you?\n", encoding="utf-8-sig")
    assert import_prompts(path, setup.projects["prompts"], client).imported == 2
    assert backend.hints() == [("a-secret", "TASKS_CREATED")]

    store = Store(settings.store_url)
    assert reconcile(store, client, "real", full=False).prompts == 2
    with store.session() as session:
        prompt = queries.prompts(session, "real")[0]
        for key in ("a1", "a2"):
            session.add(
                ResponseRow(id=key, workspace="real", prompt_id=prompt.prompt_id, text=key, policy="base")
            )
    data = ranking_task_data(prompt.text, [("a1", "x"), ("a2", "y")], source_key="ranking:real:1:p")
    (task,) = client.import_tasks(setup.projects["ranking"], [data])
    annotation = client.create_annotation(task, ranking_result("a2", "a1"), lead_time=5)
    assert backend.hints()[-1] == ("a-secret", "ANNOTATION_CREATED")

    assert reconcile(store, client, "real", full=False).rankings == 1
    assert not reconcile(store, client, "real", full=True)
    with store.reading() as session:
        (ranking,) = queries.active_rankings(session, "real")
    assert (ranking.annotation_id, ranking.order) == (annotation, [["a2"], ["a1"]])
    store.close()
    client.close()
