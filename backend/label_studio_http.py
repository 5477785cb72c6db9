"""How requests reach Label Studio: what is repeated, what is never followed, what a refusal means.

Knows HTTP, but nothing of what is asked: `backend.label_studio` puts Label Studio's SDK on top, which says
whose the requests are. Nothing of a request or answer is logged.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from backend.errors import (
    LabelStudioError,
    NotFoundError,
    RejectedError,
    UnauthorisedError,
    UnreachableError,
)

_ATTEMPTS = 3
_REFRESH = "/api/token/refresh"


class Connection(httpx.Client):
    """Gives successful answers only; anything else is raised as one of our errors."""

    def __init__(
        self,
        url: str,
        timeout_s: float,
        *,
        transport: httpx.BaseTransport | None = None,
        backoff_s: float = 0.5,
    ) -> None:
        """
        Args:
            transport: takes the place of the network in tests.
            backoff_s: the first pause before a repetition; it doubles.
        """
        super().__init__(
            timeout=timeout_s,
            follow_redirects=False,
            transport=transport,
            trust_env=urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"),
        )
        self._address = url
        self._backoff_s = backoff_s
        self._asked: dict[httpx.Request, float] = {}

    @property
    def silent_s(self) -> float:
        """How long the oldest open request has been waiting for its answer; 0 without one."""
        now = time.monotonic()
        return now - min(self._asked.copy().values(), default=now)

    def send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        """Send; what can be repeated without harm is, while Label Studio does not answer.

        Raises:
            LabelStudioError: one of its kinds, with what was found and what to do.
        """
        self._asked[request] = time.monotonic()
        try:
            return self._send(request, **kwargs)
        finally:
            del self._asked[request]

    def _send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        repeatable = request.method != "POST" or _path(request) == _REFRESH
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = super().send(request, **kwargs)
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS or not (repeatable or isinstance(error, httpx.ConnectError)):
                    raise self._unreachable(type(error).__name__) from error
            else:
                if response.is_success:
                    return response
                if response.status_code < 500:
                    raise self._refused(response)
                if attempt == _ATTEMPTS or not repeatable:
                    raise self._unreachable(f"status {response.status_code}")
            time.sleep(self._backoff_s * 2 ** (attempt - 1))
        raise AssertionError("unreachable")  # pragma: no cover - the last attempt returns or raises

    def _unreachable(self, what: str) -> UnreachableError:
        return UnreachableError(
            f"Label Studio at {self._address} does not answer ({what}); check that it runs and that"
            " `LABEL_STUDIO_URL` is its address"
        )

    def _refused(self, response: httpx.Response) -> LabelStudioError:
        path = _path(response.request)
        asked = f"{response.request.method} {path}"
        match response.status_code:
            case 401 if path == _REFRESH:
                return UnauthorisedError(
                    f"Label Studio at {self._address} refuses the personal access token in"
                    " `LABEL_STUDIO_API_KEY`; make a new one"
                )
            case 401:
                return UnauthorisedError(
                    f"Label Studio at {self._address} refuses `LABEL_STUDIO_API_KEY` for {asked};"
                    " copy a valid token from Account & Settings → Access Token"
                    " (legacy tokens must be enabled on the Organization page)"
                )
            case 403:
                return UnauthorisedError(
                    f"Label Studio at {self._address} forbids {asked}: {_reason(response)}"
                )
            case 404:
                return NotFoundError(
                    f"Label Studio at {self._address} has nothing at {asked}; it may have been deleted"
                )
            case 301 | 302 | 303 | 307 | 308:
                return RejectedError(
                    f"{self._address} redirects {asked} elsewhere;"
                    " set `LABEL_STUDIO_URL` to the final address"
                )
        # a refused import quotes what was sent
        reason = "" if "/import" in path else f": {_reason(response)}"
        return RejectedError(f"Label Studio refused {asked} with status {response.status_code}{reason}")


def _path(request: httpx.Request) -> str:
    return request.url.path.rstrip("/")


def _reason(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return "no reason given"
    if not isinstance(body, dict):
        return str(body)[:300]
    faults = body.get("validation_errors")
    return str(faults or body.get("detail") or "no reason given")[:300]
