"""Training on request: starts a run in the caller's transaction, or says why there is none.

`backend.service` holds back a burst of requests; what starts by itself is decided by `backend.policy`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import registry, store
from backend.errors import BackendError
from backend.inputs import Queued, queue_ppo, queue_reward
from backend.overview import read_state
from backend.policy import BUSY_ROUNDS, Waiting, next_actions
from backend.settings import Settings
from backend.status import View
from backend.tables import RunRow


@dataclass(frozen=True)
class TrainingAnswer(View):
    """What became of a request to train."""

    started: bool
    run_id: str | None
    """The run that was started, or that is under way already."""
    reason_zh: str
    reason_en: str


def start_reward(session: Session, settings: Settings, workspace_id: str, serve: str) -> TrainingAnswer:
    """Train the reward model, however few new rankings there are.

    Args:
        serve: a policy to promote first; empty to leave the serving one.
    Raises: NotFoundInStoreError, ConflictError, RegistryError: `serve` cannot be promoted.
    """
    state = read_state(session, settings, workspace_id, training_requested=True)
    action = next_actions(state)[1]
    if isinstance(action, Waiting):
        return TrainingAnswer(False, _open_run(session, workspace_id), action.reason_zh, action.reason_en)
    if serve:
        registry.resolve(session, workspace_id, serve, base_model=settings.base_model)
        registry.promote(session, workspace_id, serve, "to train from it")
    return _answer(queue_reward(session, settings, workspace_id, asked=True), "奖励模型")


def start_ppo(session: Session, settings: Settings, workspace_id: str) -> TrainingAnswer:
    """Run PPO of the current round."""
    current = store.current_round(session, workspace_id)
    if current is None or current.state in BUSY_ROUNDS or current.state in ("reviewing", "decided"):
        return TrainingAnswer(
            False, None, "现在没有可以开始 PPO 的一轮。", "No round is waiting for PPO now."
        )
    try:
        queued = queue_ppo(session, settings, current, asked=True)
    except BackendError as error:
        return TrainingAnswer(False, None, f"无法开始 PPO：{error}", f"PPO cannot start: {error}")
    return _answer(queued, "PPO")


def too_soon(session: Session, workspace_id: str) -> TrainingAnswer:
    """The answer to a request that follows another at once."""
    open_run = _open_run(session, workspace_id)
    return TrainingAnswer(False, open_run, "刚刚已经开始训练。", "Training was started a moment ago.")


def _answer(queued: Queued, what: str) -> TrainingAnswer:
    en = {"奖励模型": "the reward model"}.get(what, what)
    if queued.new:
        return TrainingAnswer(True, queued.run.id, f"已开始训练{what}。", f"Training of {en} has started.")
    return TrainingAnswer(
        False,
        queued.run.id,
        "自上次训练以来没有新的排序或设置。",
        "Nothing has changed since the last training: no new rankings, no new settings.",
    )


def _open_run(session: Session, workspace_id: str) -> str | None:
    query = select(RunRow.id).where(
        RunRow.workspace == workspace_id, RunRow.kind != "generate", RunRow.state.in_(("queued", "running"))
    )
    return session.scalars(query.order_by(RunRow.created.desc())).first()
