"""The console: one page that shows the five steps of the journey, and the JSON behind it.

The page asks `/api/status` every two seconds and draws what it gets; buttons post to `/api/…`. Everything
shown comes from `Service` and the store's queries. Behind `backend.auth`.
"""

from __future__ import annotations

import hashlib

from flask import Blueprint, Response, abort, jsonify, make_response, render_template, request

from backend.auth import csrf_token, page_language
from backend.console.live import live_view
from backend.wire import current_service, json_body

console = Blueprint(
    "console", __name__, template_folder="templates", static_folder="static", static_url_path="/static"
)


@console.get("/")
def page() -> str:
    """The shell of the page; its content comes from `status`."""
    return render_template("console.html", csrf=csrf_token(), language=page_language())


@console.get("/api/status")
def status() -> Response:
    """Everything of one workspace, the newest if none is named; 304 while nothing has changed."""
    response = jsonify(live_view(current_service(), request.args.get("workspace")))
    response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
    response.headers["Cache-Control"] = "private, no-cache"
    return make_response(response.make_conditional(request))


@console.post("/api/workspaces/<workspace>/train")
def train(workspace: str) -> Response:
    """Train the reward model now."""
    service = current_service()
    return jsonify(service.start_training(service.status(workspace).ranking_project).to_json())


@console.post("/api/workspaces/<workspace>/ppo")
def ppo(workspace: str) -> Response:
    """Run PPO although the gate has not passed, or as it does not start by itself."""
    return jsonify(current_service().start_ppo(workspace).to_json())


@console.post("/api/workspaces/<workspace>/promote")
def promote(workspace: str) -> Response:
    """Let a policy serve."""
    model = _text("model", "the id of a policy")
    current_service().promote(workspace, model, "promoted in the console")
    return jsonify(serving=model)


@console.post("/api/workspaces/<workspace>/apply")
def apply(workspace: str) -> Response:
    """Do what a piece of advice says."""
    advice = _text("advice", "the id of a piece of advice")
    return jsonify(current_service().apply(workspace, advice).to_json())


@console.post("/api/workspaces/<workspace>/revert")
def revert(workspace: str) -> Response:
    """Take back the settings that a piece of advice changed."""
    advice = _text("advice", "the id of a piece of advice that was applied")
    return jsonify(current_service().revert(workspace, advice).to_json())


@console.post("/api/workspaces/<workspace>/rollback")
def rollback(workspace: str) -> Response:
    """Let the policy before serve again."""
    return jsonify(serving=current_service().rollback(workspace))


@console.post("/api/workspaces/<workspace>/conclude")
def conclude(workspace: str) -> Response:
    """Reach the verdict with the judgements that are there."""
    current_service().conclude(workspace)
    return jsonify(concluding=workspace)


@console.post("/api/runs/<run_id>/retry")
def retry(run_id: str) -> Response:
    """Try a failed or stopped run again; it goes on where it was."""
    current_service().retry(run_id)
    return jsonify(queued=run_id)


@console.post("/api/runs/<run_id>/cancel")
def cancel(run_id: str) -> Response:
    """Stop a run for good."""
    current_service().cancel(run_id)
    return jsonify(cancelled=run_id)


def _text(field: str, what: str) -> str:
    """A field of the request's body; 400 if it is no text."""
    value = json_body().get(field)
    if not isinstance(value, str):
        abort(400, f"needed is `{field}`, {what}")
    return value


@console.after_request
def _may_be_kept(response: Response) -> Response:
    if request.endpoint == "console.static":
        response.headers["Cache-Control"] = "private, no-cache"  # asks each time, answers 304
    return response
