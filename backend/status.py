"""What a workspace looks like right now: the five steps of the journey, its counts, runs and models.

Frozen objects for the console, the terminal and the Label Studio protocol; each has `to_json()`. Read from
rows only: knows nothing of Label Studio, Flask or DBOS, and starts nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

StepState = Literal[
    "waiting",  # needs something first; the reason says what
    "running",  # the backend works on it
    "people",  # it is the team's turn
    "done",
    "attention",  # it failed or needs a decision
]

StepKey = Literal["candidates", "rankings", "reward", "ppo", "review"]


class View:
    """A frozen dataclass that goes to JSON."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Step(View):
    """One of the five steps of the journey."""

    key: StepKey
    state: StepState
    reason_zh: str
    """What it waits for, does, or reached."""
    reason_en: str
    done: int = 0
    total: int = 0
    run_id: str | None = None
    """The run whose curves belong to it."""


@dataclass(frozen=True)
class RunView(View):
    """One run of a stage."""

    id: str
    kind: str
    state: str
    round_id: str | None
    attempts: int
    progress_done: int
    progress_total: int
    progress_what: str
    result: dict[str, Any] | None
    error: str
    """Why it failed, in English."""
    created: float
    started: float | None
    finished: float | None
    error_zh: str = ""
    """The same for readers of Chinese, with what to do."""


@dataclass(frozen=True)
class RoundView(View):
    """One turn of the loop."""

    id: str
    number: int
    state: str
    verdict: dict[str, Any] | None
    comparisons: int
    judged: int
    reason_zh: str
    """Why it stopped where it is; empty if it did not."""
    reason_en: str
    created: float
    finished: float | None


@dataclass(frozen=True)
class ModelView(View):
    """One published model."""

    id: str
    kind: str
    round_id: str | None
    run_id: str
    parent: str
    state: str
    serving: bool
    metrics: dict[str, Any]
    created: float
    rankings: int = 0
    """How many rankings it depends on, its ancestors' included."""
    removed: int = 0
    """Those of them that were deleted, edited or excluded since."""


@dataclass(frozen=True)
class AdviceView(View):
    """What to do next, and the number that says so."""

    id: str
    zh: str
    en: str
    action: str | None
    """A key of `backend.advice_actions.ACTIONS`."""
    applies: bool = False
    """The backend can do it: `Service.apply`; else it is people's work."""
    does_zh: str = ""
    """What the action does."""
    does_en: str = ""


@dataclass(frozen=True)
class ActionView(View):
    """Advice that someone applied."""

    advice: str
    zh: str
    """The advice as it was given: why."""
    en: str
    changed_zh: str
    """Settings with the values before and after; empty if none changed."""
    changed_en: str
    round_id: str | None
    run_id: str | None
    at: float
    reverts: bool = False
    """It took back what the same advice had changed."""
    can_revert: bool = False
    """Its changes are in force."""


@dataclass(frozen=True)
class Counts(View):
    """How much there is of everything."""

    prompts: int
    prompts_published: int
    prompts_flagged: int
    responses: int
    rankings: int
    rankings_new: int
    rankings_needed: int
    """New rankings after which the reward model trains by itself; 0 if it would now."""
    annotators: int
    malformed: int
    comparisons: int
    judgements: int
    tasks_left: int | None = None
    """Rankings that the published tasks still take; none while more tasks are on their way."""


@dataclass(frozen=True)
class WorkspaceStatus(View):
    """Everything that the console's first page shows of one workspace."""

    workspace: str
    title: str
    prompts_project: int
    ranking_project: int
    review_project: int
    serving_policy: str
    counts: Counts
    steps: tuple[Step, ...]
    """candidates, rankings, reward, ppo, review; always these five."""
    next_zh: str
    """The one thing that happens next, or that someone must do."""
    next_en: str
    round: RoundView | None
    """The current round."""
    rounds: tuple[RoundView, ...]
    runs: tuple[RunView, ...]
    """Oldest first."""
    models: tuple[ModelView, ...]
    advice: tuple[AdviceView, ...]
    problems: tuple[dict[str, Any], ...] = ()
    """What the last reconciliation could not use: `{"id", "count", "zh", "en"}` each."""
    actions: tuple[ActionView, ...] = ()
    """Advice that was applied, oldest first."""
    label_studio_error: str = ""
    """Why Label Studio could not be read at the last look; empty if it could."""
