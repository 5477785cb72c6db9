"""How requests to Label Studio say whose they are. `backend.label_studio` puts it on each of them."""

from __future__ import annotations

from collections.abc import Generator

import httpx

from backend.errors import UnauthorisedError


class Token(httpx.Auth):
    """A legacy token as it is; a personal access token exchanged for a short-lived one, again when that ends."""

    requires_response_body = True

    def __init__(self, url: str, api_key: str) -> None:
        if not api_key.isascii() or not api_key.isprintable():
            raise UnauthorisedError("`LABEL_STUDIO_API_KEY` has characters that no token has; copy it again")
        self._url = url
        self._api_key = api_key
        self._access = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._api_key.count(".") != 2:  # a personal access token is a JWT
            request.headers["Authorization"] = f"Token {self._api_key}"
            yield request
            return
        if self._access:
            request.headers["Authorization"] = f"Bearer {self._access}"
            if (yield request).status_code != 401:
                return
        exchanged = yield httpx.Request(
            "POST", f"{self._url}/api/token/refresh", json={"refresh": self._api_key}
        )
        if exchanged.status_code != 200:
            raise UnauthorisedError(
                f"Label Studio at {self._url} refuses the personal access token in `LABEL_STUDIO_API_KEY`"
                f" (status {exchanged.status_code}); make a new one"
            )
        self._access = str(exchanged.json()["access"])
        request.headers["Authorization"] = f"Bearer {self._access}"
        yield request
