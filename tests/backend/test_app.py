"""Label Studio's protocol, the shape of errors, and the headers, as a client meets them."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend import wsgi
from backend.app import LARGEST_BODY, create_app
from backend.errors import UnreachableError
from backend.status import WorkspaceStatus
from tests.backend.web import AUTHORISED, SeededService, fastest_s, seeded

PROJECT = "12.1795331823"


@pytest.fixture
def service(tmp_path: Path) -> SeededService:
    return seeded(tmp_path)


@pytest.fixture
def client(service: SeededService) -> FlaskClient:
    client = create_app(service).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = AUTHORISED["Authorization"]
    return client


def tasks(count: int) -> list[dict[str, Any]]:
    return [
        {"id": i, "data": {"prompt": "?", "answers": [{"id": f"a{i:04x}{k:04x}"} for k in range(3)]}}
        for i in range(count)
    ]


def predict(client: FlaskClient, some: Any, project: str = PROJECT) -> Any:
    params = {"login": None, "password": None, "context": None}
    body = {"tasks": some, "project": project, "label_config": "<View/>", "params": params}
    return client.post("/predict", json=body)


# --- the protocol, with Label Studio 1.23.2's own requests ---


def test_health_needs_no_credentials(service: SeededService) -> None:
    response = create_app(service).test_client().get("/health")
    assert response.status_code == 200
    assert response.json["status"] == "UP"  # type: ignore[index]


def test_setup_answers_the_model_version(client: FlaskClient) -> None:
    for extra in (None, {}, {"a": 1}, "text"):
        body = {
            "project": PROJECT,
            "schema": "<View/>",
            "hostname": "http://x",
            "access_token": "t",
            "extra_params": extra,
        }
        assert client.post("/setup", json=body).json == {"model_version": "reward-team-1"}


def test_predict_answers_as_many_results_in_the_same_order(client: FlaskClient) -> None:
    response = predict(client, [*tasks(3), {"id": 9, "data": {}}])
    results = response.json["results"]
    assert [len(one["result"]) for one in results[:3]] == [1, 1, 1] and results[3] == []
    assert results[2]["result"][0]["value"]["ranker"]["ranking"] == ["a00020001", "a00020002", "a00020000"]
    assert {one["model_version"] for one in results[:3]} == {"reward-team-1"}


def test_predict_works_without_setup_and_takes_milliseconds(client: FlaskClient) -> None:
    assert fastest_s(lambda: predict(client, tasks(1))) < 0.05


def test_versions_lists_reward_models_with_and_without_a_project(client: FlaskClient) -> None:
    assert client.get("/versions").json == {"versions": ["reward-team-1"]}
    assert client.get("/versions?project=12").json == {"versions": ["reward-team-1"]}
    assert client.post("/versions", json={"project": PROJECT}).json == {"versions": ["reward-team-1"]}


def test_start_training_starts_one_run(client: FlaskClient, service: SeededService) -> None:
    response = client.post("/webhook", json={"action": "START_TRAINING", "project": {"id": 12, "title": "x"}})
    assert response.status_code == 201
    assert response.json["job"] == "reward-00000001"  # type: ignore[index]
    assert service.calls == [("start_training", 12)]


def test_the_old_train_call_starts_it_too(client: FlaskClient, service: SeededService) -> None:
    response = client.post("/train", json={"project": PROJECT, "annotations": [{}], "label_config": ""})
    assert response.json == {"job": "reward-00000001"}
    assert service.calls == [("start_training", 12)]


def test_other_webhooks_are_hints(client: FlaskClient, service: SeededService) -> None:
    assert (
        client.post("/webhook", json={"action": "ANNOTATION_CREATED", "project": {"id": 12}}).status_code
        == 201
    )
    assert service.calls == [("hint", 12, "ANNOTATION_CREATED")]


def test_job_status_speaks_of_the_run(client: FlaskClient) -> None:
    found = client.post("/job_status", json={"job": "reward-5e6f7a8b"}).json
    assert found["job_status"] == "finished"  # type: ignore[index]
    assert client.get("/job_status?job=ppo-9c0d1e2f").json["job_status"] == "finished"  # type: ignore[index]
    assert client.post("/job_status", json={"job": "run-of-nobody"}).status_code == 404


def test_is_training_says_which_run(tmp_path: Path) -> None:
    client = create_app(seeded(tmp_path, "rewarding")).test_client()
    found = client.get(f"/is_training?project={PROJECT}", headers=AUTHORISED).json
    assert found == {"is_training": True, "job_id": "reward-5e6f7a8b", "model_version": "none"}


@pytest.mark.parametrize("project", ["99.1", "", None, "x", {"id": 99}, [12]])
@pytest.mark.parametrize("address", ["/predict", "/setup", "/webhook", "/train"])
def test_a_foreign_project_is_refused(
    client: FlaskClient, service: SeededService, address: str, project: Any
) -> None:
    body = {"project": project, "tasks": [], "action": "START_TRAINING", "annotations": [1]}
    assert client.post(address, json=body).status_code == 403
    assert service.calls == []


# --- bad input ---


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b"[" * 100_000, b'{"a":' * 100_000, b"\xff"])
@pytest.mark.parametrize("address", ["/predict", "/setup", "/webhook", "/versions", "/job_status"])
def test_a_broken_body_is_a_client_error_in_the_one_shape(
    client: FlaskClient, address: str, body: bytes
) -> None:
    response = client.post(address, data=body, content_type="application/json")
    assert 400 <= response.status_code < 500 or (address, body) == ("/versions", b"")
    if response.status_code != 200:
        assert set(response.json) == {"error"}  # type: ignore[arg-type]
        assert set(response.json["error"]) == {"status", "name", "message"}  # type: ignore[index]
        assert "Traceback" not in response.text


@pytest.mark.parametrize("some", [None, "x", {}, [1], ["x"], [None]])
def test_tasks_that_are_none_are_refused(client: FlaskClient, some: Any) -> None:
    assert predict(client, some).status_code == 400


@pytest.mark.parametrize("params", [None, 7, [], "x"])
def test_parameters_that_are_none_are_refused(client: FlaskClient, params: Any) -> None:
    assert (
        client.post("/predict", json={"project": PROJECT, "tasks": [], "params": params}).status_code == 400
    )


def test_a_webhook_without_an_action_is_refused(client: FlaskClient) -> None:
    for body in (
        {"project": {"id": 12}},
        {"project": {"id": 12}, "action": 7},
        {"project": 12, "action": "X"},
    ):
        assert client.post("/webhook", json=body).status_code == 400


def test_a_claim_of_300_mb_is_refused_unread(client: FlaskClient) -> None:
    claimed = {"CONTENT_LENGTH": str(300 * 1024 * 1024)}
    for address in ("/predict", "/setup", "/webhook", "/api/workspaces/team/promote"):
        assert client.post(address, data=b"{}", environ_overrides=claimed).status_code == 413


def test_a_wrong_content_type_is_a_client_error(client: FlaskClient) -> None:
    response = client.post("/setup", data=json.dumps({"project": PROJECT}), content_type="text/plain")
    assert response.status_code == 415
    assert response.json["error"]["status"] == 415  # type: ignore[index]


def test_a_wrong_method_says_which_are_allowed(client: FlaskClient) -> None:
    response = client.get("/predict")
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]


# --- errors and headers ---


def test_a_bug_shows_no_traceback_and_logs_no_content(
    client: FlaskClient,
    service: SeededService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(project: int) -> str:
        raise RuntimeError("canary-answer")

    monkeypatch.setattr(service, "model_version", broken)
    response = client.post("/setup", json={"project": PROJECT, "schema": ""})
    assert response.status_code == 500
    assert "canary-answer" not in response.text + caplog.text
    number = response.json["error"]["message"].split("`")[1]  # type: ignore[index]
    assert f"bug {number}" in caplog.text
    assert "RuntimeError at" in caplog.text


def test_an_expected_error_says_what_to_do(
    client: FlaskClient, service: SeededService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(workspace: str) -> WorkspaceStatus:
        raise UnreachableError("Label Studio does not answer; start it")

    monkeypatch.setattr(service, "status", down)
    response = client.get("/api/status")
    assert response.status_code == 502
    assert response.json == {
        "error": {
            "status": 502,
            "name": "UnreachableError",
            "message": "Label Studio does not answer; start it",
        }
    }


@pytest.mark.parametrize("address", ["/", "/api/status", "/health", "/static/console.css", "/missing"])
def test_every_answer_carries_the_security_headers(client: FlaskClient, address: str) -> None:
    headers = client.get(address, buffered=True).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


def test_label_studio_mls_debug_log_is_silent(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    predict(client, [{"id": 1, "data": {"prompt": "canary-prompt"}}])
    assert "canary-prompt" not in caplog.text


# --- served by waitress ---


@pytest.fixture
def port(service: SeededService) -> Iterator[int]:
    server = wsgi.server(service, threads=2)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield int(server.effective_port)
    server.close()
    thread.join(timeout=10)


def ask(port: int, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(body)
    status = connection.getresponse().status
    connection.close()
    return status


def test_waitress_serves_and_refuses_bodies_before_reading_them(port: int) -> None:
    assert ask(port, "GET", "/health", {}) == 200
    assert ask(port, "GET", "/api/status", {}) == 401
    assert ask(port, "GET", "/api/status", AUTHORISED) == 200
    assert ask(port, "POST", "/predict", {**AUTHORISED, "Content-Length": str(300 * 1024 * 1024)}) == 413
    assert ask(port, "POST", "/predict", {"Content-Length": str(LARGEST_BODY + 1)}) == 413


def test_a_server_that_never_ran_frees_its_port(service: SeededService) -> None:
    first = wsgi.server(service, threads=1)
    taken = replace(service.settings, port=first.effective_port)
    with pytest.raises(OSError, match="in use"):
        wsgi.server(SeededService(taken))
    first.close()
    wsgi.server(SeededService(taken)).close()
