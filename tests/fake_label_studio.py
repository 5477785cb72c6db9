"""Label Studio in memory, as far as `backend.label_studio` uses it.

It answers at the level of HTTP, through `transport()`, so the real client runs on top of it. What it claims
about Label Studio is held by `tests/integration/test_label_studio_contract.py`, which runs against both.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

import label_config

Json = dict[str, Any]
TOKEN = "f" * 40


class FakeLabelStudio:
    """One Label Studio whose clock moves a second with every change."""

    url = "http://label-studio.test"

    def __init__(self) -> None:
        self.release = "1.23.2"
        self.up = True
        self.clock = datetime(2026, 1, 1, tzinfo=UTC)
        self.tokens = {TOKEN: 1}
        self.names: dict[int, tuple[str, str]] = {}
        """First and last name of a user who has given them."""
        self.project_rows: dict[int, Json] = {}
        self.task_rows: dict[int, Json] = {}
        self.annotation_rows: dict[int, Json] = {}
        self.prediction_rows: list[Json] = []
        self.answers = threading.Event()
        """Cleared, requests are taken but not answered, like a frozen process."""
        self.answers.set()
        self.tab_rows: dict[int, Json] = {}
        self.webhook_rows: dict[int, Json] = {}
        self.ml_rows: dict[int, Json] = {}
        self.reachable_backends: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self._ids = itertools.count(1)

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def add_user(self, token: str) -> int:
        self.tokens[token] = max(self.tokens.values()) + 1
        return self.tokens[token]

    def tick(self) -> str:
        self.clock += timedelta(seconds=1)
        return self.clock.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    # --- what people do, without a request ---

    def add_task(self, project: int, data: object) -> int:
        task = next(self._ids)
        self.task_rows[task] = {"id": task, "project": project, "data": data, "updated_at": self.tick()}
        return task

    def annotate(
        self,
        task: int,
        result: object,
        *,
        user: object = 1,
        lead_time: object = 9.0,
        was_cancelled: bool = False,
    ) -> int:
        annotation = next(self._ids)
        now = self.tick()
        self.annotation_rows[annotation] = {
            "id": annotation, "task": task, "result": result, "completed_by": user, "lead_time": lead_time,
            "was_cancelled": was_cancelled, "updated_at": now,
        }  # fmt: skip
        self.task_rows[task]["updated_at"] = now
        return annotation

    def edit(self, annotation: int, result: object) -> None:
        row = self.annotation_rows[annotation]
        row["result"], row["updated_at"] = result, self.tick()
        self.task_rows[row["task"]]["updated_at"] = row["updated_at"]

    def remove_annotation(self, annotation: int) -> None:
        row = self.annotation_rows.pop(annotation)
        self.task_rows[row["task"]]["updated_at"] = self.tick()

    def remove_task(self, task: int) -> None:
        del self.task_rows[task]
        self.annotation_rows = {k: row for k, row in self.annotation_rows.items() if row["task"] != task}

    # --- requests ---

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.rstrip("/")  # Label Studio takes both
        self.requests.append((request.method, path))
        self.answers.wait()
        if not self.up:
            raise httpx.ConnectError("refused", request=request)
        headers = {"date": self.clock.strftime("%a, %d %b %Y %H:%M:%S GMT")}
        if path == "/api/version":
            return httpx.Response(200, json={"release": self.release}, headers=headers)
        user = self.tokens.get(request.headers.get("authorization", "").removeprefix("Token "))
        if user is None:
            return httpx.Response(401, json={"detail": "Invalid token."}, headers=headers)
        body = json.loads(request.content) if request.content else None
        for method, pattern, handler in self._routes():
            if method == request.method and (match := re.fullmatch(pattern, path)):
                ids = [int(group) for group in match.groups()]
                status, answer = handler(*ids, body=body, query=dict(request.url.params), user=user)
                return httpx.Response(status, json=answer, headers=headers)
        return httpx.Response(404, text="<!doctype html>", headers=headers)

    def _routes(self) -> list[tuple[str, str, Callable[..., tuple[int, Any]]]]:
        return [
            ("GET", "/api/current-user/whoami", lambda user, **_: (200, {"id": user})),
            ("GET", "/api/users", self._list_users),
            ("GET", "/api/projects", self._list_projects),
            ("POST", "/api/projects", self._create_project),
            ("GET", r"/api/projects/(\d+)", lambda key, **_: _one(self.project_rows, key)),
            ("PATCH", r"/api/projects/(\d+)", self._update_project),
            ("POST", r"/api/projects/(\d+)/import", self._import),
            ("POST", r"/api/projects/(\d+)/import/predictions", self._import_predictions),
            ("GET", "/api/tasks", self._list_tasks),
            ("PATCH", r"/api/tasks/(\d+)", self._update_task),
            ("DELETE", r"/api/tasks/(\d+)", self._delete_task),
            ("POST", r"/api/tasks/(\d+)/annotations", self._create_annotation),
            ("PATCH", r"/api/annotations/(\d+)", self._update_annotation),
            ("DELETE", r"/api/annotations/(\d+)", self._delete_annotation),
            ("GET", "/api/webhooks", self._list_webhooks),
            ("POST", "/api/webhooks", self._create_webhook),
            ("PATCH", r"/api/webhooks/(\d+)", self._update_webhook),
            ("DELETE", r"/api/webhooks/(\d+)", self._delete_webhook),
            ("GET", "/api/dm/views", self._list_tabs),
            ("POST", "/api/dm/views", self._create_tab),
            ("GET", "/api/ml", self._list_backends),
            ("POST", "/api/ml", self._connect_backend),
            ("PATCH", r"/api/ml/(\d+)", self._update_backend),
            ("DELETE", r"/api/ml/(\d+)", self._delete_backend),
        ]

    # --- projects ---

    def _list_users(self, **_: Any) -> tuple[int, Any]:
        users = []
        for user in self.tokens.values():
            first, last = self.names.get(user, ("", ""))
            users.append(
                {"id": user, "first_name": first, "last_name": last, "email": f"user{user}@example.com"}
            )
        return 200, users

    def _list_projects(self, **_: Any) -> tuple[int, Any]:
        return 200, {
            "count": len(self.project_rows),
            "next": None,
            "results": list(self.project_rows.values()),
        }

    def _create_project(self, body: Json, **_: Any) -> tuple[int, Any]:
        if not 3 <= len(body.get("title", "")) <= 50:
            return 400, {"detail": "Validation error", "validation_errors": {"title": ["length"]}}
        project = next(self._ids)
        defaults = {
            "description": "",
            "label_config": "<View/>",
            "model_version": "",
            "maximum_annotations": 1,
        }
        self.project_rows[project] = {"id": project, **defaults, **body}
        return 201, self.project_rows[project]

    def _update_project(self, project: int, body: Json, **_: Any) -> tuple[int, Any]:
        if project not in self.project_rows:
            return _one(self.project_rows, project)
        annotated = any(
            self.task_rows[row["task"]]["project"] == project for row in self.annotation_rows.values()
        )
        if (
            "label_config" in body
            and annotated
            and 'name="other"' in self.project_rows[project]["label_config"]
        ):
            return 400, {
                "detail": "Validation error",
                "validation_errors": {"label_config": ["incompatible"]},
            }
        self.project_rows[project].update(body)
        return 200, self.project_rows[project]

    # --- tasks ---

    def _import(self, project: int, body: list[Json], **_: Any) -> tuple[int, Any]:
        if project not in self.project_rows:
            return 404, {"detail": "Not found"}
        needed = set(re.findall(r'value="\$(\w+)"', self.project_rows[project]["label_config"]))
        if any(needed - set(item["data"]) for item in body):
            return 400, {
                "detail": "Validation error",
                "validation_errors": {"non_field_errors": ["key is expected"]},
            }
        return 201, {"task_ids": [self.add_task(project, item["data"]) for item in body]}

    def _list_tasks(self, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        project = int(query["project"])
        if project not in self.project_rows:
            return 404, {"detail": "Not found"}
        rows = [row for row in self.task_rows.values() if row["project"] == project]
        for item in json.loads(query["query"])["filters"]["items"]:
            column = item["filter"].removeprefix("filter:tasks:")
            rows = [row for row in rows if row[column] > item["value"]]
        rows = sorted(rows, key=lambda row: row["id"])[: int(query["page_size"])]
        included = query["include"].split(",")
        shown = [{key: row[key] for key in ("id", "data", "updated_at") if key in included} for row in rows]
        if "annotations" in included and query.get("fields") == "all":
            found: dict[int, list[Json]] = {row["id"]: [] for row in shown}
            for annotation in self.annotation_rows.values():
                if annotation["task"] in found:
                    found[annotation["task"]].append(dict(annotation))
            for row in shown:
                row["annotations"] = found[row["id"]]
        return 200, {"tasks": json.loads(json.dumps(shown)), "total": len(rows)}

    def _update_task(self, task: int, body: Json, **_: Any) -> tuple[int, Any]:
        if task in self.task_rows:
            self.task_rows[task].update({**body, "updated_at": self.tick()})
        return _one(self.task_rows, task)

    def _delete_task(self, task: int, **_: Any) -> tuple[int, Any]:
        if task in self.task_rows:
            self.remove_task(task)
            return 204, None
        return 404, {"detail": "Not found"}

    def _import_predictions(self, project: int, body: list[Json], **_: Any) -> tuple[int, Any]:
        self.prediction_rows += [{**item, "project": project} for item in body]
        return 201, {"created": len(body)}

    # --- annotations ---

    def _create_annotation(self, task: int, body: Json, user: int, **_: Any) -> tuple[int, Any]:
        if task not in self.task_rows:
            return 404, {"detail": "Not found"}
        cancelled = bool(body.get("was_cancelled"))
        made = self.annotate(
            task, body["result"], user=user, lead_time=body.get("lead_time"), was_cancelled=cancelled
        )
        return 201, self.annotation_rows[made]

    def _update_annotation(self, annotation: int, body: Json, **_: Any) -> tuple[int, Any]:
        if annotation in self.annotation_rows:
            self.edit(annotation, body["result"])
        return _one(self.annotation_rows, annotation)

    def _delete_annotation(self, annotation: int, **_: Any) -> tuple[int, Any]:
        if annotation not in self.annotation_rows:
            return 404, {"detail": "Not found"}
        self.remove_annotation(annotation)
        return 204, None

    # --- tabs, webhooks and ML backends ---

    def _list_tabs(self, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        return 200, [row for row in self.tab_rows.values() if row["project"] == int(query["project"])]

    def _create_tab(self, body: Json, **_: Any) -> tuple[int, Any]:
        tab = next(self._ids)
        self.tab_rows[tab] = {"id": tab, **body}
        return 201, self.tab_rows[tab]

    def _list_webhooks(self, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        return 200, [row for row in self.webhook_rows.values() if row["project"] == int(query["project"])]

    def _create_webhook(self, body: Json, **_: Any) -> tuple[int, Any]:
        if "." not in (host := httpx.URL(body["url"]).host) and host != "localhost":
            return 400, {"validation_errors": {"url": ["Enter a valid URL."]}}
        webhook = next(self._ids)
        self.webhook_rows[webhook] = {"id": webhook, **body}
        return 201, self.webhook_rows[webhook]

    def _update_webhook(self, webhook: int, body: Json, **_: Any) -> tuple[int, Any]:
        if webhook in self.webhook_rows:
            self.webhook_rows[webhook].update(body)
        return _one(self.webhook_rows, webhook)

    def _delete_webhook(self, webhook: int, **_: Any) -> tuple[int, Any]:
        return (204, None) if self.webhook_rows.pop(webhook, None) else (404, {"detail": "Not found"})

    def _list_backends(self, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        return 200, [row for row in self.ml_rows.values() if row["project"] == int(query["project"])]

    def _connect_backend(self, body: Json, **_: Any) -> tuple[int, Any]:
        if body["url"] not in self.reachable_backends:
            return 400, {"validation_errors": {"non_field_errors": ["Can't connect to ML backend"]}}
        backend = next(self._ids)
        shown = {key: value for key, value in body.items() if key != "basic_auth_pass"}
        self.ml_rows[backend] = {"id": backend, **shown}
        self.project_rows[body["project"]]["model_version"] = body["title"]
        hook = {"project": body["project"], "url": f"{body['url']}/webhook", "headers": {}, "actions": []}
        self._create_webhook({**hook, "send_for_all_actions": True})
        return 201, self.ml_rows[backend]

    def _update_backend(self, backend: int, body: Json, **_: Any) -> tuple[int, Any]:
        if body["url"] not in self.reachable_backends:
            return 400, {"validation_errors": {"non_field_errors": ["Can't connect to ML backend"]}}
        self.ml_rows[backend].update({key: v for key, v in body.items() if key != "basic_auth_pass"})
        return _one(self.ml_rows, backend)

    def _delete_backend(self, backend: int, **_: Any) -> tuple[int, Any]:
        return (204, None) if self.ml_rows.pop(backend, None) else (404, {"detail": "Not found"})


def ranking_result(*ids: str, choice: str | None = None) -> list[Json]:
    """What the ranking page submits."""
    order = {"ranker": {label_config.RANKING: list(ids)}}
    result = [{"from_name": "ranking", "to_name": "answers", "type": "ranker", "value": order}] if ids else []
    if choice:
        value = {"choices": [choice]}
        result.append({"from_name": "judgement", "to_name": "prompt", "type": "choices", "value": value})
    return result


def verdict_result(choice: str) -> list[Json]:
    """What the review page submits."""
    return [{"from_name": "verdict", "to_name": "prompt", "type": "choices", "value": {"choices": [choice]}}]


def _one(rows: dict[int, Json], key: int) -> tuple[int, Any]:
    return (200, rows[key]) if key in rows else (404, {"detail": "Not found"})
