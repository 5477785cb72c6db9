"""What should start now in a workspace, and why not. Pure: counts and states in, decisions out.

Knows nothing of databases, Label Studio or processes. `backend.service` reads the state, asks here, and
starts what comes back; the console shows the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backend.tables import RoundState, RunState

FEWEST_MORE, MOST_MORE = 20, 50
"""Rankings to add before a reward model that did not pass is trained again."""

BUSY_ROUNDS: frozenset[RoundState] = frozenset({"rewarding", "tuning", "comparing"})
"""States in which a round has a training process to run."""
UNFINISHED_ROUNDS: frozenset[RoundState] = BUSY_ROUNDS | {"reviewing"}
"""States that a round leaves by itself, for the next one or for a verdict."""

Outcome = Literal["passed", "not_enough_evidence", "failed"]


@dataclass(frozen=True)
class RewardRun:
    """How the newest reward run ended."""

    state: RunState
    outcome: Outcome | None = None
    """What the gate said; none if it did not get there."""
    rankings_needed: int = 0


@dataclass(frozen=True)
class WorkspaceState:
    """All that decides what starts next."""

    prompts_new: int = 0
    generating: bool = False
    """A generate run is queued or running."""
    prompts_published: int = 0
    rankings: int = 0
    """Active ones."""
    rankings_new: int = 0
    """Those that the newest reward run was not given."""
    rankings_open: int | None = None
    """How many more rankings the published tasks take; none if nobody counted."""
    train_after_rankings: int = 50
    training_requested: bool = False
    """Someone pressed Start Training."""
    round_state: RoundState | None = None
    reward: RewardRun | None = None
    """The newest reward run of the workspace."""
    comparisons: int = 0
    comparisons_judged: int = 0
    """Those with as many judgements as wanted."""
    conclude_asked: bool = False
    """Someone wants the verdict from the judgements that are there."""
    decision_open: bool = False
    """The newest round's model is better, and nobody has promoted it yet."""


@dataclass(frozen=True)
class StartGenerate:
    """Generate candidates for the new prompts."""


@dataclass(frozen=True)
class StartReward:
    """Train the reward model on the active rankings; a new round unless one collects already."""


@dataclass(frozen=True)
class Conclude:
    """All comparisons are judged: reach the verdict."""


@dataclass(frozen=True)
class Waiting:
    """Nothing starts; this is what it waits for."""

    reason_zh: str
    reason_en: str


Action = StartGenerate | StartReward | Conclude


def next_actions(state: WorkspaceState) -> list[Action | Waiting]:
    """Everything that is due now, and for the rest what it waits for. In the order of the journey."""
    return [_generation(state), _reward(state), _review(state)]


def rankings_threshold(state: WorkspaceState) -> int | None:
    """New rankings at which the reward model trains by itself; none if only when asked."""
    if not state.train_after_rankings:
        return None
    reward = state.reward
    if reward and reward.state == "succeeded" and reward.outcome in ("not_enough_evidence", "failed"):
        return min(max(reward.rankings_needed, FEWEST_MORE), MOST_MORE)
    return state.train_after_rankings


def tasks_left(state: WorkspaceState) -> int | None:
    """How many rankings are still to be made; none if nobody counted or more tasks are on their way."""
    return None if state.prompts_new or state.generating else state.rankings_open


def _generation(state: WorkspaceState) -> StartGenerate | Waiting:
    if state.generating:
        return Waiting("正在为题目生成候选回答。", "Candidates are being generated.")
    if state.prompts_new:
        return StartGenerate()
    if not state.prompts_published:
        return Waiting(
            "请先把题目（100 到 200 条）导入“题目”项目。",
            "Import prompts (100 to 200) into the prompts project.",
        )
    return Waiting("所有题目都已有候选回答。", "Every prompt has its candidates.")


def _reward(state: WorkspaceState) -> StartReward | Waiting:
    if state.round_state in BUSY_ROUNDS:
        return Waiting(
            "本轮训练正在进行；新的排序会在结束后计入。",
            "A round is being trained; new rankings count when it ends.",
        )
    if not state.rankings:
        return Waiting(
            "还没有排序，请先在 Label Studio 中排序。", "No rankings yet: rank answers in Label Studio."
        )
    if state.training_requested:
        return StartReward()
    if state.round_state == "reviewing":
        return Waiting("先完成盲评，再训练下一轮。", "The blind review comes first, then the next round.")
    if state.decision_open:
        return Waiting(
            "新模型胜出：请先启用它；要在原模型上继续，请按“开始训练”。",
            "The new model won: promote it first, or press Start Training to go on without it.",
        )
    threshold = rankings_threshold(state)
    if threshold is None:
        return Waiting("等待“开始训练”。", "Waiting for Start Training.")
    if state.rankings_new >= threshold:
        return StartReward()
    missing = threshold - state.rankings_new
    if (left := tasks_left(state)) is not None and left < missing:
        return Waiting(
            f"再有 {missing} 个新排序才会自动开始训练，但只剩 {left} 个待排序的任务：请导入更多题目"
            + ("，或直接开始训练。" if state.rankings_new else "。"),
            f"Training starts by itself after {missing} more rankings, but {f'only {left}' if left else 'no'}"
            " tasks are left: import more prompts" + (", or start it now." if state.rankings_new else "."),
        )
    return Waiting(
        f"再有 {missing} 个新排序就自动开始训练（已有 {state.rankings_new} / {threshold}）。",
        f"Training starts by itself after {missing} more rankings ({state.rankings_new} of {threshold}).",
    )


def _review(state: WorkspaceState) -> Conclude | Waiting:
    if state.round_state != "reviewing":
        return Waiting("盲评在 PPO 结束后开始。", "The blind review begins when PPO has ended.")
    if state.conclude_asked or (state.comparisons and state.comparisons_judged >= state.comparisons):
        return Conclude()
    missing = state.comparisons - state.comparisons_judged
    return Waiting(
        f"还有 {missing} 组对比等待盲评。",
        f"{missing} comparisons are still to be judged in the review project.",
    )
