"""The database: opening it, and the queries that others use as plain functions taking a `Session`.

Knows nothing of Label Studio or training. `Store.session()` is one write transaction; `Store.reading()` reads
without waiting for a writer. SQLite (WAL) by default, PostgreSQL by URL.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, case, create_engine, delete, event, func, inspect, or_, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from backend.errors import NotFoundInStoreError, SettingsError
from backend.exclusions import counting
from backend.tables import (
    ActionRow,
    Base,
    ComparisonRow,
    HintRow,
    JudgementRow,
    MetricRow,
    ModelRow,
    PromotionRow,
    PromptRow,
    PromptState,
    RankingRow,
    ResponseRow,
    RoundRow,
    RunKind,
    RunRow,
    SampleRow,
    WorkspaceRow,
)

_READING = "reading"


class Store:
    """The database at a URL."""

    def __init__(self, url: str) -> None:
        """Raises: SettingsError: the URL is malformed, or its driver is not installed."""
        try:
            parsed = make_url(url)
            if parsed.drivername in ("postgres", "postgresql"):  # what people have in their environment
                parsed = parsed.set(drivername="postgresql+psycopg")
            if parsed.drivername == "sqlite" and parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
        except (ArgumentError, ImportError, OSError) as error:
            raise SettingsError(
                [
                    f"`DATABASE_URL` cannot be opened ({type(error).__name__});"
                    " needed is e.g. postgresql://USER:PASSWORD@HOST/NAME"
                ]
            ) from error
        if parsed.get_backend_name() == "sqlite":
            _configure_sqlite(self.engine)
        self._reader = self.engine.execution_options(**{_READING: True})

    def create_all(self) -> None:
        """Make the tables that are missing.

        Raises: SettingsError: there is no database to write in, or it is of another version of this program.
        """
        try:
            Base.metadata.create_all(self.engine)
            unknown = _missing_columns(self.engine)
        except SQLAlchemyError as error:
            raise SettingsError(
                [
                    f"`DATABASE_URL` cannot be used ({type(error).__name__});"
                    " check that the database exists and can be written"
                ]
            ) from error
        if unknown:
            raise SettingsError(
                [
                    f"`DATABASE_URL` is of another version of this program (it lacks {unknown[0]});"
                    " needed is that version, or a new `DATA_DIR` and an empty database"
                ]
            )

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction, committed at the end, rolled back on an error. Rows stay usable afterwards."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view to read from; never waits for a writer, and what is written in it is dropped."""
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


