"""How many people rank a task, where that is not what the setting says.

Label Studio serves a task until as many people as its `overlap` have annotated it, whoever they are. A task
that someone sent on (`backend.adjudication`) asks for more, and one that excluded people ranked
(`backend.exclusions`) for as many in their place. Reads rows only to decide, and remembers what Label Studio
was told: nothing is written twice, and what an interruption left out is written at the next look.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backend import store as queries
from backend.errors import NotFoundError
from backend.exclusions import exclusions
from backend.inputs import settings_of
from backend.label_studio import LabelStudioClient
from backend.settings import Settings
from backend.store import Store
from backend.tables import OverlapRow, RankingRow

log = logging.getLogger(__name__)

_ANNOTATED = ("active", "repeat", "malformed", "superseded")
"""States of the annotations that Label Studio counts: it does not count skipped ones."""


@dataclass(frozen=True)
class _Change:
    task: int
    annotators: int
    finished: bool


def ask(session: Session, workspace_id: str, tasks: Mapping[int, int]) -> None:
    """Remember that tasks shall have so many rankings that count, whatever the setting says."""
    for task, rankings in tasks.items():
        _row(session, workspace_id, task).asked = rankings


def serve(store: Store, client: LabelStudioClient, settings: Settings, workspace_id: str) -> int:
    """Let Label Studio serve the tasks that lack rankings, and no longer those that lack none.

    Returns: how many tasks it was told of.
    Raises: LabelStudioError: Label Studio did not answer; the same again goes on where it was.
    """
    with store.reading() as session:
        changes = _changes(session, settings, workspace_id)
    for change in changes:
        try:
            client.set_overlap(change.task, change.annotators, finished=change.finished)
        except NotFoundError:  # deleted; the next full look notices
            continue
        with store.session() as session:
            _row(session, workspace_id, change.task).told = change.annotators
    if changes:
        log.info("workspace %s: %d tasks ask for another number of people", workspace_id, len(changes))
    return len(changes)


def forget(session: Session, workspace_id: str) -> None:
    """Every task of the project is about to ask for as many people as the setting says."""
    session.execute(update(OverlapRow).where(OverlapRow.workspace == workspace_id).values(told=None))


def _row(session: Session, workspace_id: str, task: int) -> OverlapRow:
    row = session.get(OverlapRow, task) or OverlapRow(task=task, workspace=workspace_id)
    session.add(row)
    return row


def _changes(session: Session, settings: Settings, workspace_id: str) -> list[_Change]:
    """What Label Studio must be told: only where it decides whether a task is served."""
    per_task = settings_of(settings, queries.workspace(session, workspace_id)).rankings_per_task
    excluded = {row.annotator for row in exclusions(session, workspace_id)}
    rows = {
        row.task: row
        for row in session.scalars(select(OverlapRow).where(OverlapRow.workspace == workspace_id))
    }
    not_counting = _people(session, workspace_id, excluded) if excluded else {}
    tasks = rows.keys() | not_counting
    people = _people(session, workspace_id) if tasks else {}
    found = []
    for task in sorted(tasks & people.keys()):
        row = rows.get(task)
        told = row.told if row is not None and row.told is not None else per_task
        asked = row.asked if row is not None and row.asked is not None else 0
        wanted = max(per_task, asked) + not_counting.get(task, 0)
        if min(told, wanted) <= people[task] < max(told, wanted):
            found.append(_Change(task, wanted, finished=people[task] >= wanted))
    return found


def _people(session: Session, workspace_id: str, among: Iterable[int] | None = None) -> dict[int, int]:
    """Task → how many people have annotated it, of all or among some; all whose account is gone are one."""
    query = (
        select(RankingRow.task, func.count(RankingRow.annotator.distinct()))
        .where(RankingRow.workspace == workspace_id, RankingRow.state.in_(_ANNOTATED))
        .group_by(RankingRow.task)
    )
    return dict(
        session.execute(query if among is None else query.where(RankingRow.annotator.in_(among))).all()
    )
