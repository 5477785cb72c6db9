"""The tables: what the backend remembers.

Rows about prompts, rankings and judgements are a copy of Label Studio's truth, made equal to it by
`backend.reconcile`; rounds, runs, models and promotions are ours. Times are seconds since 1970 (UTC); Label
Studio's own times stay the text that it sent. No foreign keys: what Label Studio tells arrives in any order.
Queries are in `backend.store`.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from sqlalchemy import JSON, Dialect, Float, Index, Integer, String, Text, TypeDecorator, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backend.failures import FailureKind

PromptState = Literal[
    "new",  # known, no candidates yet
    "generating",  # a generate run works on it
    "ready",  # candidates stored, ranking task not yet imported
    "published",  # its ranking task exists
    "flagged",  # quality control could not mend the candidates
    "deleted",  # removed from the prompts project
]
AnnotationState = Literal[
    "active",  # counts
    "cancelled",  # the annotator skipped the task
    "malformed",  # cannot be read as a ranking or judgement
    "superseded",  # the same person annotated the task again
    "repeat",  # of a task that is served a second time: measures its author, counts for nothing else
    "deleted",  # gone from Label Studio
]
RoundState = Literal[
    "collecting",  # rankings come in
    "rewarding",  # the reward model trains
    "gated",  # the gate did not pass; more rankings are needed
    "tuning",  # PPO runs
    "comparing",  # before and after answer the review prompts
    "reviewing",  # people judge
    "decided",  # the verdict is there
    "failed",  # stopped with a reason
]
RunKind = Literal["generate", "reward", "ppo", "compare"]
RunState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ModelKind = Literal["policy", "reward"]
ModelState = Literal["published", "promoted", "rolled_back"]
Side = Literal["left", "right"]
JudgementVerdict = Literal["before", "after", "tie"]


class _Words(TypeDecorator[str]):
    """Text of any length; PostgreSQL takes no NUL, but a model can write one."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value.replace("\x00", "\ufffd") if value else value


_ID = String(80)
_NAME = String(64)


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        dict[str, Any]: JSON,
        list[Any]: JSON,
        float: Float(53),
        PromptState: _NAME, AnnotationState: _NAME, RoundState: _NAME, RunKind: _NAME, RunState: _NAME,
        ModelKind: _NAME, ModelState: _NAME, Side: _NAME, JudgementVerdict: _NAME, FailureKind: _NAME,
    }  # fmt: skip


class WorkspaceRow(Base):
    """One team with its three Label Studio projects."""

    __tablename__ = "workspaces"
    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    title: Mapped[str] = mapped_column(_Words)
    prompts_project: Mapped[int] = mapped_column(unique=True)
    ranking_project: Mapped[int] = mapped_column(unique=True)
    review_project: Mapped[int] = mapped_column(unique=True)
    report_project: Mapped[int | None] = mapped_column(unique=True)
    """Where the verdicts are shown; only written to."""
    serving_policy: Mapped[str] = mapped_column(_ID, default="base")
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Settings of this workspace that differ from the environment's."""
    problems: Mapped[list[Any]] = mapped_column(default=list)
    """What the last reconciliation could not use: `{"id", "count", "zh", "en"}` each."""
    created: Mapped[float] = mapped_column(default=time.time)


