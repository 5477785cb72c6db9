"""From the annotations of the ranking and review projects to our rankings and judgements.

Of one person's annotations of a task the newest counts; what was deleted keeps its row, marked. The same
annotations give the same rows in whatever order and however often they are read (`backend.reconcile` reads).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.annotations import (
    Cancelled,
    Malformed,
    ParsedRanking,
    annotator_of,
    displayed_ids,
    is_repeat,
    lead_time_of,
    parse_judgement,
    parse_ranking,
    result_hash,
    review_source_key,
)
from backend.tables import ComparisonRow, JudgementRow, RankingRow, ResponseRow
from label_config import SOURCE_KEY

Row = TypeVar("Row", RankingRow, JudgementRow)


# --- rankings ---


class Rankings:
    annotations = True

    def __init__(self, workspace: str) -> None:
        self.workspace = workspace
        self.tasks: dict[int, tuple[object, list[Mapping[str, Any]]]] = {}

    def known(self, session: Session) -> set[int]:
        query = select(RankingRow.annotation_id).where(RankingRow.workspace == self.workspace)
        return set(session.scalars(query))

    def read(self, task: Mapping[str, Any]) -> None:
        self.tasks[task["id"]] = (task.get("data"), list(task.get("annotations") or ()))

    def apply(self, session: Session, gone_among: set[int] | None) -> int:
        owners = _response_owners(session, self.workspace)
        incoming = {
            row.annotation_id: row
            for task, (data, annotations) in self.tasks.items()
            for row in _ranking_rows(self.workspace, task, data, annotations, owners)
        }
        query = select(RankingRow).where(RankingRow.workspace == self.workspace)
        stored = {row.annotation_id: row for row in session.scalars(query)}
        return _write(session, stored, incoming, set(self.tasks), gone_among)


def _response_owners(session: Session, workspace: str) -> dict[str, str]:
    query = select(ResponseRow.id, ResponseRow.prompt_id).where(ResponseRow.workspace == workspace)
    return dict(session.execute(query).all())


def _ranking_rows(
    workspace: str,
    task: int,
    data: object,
    annotations: Iterable[Mapping[str, Any]],
    owners: Mapping[str, str],
) -> list[RankingRow]:
    """The rows that one task's annotations make; the same for any order of them."""
    displayed = displayed_ids(data)
    prompt = ""
    if not isinstance(displayed, Malformed):
        prompts = {owners.get(response, "") for response in displayed}
        prompt = prompts.pop() if len(prompts) == 1 else ""
        if not prompt:
            displayed = Malformed("the task's answers are not ours")
    rows = [_ranking_row(workspace, task, prompt, annotation, displayed) for annotation in annotations]
    _supersede(rows, lambda row: row.annotator)
    if is_repeat(data):
        for row in rows:
            row.state = "repeat" if row.state == "active" else row.state
    return rows


def _ranking_row(
    workspace: str,
    task: int,
    prompt: str,
    annotation: Mapping[str, Any],
    displayed: Sequence[str] | Malformed,
) -> RankingRow:
    row = RankingRow(
        annotation_id=annotation["id"],
        workspace=workspace,
        task=task,
        prompt_id=prompt,
        annotator=annotator_of(annotation),
        updated_at=str(annotation.get("updated_at", "")),
        result_hash=result_hash(annotation),
        lead_time=lead_time_of(annotation),
        state="active",
        reason="",
        order=[],
        close=False,
        all_bad=False,
        suspicious=False,
    )
    match displayed if isinstance(displayed, Malformed) else parse_ranking(annotation, displayed):
        case Malformed(reason):
            row.state, row.reason = "malformed", reason
        case Cancelled():
            row.state = "cancelled"
        case ParsedRanking() as parsed:
            row.order = [list(group) for group in parsed.order]
            row.close, row.all_bad, row.suspicious = parsed.close, parsed.all_bad, parsed.suspicious
    return row


# --- judgements ---


