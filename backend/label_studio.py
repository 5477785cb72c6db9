"""The only client of Label Studio's API.

Speaks through Label Studio's SDK on a connection that keeps our rules (`backend.label_studio_http`). Knows
the API's quirks (each is held by `tests/integration/test_label_studio_contract.py`), but not what we keep in
it. Returns plain JSON, as it was sent; `backend.annotations` reads it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx
from label_studio_sdk.base_client import LabelStudioBase
from label_studio_sdk.core import ApiError, ParsingError

from backend.errors import RejectedError, UnauthorisedError, WrongVersionError
from backend.label_studio_http import Connection
from backend.settings import Settings

TESTED_VERSION = "1.23"
PAGE_SIZE = 1000
IMPORT_BATCH = 1000

_TASK_FIELDS = ("id", "data", "updated_at")
_ANNOTATION_FIELDS = ("annotations", "result", "completed_by", "was_cancelled", "lead_time")
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
            api_key: a legacy token, or a personal access token, which the SDK exchanges.
            transport: takes the place of the network in tests.
            backoff_s: the first pause before a repetition; it doubles.
        Raises:
            UnauthorisedError: the key cannot be valid.
        """
        if not api_key.isascii() or not api_key.isprintable():
            raise UnauthorisedError("`LABEL_STUDIO_API_KEY` has characters that no token has; copy it again")
        self.url = url.rstrip("/")
        self._connection = Connection(self.url, timeout_s, transport=transport, backoff_s=backoff_s)
        try:
            # `LabelStudio` is this class plus DataFrame exports: 21 MB and 0.3 s become 124 MB and 0.9 s.
            self.sdk = LabelStudioBase(
                base_url=f"{self.url}/",  # without the slash the token exchange drops the URL's path
                api_key=api_key,
                httpx_client=self._connection,
                max_retries=0,  # the SDK would repeat an import that may have arrived
            )
        except ApiError as error:
            raise UnauthorisedError(
                "the personal access token in `LABEL_STUDIO_API_KEY` has expired; make a new one"
            ) from error

    def close(self) -> None:
        self._connection.close()

    @property
    def silent_s(self) -> float:
        """Seconds for which the oldest open request has had no answer."""
        return self._connection.silent_s

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
        release = self._object(self.sdk.versions.with_raw_response.get).get("release")
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
        date = self._ask(self.sdk.versions.with_raw_response.get).headers.get("date")
        return parsedate_to_datetime(date).astimezone(UTC) if date else datetime.now(UTC)

    def whoami(self) -> Json:
        return self._object(self.sdk.users.with_raw_response.whoami)

    def users(self) -> list[Json]:
        return self._list(self.sdk.users.with_raw_response.list)

    # --- projects ---

    def projects(self) -> list[Json]:
        """Id, title and description of each."""
        found: list[Json] = []
        for page in itertools.count(1):
            answer = self._ask(
                self.sdk.projects.list, include="id,title,description", page=page, page_size=PAGE_SIZE
            )
            found += [{"id": p.id, "title": p.title, "description": p.description} for p in answer.items]
            if not answer.response.next:
                break
        return found

    def project(self, project: int) -> Json:
        return self._object(self.sdk.projects.with_raw_response.get, project)

    def create_project(self, **fields: Any) -> Json:
        return self._object(self.sdk.projects.with_raw_response.create, **fields)

    def update_project(self, project: int, **fields: Any) -> Json:
        return self._object(self.sdk.projects.with_raw_response.update, project, **fields)

    # --- tasks ---

    def tasks(
        self, project: int, *, updated_after: datetime | None = None, annotations: bool = True
    ) -> Iterator[Json]:
        """Tasks by ascending id, `{"id", "data", "updated_at"}` and, if asked for, `annotations`.

        Goes on from the last id instead of counting pages, so that a deletion meanwhile skips nothing.
        """
        included = (*_TASK_FIELDS, *_ANNOTATION_FIELDS) if annotations else _TASK_FIELDS
        shown = (*_TASK_FIELDS, "annotations") if annotations else _TASK_FIELDS
        for task in self._tasks(project, included, updated_after):
            yield {name: getattr(task, name) for name in shown} | {"updated_at": task.updated_at.isoformat()}

    def task_ids(self, project: int) -> set[int]:
        return {task.id for task in self._tasks(project, ("id",))}

    def source_keys(self, project: int, key: str = "source_key") -> dict[str, int]:
        """`source_key` → task id: look here before writing tasks again. Of twins the first counts."""
        found: dict[str, int] = {}
        for task in self._tasks(project, ("id", "data")):
            value = task.data.get(key)
            if isinstance(value, str):
                found.setdefault(value, task.id)
        return found

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Import task data; the new tasks' ids in the same order."""
        ids: list[int] = []
        for start in range(0, len(tasks), IMPORT_BATCH):
            batch = [{"data": data} for data in tasks[start : start + IMPORT_BATCH]]
            answer = self._object(
                self.sdk.projects.with_raw_response.import_tasks, project, request=batch, return_task_ids=True
            )
            ids += answer["task_ids"]
        return ids

    def update_task(self, task: int, data: Mapping[str, Any]) -> None:
        """Replace a task's data, all of them. Moves the task's `updated_at`; no webhook tells of it."""
        self._object(self.sdk.tasks.with_raw_response.update, str(task), data=dict(data))

    def set_overlap(self, task: int, annotators: int, *, finished: bool) -> None:
        """Serve a task until so many people have annotated it, to those who have not.

        Args:
            finished: so many have. Label Studio does not look until the next annotation.
        """
        self._object(
            self.sdk.tasks.with_raw_response.update, str(task), overlap=annotators, is_labeled=finished
        )

    def delete_task(self, task: int) -> None:
        self._ask(self.sdk.tasks.delete, str(task))

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
        made = self._object(
            self.sdk.annotations.with_raw_response.create,
            task,
            result=result,
            lead_time=lead_time,
            was_cancelled=was_cancelled,
        )
        return int(made["id"])

    def update_annotation(self, annotation: int, result: Sequence[Json]) -> None:
        self._ask(self.sdk.annotations.update, annotation, result=result)

    def delete_annotation(self, annotation: int) -> None:
        self._ask(self.sdk.annotations.delete, annotation)

    def create_predictions(self, project: int, predictions: Sequence[Json]) -> None:
        """Store predictions, each with its `task`; see `backend.annotations.ranking_prediction`."""
        for start in range(0, len(predictions), IMPORT_BATCH):
            batch = predictions[start : start + IMPORT_BATCH]
            self._ask(self.sdk.projects.import_predictions, project, request=batch)

    # --- webhooks ---

    def webhooks(self, project: int) -> list[Json]:
        return self._list(self.sdk.webhooks.with_raw_response.list, project=str(project))

    def create_webhook(
        self, project: int, url: str, headers: Mapping[str, str], actions: Sequence[str]
    ) -> Json:
        wanted = _webhook(url, headers, actions)
        return self._object(self.sdk.webhooks.with_raw_response.create, project=project, **wanted)

    def update_webhook(
        self, webhook: int, url: str, headers: Mapping[str, str], actions: Sequence[str]
    ) -> Json:
        wanted = _webhook(url, headers, actions)
        return self._object(self.sdk.webhooks.with_raw_response.update, webhook, **wanted)

    def delete_webhook(self, webhook: int) -> None:
        self._ask(self.sdk.webhooks.delete, webhook)

    # --- the table of a project's tasks ---

    def tabs(self, project: int) -> list[Json]:
        """The tabs that someone has made; with none the page makes one of its own."""
        return self._list(self.sdk.views.with_raw_response.list, project=project)

    def create_tab(
        self,
        project: int,
        title: str,
        hidden_columns: Sequence[str],
        *,
        widths: Mapping[str, int] | None = None,
        filled: str | None = None,
    ) -> Json:
        """A tab for all users that leaves columns out, of the table and of the list beside a task.

        Args:
            widths: of columns, in pixels.
            filled: a key of task data; only tasks that have it are shown, the highest first.
        """
        hidden = {"explore": list(hidden_columns), "labeling": list(hidden_columns)}
        data: Any = {"title": title, "type": "list", "target": "tasks", "hiddenColumns": hidden}
        data["columnsWidth"] = dict(widths or {})
        if filled is not None:
            has_it = {"operator": "empty", "type": "String", "value": "false"}
            items = [{"filter": f"filter:tasks:data.{filled}", **has_it}]
            data |= {"filters": {"conjunction": "and", "items": items}}
            data |= {"ordering": [f"-tasks:data.{filled}"]}
        return self._object(self.sdk.views.with_raw_response.create, project=project, data=data)

    # --- ML backends ---

    def ml_backends(self, project: int) -> list[Json]:
        """Asking makes Label Studio call each backend's /health and /setup."""
        return self._list(self.sdk.ml.with_raw_response.list, project=project)

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
            return self._object(self.sdk.ml.with_raw_response.create, **body)
        return self._object(self.sdk.ml.with_raw_response.update, known, **body)

    def delete_ml_backend(self, backend: int) -> None:
        self._ask(self.sdk.ml.delete, backend)

    # --- answers ---

    def _ask(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a call of the SDK returns.

        Raises:
            LabelStudioError: from the connection, or because what answers is no Label Studio.
        """
        try:
            return call(*args, **kwargs)
        except (ApiError, ParsingError, ValueError):  # no JSON; their text may quote the whole answer
            raise self._stranger() from None
        except TypeError as error:  # the SDK makes its models of JSON objects only
            raise self._stranger() from error

    def _json(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> object:
        """The JSON itself, because the SDK's models drop or retype what they were not made for."""
        answer: object = self._ask(call, *args, **kwargs).response.json()
        return answer

    def _object(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Json:
        answer = self._json(call, *args, **kwargs)
        if not isinstance(answer, dict):
            raise self._stranger()
        return answer

    def _list(self, call: Callable[..., Any], **kwargs: Any) -> list[Json]:
        answer = self._json(call, **kwargs)
        if not isinstance(answer, list):
            raise self._stranger()
        return answer

    def _tasks(
        self, project: int, included: Sequence[str], updated_after: datetime | None = None
    ) -> Iterator[Any]:
        last = 0
        while True:
            filters = [_filter("id", "Number", last)]
            if updated_after is not None:
                moment = updated_after.astimezone(UTC).strftime(_TIME_FORMAT)
                filters.append(_filter("updated_at", "Datetime", moment))
            selection = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}
            page = self._ask(
                self.sdk.tasks.list,
                project=project,
                page_size=PAGE_SIZE,
                query=json.dumps(selection),
                include=",".join(included),
                fields="all" if "annotations" in included else None,
            )
            if page.items is None:
                raise self._stranger()
            yield from page.items
            if len(page.items) < PAGE_SIZE:
                return
            last = page.items[-1].id

    def _stranger(self) -> RejectedError:
        return RejectedError(f"{self.url} answers, but not as Label Studio does; check `LABEL_STUDIO_URL`")


def _filter(column: str, kind: str, value: object) -> Json:
    return {"filter": f"filter:tasks:{column}", "operator": "greater", "type": kind, "value": value}


def _webhook(url: str, headers: Mapping[str, str], actions: Sequence[str]) -> Json:
    return {
        "url": url,
        "headers": dict(headers),
        "actions": list(actions),
        "send_for_all_actions": False,
        "send_payload": True,
        "is_active": True,
    }
