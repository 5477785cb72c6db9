"""Receives Label Studio's webhooks, each only a hint that a project changed.

Label Studio waits for the answer inside the annotator's request and never repeats a lost one: so this checks
the secret, stores one row and answers. Of the payload it reads the project's number and the action's name and
believes neither further than "look there"; `backend.reconcile` asks Label Studio what is true.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, current_app, jsonify, request
from flask.sansio.blueprints import BlueprintSetupState
from werkzeug.wrappers import Response

from backend.auth import same
from backend.model import project_number
from backend.rate_limit import RateLimit
from backend.wire import current_service, json_body

LARGEST_BODY = 4 * 1024 * 1024
HINTS_A_WINDOW, WINDOW_S = 100, 10.0
"""More hints about one project in this time are refused: those before them lead to the same look."""

hooks = Blueprint("hooks", __name__)


@hooks.record_once
def _limit_hints(setup: BlueprintSetupState) -> None:
    setup.app.extensions["rlhf_hints"] = RateLimit(HINTS_A_WINDOW, WINDOW_S)


@hooks.post("/hooks/label-studio")
def receive() -> tuple[Response, int]:
    """202 for a hint, whatever comes of it; the address may name the project: `?project=12`."""
    service = current_service()
    if not same(request.headers.get("X-Webhook-Secret", ""), service.settings.webhook_secret):
        abort(401, "needed is the header X-Webhook-Secret with `WEBHOOK_SECRET`")
    request.max_content_length = LARGEST_BODY
    payload = json_body()
    project = project_number(request.args.get("project") or _project_id(payload))
    if not service.owns_project(project):
        abort(403, "the project belongs to no workspace of this backend")
    hints: RateLimit = current_app.extensions["rlhf_hints"]
    if hints.wait_s(project) > 0:
        abort(429, "too many hints about this project; it is looked at anyway")
    hints.add(project)
    action = payload.get("action")
    service.hint(project, action if isinstance(action, str) else "")
    return jsonify(accepted=True), 202


def _project_id(payload: dict[str, Any]) -> object:
    project = payload.get("project")
    return project.get("id") if isinstance(project, dict) else project
