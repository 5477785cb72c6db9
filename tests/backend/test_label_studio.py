"""The client when Label Studio is down, odd or elsewhere; the contract test shows it when all is well."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import httpx
import jwt
import pytest

from backend.errors import (
    LabelStudioError,
    RejectedError,
    UnauthorisedError,
    UnreachableError,
    WrongVersionError,
)
from backend.label_studio import LabelStudioClient
from tests.fake_label_studio import TOKEN, FakeLabelStudio

Answer = Callable[[httpx.Request], httpx.Response]


class Flaky:
    """Answers with each of `answers` in turn, then with the last for ever."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(answer: Answer, key: str = TOKEN) -> LabelStudioClient:
    transport = httpx.MockTransport(answer)
    return LabelStudioClient("http://ls.test/", key, backoff_s=0, transport=transport)


def version(release: str = "1.23.2") -> httpx.Response:
    return httpx.Response(200, json={"release": release})


def test_read_is_repeated_while_label_studio_is_away() -> None:
    flaky = Flaky(httpx.ConnectError("down"), httpx.Response(503), version())
    assert client(flaky).version() == "1.23.2"
    assert len(flaky.requests) == 3


def test_silence_of_an_open_request_is_known_before_it_ends() -> None:
    seen: list[float] = []

    def slow(request: httpx.Request) -> httpx.Response:
        time.sleep(0.05)
        seen.append(asked.silent_s)
        return version()

    asked = client(slow)
    asked.version()
    assert seen[0] >= 0.05
    assert asked.silent_s == 0


def test_read_is_given_up_after_three_times() -> None:
    flaky = Flaky(httpx.ReadTimeout("slow"))
    with pytest.raises(UnreachableError, match=r"http://ls\.test does not answer \(ReadTimeout\)"):
        client(flaky).version()
    assert len(flaky.requests) == 3


@pytest.mark.parametrize(
    "fault", [httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut"), httpx.Response(500)]
)
def test_import_that_may_have_arrived_is_not_repeated(fault: httpx.Response | Exception) -> None:
    flaky = Flaky(fault)
    with pytest.raises(UnreachableError):
        client(flaky).import_tasks(1, [{"prompt": "x"}])
    assert len(flaky.requests) == 1


def test_import_that_cannot_have_arrived_is_repeated() -> None:
    flaky = Flaky(httpx.ConnectError("down"), httpx.Response(201, json={"task_ids": [7]}))
    assert client(flaky).import_tasks(1, [{"prompt": "x"}]) == [7]


def test_large_import_goes_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLabelStudio()
    fake.project_rows[1] = {"label_config": ""}
    monkeypatch.setattr("backend.label_studio.IMPORT_BATCH", 4)
    ids = client(fake.transport().handle_request).import_tasks(1, [{"prompt": str(n)} for n in range(10)])
    assert len(set(ids)) == 10
    assert len(fake.requests) == 3


def test_redirect_is_refused_and_the_token_stays_here() -> None:
    flaky = Flaky(httpx.Response(302, headers={"location": "http://169.254.169.254/"}))
    with pytest.raises(RejectedError, match="redirects"):
        client(flaky).version()
    assert [request.url.host for request in flaky.requests] == ["ls.test"]


@pytest.mark.parametrize("body", ["<html>", "[1]", '{"release": 3}', "null"])
def test_another_program_at_the_address_is_recognised(body: str) -> None:
    with pytest.raises(RejectedError, match="not as Label Studio does"):
        client(Flaky(httpx.Response(200, text=body))).version()


@pytest.mark.parametrize("release", ["1.22.0", "1.230.0", "2.0.0"])
def test_other_version_is_named_with_the_needed_one(release: str) -> None:
    with pytest.raises(WrongVersionError, match=rf"Label Studio {release}; needed is 1\.23\.x"):
        client(Flaky(version(release))).check()


@pytest.mark.parametrize("key", ["令牌", "a\nb", "a\rX-Injected: 1"])
def test_impossible_key_is_refused_before_it_is_sent(key: str) -> None:
    with pytest.raises(UnauthorisedError, match="LABEL_STUDIO_API_KEY"):
        client(Flaky(version()), key)


def personal_token(expires_in: float, kind: str = "refresh") -> str:
    return jwt.encode({"exp": time.time() + expires_in, "token_type": kind}, "k" * 32)


class Exchange:
    """Exchanges `key` for each of `access` in turn, and takes the last of those given out."""

    def __init__(self, key: str, *access: str) -> None:
        self.key = key
        self.access = list(access)
        self.given = ""
        self.paths: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        if request.url.path.endswith("/api/token/refresh/"):
            if self.key not in request.content.decode():
                return httpx.Response(401, json={"detail": "Token is invalid"})
            self.given = self.access.pop(0)
            return httpx.Response(200, json={"access": self.given})
        known = request.headers["Authorization"] == f"Bearer {self.given}"
        return httpx.Response(200 if known else 401, json={"id": 1})


def test_personal_access_token_is_exchanged_once_while_it_lasts() -> None:
    key = personal_token(1000)
    exchange = Exchange(key, personal_token(300, "access"))
    personal = client(exchange, key)
    assert personal.whoami() == personal.whoami() == {"id": 1}
    assert [path.count("refresh") for path in exchange.paths] == [1, 0, 0]


def test_ended_exchange_is_made_again() -> None:
    key = personal_token(1000)
    exchange = Exchange(key, personal_token(-1, "access"), personal_token(300, "access"))
    personal = client(exchange, key)
    assert personal.whoami() == personal.whoami() == {"id": 1}
    assert [path.count("refresh") for path in exchange.paths] == [1, 0, 1, 0]


def test_exchange_keeps_the_path_of_the_url() -> None:
    key = personal_token(1000)
    exchange = Exchange(key, personal_token(300, "access"))
    LabelStudioClient("http://ls.test/studio", key, transport=httpx.MockTransport(exchange)).whoami()
    assert exchange.paths == ["/studio/api/token/refresh/", "/studio/api/current-user/whoami"]


def test_another_program_is_recognised_during_the_exchange() -> None:
    with pytest.raises(RejectedError, match="not as Label Studio does"):
        client(Flaky(httpx.Response(200, text="<html>")), personal_token(1000)).whoami()


def test_unknown_or_expired_personal_access_token_is_said_to_be_one() -> None:
    with pytest.raises(UnauthorisedError, match="personal access token"):
        client(Exchange(personal_token(1000)), personal_token(2000)).whoami()
    with pytest.raises(UnauthorisedError, match=r"personal access token .* expired"):
        client(Exchange(""), personal_token(-1))


def test_forbidden_says_the_reason_and_wrong_token_says_where_to_get_one() -> None:
    with pytest.raises(UnauthorisedError, match="forbids GET /api/projects/1: no entry"):
        client(Flaky(httpx.Response(403, json={"detail": "no entry"}))).project(1)
    with pytest.raises(UnauthorisedError, match="Access Token"):
        client(Flaky(httpx.Response(401))).project(1)


def test_nothing_sent_or_received_reaches_a_log_or_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    refusal = httpx.Response(400, json={"validation_errors": {"x": ["canary-answer"]}})
    with pytest.raises(LabelStudioError) as error:
        client(Flaky(refusal), "canary-token").import_tasks(1, [{"prompt": "canary-prompt"}])
    assert "canary" not in str(error.value) + caplog.text
