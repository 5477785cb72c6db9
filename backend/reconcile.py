"""Makes our rows equal to what Label Studio holds: prompts, rankings, judgements.

Hints only say when to look; nothing of them is used. Tasks that changed since the watermark (by Label
Studio's clock, less a margin) are read again with all their annotations; a full pass reads everything and
notices what was deleted. Applying a state again, or an older one late, changes nothing. `backend.prompt_rows`
and `backend.annotation_rows` say what the rows are; `backend.policy` decides what to do about them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy.orm import Session

from backend import store as queries
from backend.annotation_rows import Judgements, Rankings
from backend.errors import RejectedError, UnauthorisedError
from backend.label_studio import LabelStudioClient
from backend.people import keep_names, unknown
from backend.prompt_rows import Prompts
from backend.store import Store
from backend.tables import WatermarkRow

log = logging.getLogger(__name__)

MARGIN = timedelta(seconds=60)
"""Label Studio sets `updated_at` before it commits; a longer transaction is caught by the next full pass."""


@dataclass(frozen=True)
class Changes:
    """How many rows a reconciliation changed."""

    prompts: int = 0
    rankings: int = 0
    judgements: int = 0

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


def reconcile(store: Store, client: LabelStudioClient, workspace: str, *, full: bool) -> Changes:
    """Read what changed (or, if `full`, everything) and make the rows equal to it.

    Raises:
        LabelStudioError: Label Studio did not answer; the watermark stays, so that nothing is missed.
        NotFoundInStoreError: there is no such workspace.
    """
    with store.reading() as session:
        row = queries.workspace(session, workspace)
    changes = Changes(
        prompts=_project(store, client, row.prompts_project, full, Prompts(workspace)),
        rankings=_project(store, client, row.ranking_project, full, Rankings(workspace)),
        judgements=_project(store, client, row.review_project, full, Judgements(workspace)),
    )
    _people(store, client, full)
    if changes:
        log.info("workspace %s: %s", workspace, changes)
    return changes


def _people(store: Store, client: LabelStudioClient, full: bool) -> None:
    """Names, if somebody has none yet, or another one perhaps; whoever may not read them goes without."""
    with store.reading() as session:
        wanted = full or unknown(session)
    if wanted:
        try:
            users = client.users()
        except (UnauthorisedError, RejectedError):
            users = []
        with store.session() as session:
            keep_names(session, users)


class _Reading(Protocol):
    """What is read of one project's tasks, and how it becomes rows."""

    annotations: bool
    """Whether it needs the annotations too."""

    def known(self, session: Session) -> set[int]:
        """Keys of the rows that a full pass may find to be gone."""

    def read(self, task: Mapping[str, Any]) -> None:
        """Take one task in."""

    def apply(self, session: Session, gone_among: set[int] | None) -> int:
        """Write the rows, and say how many changed; `gone_among` is `known` if everything was read."""


def _project(store: Store, client: LabelStudioClient, project: int, full: bool, reading: _Reading) -> int:
    with store.reading() as session:
        mark = session.get(WatermarkRow, project)
        # only what was there before the listing began can be missing from it
        known = reading.known(session) if full else None
    since = None if full or mark is None or not mark.updated_at else datetime.fromisoformat(mark.updated_at)
    now = client.now()
    updated_after = since - MARGIN if since else None
    for task in client.tasks(project, updated_after=updated_after, annotations=reading.annotations):
        reading.read(task)
    with store.session() as session:
        changed = reading.apply(session, known)
        _move_watermark(session, project, now, full)
    return changed


def _move_watermark(session: Session, project: int, now: datetime, full: bool) -> None:
    mark = session.get(WatermarkRow, project) or WatermarkRow(
        project=project, updated_at="", checked_full=0.0
    )
    session.add(mark)
    mark.updated_at = max(mark.updated_at, now.astimezone(UTC).isoformat())
    if full:
        mark.checked_full = time.time()
