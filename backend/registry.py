"""Publishes, promotes, rolls back and finds models; their files never change once published.

A model goes: run directory → copy beside the others (`stage_model`, no transaction) → renamed to its name in
the transaction that checks the run's fence (`publish`). What no row knows is garbage. Knows nothing of
training or of Label Studio; `trainers.manifest` says what a complete model is.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend import store
from backend.errors import ConflictError, NotFoundInStoreError, RegistryError
from backend.tables import ModelKind, ModelRow, PromotionRow, RunRow
from trainers.errors import ModelError
from trainers.manifest import (
    MANIFEST,
    TEMPORARY,
    fsync_directory,
    remove_directory,
    sha256_of,
    verify_manifest,
)

log = logging.getLogger(__name__)

BASE = "base"
"""Id of the base model, which no row describes."""
_SPARE_BYTES = 64 * 1024 * 1024


def stage_model(model_dir: Path, models_dir: Path, name: str) -> Path:
    """Copy a trainer's model next to the published ones, verified and flushed; for `publish` to take over.

    Args:
        model_dir: what the run produced.
        models_dir: where published models live.
        name: unique to this owner of the run, e.g. `ppo-1a2b3c4d-3`.
    Raises: RegistryError: the model is incomplete or was changed, or the disk is full.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    staged = models_dir / f"{TEMPORARY}{name}"
    shutil.rmtree(staged, ignore_errors=True)
    try:
        verify_manifest(model_dir)
        size = sum(path.stat().st_size for path in model_dir.rglob("*") if path.is_file())
        if (free := shutil.disk_usage(models_dir).free) < size + _SPARE_BYTES:
            raise RegistryError(
                f"the model needs {size} bytes and `{models_dir}` has {free} free;"
                " free some space, then start the training again: it goes on where it was"
            )
        shutil.copytree(model_dir, staged, symlinks=True)
        _fsync_tree(staged)
        verify_manifest(staged)
    except (ModelError, OSError) as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise RegistryError(f"the model of `{name}` cannot be published: {error}") from error
    return staged


def publish(
    session: Session,
    run: RunRow,
    kind: ModelKind,
    staged: Path,
    *,
    parent: str,
    base_model: str,
    metrics: dict[str, Any],
) -> ModelRow:
    """Give a staged model its name. Call it in the transaction that holds the run's fence (`backend.leases`).

    Returns:
        The run's model; published before, it is returned unchanged and the staged copy is dropped.
    """
    known = session.scalars(select(ModelRow).where(ModelRow.run_id == run.id)).first()
    if known is not None:
        shutil.rmtree(staged, ignore_errors=True)
        return known
    earlier = session.scalars(
        select(func.count())
        .select_from(ModelRow)
        .where(ModelRow.workspace == run.workspace, ModelRow.kind == kind)
    ).one()
    model_id = f"{kind}-{run.workspace}-{earlier + 1}"
    path = staged.parent / model_id
    remove_directory(path)  # a crash between rename and commit left it; no row knows it
    staged.rename(path)
    fsync_directory(path.parent)
    row = ModelRow(
        id=model_id,
        workspace=run.workspace,
        kind=kind,
        round_id=run.round_id,
        run_id=run.id,
        path=str(path),
        parent=parent,
        base_model=base_model,
        manifest_sha256=sha256_of(path / MANIFEST),
        metrics=metrics,
    )
    session.add(row)
    session.flush()
    return row


def resolve(session: Session, workspace: str, model_id: str, *, base_model: str) -> str:
    """Where a model lies, after verifying every byte of it; the base model is taken as it is configured.

    Raises: NotFoundInStoreError: no such model. RegistryError: its files are gone or were changed.
    """
    if model_id == BASE:
        return base_model
    row = _model(session, workspace, model_id)
    path = Path(row.path)
    try:
        verify_manifest(path)
        unchanged = sha256_of(path / MANIFEST) == row.manifest_sha256
    except (ModelError, OSError) as error:
        raise RegistryError(f"the model `{model_id}` cannot be used: {error}") from error
    if not unchanged:
        raise RegistryError(
            f"the model `{model_id}` in `{path}` is another one than was published;"
            " restore it from a backup or roll back"
        )
    return str(path)


def promote(session: Session, workspace: str, model_id: str, reason: str) -> None:
    """Let a policy serve. Promoting the one that serves already changes nothing.

    Raises: NotFoundInStoreError: no such model. ConflictError: it is no policy.
    """
    owner = store.workspace(session, workspace)
    if model_id == owner.serving_policy:
        return
    if model_id != BASE:
        row = _model(session, workspace, model_id)
        if row.kind != "policy":
            raise ConflictError(f"`{model_id}` is a {row.kind} model; only a policy can be promoted")
        row.state = "promoted"
    _serve(session, workspace, model_id, reason)


def rollback(session: Session, workspace: str, reason: str = "rollback") -> str:
    """Let the policy that served before serve again.

    Returns: its id.
    Raises: ConflictError: there is none before.
    """
    stack = serving_history(store.promotions(session, workspace))
    if len(stack) < 2:
        raise ConflictError("there is nothing to roll back to: the base model serves")
    left = session.get(ModelRow, stack[-1])
    if left is not None:
        left.state = "rolled_back"
    _serve(session, workspace, stack[-2], reason)
    return stack[-2]


def serving_history(promotions: Sequence[PromotionRow]) -> list[str]:
    """The policies that led to the serving one, base first, it last; what was rolled back is gone."""
    stack = [BASE]
    for promotion in promotions:
        if len(stack) > 1 and promotion.model == stack[-2]:
            stack.pop()
        else:
            stack.append(promotion.model)
    return stack


def ancestors(session: Session, model_id: str) -> list[str]:
    """A policy, the one that it was trained from, and so on; the base model last."""
    chain = [model_id]
    while chain[-1] != BASE:
        row = session.get(ModelRow, chain[-1])
        chain.append(row.parent if row is not None else BASE)
    return chain


def collect_garbage(session: Session, models_dir: Path) -> list[str]:
    """Delete what crashes left below `models_dir`: every directory that no row knows. Only at start, alone.

    Returns: the names of the deleted directories.
    """
    known = {Path(path).name for path in session.scalars(select(ModelRow.path))}
    if not models_dir.is_dir():
        return []
    orphans = [path for path in sorted(models_dir.iterdir()) if path.name not in known]
    for path in orphans:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if orphans:
        log.info("removed %d unpublished model directories", len(orphans))
    return [path.name for path in orphans]


def _model(session: Session, workspace: str, model_id: str) -> ModelRow:
    row = session.get(ModelRow, model_id)
    if row is None or row.workspace != workspace:
        known = ", ".join(f"`{m.id}`" for m in store.models(session, workspace)) or "none yet"
        raise NotFoundInStoreError(f"there is no model `{model_id}` in `{workspace}` (known: {known})")
    return row


def _serve(session: Session, workspace: str, model_id: str, reason: str) -> None:
    owner = store.workspace(session, workspace)
    session.add(
        PromotionRow(workspace=workspace, model=model_id, previous=owner.serving_policy, reason=reason)
    )
    owner.serving_policy = model_id


def _fsync_tree(directory: Path) -> None:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            fsync_directory(path)
    fsync_directory(directory)
