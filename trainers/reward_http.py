"""A reward that some other program gives over HTTP.

    POST URL    {"prompts": [{"text": …, "system": …, "history": [{"role": …, "content": …}]}, …],
                 "responses": ["…", …]}
    200         {"scores": [0.7, …]}      one finite number a response, higher is better

The scorer may be any model in any language, with its own tokenizer, on any machine. It must give the same
score to the same answer, or a resumed run is not the interrupted one. Nothing of what is sent or answered
goes into a log or a message. Used by `trainers.reward_source`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx

from trainers.address import require_address
from trainers.errors import ConfigError, ScorerError
from trainers.records import Prompt

ATTEMPTS = 3
"""A scorer that is away or overloaded is asked this often."""
PAUSE_S = 1.0
MOST_ANSWER_BYTES = 2**24
OVERLOADED = (429, 502, 503, 504)


class _AwayError(Exception):
    """The scorer did not answer this time; the message says how."""


def http_reward(
    url: str, *, batch_size: int, timeout_s: float
) -> Callable[[Sequence[Prompt], Sequence[str]], list[float]]:
    """A reward function that asks the scorer at this address.

    Redirects are not followed and no proxy is used: what is sent reaches the address that was named.

    Args:
        batch_size: responses in one request.
        timeout_s: seconds for one request, from connecting to the answer's last byte.
    Raises: ConfigError: the address is none, or holds a password, which would end up in the run's files.
    """
    require_address(url)
    try:
        _ = httpx.URL(url).host
    except (httpx.InvalidURL, ValueError):  # a message of theirs may hold the address
        raise ConfigError(
            "`reward_model` is no address that can be used: its host cannot be read; needed is "
            "`http://HOST:PORT/PATH`"
        ) from None

    async def ask(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        scores: list[float] = []
        # without httpx's own limits, which are for each read: a byte now and then would never end
        client = httpx.AsyncClient(timeout=None, follow_redirects=False, trust_env=False)  # noqa: S113
        async with client:
            for start in range(0, len(responses), batch_size):
                part = slice(start, start + batch_size)
                scores += await _ask(client, url, prompts[part], responses[part], timeout_s)
        return scores

    return lambda prompts, responses: _finished(ask(prompts, responses))


def _finished(work: Coroutine[Any, Any, list[float]]) -> list[float]:
    """What the work comes to, also where the caller runs in a loop of asyncio, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        with ThreadPoolExecutor(1) as own_thread:
            return own_thread.submit(asyncio.run, work).result()
    return asyncio.run(work)


async def _ask(
    client: httpx.AsyncClient,
    url: str,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    timeout_s: float,
) -> list[float]:
    asked = {"prompts": [_as_asked(prompt) for prompt in prompts], "responses": list(responses)}
    content = json.dumps(asked, ensure_ascii=False).encode("utf-8", errors="replace")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            body = await _answer(client, url, content, timeout_s)
            return _scores(url, body, len(responses))
        except _AwayError as error:
            if attempt == ATTEMPTS:
                raise ScorerError(
                    f"the scorer `{url}` {error}, {ATTEMPTS} times; start or mend it, then start the run "
                    "again: it goes on from its last checkpoint"
                ) from error.__cause__
            await asyncio.sleep(PAUSE_S * attempt)
    raise AssertionError("unreachable")


async def _answer(client: httpx.AsyncClient, url: str, content: bytes, timeout_s: float) -> bytes:
    """The body of the scorer's answer. Raises: _AwayError, ScorerError."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    try:
        async with (
            asyncio.timeout(timeout_s),
            client.stream("POST", url, content=content, headers=headers) as response,
        ):
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
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MOST_ANSWER_BYTES:
                    raise ScorerError(f"the scorer `{url}` answered more than {MOST_ANSWER_BYTES} bytes")
            return bytes(body)
    except TimeoutError as error:
        raise _AwayError("did not answer in `reward_timeout_s`") from error
    except httpx.DecodingError as error:
        raise ScorerError(
            f"the scorer `{url}` gave an answer that cannot be decompressed; needed is what its "
            "`Content-Encoding` says, or none"
        ) from error
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
