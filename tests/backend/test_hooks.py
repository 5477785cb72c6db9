"""A webhook is a hint: authenticated, small, quick, and believed in nothing but where to look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from backend.app import create_app
from backend.hooks import HINTS_A_WINDOW
from tests.backend.web import AUTHORISED, WEBHOOK_SECRET, SeededService, fastest_s, seeded

ADDRESS = "/hooks/label-studio"
SECRET = {"X-Webhook-Secret": WEBHOOK_SECRET}


@pytest.fixture
def service(tmp_path: Path) -> SeededService:
    return seeded(tmp_path, "collecting")


@pytest.fixture
def client(service: SeededService) -> FlaskClient:
    return create_app(service).test_client()


def post(client: FlaskClient, payload: Any, **headers: str) -> TestResponse:
    return client.post(ADDRESS, json=payload, headers={**SECRET, **headers})


def test_a_hint_is_taken(client: FlaskClient, service: SeededService) -> None:
    response = post(client, {"action": "ANNOTATION_CREATED", "project": {"id": 12}})
    assert response.status_code == 202
    assert service.calls == [("hint", 12, "ANNOTATION_CREATED")]


def test_the_address_can_name_the_project(client: FlaskClient, service: SeededService) -> None:
    """For webhooks that send no payload, which then tell nothing about anyone."""
    response = client.post(f"{ADDRESS}?project=13", json={"action": "ANNOTATION_UPDATED"}, headers=SECRET)
    assert response.status_code == 202
    assert service.calls == [("hint", 13, "ANNOTATION_UPDATED")]


def test_it_answers_within_50_ms(client: FlaskClient) -> None:
    payload = {
        "action": "TASKS_CREATED",
        "project": {"id": 11},
        "tasks": [{"data": {"prompt": "x" * 200}}] * 500,
    }
    assert fastest_s(lambda: post(client, payload)) < 0.05


@pytest.mark.parametrize("secret", [None, "", "wrong", WEBHOOK_SECRET + "x", "密码"])
def test_a_wrong_secret_is_refused(client: FlaskClient, service: SeededService, secret: str | None) -> None:
    headers = {} if secret is None else {"X-Webhook-Secret": secret.encode().decode("latin-1")}
    response = client.post(ADDRESS, json={"project": {"id": 12}}, headers=headers)
    assert response.status_code == 401
    assert service.calls == []


def test_basic_credentials_are_not_the_webhook_secret(client: FlaskClient) -> None:
    assert client.post(ADDRESS, json={"project": {"id": 12}}, headers=AUTHORISED).status_code == 401


@pytest.mark.parametrize(
    "project", [{"id": 99}, {"id": "12; drop"}, {}, None, [], {"id": -12}, {"id": 10**30}]
)
def test_a_foreign_project_is_refused(client: FlaskClient, service: SeededService, project: Any) -> None:
    assert post(client, {"action": "ANNOTATION_CREATED", "project": project}).status_code == 403
    assert service.calls == []


def test_a_forged_payload_with_a_million_rankings_is_one_hint(
    client: FlaskClient, service: SeededService
) -> None:
    payload = {"action": "START_TRAINING", "project": {"id": 12, "finished_task_number": 10**6}}
    assert post(client, {**payload, "annotation": {"result": [1] * 1000}}).status_code == 202
    assert service.calls == [("hint", 12, "START_TRAINING")]


@pytest.mark.parametrize("body", [b"not json", b"[1]", b'"x"', b"{" * 100_000, b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_object_is_refused(client: FlaskClient, body: bytes) -> None:
    response = client.post(ADDRESS, data=body, headers=SECRET, content_type="application/json")
    assert response.status_code == 400
    assert set(response.json["error"]) == {"status", "name", "message"}  # type: ignore[index]


def test_a_deep_payload_is_refused(client: FlaskClient) -> None:
    body = '{"project": {"id": 12}, "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    assert client.post(ADDRESS, data=body, headers=SECRET).status_code == 400


def test_a_large_payload_is_refused_unread(client: FlaskClient, service: SeededService) -> None:
    body = json.dumps({"project": {"id": 12}, "x": "y" * 5_000_000})
    assert client.post(ADDRESS, data=body, headers=SECRET).status_code == 413
    claimed = {"CONTENT_LENGTH": str(300 * 1024 * 1024)}
    assert client.post(ADDRESS, data=b"{}", headers=SECRET, environ_overrides=claimed).status_code == 413
    assert service.calls == []


def test_a_flood_about_one_project_is_cut_and_others_still_heard(
    client: FlaskClient, service: SeededService
) -> None:
    codes = [post(client, {"project": {"id": 12}}).status_code for _ in range(HINTS_A_WINDOW + 5)]
    assert codes.count(202) == HINTS_A_WINDOW
    assert codes[-1] == 429
    assert post(client, {"project": {"id": 11}}).status_code == 202
    assert len(service.calls) == HINTS_A_WINDOW + 1


def test_an_odd_action_is_taken_as_none(client: FlaskClient, service: SeededService) -> None:
    assert post(client, {"action": {"x": 1}, "project": 12}).status_code == 202
    assert service.calls == [("hint", 12, "")]
