"""The web application: Label Studio's ML backend protocol, the webhook receiver and the console.

`create_app` puts label-studio-ml's own Flask application behind ours: its routes are mounted one by one, so
that our guard, limits and error answers hold for them too. Everything asks the `Service`; nothing here
trains, loads a model or calls Label Studio. `backend.wsgi` serves it.
"""

from __future__ import annotations

import io
import logging

from flask import Blueprint, Flask, Response, abort, jsonify, request
from werkzeug.wrappers import Response as BaseResponse

from backend import auth, store, wire
from backend.console import console
from backend.hooks import hooks
from backend.model import mount_point, project_number
from backend.service import Service

LARGEST_BODY = 32 * 1024 * 1024
"""Bytes in a request; Label Studio sends whole tasks to /predict."""
_OWN_RULES = frozenset({"/", "/versions", "/static/<path:filename>"})
"""Routes of label-studio-ml that we answer ourselves or not at all."""
_JOB_STATES = {"queued": "queued", "running": "started", "succeeded": "finished", "failed": "failed"}


def create_app(service: Service) -> Flask:
    """The WSGI application of one service; one per process, as label-studio-ml has one global application.

    Raises: SettingsError: a secret is missing.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    app.extensions["rlhf_service"] = service
    wire.install(app)
    auth.Guard(service.settings).protect(app)
    app.register_blueprint(_protocol(service))
    app.register_blueprint(hooks)
    app.register_blueprint(console)
    return app


def _protocol(service: Service) -> Blueprint:
    """Label Studio's calls: label-studio-ml's routes behind our checks, and the two that 1.0.9 lacks."""
    inner = mount_point(service)
    inner.config["PROPAGATE_EXCEPTIONS"] = True  # they reach our own error answers
    logging.getLogger("label_studio_ml").setLevel(logging.CRITICAL)  # at DEBUG it logs passwords and answers
    blueprint = Blueprint("protocol", __name__)

    def forward() -> BaseResponse:
        body = request.get_data()
        if request.method == "POST":
            _check_body(service)
        environ = {**request.environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        answer = Response.from_app(inner.wsgi_app, environ)
        if answer.status_code >= 400:
            abort(answer.status_code)
        return answer

    for rule in inner.url_map.iter_rules():
        if rule.rule not in _OWN_RULES:
            methods = sorted((rule.methods or set()) & {"GET", "POST"})
            blueprint.add_url_rule(rule.rule, rule.rule.strip("/"), forward, methods=methods)
    blueprint.add_url_rule("/versions", "versions", versions, methods=["GET", "POST"])
    blueprint.add_url_rule("/job_status", "job_status", job_status, methods=["GET", "POST"])
    return blueprint


def _check_body(service: Service) -> None:
    """Refuse what label-studio-ml would fail on, and projects that are not ours."""
    body = wire.json_body()
    project = body.get("project")
    number = project_number(project.get("id") if isinstance(project, dict) else project)
    if not service.owns_project(number):
        abort(403, "the project belongs to no workspace of this backend")
    if request.path == "/predict":
        tasks = body.get("tasks")
        if not (isinstance(tasks, list) and all(isinstance(task, dict) for task in tasks)):
            abort(400, "needed is `tasks`, a list of tasks")
        if not isinstance(body.get("params", {}), dict):
            abort(400, "`params` is no object")
    if request.path == "/webhook" and not (isinstance(body.get("action"), str) and isinstance(project, dict)):
        abort(400, "needed are `action`, a name, and `project`, an object")


def versions() -> Response:
    """Ids of the reward models, oldest first; of one project if the request names one."""
    project = project_number(request.args.get("project") or wire.json_body().get("project"))
    with wire.current_service().store.reading() as session:
        named = store.workspace_of_project(session, project)
        owners = [named] if named else store.workspaces(session)
        models = [model for owner in owners for model in store.models(session, owner.id)]
    return jsonify(versions=[model.id for model in models if model.kind == "reward"])


def job_status() -> Response:
    """The run that Start Training started, in RQ's words, which Label Studio knows."""
    job = request.args.get("job") or wire.json_body().get("job")
    with wire.current_service().store.reading() as session:
        run = store.run(session, str(job))
    return jsonify(
        job_status=_JOB_STATES.get(run.state, "canceled"),
        error=run.error or None,
        created_at=run.created,
        started_at=run.started,
        ended_at=run.finished,
    )
