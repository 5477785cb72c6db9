"""From a model to the exact rankings that it was made from, and what has become of them since.

Reads the snapshots that runs keep: a ranking is known by its annotation and a hash of what it says. A policy
depends on the rankings of its reward model and on those of the policy that it was trained from. What is gone,
was edited, or is of an excluded annotator marks every model that depends on it; nothing is deleted, and
training again makes a model without it. Next: `backend.lineage_text`, the report, the advice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import registry, store
from backend.exclusions import counting, exclusions
from backend.status import View
from backend.tables import AnnotationState, ModelRow, RankingRow, RoundRow, RunRow

Key = tuple[int, str]
"""Annotation id and result hash: `backend.store.ranking_key`."""
Fate = AnnotationState | Literal["edited", "excluded"]
"""`active`: as it was, and counts. Else what has become of it."""


@dataclass(frozen=True)
class Dependence(View):
    """How many rankings a model depends on, its ancestors' included."""

    rankings: int = 0
    removed: int = 0
    """Those that do not count as they were: deleted, skipped, edited, or of an excluded annotator."""


@dataclass(frozen=True)
class Ancestor(View):
    """A model, and how it was made."""

    id: str
    kind: str
    state: str
    serving: bool
    round_id: str | None
    run_id: str
    parent: str
    reward_model: str
    """Whose scores a policy learned from; empty for a reward model."""
    base_model: str
    config: Mapping[str, Any]
    """The run's configuration, its seed included."""
    manifest_sha256: str
    """Of the manifest with the hash of every file."""
    created: float
    dependence: Dependence


@dataclass(frozen=True)
class Learned(View):
    """A ranking that a reward model learned from."""

    annotation: int
    annotator: int
    prompt_id: str
    result_hash: str
    round: int
    """The round in which it was first learned from."""
    models: tuple[str, ...]
    """The reward models that learned from it."""
    fate: Fate


@dataclass(frozen=True)
class Lineage(View):
    """All that one model comes from."""

    models: tuple[Ancestor, ...]
    """The model itself first, each followed by its reward model and its parent."""
    rankings: tuple[Learned, ...]
    excluded: tuple[int, ...]
    """Annotators whose rankings do not count now."""


def ranking_rounds(session: Session, workspace_id: str) -> dict[Key, int]:
    """Ranking → number of the round in which it was first learned from; an edited one is another."""
    query = (
        select(RunRow.snapshot, RoundRow.number)
        .join(RoundRow, RoundRow.id == RunRow.round_id)
        .where(RunRow.workspace == workspace_id, RunRow.kind == "reward")
        .order_by(RoundRow.number.desc())
    )
    return {key: number for snapshot, number in session.execute(query) for key in _keys(snapshot)}


def dependences(session: Session, workspace_id: str) -> dict[str, Dependence]:
    """Model id → what it depends on, for every model of a workspace."""
    active = select(RankingRow.annotation_id, RankingRow.result_hash).where(
        *counting(workspace_id), RankingRow.state == "active"
    )
    counted = {(annotation, said) for annotation, said in session.execute(active)}
    runs = {run.id: run for run in store.runs(session, workspace_id)}
    learned: dict[str, frozenset[Key]] = {}
    for model in store.models(session, workspace_id):  # oldest first: parents before children
        run = runs.get(model.run_id)
        own = frozenset(_keys(run.snapshot)) if run else frozenset()
        behind = (learned.get(name, frozenset()) for name in (_reward_model(run), model.parent))
        learned[model.id] = own.union(*behind)
    return {name: Dependence(len(keys), len(keys - counted)) for name, keys in learned.items()}


def newest_clean(session: Session, model_id: str, dependent: Mapping[str, Dependence]) -> str:
    """The newest of a policy and its ancestors that depends on nothing removed; at last the base model."""
    chain = registry.ancestors(session, model_id)
    return next(name for name in chain if not dependent.get(name, Dependence()).removed)


def lineage_of(session: Session, model_id: str) -> Lineage:
    """Raises: NotFoundInStoreError: no such model."""
    workspace_id = store.model(session, model_id).workspace
    dependent = dependences(session, workspace_id)
    serving = store.workspace(session, workspace_id).serving_policy
    models: dict[str, Ancestor] = {}
    learned_by: dict[Key, list[str]] = {}
    waiting = [model_id]
    while waiting:
        name = waiting.pop(0)
        row = session.get(ModelRow, name)
        if row is None or name in models:
            continue
        run = store.run(session, row.run_id)
        models[name] = _ancestor(row, run, dependent[name], serving=name == serving)
        for key in _keys(run.snapshot):
            learned_by.setdefault(key, []).append(name)
        waiting += [_reward_model(run), row.parent]
    return Lineage(
        models=tuple(models.values()),
        rankings=_rankings(session, workspace_id, learned_by),
        excluded=tuple(row.annotator for row in exclusions(session, workspace_id)),
    )


def _rankings(
    session: Session, workspace_id: str, learned_by: Mapping[Key, list[str]]
) -> tuple[Learned, ...]:
    rows = {
        row.annotation_id: row
        for row in session.scalars(select(RankingRow).where(RankingRow.workspace == workspace_id))
    }
    rounds = ranking_rounds(session, workspace_id)
    excluded = {row.annotator for row in exclusions(session, workspace_id)}
    return tuple(
        Learned(
            annotation=key[0],
            annotator=rows[key[0]].annotator,
            prompt_id=rows[key[0]].prompt_id,
            result_hash=key[1],
            round=rounds[key],
            models=tuple(sorted(models)),
            fate=_fate(rows[key[0]], key[1], excluded),
        )
        for key, models in sorted(learned_by.items())
    )


def _fate(row: RankingRow, learned_hash: str, excluded: set[int]) -> Fate:
    if row.state != "active":
        return row.state
    if row.result_hash != learned_hash:
        return "edited"
    return "excluded" if row.annotator in excluded else "active"


def _ancestor(row: ModelRow, run: RunRow, dependence: Dependence, *, serving: bool) -> Ancestor:
    return Ancestor(
        id=row.id,
        kind=row.kind,
        state=row.state,
        serving=serving,
        round_id=row.round_id,
        run_id=row.run_id,
        parent=row.parent,
        reward_model=_reward_model(run),
        base_model=row.base_model,
        config={name: value for name, value in run.config.items() if name != "lineage"},
        manifest_sha256=row.manifest_sha256,
        created=row.created,
        dependence=dependence,
    )


def _reward_model(run: RunRow | None) -> str:
    return str(run.config.get("lineage", {}).get("reward_model", "")) if run else ""


def _keys(snapshot: list[Any]) -> list[Key]:
    return [(int(annotation), str(said)) for annotation, said in snapshot]
