"""The whole backend behind one object: what the web part, the terminal and the tests call.

Knows nothing of Flask or HTTP. Assembles store, Label Studio client, launcher and workflows, and runs the
loop that makes our rows equal to Label Studio and starts what is due.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.settings import Settings
from backend.status import View, WorkspaceStatus
from backend.store import Store


@dataclass(frozen=True)
class TrainingAnswer(View):
    """What became of a request to train."""

    started: bool
    run_id: str | None
    """The run that was started, or that is under way already."""
    reason_zh: str
    reason_en: str


@dataclass(frozen=True)
class Prediction(View):
    """The reward model's order of one task's answers, from stored scores."""

    order: tuple[str, ...]
    """Response ids, best first; exactly the task's ids."""
    score: float
    """How sure the order is, 0 to 1: the lowest are the most useful to rank next."""
    model_version: str


class Service:
    """One backend on one data directory. Threads may call every method at the same time."""

    def __init__(self, settings: Settings) -> None:
        """Open the store. Starts nothing; reading and `status` work without `start`."""
        self.settings = settings
        self.store = Store(settings.store_url)

    def start(self) -> None:
        """Take the data directory, resume what was interrupted, begin to reconcile.

        Raises: ConflictError: another server works on this data directory.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Stop reconciling and let the running trainers save a checkpoint; they resume at the next start."""
        raise NotImplementedError

    def hint(self, project: int, action: str) -> None:
        """Label Studio says that something changed: remembered durably, looked at soon. Returns at once."""
        raise NotImplementedError

    def start_training(self, project: int) -> TrainingAnswer:
        """Train the reward model of the project's workspace now, however few new rankings there are."""
        raise NotImplementedError

    def start_ppo(self, workspace: str) -> TrainingAnswer:
        """Run PPO of the current round by hand: after a gate that did not pass, or with `auto_ppo` off."""
        raise NotImplementedError

    def cancel(self, run_id: str) -> None:
        """Stop a run for good.

        Raises: NotFoundInStoreError: no such run. ConflictError: it has ended.
        """
        raise NotImplementedError

    def promote(self, workspace: str, model_id: str, reason: str) -> None:
        """Let a policy serve: the next round's candidates come from it.

        Raises: NotFoundInStoreError, RegistryError.
        """
        raise NotImplementedError

    def rollback(self, workspace: str) -> str:
        """Let the policy before serve again.

        Returns: its id. Raises: ConflictError: there is none.
        """
        raise NotImplementedError

    def status(self, workspace: str) -> WorkspaceStatus:
        """Raises: NotFoundInStoreError: no such workspace."""
        raise NotImplementedError

    def workspaces(self) -> tuple[str, ...]:
        """Ids of all workspaces, oldest first."""
        raise NotImplementedError

    def owns_project(self, project: int) -> bool:
        """True if the project belongs to a workspace; others get 403."""
        raise NotImplementedError

    def predictions(self, project: int, answers: Sequence[Sequence[str]]) -> list[Prediction | None]:
        """The stored order of each task's answers (response ids); `None` where scores are missing."""
        raise NotImplementedError

    def model_version(self, project: int) -> str:
        """The reward model whose scores `predictions` gives; `none` before the first one."""
        raise NotImplementedError

    def settings_of(self, workspace: str) -> Mapping[str, object]:
        """The settings in effect for a workspace, without secrets."""
        raise NotImplementedError

    def check_label_studio(self) -> str:
        """Why Label Studio could not be read at the last look; empty if it could."""
        raise NotImplementedError
