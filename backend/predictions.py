"""The reward model's order of a task's answers, from the scores that it left; nothing is computed anew.

Next: `backend.model` gives it to Label Studio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.ranking_queue import by_score, scores_of
from backend.status import View
from backend.tables import ResponseRow
from trainers.acquisition import sureness

_MOST_ASKED = 500
"""Answers that are asked for one by one; for more, all of the workspace are read."""


@dataclass(frozen=True)
class Prediction(View):
    """The reward model's order of one task's answers, from stored scores."""

    order: tuple[str, ...]
    """Response ids, best first; exactly the task's ids."""
    score: float
    """How sure the order is, 0 to 1 (`trainers.acquisition.sureness`)."""
    model_version: str


def predict(session: Session, workspace_id: str, answers: Sequence[Sequence[str]]) -> list[Prediction | None]:
    """The stored order of each task's answers (response ids); `None` where scores are missing."""
    wanted = {response_id for task in answers for response_id in task}
    mine = select(ResponseRow).where(ResponseRow.workspace == workspace_id)
    query = mine if len(wanted) > _MOST_ASKED else mine.where(ResponseRow.id.in_(wanted))
    known = {row.id: row for row in session.scalars(query)}
    return [_prediction([known.get(response_id) for response_id in task]) for task in answers]


def _prediction(answers: Sequence[ResponseRow | None]) -> Prediction | None:
    rows = [row for row in answers if row is not None]
    versions = {row.reward_model for row in rows}
    if len(rows) < len(answers) or len(versions) != 1 or (version := versions.pop()) is None:
        return None
    ordered = by_score(rows)
    if ordered is None:
        return None
    return Prediction(tuple(row.id for row in ordered), sureness(scores_of(ordered)), version)
