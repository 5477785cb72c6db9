"""A reward that some other program gives over HTTP.

    POST URL    {"prompts": [{"text": …, "system": …, "history": [{"role": …, "content": …}]}, …],
                 "responses": ["…", …]}
    200         {"scores": [0.7, …]}      one finite number a response, higher is better

The scorer may be any model in any language, with its own tokenizer, on any machine. It must give the same
score to the same answer, or a resumed run is not the interrupted one. Nothing of what is sent or answered
goes into a log or a message. Used by `trainers.reward_source`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import httpx

from trainers.errors import ConfigError, ScorerError
from trainers.records import Prompt

ATTEMPTS = 3
"""A scorer that is away or overloaded is asked this often."""
PAUSE_S = 1.0
MOST_ANSWER_BYTES = 2**24
OVERLOADED = (429, 502, 503, 504)


class _AwayError(Exception):
    """The scorer did not answer this time; the message says how."""


def is_url(reward_model: str) -> bool:
    return reward_model.startswith(("http://", "https://"))


def http_reward(
    url: str, *, batch_size: int, timeout_s: float
) -> Callable[[Sequence[Prompt], Sequence[str]], list[float]]:
    """A reward function that asks the scorer at this address.

    Redirects are not followed and no proxy is used: what is sent reaches the address that was named.

    Args:
        batch_size: responses in one request.
        timeout_s: seconds for one request.
    Raises: ConfigError: the address is none, or holds a password, which would end up in the run's files.
    """
    _require_address(url)

    def reward(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        scores: list[float] = []
        with httpx.Client(timeout=timeout_s, follow_redirects=False, trust_env=False) as client:
            for start in range(0, len(responses), batch_size):
                part = slice(start, start + batch_size)
                scores += _ask(client, url, prompts[part], responses[part])
        return scores

    return reward


def _require_address(url: str) -> None:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"`reward_model` is no address that can be used ({error})") from error
    if not address.host:
        raise ConfigError(
            f"`reward_model` is `{url}`, which names no host; needed is `http://HOST:PORT/PATH`"
        )
    if address.userinfo or address.query:
        raise ConfigError(
            f"`reward_model` at `{address.host}` holds a password or a query, which would be written into "
            "the run's files and the model's lineage; needed is an address without, e.g. of a local proxy"
        )


def _ask(client: httpx.Client, url: str, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    asked = {"prompts": [_as_asked(prompt) for prompt in prompts], "responses": list(responses)}
    content = json.dumps(asked, ensure_ascii=False).encode("utf-8", errors="replace")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _scores(url, _answer(client, url, content), len(responses))
        except _AwayError as error:
            if attempt == ATTEMPTS:
                raise ScorerError(
                    f"the scorer `{url}` {error}, {ATTEMPTS} times; start or mend it, then start the run "
                    "again: it goes on from its last checkpoint"
                ) from error.__cause__
            time.sleep(PAUSE_S * attempt)
    raise AssertionError("unreachable")


def _answer(client: httpx.Client, url: str, content: bytes) -> bytes:
    """The body of the scorer's answer. Raises: _AwayError, ScorerError."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    try:
        with client.stream("POST", url, content=content, headers=headers) as response:
            if response.status_code in OVERLOADED:
                raise _AwayError(f"answered {response.status_code}")
            if response.status_code != httpx.codes.OK:
                moved = (
                    " (redirects are not followed: name the final address)" if response.is_redirect else ""
                )
                raise ScorerError(
                    f"the scorer `{url}` answered {response.status_code}{moved}; needed is 200 with "
                    '`{"scores": [...]}`'
                )
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MOST_ANSWER_BYTES:
                    raise ScorerError(f"the scorer `{url}` answered more than {MOST_ANSWER_BYTES} bytes")
            return bytes(body)
    except httpx.TimeoutException as error:
        raise _AwayError("did not answer in `reward_timeout_s`") from error
    except httpx.HTTPError as error:
        raise _AwayError(f"cannot be reached ({type(error).__name__})") from error


def _scores(url: str, body: bytes, count: int) -> list[float]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    scores: Any = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(scores, list) or not all(type(score) in (int, float) for score in scores):
        raise ScorerError(
            f'the scorer `{url}` answered something else than `{{"scores": [number, ...]}}`; needed are '
            f"{count} numbers"
        )
    if len(scores) != count:
        raise ScorerError(
            f"the scorer `{url}` gave {len(scores)} scores for {count} responses; needed is one each"
        )
    return cast(list[float], scores)


def _as_asked(prompt: Prompt) -> dict[str, Any]:
    history = [{"role": turn.role, "content": turn.content} for turn in prompt.history]
    return {"text": prompt.text, "system": prompt.system, "history": history}