class PromptRow(Base):
    """One distinct prompt of a workspace."""

    __tablename__ = "prompts"
    __table_args__ = (
        UniqueConstraint("workspace", "prompt_id"),
        Index("prompts_state", "workspace", "state"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace: Mapped[str] = mapped_column(_ID)
    prompt_id: Mapped[str] = mapped_column(_NAME)
    text: Mapped[str] = mapped_column(_Words)
    system: Mapped[str] = mapped_column(_Words, default="")
    history: Mapped[list[Any]] = mapped_column(default=list)
    """The turns before it: `role` and `content` of each."""
    split: Mapped[str] = mapped_column(_NAME)
    source_task: Mapped[int | None]
    """Its first task in the prompts project; none if it did not come from there."""
    ranking_task: Mapped[int | None] = mapped_column(index=True)
    state: Mapped[PromptState] = mapped_column(default="new")
    round: Mapped[int] = mapped_column(default=1)
    """The round whose candidates it has."""
    likeness: Mapped[float | None]
    """How alike these are (`trainers.spread.likeness`); none without any."""


class ResponseRow(Base):
    """One candidate answer."""

    __tablename__ = "responses"
    __table_args__ = (Index("responses_prompt", "workspace", "prompt_id"),)
    id: Mapped[str] = mapped_column(_NAME, primary_key=True)
    workspace: Mapped[str] = mapped_column(_ID)
    prompt_id: Mapped[str] = mapped_column(_NAME)
    text: Mapped[str] = mapped_column(_Words)
    policy: Mapped[str] = mapped_column(_ID)
    style: Mapped[str] = mapped_column(_NAME, default="default")
    temperature: Mapped[float] = mapped_column(default=1.0)
    finished: Mapped[bool] = mapped_column(default=True)
    flags: Mapped[list[Any]] = mapped_column(default=list)
    position: Mapped[int] = mapped_column(default=0)
    """Place in the displayed order, from 0."""
    score: Mapped[float | None]
    reward_model: Mapped[str | None] = mapped_column(_ID)
    """The model that gave the score."""


class RankingRow(Base):
    """One annotation of the ranking project."""

    __tablename__ = "rankings"
    __table_args__ = (
        Index("rankings_state", "workspace", "state"),
        Index("rankings_task", "task", "annotator"),
    )
    annotation_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    workspace: Mapped[str] = mapped_column(_ID)
    task: Mapped[int]
    prompt_id: Mapped[str] = mapped_column(_NAME)
    annotator: Mapped[int]
    updated_at: Mapped[str] = mapped_column(String(40))
    result_hash: Mapped[str] = mapped_column(_NAME)
    state: Mapped[AnnotationState]
    reason: Mapped[str] = mapped_column(_Words, default="")
    """Why it is malformed."""
    order: Mapped[list[Any]] = mapped_column("ranking_order", default=list)
    """Groups of response ids from best to worst."""
    close: Mapped[bool] = mapped_column(default=False)
    all_bad: Mapped[bool] = mapped_column(default=False)
    lead_time: Mapped[float | None]
    suspicious: Mapped[bool] = mapped_column(default=False)
    """Submitted in the displayed order within seconds: perhaps not read."""


class ExclusionRow(Base):
    """An annotator whose rankings do not count, until they are included again."""

    __tablename__ = "exclusions"
    workspace: Mapped[str] = mapped_column(_ID, primary_key=True)
    annotator: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[float] = mapped_column(default=time.time)


class OverlapRow(Base):
    """A ranking task that asks, or was let ask, for another number of people than the setting says."""

    __tablename__ = "overlaps"
    task: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    workspace: Mapped[str] = mapped_column(_ID, index=True)
    asked: Mapped[int | None]
    """Rankings that shall count, where someone sent it on; none if the setting says how many."""
    told: Mapped[int | None]
    """What Label Studio was told last; none if it still has the setting."""


class PersonRow(Base):
    """A user of Label Studio by name."""

    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(_Words, default="")


class HintRow(Base):
    """A webhook's word that something changed; never trusted, only a reason to look."""

    __tablename__ = "hints"
    id: Mapped[int] = mapped_column(primary_key=True)
    project: Mapped[int] = mapped_column(index=True)
    action: Mapped[str] = mapped_column(_NAME)
    received: Mapped[float] = mapped_column(default=time.time)
    handled: Mapped[bool] = mapped_column(default=False, index=True)


class WatermarkRow(Base):
    """How far a project has been read, by Label Studio's clock."""

    __tablename__ = "watermarks"
    project: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    updated_at: Mapped[str] = mapped_column(String(40), default="")
    checked_full: Mapped[float] = mapped_column(default=0.0)


class RoundRow(Base):
    """One turn of the loop, from rankings to verdict."""

    __tablename__ = "rounds"
    __table_args__ = (UniqueConstraint("workspace", "number"),)
    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    workspace: Mapped[str] = mapped_column(_ID)
    number: Mapped[int]
    state: Mapped[RoundState] = mapped_column(default="collecting")
    verdict: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    dataset_hash: Mapped[str] = mapped_column(_NAME, default="")
    created: Mapped[float] = mapped_column(default=time.time)
    finished: Mapped[float | None]
    reason: Mapped[str] = mapped_column(_Words, default="")
    failure: Mapped[FailureKind | None]
    """Of which kind the reason of a failed round is."""
    conclude_asked: Mapped[bool] = mapped_column(default=False)


class RunRow(Base):
    """One run of a stage. `UNIQUE(workspace, kind, dataset_hash)` is what makes a duplicate impossible."""

    __tablename__ = "runs"
    __table_args__ = (UniqueConstraint("workspace", "kind", "dataset_hash"), Index("runs_state", "state"))
    id: Mapped[str] = mapped_column(_NAME, primary_key=True)
    workspace: Mapped[str] = mapped_column(_ID)
    round_id: Mapped[str | None] = mapped_column(_ID, index=True)
    kind: Mapped[RunKind]
    dataset_hash: Mapped[str] = mapped_column(_NAME)
    state: Mapped[RunState] = mapped_column(default="queued")
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str] = mapped_column(_Words, default="")
    failure: Mapped[FailureKind | None]
    """Of which kind the error is."""
    snapshot: Mapped[list[Any]] = mapped_column(default=list)
    """`[annotation id, result hash]` of each ranking that it was given."""
    pid: Mapped[int | None]
    fence: Mapped[int] = mapped_column(default=0)
    """Grows with each owner; only the newest may publish."""
    lease_until: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    progress_done: Mapped[int] = mapped_column(default=0)
    progress_total: Mapped[int] = mapped_column(default=0)
    progress_what: Mapped[str] = mapped_column(_NAME, default="")
    created: Mapped[float] = mapped_column(default=time.time)
    started: Mapped[float | None]
    finished: Mapped[float | None]


class MetricRow(Base):
    """One value of one metric at one step."""

    __tablename__ = "metrics"
    run_id: Mapped[str] = mapped_column(_NAME, primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(_NAME, primary_key=True)
    value: Mapped[float]
    time: Mapped[float]


class SampleRow(Base):
    """An answer as it was at one step of PPO."""

    __tablename__ = "samples"
    run_id: Mapped[str] = mapped_column(_NAME, primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    prompt_id: Mapped[str] = mapped_column(_NAME, primary_key=True)
    prompt: Mapped[str] = mapped_column(_Words)
    response: Mapped[str] = mapped_column(_Words)
    score: Mapped[float | None]


class ModelRow(Base):
    """A published model; its files are immutable."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    workspace: Mapped[str] = mapped_column(_ID, index=True)
    kind: Mapped[ModelKind]
    round_id: Mapped[str | None] = mapped_column(_ID)
    run_id: Mapped[str] = mapped_column(_NAME, unique=True)
    path: Mapped[str] = mapped_column(_Words)
    parent: Mapped[str] = mapped_column(_ID, default="base")
    base_model: Mapped[str] = mapped_column(_Words, default="")
    manifest_sha256: Mapped[str] = mapped_column(_NAME, default="")
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[ModelState] = mapped_column(default="published")
    created: Mapped[float] = mapped_column(default=time.time)


class PromotionRow(Base):
    """Append-only: which model served when, and why it changed."""

    __tablename__ = "promotions"
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace: Mapped[str] = mapped_column(_ID, index=True)
    model: Mapped[str] = mapped_column(_ID)
    previous: Mapped[str] = mapped_column(_ID)
    reason: Mapped[str] = mapped_column(_Words, default="")
    at: Mapped[float] = mapped_column(default=time.time)


class ActionRow(Base):
    """Append-only: advice that someone applied, what it changed and why."""

    __tablename__ = "actions"
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace: Mapped[str] = mapped_column(_ID, index=True)
    advice: Mapped[str] = mapped_column(_NAME)
    zh: Mapped[str] = mapped_column(Text)
    """The advice as it was given, with its numbers."""
    en: Mapped[str] = mapped_column(Text)
    changed: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Setting -> [value before, value after]."""
    round_id: Mapped[str | None] = mapped_column(_ID)
    """The round that it acts on; none if it starts nothing by itself."""
    run_id: Mapped[str | None] = mapped_column(_NAME)
    """The run that it started."""
    reverts: Mapped[int | None]
    """The row whose changes this one takes back."""
    at: Mapped[float] = mapped_column(default=time.time)


class ComparisonRow(Base):
    """Two answers to one prompt for blind review; which side is which is known here only."""

    __tablename__ = "comparisons"
    id: Mapped[str] = mapped_column(_NAME, primary_key=True)
    workspace: Mapped[str] = mapped_column(_ID)
    round_id: Mapped[str] = mapped_column(_ID, index=True)
    prompt_id: Mapped[str] = mapped_column(_NAME)
    prompt: Mapped[str] = mapped_column(_Words)
    seen: Mapped[bool]
    before: Mapped[str] = mapped_column("answer_before", _Words)
    after: Mapped[str] = mapped_column("answer_after", _Words)
    after_side: Mapped[Side]
    review_task: Mapped[int | None] = mapped_column(index=True)


class JudgementRow(Base):
    """One annotation of the review project."""

    __tablename__ = "judgements"
    annotation_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    comparison_id: Mapped[str] = mapped_column(_NAME, index=True)
    workspace: Mapped[str] = mapped_column(_ID, index=True)
    task: Mapped[int]
    reviewer: Mapped[int]
    verdict: Mapped[JudgementVerdict | None]
    updated_at: Mapped[str] = mapped_column(String(40))
    state: Mapped[AnnotationState]
    reason: Mapped[str] = mapped_column(_Words, default="")