def _missing_columns(engine: Engine) -> list[str]:
    """`table.column` of all that our tables have and the database's do not."""
    known = inspect(engine).get_multi_columns()
    columns = {table: {column["name"] for column in found} for (_, table), found in known.items()}
    return [
        f"{table.name}.{column.name}"
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if column.name not in columns.get(table.name, ())
    ]


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where SQLAlchemy says, not at the first write
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=30000")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # who first reads and then writes cannot wait for the lock in WAL mode: take it at the start
        reading = connection.get_execution_options().get(_READING, False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


# --- workspaces and hints ---


def workspaces(session: Session) -> Sequence[WorkspaceRow]:
    return session.scalars(select(WorkspaceRow).order_by(WorkspaceRow.created, WorkspaceRow.id)).all()


def workspace(session: Session, workspace_id: str) -> WorkspaceRow:
    """Raises: NotFoundInStoreError: there is none of this name."""
    if (row := session.get(WorkspaceRow, workspace_id)) is None:
        known = ", ".join(f"`{w.id}`" for w in workspaces(session)) or "none yet"
        raise NotFoundInStoreError(
            f"there is no workspace `{workspace_id}` (known: {known});"
            f" make it with `python -m scripts.setup_project {workspace_id}`"
        )
    return row


def workspace_of_project(session: Session, project: int) -> WorkspaceRow | None:
    """The workspace that one of its three projects belongs to; none for a foreign project."""
    mine = or_(
        WorkspaceRow.prompts_project == project,
        WorkspaceRow.ranking_project == project,
        WorkspaceRow.review_project == project,
    )
    return session.scalars(select(WorkspaceRow).where(mine)).first()


def add_hint(session: Session, project: int, action: str) -> None:
    session.add(HintRow(project=project, action=action[:64]))


def pending_hints(session: Session) -> dict[int, int]:
    """Project → newest unhandled hint; pass that to `handle_hints` so that one arriving meanwhile stays."""
    query = (
        select(HintRow.project, func.max(HintRow.id))
        .where(HintRow.handled.is_(False))
        .group_by(HintRow.project)
    )
    return dict(session.execute(query).all())


def handle_hints(session: Session, project: int, newest: int) -> None:
    """Mark what was looked into, and forget what was handled more than a day ago."""
    session.execute(
        update(HintRow).where(HintRow.project == project, HintRow.id <= newest).values(handled=True)
    )
    yesterday = time.time() - 86400
    session.execute(delete(HintRow).where(HintRow.handled.is_(True), HintRow.received < yesterday))


# --- prompts and responses ---


def prompts(session: Session, workspace_id: str, *states: PromptState) -> Sequence[PromptRow]:
    """In the order of import; with `states`, only those."""
    query = select(PromptRow).where(PromptRow.workspace == workspace_id).order_by(PromptRow.id)
    return session.scalars(query.where(PromptRow.state.in_(states)) if states else query).all()


def prompt_counts(session: Session, workspace_id: str) -> dict[PromptState, int]:
    query = (
        select(PromptRow.state, func.count())
        .where(PromptRow.workspace == workspace_id)
        .group_by(PromptRow.state)
    )
    return dict(session.execute(query).all())


def prompts_alike(session: Session, workspace_id: str, threshold: float) -> tuple[int, int]:
    """Prompts whose candidates are more alike than a threshold, and all that have candidates to rank."""
    query = select(
        func.count(case((PromptRow.likeness > threshold, 1))), func.count(PromptRow.likeness)
    ).where(PromptRow.workspace == workspace_id, PromptRow.state != "deleted")
    alike, compared = session.execute(query).one()
    return alike, compared


def prompt_texts(session: Session, workspace_id: str, prompt_ids: Collection[str]) -> dict[str, str]:
    """Prompt id → text."""
    query = select(PromptRow.prompt_id, PromptRow.text).where(
        PromptRow.workspace == workspace_id, PromptRow.prompt_id.in_(prompt_ids)
    )
    return dict(session.execute(query).all())


def responses(session: Session, workspace_id: str, prompt_id: str | None = None) -> Sequence[ResponseRow]:
    """In displayed order, of one prompt or of all."""
    query = select(ResponseRow).where(ResponseRow.workspace == workspace_id)
    if prompt_id is not None:
        query = query.where(ResponseRow.prompt_id == prompt_id)
    return session.scalars(query.order_by(ResponseRow.prompt_id, ResponseRow.position, ResponseRow.id)).all()


# --- rankings ---


def active_rankings(session: Session, workspace_id: str) -> Sequence[RankingRow]:
    """Those that count: of each person and task the newest, readable, not skipped or deleted; of people who
    are not excluded."""
    query = select(RankingRow).where(*counting(workspace_id), RankingRow.state == "active")
    return session.scalars(query.order_by(RankingRow.annotation_id)).all()


def repeated_rankings(session: Session, workspace_id: str) -> Sequence[RankingRow]:
    """Those of tasks that were served a second time, by people who can be told apart."""
    query = select(RankingRow).where(
        *counting(workspace_id), RankingRow.state == "repeat", RankingRow.annotator != 0
    )
    return session.scalars(query.order_by(RankingRow.annotation_id)).all()


def dataset_hash(session: Session, workspace_id: str) -> str:
    """One value for the set of active rankings, whatever order they arrived in."""
    keys = [[r.annotation_id, r.updated_at, r.result_hash] for r in active_rankings(session, workspace_id)]
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]


def snapshot(rankings: Iterable[RankingRow]) -> list[list[Any]]:
    """What a run records of the rankings that it was given."""
    return [list(ranking_key(row)) for row in rankings]


def new_rankings(session: Session, workspace_id: str) -> int:
    """Active rankings that the newest reward run was not given; an edited one counts as new.

    A run that failed or was cancelled counts: with the same rankings it is tried again only when asked.
    """
    newest = newest_run(session, workspace_id, "reward")
    used = {tuple(key) for key in newest.snapshot} if newest else set()
    return sum(ranking_key(row) not in used for row in active_rankings(session, workspace_id))


def ranking_key(row: RankingRow) -> tuple[int, str]:
    """Annotation and what it says: an edited ranking is another one. A run's snapshot holds these."""
    return row.annotation_id, row.result_hash


# --- rounds and runs ---


def rounds(session: Session, workspace_id: str) -> Sequence[RoundRow]:
    """Oldest first."""
    query = select(RoundRow).where(RoundRow.workspace == workspace_id).order_by(RoundRow.number)
    return session.scalars(query).all()


def current_round(session: Session, workspace_id: str) -> RoundRow | None:
    query = (
        select(RoundRow).where(RoundRow.workspace == workspace_id).order_by(RoundRow.number.desc()).limit(1)
    )
    return session.scalars(query).first()


def newest_round(session: Session) -> RoundRow:
    """The newest round with a verdict, of all workspaces; the newest of all if none has one.

    Raises: NotFoundInStoreError: there is none at all.
    """
    newest_first = select(RoundRow).order_by(RoundRow.verdict.is_not(None).desc(), RoundRow.created.desc())
    if (row := session.scalars(newest_first.limit(1)).first()) is None:
        raise NotFoundInStoreError("there is no round yet; one begins when a reward model is trained")
    return row


