"""A scorer behind a URL: a real server on the loopback, and what goes wrong with one."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.tiny_models import tiny_model_dir
from trainers import reward_http
from trainers.config import PPOConfig
from trainers.errors import ConfigError, DataError, ScorerError
from trainers.records import Message, Prompt
from trainers.reward_source import load_reward, score

PROMPTS = [
    Prompt("p1", "kettle?", system="Be kind.", history=(Message("user", "hi"), Message("assistant", "yes?"))),
    Prompt("p2", "水壶？"),
    Prompt("p3", "canary-prompt"),
]
RESPONSES = ["vinegar", "白醋", "canary-answer"]
Answer = Callable[[Any], tuple[int, Any]]


class Scorer(ThreadingHTTPServer):
    """Answers each POST by a function of what was asked, and remembers that."""

    answer: Answer
    asked: list[Any]
    encoding = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/score"


class Handler(BaseHTTPRequestHandler):
    server: Scorer

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        status, content = self.server.answer(asked)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url + "/elsewhere")
        if self.server.encoding:
            self.send_header("Content-Encoding", self.server.encoding)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scorer]:
    monkeypatch.setattr(reward_http, "PAUSE_S", 0.0)
    with Scorer(("127.0.0.1", 0), Handler) as server:
        server.answer, server.asked = by_length, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def by_length(asked: Any) -> tuple[int, Any]:
    return 200, {"scores": [len(response) for response in asked["responses"]]}


def scores_from(url: str, **changes: Any) -> list[float]:
    config = PPOConfig(base_model=str(tiny_model_dir()), reward_model=url, **changes)
    return list(load_reward(config)(PROMPTS, RESPONSES))


def test_scores_come_back_in_order_for_whole_conversations_in_batches(scorer: Scorer) -> None:
    assert scores_from(scorer.url, batch_size=2) == [7, 2, 13]
    assert [asked["responses"] for asked in scorer.asked] == [["vinegar", "白醋"], ["canary-answer"]]
    assert scorer.asked[0]["prompts"] == [
        {
            "text": "kettle?",
            "system": "Be kind.",
            "history": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}],
        },
        {"text": "水壶？", "system": "", "history": []},
    ]


def test_a_scorer_that_is_overloaded_is_asked_again(scorer: Scorer) -> None:
    scorer.answer = lambda asked: by_length(asked) if len(scorer.asked) > 2 else (503, {})
    assert scores_from(scorer.url) == [7, 2, 13]
    assert len(scorer.asked) == 3


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ((500, {}), "answered 500;"),
        ((302, {}), "answered 302 \\(redirects are not followed"),
        ((200, b"<html>"), "something else"),
        ((200, [1, 2, 3]), "something else"),
        ((200, {"scores": [1, None, 3]}), "something else"),
        ((200, {"scores": [1, True, 3]}), "something else"),
        ((200, {"scores": [1, 2]}), "2 scores for 3 responses"),
        ((200, b" " * (reward_http.MOST_ANSWER_BYTES + 1)), "more than"),
    ],
)
def test_an_answer_that_is_no_list_of_scores_is_told_and_not_asked_for_again(
    answer: tuple[int, Any], fault: str, scorer: Scorer
) -> None:
    scorer.answer = lambda _asked: answer
    with pytest.raises(DataError, match=fault) as caught:
        scores_from(scorer.url)
    assert scorer.url in str(caught.value)
    assert len(scorer.asked) == 1


def test_a_scorer_that_does_not_answer_in_time_is_told(scorer: Scorer) -> None:
    def slow(asked: Any) -> tuple[int, Any]:
        time.sleep(0.5)
        return by_length(asked)

    scorer.answer = slow
    with pytest.raises(DataError, match="did not answer in `reward_timeout_s`, 3 times"):
        scores_from(scorer.url, reward_timeout_s=0.1)


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        # gzip's header with a name that does not end: nothing comes out of the decompression
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08" + bytes(6), b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n", b" "),  # would end after 6 s
    ],
)
def test_a_scorer_that_answers_byte_by_byte_has_no_more_time(
    beginning: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.recv(1)
                self.request.sendall(beginning)
                for _ in range(60):
                    time.sleep(0.1)
                    self.request.sendall(piece)

    monkeypatch.setattr(reward_http, "PAUSE_S", 0.0)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        begun = time.monotonic()
        try:
            with pytest.raises(DataError, match="did not answer in `reward_timeout_s`, 3 times"):
                scores_from(f"http://127.0.0.1:{server.server_address[1]}/", reward_timeout_s=0.3)
            assert time.monotonic() - begun < 5
        finally:
            server.shutdown()
            thread.join()


def test_each_request_has_the_time_for_itself(scorer: Scorer) -> None:
    def slow(asked: Any) -> tuple[int, Any]:
        time.sleep(0.4)
        return by_length(asked)

    scorer.answer = slow
    assert scores_from(scorer.url, batch_size=1, reward_timeout_s=1.0) == [7, 2, 13]
    assert len(scorer.asked) == 3


def test_an_answer_that_cannot_be_decompressed_is_told_and_not_asked_for_again(scorer: Scorer) -> None:
    scorer.encoding = "gzip"
    with pytest.raises(ScorerError, match="cannot be decompressed; needed is"):
        scores_from(scorer.url)
    assert len(scorer.asked) == 1


def test_a_compressed_answer_is_read(scorer: Scorer) -> None:
    scorer.encoding = "gzip"
    scorer.answer = lambda asked: (200, gzip.compress(json.dumps(by_length(asked)[1]).encode()))
    assert scores_from(scorer.url) == [7, 2, 13]


def test_a_scorer_is_asked_where_a_loop_of_asyncio_runs(scorer: Scorer) -> None:
    async def in_a_notebook() -> list[float]:
        return scores_from(scorer.url)

    assert asyncio.run(in_a_notebook()) == [7, 2, 13]


@pytest.mark.parametrize("number", ["1e39", "-1e39", "1e400", "NaN", "1" + "0" * 400])
def test_a_score_that_no_float32_holds_is_told(number: str, scorer: Scorer) -> None:
    scorer.answer = lambda _asked: (200, f'{{"scores": [1, {number}, 3]}}'.encode())
    with pytest.raises(ScorerError, match="1 of 3 scores that are no finite number"):
        score(lambda *_: scores_from(scorer.url), PROMPTS, RESPONSES)


def test_a_scorer_that_is_away_is_told_with_what_to_do(scorer: Scorer) -> None:
    url = scorer.url
    scorer.server_close()
    with pytest.raises(DataError, match="cannot be reached \\(ConnectError\\), 3 times; start or mend it"):
        scores_from(url)


def test_what_is_sent_is_in_no_log_and_no_message(scorer: Scorer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    scores_from(scorer.url)
    scorer.answer = lambda asked: (200, {"scores": asked["responses"]})
    with pytest.raises(DataError) as caught:
        scores_from(scorer.url)
    assert "canary" not in caplog.text + str(caught.value)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://", "names no host"),
        ("http://[::1", "no address"),
        ("http://user:secret@127.0.0.1/", "password"),
        ("http://127.0.0.1/?token=secret", "password"),
        ("HTTP://user:secret@127.0.0.1/", "password"),
        (" http://user:secret@127.0.0.1/", "a space"),
        ("https://:secret@/x", "password"),
        ("http://127.0.0.1/#secret", "fragment"),
        ("http://1.2.3.999/secret", "no address"),
        ("http://xn--/secret", "no address"),
    ],
)
def test_an_address_that_cannot_be_used_is_a_config_error(url: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as caught:
        scores_from(url)
    assert "secret" not in str(caught.value)


def test_an_address_in_capitals_is_an_address(scorer: Scorer) -> None:
    assert scores_from(scorer.url.replace("http", "HTTP")) == [7, 2, 13]


def test_penalty_on_a_scorer_without_heads_is_a_config_error(scorer: Scorer) -> None:
    with pytest.raises(ConfigError, match="`ensemble` of 2 or more"):
        scores_from(scorer.url, disagreement_penalty=0.5)
