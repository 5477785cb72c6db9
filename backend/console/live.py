"""What the console's page shows: the workspace's status, and the curves and samples of its runs.

Reads only. Text of prompts and answers goes out as JSON strings, never as markup.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import store
from backend.service import Service
from backend.settings import Settings
from backend.status import WorkspaceStatus
from backend.tables import MetricRow, SampleRow, WorkspaceRow

REWARD_METRICS = ("reward/loss", "reward/heldout_loss", "reward/accuracy", "reward/heldout_accuracy")
PPO_METRICS = (
    "objective/score",
    "verify/score",
    "objective/kl",
    "verify/kl",
    "objective/length",
    "verify/length",
    "ppo/clip_fraction",
    "objective/entropy",
)
MOST_POINTS = 240
MOST_SAMPLED_PROMPTS = 4
MOST_SAMPLED_STEPS = 40
MOST_RUNS = 30

Points = list[tuple[int, float]]


def live_view(service: Service, workspace: str | None) -> dict[str, Any]:
    """
    Raises: NotFoundInStoreError: no workspace of this name.
    """
    workspaces = service.workspaces()
    if not workspaces:
        return {"workspaces": [], "status": None}
    status = service.status(workspace or workspaces[-1])
    with service.store.reading() as session:
        rows = {row.id: row for row in store.workspaces(session)}
        reward_run, ppo_run = (_run_of(status, key) for key in ("reward", "ppo"))
        curves = {
            **_curves(session, reward_run, REWARD_METRICS),
            **_curves(session, ppo_run, PPO_METRICS),
        }
        samples = _samples(store.samples(session, ppo_run) if ppo_run else ())
    view = status.to_json()
    return {
        "workspaces": [{"id": row.id, "title": row.title} for row in rows.values()],
        "status": {**view, "runs": view["runs"][-MOST_RUNS:]},
        "curves": curves,
        "samples": samples,
        "gate_accuracy": service.settings_of(status.workspace).get("gate_accuracy"),
        "links": _links(service.settings, rows[status.workspace]),
    }


def _run_of(status: WorkspaceStatus, key: str) -> str | None:
    return next((step.run_id for step in status.steps if step.key == key), None)


def _links(settings: Settings, row: WorkspaceRow) -> dict[str, str]:
    """The pages of the workspace's projects in Label Studio."""
    projects = {name: getattr(row, f"{name}_project") for name in ("prompts", "ranking", "review", "report")}
    root = (settings.label_studio_public_url or settings.label_studio_url).rstrip("/")
    return {name: f"{root}/projects/{project}/data" for name, project in projects.items() if project}


def _curves(session: Session, run_id: str | None, names: Sequence[str]) -> dict[str, Points]:
    query = select(MetricRow.name, MetricRow.step, MetricRow.value).order_by(MetricRow.step)
    curves: dict[str, Points] = defaultdict(list)
    for name, step, value in session.execute(
        query.where(MetricRow.run_id == run_id, MetricRow.name.in_(names))
    ):
        if math.isfinite(value):
            curves[name].append((step, value))
    return {name: _thinned(points) for name, points in curves.items()}


def _thinned(points: Points) -> Points:
    """At most `MOST_POINTS`, evenly spread, first and last among them."""
    if len(points) <= MOST_POINTS:
        return points
    stride = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(i * stride)] for i in range(MOST_POINTS)]


def _samples(rows: Sequence[SampleRow]) -> list[dict[str, Any]]:
    """Of a few prompts, the answers as they were step by step."""
    by_prompt: dict[str, list[SampleRow]] = defaultdict(list)
    for row in rows:
        by_prompt[row.prompt_id].append(row)
    longest = sorted(by_prompt.values(), key=len, reverse=True)[:MOST_SAMPLED_PROMPTS]
    return [
        {
            "prompt": answers[0].prompt,
            "answers": [
                {"step": row.step, "text": row.response, "score": row.score}
                for row in (answers[:1] + answers[1:][-(MOST_SAMPLED_STEPS - 1) :])
            ],
        }
        for answers in longest
    ]
