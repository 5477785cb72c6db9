"""Annotators whose rankings do not count: nothing of theirs is deleted, and they can be included again.

A setting of the workspace that outlives everything else. `backend.store` leaves their rankings out wherever
rankings are counted, learned from or exported; models that learned from them are told by `backend.lineage`,
and `backend.overlap` lets others rank in their place. Their blind reviews stay: a verdict is of its round.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from backend import people
from backend.errors import ConflictError
from backend.tables import ExclusionRow, RankingRow


def counting(workspace_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Conditions on a `RankingRow`: of the workspace, and of nobody who is excluded."""
    excluded = select(ExclusionRow.annotator).where(ExclusionRow.workspace == workspace_id)
    return RankingRow.workspace == workspace_id, RankingRow.annotator.not_in(excluded)


def exclusions(session: Session, workspace_id: str) -> Sequence[ExclusionRow]:
    query = select(ExclusionRow).where(ExclusionRow.workspace == workspace_id)
    return session.scalars(query.order_by(ExclusionRow.annotator)).all()


def annotators(session: Session, workspace_id: str) -> dict[int, int]:
    """Everyone with a valid ranking, excluded or not → how many; 0 stands for all whose account is gone."""
    query = (
        select(RankingRow.annotator, func.count())
        .where(RankingRow.workspace == workspace_id, RankingRow.state == "active")
        .group_by(RankingRow.annotator)
        .order_by(RankingRow.annotator)
    )
    return dict(session.execute(query).all())


def exclude(session: Session, workspace_id: str, annotator: int, reason: str) -> int:
    """Let someone's rankings not count any more. Excluding them again changes the reason only.

    Returns: how many rankings that are.
    Raises: ConflictError: nobody of this id has a ranking.
    """
    made = annotators(session, workspace_id)
    if annotator not in made:
        known_names = people.names(session)
        known = [f"{people.shown(key, known_names)}, {number} rankings" for key, number in made.items()]
        raise ConflictError(
            f"annotator `{annotator}` has no ranking in `{workspace_id}`; those who have: "
            + ("; ".join(known) or "nobody yet")
        )
    session.merge(ExclusionRow(workspace=workspace_id, annotator=annotator, reason=reason))
    return made[annotator]


def include(session: Session, workspace_id: str, annotator: int) -> int:
    """Let an excluded annotator's rankings count again.

    Returns: how many rankings that are.
    Raises: ConflictError: the annotator is not excluded.
    """
    row = session.get(ExclusionRow, (workspace_id, annotator))
    if row is None:
        known = ", ".join(f"`{found.annotator}`" for found in exclusions(session, workspace_id)) or "nobody"
        raise ConflictError(f"annotator `{annotator}` is not excluded in `{workspace_id}`; excluded: {known}")
    session.delete(row)
    return annotators(session, workspace_id).get(annotator, 0)
