"""Makes our rows equal to what Label Studio holds: prompts, rankings, judgements.

Hints only say when to look; nothing of them is used. Tasks that changed since the watermark (by Label Studio's
clock, less a margin) are read again with all their annotations; a full pass reads everything and notices what
was deleted. Applying the same state again, or an older one late, changes nothing. What is new in the rows is
for `backend.policy` to decide upon.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import store as queries
from backend.annotations import (
    Cancelled,
    Malformed,
    ParsedPrompt,
    ParsedRanking,
    annotator_of,
    displayed_ids,
    lead_time_of,
    parse_judgement,
    parse_prompt,
    parse_ranking,
    result_hash,
)
from backend.label_studio import LabelStudioClient
from backend.store import Store
from backend.tables import (
    ComparisonRow,
    JudgementRow,
    PromptRow,
    RankingRow,
    ResponseRow,
    WatermarkRow,
    WorkspaceRow,
)
from label_config import SOURCE_KEY
from trainers.preferences import split_of

log = logging.getLogger(__name__)

MARGIN = timedelta(seconds=60)
"""Label Studio sets `updated_at` before it commits; a longer transaction is caught by the next full pass."""
MAX_PROMPTS = 10_000
"""Prompts of one workspace; more are reported and left alone."""
MAX_PROBLEM_TASKS = 1000
"""Task ids remembered for each kind of problem."""

PROBLEMS: Mapping[str, tuple[str, str]] = {
    "missing_column": (
        "没有 prompt 列：请把文件里问题所在的列改名为 prompt，再导入一次。",
        "no `prompt` column: rename the column that holds the questions to `prompt` and import again.",
    ),
    "empty": ("内容为空，已跳过。", "empty; skipped."),
    "duplicate": ("与更早的问题相同，只用第一条。", "the same as an earlier prompt; only the first is used."),
    "too_long": ("太长（最多 4000 个字符），请缩短。", "too long (at most 4000 characters); shorten it."),
    "too_many": (
        f"超过每个工作区 {MAX_PROMPTS} 条的上限，未使用；请另建一个工作区。",
        f"above the limit of {MAX_PROMPTS} prompts a workspace, not used; make another workspace for them.",
    ),
}


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
        prompts=_project(store, client, row.prompts_project, full, _Prompts(row)),
        rankings=_project(store, client, row.ranking_project, full, _Rankings(row)),
        judgements=_project(store, client, row.review_project, full, _Judgements(row)),
    )
    if changes:
        log.info("workspace %s: %s", workspace, changes)
    return changes


class _Reading:
    """What is read of one project's tasks, and how it becomes rows."""

    annotations = True

    def __init__(self, workspace: WorkspaceRow) -> None:
        self.workspace = workspace.id

    def known(self, session: Session) -> set[int]:
        """Keys of the rows that a full pass may find to be gone."""
        raise NotImplementedError

    def read(self, task: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def apply(self, session: Session, gone_among: set[int] | None) -> int:
        """Write the rows; `gone_among` holds the `known` keys if everything was read."""
        raise NotImplementedError


def _project(store: Store, client: LabelStudioClient, project: int, full: bool, reading: _Reading) -> int:
    with store.reading() as session:
        mark = session.get(WatermarkRow, project)
        # only what was there before the listing began can be missing from it
        known = reading.known(session) if full else None
    since = None if full or mark is None or not mark.updated_at else datetime.fromisoformat(mark.updated_at)
    if full:
        client.project(project)  # a deleted project is an error, not an empty one
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


# --- prompts ---


class _Prompts(_Reading):
    annotations = False

    def __init__(self, workspace: WorkspaceRow) -> None:
        super().__init__(workspace)
        self.found: dict[str, tuple[ParsedPrompt, int]] = {}
        self.seen: set[int] = set()
        self.problems: dict[str, list[int]] = defaultdict(list)
        self.twins: dict[str, list[int]] = defaultdict(list)

    def known(self, session: Session) -> set[int]:
        rows = queries.prompts(session, self.workspace)
        return {row.id for row in rows if row.source_task is not None and row.state != "deleted"}

    def read(self, task: Mapping[str, Any]) -> None:
        self.seen.add(task["id"])
        match parse_prompt(task.get("data")):
            case Malformed(reason):
                self.problems[reason].append(task["id"])
            case ParsedPrompt() as parsed if parsed.prompt_id in self.found:
                self.twins[parsed.prompt_id].append(task["id"])
            case ParsedPrompt() as parsed if len(self.found) < 2 * MAX_PROMPTS:
                self.found[parsed.prompt_id] = (parsed, task["id"])
            case ParsedPrompt():
                self.problems["too_many"].append(task["id"])

    def apply(self, session: Session, gone_among: set[int] | None) -> int:
        rows = {row.prompt_id: row for row in queries.prompts(session, self.workspace)}
        room = MAX_PROMPTS - sum(row.state != "deleted" for row in rows.values())
        changed = 0
        for key, (parsed, task) in self.found.items():
            row = rows.get(key)
            if row is None and room <= 0:
                self.problems["too_many"].append(task)
            elif row is None:
                session.add(_new_prompt(self.workspace, parsed, task))
                room, changed = room - 1, changed + 1
            else:
                changed += self._revive(session, row, task)
        for row in rows.values() if gone_among is not None else ():
            if row.id in (gone_among or ()) and row.prompt_id not in self.found:
                row.state, changed = "deleted", changed + 1
        self._report(session, full=gone_among is not None)
        return changed

    def _revive(self, session: Session, row: PromptRow, task: int) -> int:
        first = row.source_task
        if first != task:
            self.twins[row.prompt_id].append(max(task, first) if first is not None else task)
        if row.state != "deleted":
            return 0
        answered = queries.responses(session, self.workspace, row.prompt_id)
        row.state = "published" if row.ranking_task else "ready" if answered else "new"
        row.source_task = task
        return 1

    def _report(self, session: Session, *, full: bool) -> None:
        """Renew the workspace's problems: wholly, or for the tasks that were seen."""
        for tasks in self.twins.values():
            self.problems["duplicate"] += tasks
        workspace = queries.workspace(session, self.workspace)
        before = {} if full else {problem["id"]: set(problem["tasks"]) for problem in workspace.problems}
        report = []
        for kind, (zh, en) in PROBLEMS.items():
            tasks = sorted((before.get(kind, set()) - self.seen) | set(self.problems.get(kind, ())))
            if tasks:
                shown = tasks[:MAX_PROBLEM_TASKS]
                report.append({"id": kind, "count": len(tasks), "tasks": shown, "zh": zh, "en": en})
        if report != workspace.problems:
            workspace.problems = report


def _new_prompt(workspace: str, parsed: ParsedPrompt, task: int) -> PromptRow:
    return PromptRow(
        workspace=workspace,
        prompt_id=parsed.prompt_id,
        text=parsed.text,
        system=parsed.system,
        split=split_of(parsed.text),
        source_task=task,
        state="new",
    )


# --- rankings ---


class _Rankings(_Reading):
    def __init__(self, workspace: WorkspaceRow) -> None:
        super().__init__(workspace)
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
    return dict(session.execute(query).tuples().all())


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


class _Judgements(_Reading):
    def __init__(self, workspace: WorkspaceRow) -> None:
        super().__init__(workspace)
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
                by_key[f"review:{self.workspace}:{comparison.id}"] = comparison
        incoming = {}
        for task, (key, annotations) in self.tasks.items():
            if match := by_task.get(task) or by_key.get(key):
                rows = [_judgement_row(match, task, annotation) for annotation in annotations]
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


def _supersede[Row: (RankingRow, JudgementRow)](rows: Sequence[Row], person: Callable[[Row], int]) -> None:
    """Of one person's annotations of a task the newest readable one counts; unknown people are all kept."""
    newest: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (row.updated_at, row.annotation_id)):
        if row.state == "malformed" or person(row) == 0:
            continue
        if (older := newest.get(person(row))) is not None:
            older.state = "superseded"
        newest[person(row)] = row


def _write[Row: (RankingRow, JudgementRow)](
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
