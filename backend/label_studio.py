"""The only client of Label Studio's API.

Knows Label Studio's addresses and quirks (each is held by `tests/integration/test_label_studio_contract.py`),
but not what we keep in it. Returns plain JSON; `backend.annotations` reads it. No redirect is followed, and
nothing of a request or answer is logged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from backend.errors import (
    LabelStudioError,
    NotFoundError,
    RejectedError,
    UnauthorisedError,
    UnreachableError,
    WrongVersionError,
)
from backend.label_studio_token import Token
from backend.settings import Settings

TESTED_VERSION = "1.23"
PAGE_SIZE = 1000
IMPORT_BATCH = 1000

_ATTEMPTS = 3
_TASK_FIELDS = "id,data,updated_at"
_ANNOTATION_FIELDS = "annotations,result,completed_by,was_cancelled,lead_time"
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"  # a filter on times answers 500 to any other

Json = dict[str, Any]


class LabelStudioClient:
    """One user's view of one Label Studio."""

    def __init__(
        self,
        url: str,
        api_key: str,
        timeout_s: float = 60.0,
        *,
        transport: httpx.BaseTransport | None = None,
        backoff_s: float = 0.5,
    ) -> None:
        """
        Args:
            api_key: a legacy token, or a personal access token.
            transport: takes the place of the network in tests.
            backoff_s: the first pause before a repetition; it doubles.
        """
        self.url = url.rstrip("/")
        self._backoff_s = backoff_s
        self._http = httpx.Client(
            base_url=self.url,
            auth=Token(self.url, api_key),
            timeout=timeout_s,
            follow_redirects=False,
            transport=transport,
            trust_env=urlsplit(self.url).hostname not in ("127.0.0.1", "localhost", "::1"),
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The client that the settings describe."""
        return cls(settings.label_studio_url, settings.label_studio_api_key, settings.label_studio_timeout_s)

    # --- the server ---

    def version(self) -> str:
        release = self._object("GET", "/api/version").get("release")
        if not isinstance(release, str):
            raise self._stranger()
        return release

    def check(self) -> str:
        """Version, if this Label Studio can be used.

        Raises: UnreachableError, UnauthorisedError, WrongVersionError.
        """
        release = self.version()
        if not release.startswith(f"{TESTED_VERSION}."):
            raise WrongVersionError(
                f"{self.url} is Label Studio {release}; needed is {TESTED_VERSION}.x"
                f" (pip install 'label-studio=={TESTED_VERSION}.2')"
            )
        self.whoami()
        return release

    def now(self) -> datetime:
        """The time by Label Studio's clock."""
        date = self.request("GET", "/api/version").headers.get("date")
        return parsedate_to_datetime(date).astimezone(UTC) if date else datetime.now(UTC)

    def whoami(self) -> Json:
        return self._object("GET", "/api/current-user/whoami")

    def users(self) -> list[Json]:
        return self._list("/api/users")

    # --- projects ---

    def projects(self) -> list[Json]:
        """Id, title and description of each."""
        query = {"include": "id,title,description", "page_size": 1000}
        found: list[Json] = []
        page = 1
        while True:
            answer = self._object("GET", "/api/projects", params={**query, "page": page})
            found += answer["results"]
            if not answer.get("next"):
                return found
            page += 1

    def project(self, project: int) -> Json:
        return self._object("GET", f"/api/projects/{project}")

    def create_project(self, **fields: Any) -> Json:
        return self._object("POST", "/api/projects", json=fields)

    def update_project(self, project: int, **fields: Any) -> Json:
        return self._object("PATCH", f"/api/projects/{project}", json=fields)

    # --- tasks ---

    def tasks(
        self, project: int, *, updated_after: datetime | None = None, annotations: bool = True
    ) -> Iterator[Json]:
        """Tasks by ascending id, `{"id", "data", "updated_at"}` and, if asked for, `annotations`.

        Goes on from the last id instead of counting pages, so that a deletion meanwhile skips nothing.
        """
        include = f"{_TASK_FIELDS},{_ANNOTATION_FIELDS}" if annotations else _TASK_FIELDS
        fields = {"fields": "all"} if annotations else {}
        yield from self._pages(project, {"include": include, **fields}, updated_after)

    def task_ids(self, project: int) -> set[int]:
        return {task["id"] for task in self._pages(project, {"include": "id"})}

    def source_keys(self, project: int, key: str = "source_key") -> dict[str, int]:
        """`source_key` → task id: look here before writing tasks again. Of twins the first counts."""
        found: dict[str, int] = {}
        for task in self._pages(project, {"include": "id,data"}):
            value = task["data"].get(key)
            if isinstance(value, str):
                found.setdefault(value, task["id"])
        return found

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Import task data; the new tasks' ids in the same order."""
        ids: list[int] = []
        for start in range(0, len(tasks), IMPORT_BATCH):
            batch = [{"data": data} for data in tasks[start : start + IMPORT_BATCH]]
            answer = self._object(
                "POST",
                f"/api/projects/{project}/import",
                params={"return_task_ids": "true"},
                json=batch,
                quiet=True,
            )
            ids += answer["task_ids"]
        return ids

    def delete_task(self, task: int) -> None:
        self.request("DELETE", f"/api/tasks/{task}")

    # --- annotations and predictions ---

    def create_annotation(
        self,
        task: int,
        result: Sequence[Json],
        *,
        lead_time: float | None = None,
        was_cancelled: bool = False,
    ) -> int:
        """Annotate as the user whose key this is; the annotation's id."""
        body = {"result": list(result), "lead_time": lead_time, "was_cancelled": was_cancelled}
        return int(self._object("POST", f"/api/tasks/{task}/annotations", json=body)["id"])

    def update_annotation(self, annotation: int, result: Sequence[Json]) -> None:
        self.request("PATCH", f"/api/annotations/{annotation}", json={"result": list(result)})

    def delete_annotation(self, annotation: int) -> None:
        self.request("DELETE", f"/api/annotations/{annotation}")

    def create_predictions(self, project: int, predictions: Sequence[Json]) -> None:
        """Store predictions, each with its `task`; see `backend.annotations.ranking_prediction`."""
        for start in range(0, len(predictions), IMPORT_BATCH):
            batch = list(predictions[start : start + IMPORT_BATCH])
            self.request("POST", f"/api/projects/{project}/import/predictions", json=batch, quiet=True)

    # --- webhooks ---

    def webhooks(self, project: int) -> list[Json]:
        return self._list("/api/webhooks/", params={"project": project})

    def create_webhook(
        self, project: int, url: str, headers: Mapping[str, str], actions: Sequence[str]
    ) -> Json:
        return self._object("POST", "/api/webhooks/", json=_webhook(project, url, headers, actions))

    def update_webhook(
        self, webhook: int, project: int, url: str, headers: Mapping[str, str], actions: Sequence[str]
    ) -> Json:
        return self._object(
            "PATCH", f"/api/webhooks/{webhook}/", json=_webhook(project, url, headers, actions)
        )

    def delete_webhook(self, webhook: int) -> None:
        self.request("DELETE", f"/api/webhooks/{webhook}/")

    # --- ML backends ---

    def ml_backends(self, project: int) -> list[Json]:
        """Asking makes Label Studio call each backend's /health and /setup."""
        return self._list("/api/ml", params={"project": project})

    def connect_ml_backend(
        self,
        project: int,
        url: str,
        *,
        title: str,
        username: str = "",
        password: str = "",
        known: int | None = None,
    ) -> Json:
        """Connect a backend, or repair the connection `known`; the backend must be up.

        Raises: RejectedError: Label Studio cannot reach it, or its credentials are wrong.
        """
        body: Json = {"project": project, "url": url, "title": title, "is_interactive": False}
        if password:
            body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": username, "basic_auth_pass": password}
        if known is None:
            return self._object("POST", "/api/ml", json=body)
        return self._object("PATCH", f"/api/ml/{known}", json=body)

    def delete_ml_backend(self, backend: int) -> None:
        self.request("DELETE", f"/api/ml/{backend}")

    # --- requests ---

    def request(self, method: str, path: str, *, quiet: bool = False, **kwargs: Any) -> httpx.Response:
        """One request; what can be repeated without harm is, while Label Studio does not answer.

        Args:
            quiet: keep Label Studio's reason out of the error, because it quotes what was sent.
        Raises:
            LabelStudioError: one of its kinds, with what was found and what to do.
        """
        repeatable = method != "POST"
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = self._http.request(method, path, **kwargs)
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS or not (repeatable or isinstance(error, httpx.ConnectError)):
                    raise self._unreachable(type(error).__name__) from error
            else:
                if response.is_success:
                    return response
                if response.status_code < 500:
                    raise self._refused(response, quiet)
                if attempt == _ATTEMPTS or not repeatable:
                    raise self._unreachable(f"status {response.status_code}")
            time.sleep(self._backoff_s * 2 ** (attempt - 1))
        raise AssertionError("unreachable")  # pragma: no cover - the last attempt returns or raises

    def _json(self, method: str, path: str, **kwargs: Any) -> object:
        response = self.request(method, path, **kwargs)
        try:
            return response.json()
        except ValueError as error:
            raise self._stranger() from error

    def _object(self, method: str, path: str, **kwargs: Any) -> Json:
        answer = self._json(method, path, **kwargs)
        if not isinstance(answer, dict):
            raise self._stranger()
        return answer

    def _list(self, path: str, **kwargs: Any) -> list[Json]:
        answer = self._json("GET", path, **kwargs)
        if isinstance(answer, dict):
            answer = answer.get("results")
        if not isinstance(answer, list):
            raise self._stranger()
        return answer

    def _pages(
        self, project: int, query: Mapping[str, Any], updated_after: datetime | None = None
    ) -> Iterator[Json]:
        last = 0
        while True:
            filters = [_filter("id", "Number", last)]
            if updated_after is not None:
                moment = updated_after.astimezone(UTC).strftime(_TIME_FORMAT)
                filters.append(_filter("updated_at", "Datetime", moment))
            selection = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}
            page = {"project": project, "page": 1, "page_size": PAGE_SIZE, "query": json.dumps(selection)}
            tasks = self._object("GET", "/api/tasks", params={**page, **query})["tasks"]
            yield from tasks
            if len(tasks) < PAGE_SIZE:
                return
            last = tasks[-1]["id"]

    def _stranger(self) -> RejectedError:
        return RejectedError(f"{self.url} answers, but not as Label Studio does; check `LABEL_STUDIO_URL`")

    def _unreachable(self, what: str) -> UnreachableError:
        return UnreachableError(
            f"Label Studio at {self.url} does not answer ({what}); check that it runs and that"
            " `LABEL_STUDIO_URL` is its address"
        )

    def _refused(self, response: httpx.Response, quiet: bool) -> LabelStudioError:
        path = f"{response.request.method} {response.request.url.path}"
        match response.status_code:
            case 401:
                return UnauthorisedError(
                    f"Label Studio at {self.url} refuses `LABEL_STUDIO_API_KEY` for {path};"
                    " copy a valid token from Account & Settings → Access Token"
                    " (legacy tokens must be enabled on the Organization page)"
                )
            case 403:
                return UnauthorisedError(f"Label Studio at {self.url} forbids {path}: {_reason(response)}")
            case 404:
                return NotFoundError(
                    f"Label Studio at {self.url} has nothing at {path}; it may have been deleted"
                )
            case 301 | 302 | 303 | 307 | 308:
                return RejectedError(
                    f"{self.url} redirects {path} elsewhere; set `LABEL_STUDIO_URL` to the final address"
                )
        reason = "" if quiet else f": {_reason(response)}"
        return RejectedError(f"Label Studio refused {path} with status {response.status_code}{reason}")


def _filter(column: str, kind: str, value: object) -> Json:
    return {"filter": f"filter:tasks:{column}", "operator": "greater", "type": kind, "value": value}


def _webhook(project: int, url: str, headers: Mapping[str, str], actions: Sequence[str]) -> Json:
    return {
        "project": project,
        "url": url,
        "headers": dict(headers),
        "actions": list(actions),
        "send_for_all_actions": False,
        "send_payload": True,
        "is_active": True,
    }


def _reason(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return "no reason given"
    if not isinstance(body, dict):
        return str(body)[:300]
    faults = body.get("validation_errors")
    return str(faults or body.get("detail") or "no reason given")[:300]
