"""Nobody gets in without credentials, and nobody's browser can be made to act for them."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.app import create_app
from backend.auth import same
from backend.errors import SettingsError
from backend.rate_limit import RateLimit
from tests.backend.web import AUTHORISED, PASSWORD, SeededService, csrf_of, seeded, settings

CANARY = "canary-4f1d9c"


@pytest.fixture
def service(tmp_path: Path) -> SeededService:
    return seeded(tmp_path, "collecting")


@pytest.fixture
def app(service: SeededService) -> Flask:
    return create_app(service)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def basic(credentials: bytes) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(credentials).decode()}


REFUSED = {
    "none": {},
    "wrong": basic(b"admin:wrong-password"),
    "wrong user": basic(b"root:a-good-password"),
    "bearer": {"Authorization": "Bearer a-good-password"},
    "token": {"Authorization": "Token a-good-password"},
    "non-ASCII": basic("管理员:密码".encode()),
    "not UTF-8": basic(b"\xff\xfe:\xff"),
    "raw non-ASCII": {"Authorization": "Basic \xff\xfe"},
    "empty": basic(b":"),
    "empty password": basic(b"admin:"),
    "no colon": basic(b"admin"),
    "empty header": {"Authorization": ""},
    "no base64": {"Authorization": "Basic ***"},
}


def routes(app: Flask) -> Iterator[tuple[str, str]]:
    for rule in app.url_map.iter_rules():
        address = rule.rule.replace("<workspace>", "team").replace("<run_id>", "run-1")
        for method in rule.methods or ():
            yield method, address.replace("<path:filename>", "console.css")


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED.keys())
def test_every_route_but_health_answers_401(
    app: Flask, client: FlaskClient, service: SeededService, headers: dict[str, str]
) -> None:
    seen = set()
    for method, address in routes(app):
        response = client.open(address, method=method, headers=headers, buffered=True)
        assert response.status_code == (200 if address == "/health" else 401), (method, address)
        seen.add(address)
    assert {"/", "/predict", "/setup", "/webhook", "/versions", "/hooks/label-studio", "/api/status"} <= seen
    assert service.calls == []


def test_unknown_addresses_tell_nothing_without_credentials(client: FlaskClient) -> None:
    assert client.get("/no-such-page").status_code == 401
    assert client.get("/no-such-page", headers=AUTHORISED).status_code == 404


def test_basic_credentials_open_the_api(client: FlaskClient) -> None:
    assert client.get("/api/status", headers=AUTHORISED).status_code == 200


def test_non_ascii_passwords_work(tmp_path: Path) -> None:
    service = SeededService(settings(tmp_path, password="密码密码密码密码"))
    headers = basic("admin:密码密码密码密码".encode())
    assert create_app(service).test_client().get("/api/status", headers=headers).status_code == 200


@pytest.mark.parametrize("secret", ["password", "webhook_secret", "session_secret"])
def test_refuses_to_start_without_a_secret(tmp_path: Path, secret: str) -> None:
    with pytest.raises(SettingsError, match="is empty"):
        create_app(SeededService(settings(tmp_path, **{secret: ""})))


def test_a_browser_gets_the_login_form_and_no_password_prompt(client: FlaskClient) -> None:
    response = client.get("/", headers={"Accept": "text/html", "Accept-Language": "zh-CN,zh;q=0.9"})
    assert response.status_code == 401
    assert "登录" in response.text
    assert "WWW-Authenticate" not in response.headers
    script = client.get("/api/status", headers={"Sec-Fetch-Mode": "cors"})
    assert "WWW-Authenticate" not in script.headers
    assert "Basic" in client.get("/api/status").headers["WWW-Authenticate"]


def test_logging_in_opens_a_session_and_logging_out_ends_it(client: FlaskClient) -> None:
    token = csrf_of(client)
    assert client.get("/api/status").status_code == 200
    assert client.post("/logout", data={"csrf_token": token}).status_code == 303
    assert client.get("/api/status").status_code == 401


def test_the_session_cookie_is_strict_and_hidden_from_scripts(client: FlaskClient) -> None:
    response = client.get("/", headers={"Accept": "text/html"})
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


def test_a_new_password_ends_old_sessions(tmp_path: Path) -> None:
    before = create_app(SeededService(settings(tmp_path))).test_client()
    csrf_of(before)
    cookie = before.get_cookie("rlhf_session")
    assert cookie is not None
    after = create_app(SeededService(settings(tmp_path, password="another-password"))).test_client()
    after.set_cookie("rlhf_session", cookie.value)
    assert after.get("/api/status").status_code == 401


def test_a_forged_session_is_no_session(client: FlaskClient) -> None:
    client.set_cookie("rlhf_session", "eyJ1c2VyIjoiYWRtaW4ifQ.aaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbb")
    assert client.get("/api/status").status_code == 401


@pytest.mark.parametrize("address", ["train", "ppo", "promote", "rollback", "apply"])
def test_a_session_changes_nothing_without_its_token(
    client: FlaskClient, service: SeededService, address: str
) -> None:
    csrf_of(client)
    for headers in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": ""}):
        response = client.post(f"/api/workspaces/team/{address}", json={"model": "base"}, headers=headers)
        assert response.status_code == 403
    assert service.calls == []


def test_the_login_form_needs_its_token(client: FlaskClient) -> None:
    client.get("/", headers={"Accept": "text/html"})
    form = {"username": "admin", "password": PASSWORD, "csrf_token": "wrong"}
    assert client.post("/login", data=form).status_code == 403
    assert client.get("/api/status").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    ],
)
def test_another_sites_page_cannot_post(
    client: FlaskClient, service: SeededService, headers: dict[str, str]
) -> None:
    token = {"X-CSRF-Token": csrf_of(client)}
    assert client.post("/api/workspaces/team/train", headers={**token, **headers}).status_code == 403
    assert client.post("/api/workspaces/team/train", headers={**AUTHORISED, **headers}).status_code == 403
    assert service.calls == []


def test_the_own_page_can_post(client: FlaskClient, service: SeededService) -> None:
    headers = {"X-CSRF-Token": csrf_of(client), "Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/workspaces/team/train", headers=headers).status_code == 200
    assert service.calls == [("start_training", 12)]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "[::2]", "", "[bad", "localhost.evil"]
)
def test_a_foreign_host_is_refused(client: FlaskClient, host: str) -> None:
    response = client.get("/api/status", headers={**AUTHORISED, "Host": host})
    assert response.status_code == 400


@pytest.mark.parametrize("host", ["localhost:9090", "127.0.0.1", "[::1]:9090", "backend.internal:9090"])
def test_own_hosts_are_accepted(tmp_path: Path, host: str) -> None:
    service = SeededService(settings(tmp_path, backend_url="http://backend.internal:9090"))
    response = create_app(service).test_client().get("/api/status", headers={**AUTHORISED, "Host": host})
    assert response.status_code == 200


def test_guessing_passwords_in_the_form_is_slowed_down(client: FlaskClient) -> None:
    answers = [client.post("/login", data={"username": "admin", "password": f"x{i}"}) for i in range(11)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    right = client.post("/login", data={"username": "admin", "password": PASSWORD})
    assert right.status_code == 429
    assert client.get("/api/status", headers=AUTHORISED).status_code == 200  # Label Studio is not locked out


def test_guessing_basic_passwords_is_slowed_down(client: FlaskClient) -> None:
    wrong = [client.get("/api/status", headers=basic(b"admin:x%d" % i)).status_code for i in range(301)]
    assert wrong == [401] * 300 + [429]


def test_no_secret_or_password_reaches_the_log(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.get("/api/status", headers=basic(f"admin:{CANARY}".encode()))
    client.post("/login", data={"username": CANARY, "password": CANARY})
    body = {"project": "12.1", "schema": CANARY, "access_token": CANARY, "extra_params": {"x": CANARY}}
    assert client.post("/setup", json=body, headers=AUTHORISED).status_code == 200
    client.post("/predict", json={"project": "12.1", "tasks": [CANARY]}, headers=AUTHORISED)
    client.post(
        "/hooks/label-studio", json={"project": {"token": CANARY}}, headers={"X-Webhook-Secret": CANARY}
    )
    assert CANARY not in caplog.text


@pytest.mark.parametrize("given", ["", "Secret", "secret ", "secret\0", "\udcff"])
def test_only_the_secret_is_the_secret(given: str) -> None:
    assert same("secret", "secret")
    assert not same(given, "secret")
    assert not same("", "")


def test_rate_limit_forgets_old_events_and_old_keys() -> None:
    now = [0.0]
    limit = RateLimit(most=2, window_s=10, clock=lambda: now[0])
    limit.add("a")
    assert limit.wait_s("a") == 0
    now[0] = 4
    limit.add("a")
    assert limit.wait_s("a") == 6
    assert limit.wait_s("b") == 0
    now[0] = 10
    assert limit.wait_s("a") == 0
    for key in range(20_000):
        limit.add(key)
    assert len(limit._events) == 10_000