class Judgements:
    annotations = True

    def __init__(self, workspace: str) -> None:
        self.workspace = workspace
        self.tasks: dict[int, tuple[object, list[Mapping[str, Any]]]] = {}

    def known(self, session: Session) -> set[int]:
        query = select(JudgementRow.annotation_id).where(JudgementRow.workspace == self.workspace)
        return set(session.scalars(query))

    def read(self, task: Mapping[str, Any]) -> None:
        data = task.get("data")
        key = data.get(SOURCE_KEY) if isinstance(data, Mapping) else None
        self.tasks[task["id"]] = (key, list(task.get("annotations") or ()))

    def apply(self, session: Session, gone_among: set[int] | None) -> int:
        query = select(ComparisonRow).where(ComparisonRow.workspace == self.workspace)
        by_task: dict[int, ComparisonRow] = {}
        by_key: dict[object, ComparisonRow] = {}
        for comparison in session.scalars(query):
            if comparison.review_task is not None:
                by_task[comparison.review_task] = comparison
            else:  # its task was imported, but the process ended before it could note the task's id
                by_key[review_source_key(self.workspace, comparison.id)] = comparison
        incoming: dict[int, JudgementRow] = {}
        for task, (key, written) in self.tasks.items():
            if match := by_task.get(task) or by_key.get(key):
                rows = [_judgement_row(match, task, annotation) for annotation in written]
                _supersede(rows, lambda row: row.reviewer)
                incoming |= {row.annotation_id: row for row in rows}
        judgements = select(JudgementRow).where(JudgementRow.workspace == self.workspace)
        stored = {row.annotation_id: row for row in session.scalars(judgements)}
        return _write(session, stored, incoming, set(self.tasks), gone_among)


def _judgement_row(comparison: ComparisonRow, task: int, annotation: Mapping[str, Any]) -> JudgementRow:
    row = JudgementRow(
        annotation_id=annotation["id"],
        comparison_id=comparison.id,
        workspace=comparison.workspace,
        task=task,
        reviewer=annotator_of(annotation),
        verdict=None,
        updated_at=str(annotation.get("updated_at", "")),
        state="active",
        reason="",
    )
    match parse_judgement(annotation):
        case Malformed(reason):
            row.state, row.reason = "malformed", reason
        case Cancelled():
            row.state = "cancelled"
        case parsed if parsed.side == "tie":
            row.verdict = "tie"
        case parsed:
            row.verdict = "after" if parsed.side == comparison.after_side else "before"
    return row


# --- both ---


def _supersede(rows: Sequence[Row], person: Callable[[Row], int]) -> None:
    """Of one person's annotations of a task the newest readable one counts; unknown people are all kept."""
    newest: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (row.updated_at, row.annotation_id)):
        if row.state == "malformed" or person(row) == 0:
            continue
        if (older := newest.get(person(row))) is not None:
            older.state = "superseded"
        newest[person(row)] = row


def _write(
    session: Session,
    stored: Mapping[int, Row],
    incoming: Mapping[int, Row],
    tasks: set[int],
    gone_among: set[int] | None,
) -> int:
    """Make the stored rows of `tasks` equal to the incoming ones; the number of rows that changed.

    A stored row whose annotation is missing was deleted: with its task read, or with everything read.
    """
    changed = 0
    for key, row in incoming.items():
        old = stored.get(key)
        if old is None:
            session.add(row)
            changed += 1
        elif old.updated_at <= row.updated_at and (differences := _differences(old, row)):
            for name, value in differences.items():
                setattr(old, name, value)
            changed += 1
    for key, old in stored.items():
        gone = key not in incoming and (old.task in tasks or (gone_among is not None and key in gone_among))
        if gone and old.state != "deleted":
            old.state, changed = "deleted", changed + 1
    return changed


def _differences(old: RankingRow | JudgementRow, new: RankingRow | JudgementRow) -> dict[str, Any]:
    names = [column.key for column in old.__mapper__.column_attrs]
    return {name: getattr(new, name) for name in names if getattr(old, name) != getattr(new, name)}
