"""How requests to Label Studio say whose they are. `backend.label_studio` puts it on each of them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx

from backend.errors import UnauthorisedError


class Token(httpx.Auth):
    """A legacy token as it is; a personal access token exchanged for a short-lived one by the SDK."""

    def __init__(self, url: str, api_key: str) -> None:
        if not api_key.isascii() or not api_key.isprintable():
            raise UnauthorisedError("`LABEL_STUDIO_API_KEY` has characters that no token has; copy it again")
        self._url = url
        self._api_key = api_key
        self._exchange: Any = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._header()
        yield request

    def _header(self) -> str:
        if self._api_key.count(".") != 2:
            return f"Token {self._api_key}"
        from label_studio_sdk.core.api_error import ApiError  # the SDK takes 1.7 s and 100 MB to import
        from label_studio_sdk.tokens.client_ext import TokensClientExt

        try:
            self._exchange = self._exchange or TokensClientExt(base_url=self._url, api_key=self._api_key)
            return f"Bearer {self._exchange.api_key}"
        except ApiError as error:
            raise UnauthorisedError(
                f"Label Studio at {self._url} refuses the personal access token in `LABEL_STUDIO_API_KEY`;"
                " make a new one"
            ) from error
