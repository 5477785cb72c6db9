"""The client when Label Studio is down, odd or elsewhere; the contract test shows it when all is well."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
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


def test_read_is_given_up_after_three_times() -> None:
    flaky = Flaky(httpx.ReadTimeout("slow"))
    with pytest.raises(UnreachableError, match=r"http://ls\.test does not answer \(ReadTimeout\)"):
        client(flaky).version()
    assert len(flaky.requests) == 3


@pytest.mark.parametrize("fault", [httpx.ReadTimeout("slow"), httpx.Response(500)])
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