def round_by_id(session: Session, round_id: str) -> RoundRow:
    """Raises: NotFoundInStoreError: there is no such round."""
    if (row := session.get(RoundRow, round_id)) is None:
        raise NotFoundInStoreError(f"there is no round `{round_id}`; `python -m backend status` lists them")
    return row


def run(session: Session, run_id: str) -> RunRow:
    """Raises: NotFoundInStoreError: there is no such run."""
    if (row := session.get(RunRow, run_id)) is None:
        raise NotFoundInStoreError(f"there is no run `{run_id}`; `python -m backend status` lists them")
    return row


def runs(session: Session, workspace_id: str, *, round_id: str | None = None) -> Sequence[RunRow]:
    """Oldest first."""
    query = select(RunRow).where(RunRow.workspace == workspace_id).order_by(RunRow.created, RunRow.id)
    return session.scalars(query.where(RunRow.round_id == round_id) if round_id else query).all()


def newest_run(session: Session, workspace_id: str, kind: RunKind) -> RunRow | None:
    """The workspace's run of a kind that was queued last."""
    query = select(RunRow).where(RunRow.workspace == workspace_id, RunRow.kind == kind)
    return session.scalars(query.order_by(RunRow.created.desc(), RunRow.id).limit(1)).first()


def run_for(session: Session, workspace_id: str, kind: RunKind, data: str) -> RunRow | None:
    """The one run of this kind on this dataset hash, if it was ever made."""
    query = select(RunRow).where(
        RunRow.workspace == workspace_id, RunRow.kind == kind, RunRow.dataset_hash == data
    )
    return session.scalars(query).first()


# --- metrics and samples ---


def add_metrics(
    session: Session, run_id: str, step: int, values: Mapping[str, float], *, at: float | None = None
) -> None:
    """Store the values of one step; the same step again replaces them."""
    for name, value in values.items():
        session.merge(MetricRow(run_id=run_id, step=step, name=name, value=value, time=at or time.time()))


def metrics(session: Session, run_id: str, *, after_step: int = -1) -> Sequence[MetricRow]:
    query = select(MetricRow).where(MetricRow.run_id == run_id, MetricRow.step > after_step)
    return session.scalars(query.order_by(MetricRow.step, MetricRow.name)).all()


def samples(session: Session, run_id: str) -> Sequence[SampleRow]:
    query = select(SampleRow).where(SampleRow.run_id == run_id).order_by(SampleRow.step, SampleRow.prompt_id)
    return session.scalars(query).all()


def forget_steps(session: Session, run_id: str, *, after_step: int) -> None:
    """Drop what a run said after the checkpoint that it resumes from."""
    session.execute(delete(MetricRow).where(MetricRow.run_id == run_id, MetricRow.step > after_step))
    session.execute(delete(SampleRow).where(SampleRow.run_id == run_id, SampleRow.step > after_step))


# --- models, comparisons, judgements ---


def model(session: Session, model_id: str) -> ModelRow:
    """Raises: NotFoundInStoreError: there is no such model."""
    if (row := session.get(ModelRow, model_id)) is None:
        raise NotFoundInStoreError(f"there is no model `{model_id}`; `python -m backend status` lists them")
    return row


def models(session: Session, workspace_id: str) -> Sequence[ModelRow]:
    """Oldest first."""
    query = select(ModelRow).where(ModelRow.workspace == workspace_id).order_by(ModelRow.created, ModelRow.id)
    return session.scalars(query).all()


def promotions(session: Session, workspace_id: str) -> Sequence[PromotionRow]:
    """Oldest first."""
    query = select(PromotionRow).where(PromotionRow.workspace == workspace_id).order_by(PromotionRow.id)
    return session.scalars(query).all()


def actions(session: Session, workspace_id: str) -> Sequence[ActionRow]:
    """Oldest first."""
    query = select(ActionRow).where(ActionRow.workspace == workspace_id).order_by(ActionRow.id)
    return session.scalars(query).all()


def comparisons(session: Session, round_id: str) -> Sequence[ComparisonRow]:
    query = select(ComparisonRow).where(ComparisonRow.round_id == round_id).order_by(ComparisonRow.id)
    return session.scalars(query).all()


def active_judgements(session: Session, round_id: str) -> Sequence[JudgementRow]:
    query = (
        select(JudgementRow)
        .join(ComparisonRow, ComparisonRow.id == JudgementRow.comparison_id)
        .where(ComparisonRow.round_id == round_id, JudgementRow.state == "active")
        .order_by(JudgementRow.annotation_id)
    )
    return session.scalars(query).all()
