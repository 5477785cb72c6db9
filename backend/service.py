"""The whole backend behind one object: what the web part, the terminal and the tests call.

Knows nothing of Flask or HTTP. Assembles store, Label Studio client, launcher and workflows, and runs the
loop that makes our rows equal to Label Studio and starts what is due.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from backend import leases, overlap, registry, store
from backend.actions import Actions, Applied
from backend.adjudication import send_on
from backend.errors import BackendError, ConflictError, LabelStudioError
from backend.inputs import queue_generate, queue_reward, settings_of, try_again
from backend.label_studio import LabelStudioClient
from backend.launcher import Launcher
from backend.lock import DirectoryLock
from backend.overview import read_state, workspace_status
from backend.policy import Conclude, StartGenerate, StartReward, next_actions
from backend.predictions import Prediction, predict
from backend.reconcile import reconcile
from backend.settings import Settings, documented
from backend.status import WorkspaceStatus
from backend.store import Store
from backend.tables import RoundState
from backend.training import TrainingAnswer, start_ppo, start_reward, too_soon
from backend.workflow import Workflows
from backend.writeback import WriteBack

log = logging.getLogger(__name__)

DEBOUNCE_S = 0.7
"""Hints that follow one another within this time are looked at together."""
LONGEST_DEBOUNCE_S = 5.0
"""However many hints come, the first is looked at after this time."""
POLL_S = 2.0
"""Time between two looks for hints that another process left."""
SILENT_S = 8.0
"""A request that waits longer than this is told of before its time is up."""
FULL_EVERY_S = 600.0
"""Time between two complete comparisons with Label Studio, which notice deletions."""

_AFTER_RETRY: Mapping[str, RoundState] = {"reward": "rewarding", "ppo": "tuning", "compare": "comparing"}


class Service:
    """One backend on one data directory. Threads may call every method at the same time."""

    def __init__(
        self, settings: Settings, *, client: LabelStudioClient | None = None, launcher: Launcher | None = None
    ) -> None:
        """Open the store. Starts nothing; reading and `status` work without `start`.

        Args:
            client: takes the place of the one that the settings describe.
            launcher: the same.
        """
        self.settings = settings
        self.store = Store(settings.store_url)
        self.store.create_all()
        self.client = client or LabelStudioClient(
            settings.label_studio_url, settings.label_studio_api_key, settings.label_studio_timeout_s
        )
        self._launcher = launcher or Launcher(self.store, settings.runs_dir)
        self._workflows = Workflows(
            settings, self.store, self._launcher, WriteBack(self.store, self.client), self._wake_up
        )
        self._actions = Actions(settings, self.store, self.client)
        self._lock = DirectoryLock(settings.data_dir)
        self._reconciling = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._asked: dict[str, float] = {}
        self._asking = threading.Lock()
        self._applying = threading.Lock()
        self._checked_full: dict[str, float] = {}
        self._label_studio_error = ""
        self._newest_hint = 0

    # --- life ---

    def start(self) -> None:
        """Take the data directory, resume what was interrupted, begin to reconcile.

        Raises: ConflictError: another server works on this data directory.
        """
        self._lock.take()
        with self.store.session() as session:
            leases.release(session)  # the lock says that whoever held them is dead
            registry.collect_garbage(session, self.settings.models_dir.absolute())
        self._workflows.launch()
        self._thread = threading.Thread(target=self._loop, name="reconcile", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reconciling and let the running trainers save a checkpoint; they resume at the next start."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(10)  # first, as it asks the workflows
            self._workflows.stop()
            self._thread = None
        self.client.close()
        self.store.close()
        self._lock.release()

    # --- what Label Studio and people ask for ---

    def hint(self, project: int, action: str) -> None:
        """Label Studio says that something changed: remembered durably, looked at soon. Returns at once."""
        with self.store.session() as session:
            store.add_hint(session, project, action)
        self._wake_up()

    def start_training(self, project: int, *, serve: str = "") -> TrainingAnswer:
        """Train the reward model of the project's workspace now, however few new rankings there are.

        Args:
            serve: a policy to promote first, so that the new one is trained from it.
        Raises: NotFoundInStoreError, ConflictError, RegistryError: `serve` cannot be promoted.
        """
        with self.store.reading() as session:
            workspace = store.workspace_of_project(session, project)
        if workspace is None:
            return TrainingAnswer(
                False, None, "这个项目不属于任何工作区。", "This project belongs to no workspace."
            )
        with self._asking:  # a burst of requests is one request
            since = time.monotonic() - self._asked.get(workspace.id, -1e9)
            if since < self.settings.training_cooldown_s:
                with self.store.reading() as session:
                    return too_soon(session, workspace.id)
            self._look(workspace.id)  # rankings that no webhook told of
            with self.store.session() as session:
                answer = start_reward(session, self.settings, workspace.id, serve)
            if answer.started:
                self._asked[workspace.id] = time.monotonic()
                self._wake_up()
            return answer

    def start_ppo(self, workspace: str) -> TrainingAnswer:
        """Run PPO of the current round by hand: after a gate that did not pass, or with `auto_ppo` off."""
        with self.store.session() as session:
            answer = start_ppo(session, self.settings, workspace)
        if answer.started:
            self._wake_up()
        return answer

    def conclude(self, workspace: str) -> None:
        """Reach the verdict of the current review with the judgements that are there.

        Raises: ConflictError: no review is open, or nothing was judged.
        """
        with self.store.session() as session:
            current = store.current_round(session, workspace)
            if current is None or current.state != "reviewing":
                raise ConflictError(f"no review is open in `{workspace}`")
            if not store.active_judgements(session, current.id):
                raise ConflictError(f"nothing was judged in `{workspace}` yet; judge some comparisons first")
            current.conclude_asked = True
        self._wake_up()

    def retry(self, run_id: str) -> None:
        """Try a failed or cancelled run again: where it was, or anew under settings that changed.

        Raises: NotFoundInStoreError: no such run. ConflictError: it is under way or done.
        """
        with self.store.session() as session:
            run = store.run(session, run_id)
            current = store.round_by_id(session, run.round_id) if run.round_id else None
            if current is not None and run.kind != "generate":
                if current.state not in ("failed", "gated", "collecting"):
                    raise ConflictError(f"round `{current.id}` is {current.state}; wait until it ends")
                current.state, current.reason, current.finished = _AFTER_RETRY[run.kind], "", None
            try_again(session, self.settings, run)
        self._wake_up()

    def adjudicate(self, workspace: str) -> int:
        """Send the tasks that divide the team to one more annotator each.

        Returns: how many. Raises: NotFoundInStoreError: no such workspace. LabelStudioError: no answer.
        """
        return send_on(self.store, self.client, self.settings, workspace)

    def apply(self, workspace: str, advice: str) -> Applied:
        """Do what a piece of advice says, and write down why.

        Raises: NotFoundInStoreError, LabelStudioError. ConflictError: it cannot be applied now.
        """
        with self._applying:
            self._look(workspace)  # rankings that no webhook told of
            applied = self._actions.apply(workspace, advice)
        self._wake_up()
        return applied

    def revert(self, workspace: str, advice: str) -> Applied:
        """Take back the settings that a piece of advice changed; what it started is left alone.

        Raises: NotFoundInStoreError. ConflictError: none of its changes is in force.
        """
        return self._actions.revert(workspace, advice)

    def cancel(self, run_id: str) -> None:
        """Stop a run for good.

        Raises: NotFoundInStoreError: no such run. ConflictError: it has ended.
        """
        self._launcher.cancel(run_id)

    def promote(self, workspace: str, model_id: str, reason: str) -> None:
        """Let a policy serve: the next round's candidates come from it.

        Raises: NotFoundInStoreError, ConflictError: it is no policy. RegistryError: its files were changed.
        """
        with self.store.session() as session:
            registry.resolve(session, workspace, model_id, base_model=self.settings.base_model)
            registry.promote(session, workspace, model_id, reason)

    def rollback(self, workspace: str) -> str:
        """Let the policy before serve again.

        Returns: its id. Raises: ConflictError: there is none.
        """
        with self.store.session() as session:
            return registry.rollback(session, workspace)

    # --- reading ---

    def status(self, workspace: str) -> WorkspaceStatus:
        """Raises: NotFoundInStoreError: no such workspace."""
        with self.store.reading() as session:
            error = self.check_label_studio()
            return workspace_status(session, self.settings, workspace, label_studio_error=error)

    def workspaces(self) -> tuple[str, ...]:
        """Ids of all workspaces, oldest first."""
        with self.store.reading() as session:
            return tuple(workspace.id for workspace in store.workspaces(session))

    def owns_project(self, project: int) -> bool:
        """True if the project belongs to a workspace; others get 403."""
        with self.store.reading() as session:
            return store.workspace_of_project(session, project) is not None

    def predictions(self, project: int, answers: Sequence[Sequence[str]]) -> list[Prediction | None]:
        """The stored order of each task's answers (response ids); `None` where scores are missing."""
        with self.store.reading() as session:
            workspace = store.workspace_of_project(session, project)
            if workspace is None:
                return [None] * len(answers)
            return predict(session, workspace.id, answers)

    def model_version(self, project: int) -> str:
        """The reward model whose scores `predictions` gives; `none` before the first one."""
        with self.store.reading() as session:
            workspace = store.workspace_of_project(session, project)
            models = store.models(session, workspace.id) if workspace else ()
        return next((model.id for model in reversed(models) if model.kind == "reward"), "none")

    def settings_of(self, workspace: str) -> Mapping[str, object]:
        """The settings in effect for a workspace, without secrets."""
        with self.store.reading() as session:
            effective = settings_of(self.settings, store.workspace(session, workspace))
        return {s.name: getattr(effective, s.name) for s in documented() if not s.secret}

    def check_label_studio(self) -> str:
        """Why Label Studio cannot be read: now, or at the last look; empty if it can."""
        if (silent := self.client.silent_s) > SILENT_S:
            return (
                f"Label Studio at {self.client.url} has not answered for {silent:.0f} s; check that it runs"
            )
        return self._label_studio_error or self._workflows.label_studio_error

    # --- the loop ---

    def _loop(self) -> None:
        while not self._stopping.is_set():
            names = self._safely(self.workspaces) or ()
            if not names:
                self._safely(self.client.check)  # a wrong key should not wait for the first workspace
            for workspace_id in names:
                if not self._stopping.is_set():
                    self._safely(self._tick, workspace_id)
            if not self._stopping.is_set():
                self._safely(self._workflows.ensure)
            self._wait()

    def _wait(self) -> None:
        """Until a hint came and the others with it, or the time is up."""
        until = time.monotonic() + self.settings.reconcile_seconds
        while not self._wake.wait(max(0.0, min(POLL_S, until - time.monotonic()))):
            if time.monotonic() >= until:
                return
            if self._safely(self._hinted_elsewhere):
                break
        deadline = time.monotonic() + LONGEST_DEBOUNCE_S
        while not self._stopping.is_set() and time.monotonic() < deadline:
            self._wake.clear()
            if not self._wake.wait(DEBOUNCE_S):
                break
        self._wake.clear()

    def _hinted_elsewhere(self) -> bool:
        """True if another process left a hint since the last look: a command beside the server."""
        with self.store.reading() as session:
            newest = max(store.pending_hints(session).values(), default=0)
        hinted = newest > self._newest_hint
        self._newest_hint = max(newest, self._newest_hint)
        return hinted

    def _tick(self, workspace_id: str) -> None:
        self._look(workspace_id)
        with self.store.session() as session:  # the decision and the run that it makes are one transaction
            state = read_state(session, self.settings, workspace_id)
            actions = next_actions(state)
            if StartGenerate() in actions:
                queue_generate(session, self.settings, workspace_id)
            if StartReward() in actions:
                queue_reward(session, self.settings, workspace_id, asked=False)
            current = store.current_round(session, workspace_id)
        if Conclude() in actions and current is not None:
            self._workflows.start_conclude(current.id)

    def _look(self, workspace_id: str) -> None:
        """Make the rows equal to Label Studio, and what it serves to them; where that fails they stay."""
        with self._reconciling:
            with self.store.reading() as session:
                workspace = store.workspace(session, workspace_id)
                mine = (workspace.prompts_project, workspace.ranking_project, workspace.review_project)
                pending = {p: n for p, n in store.pending_hints(session).items() if p in mine}
            full = time.monotonic() - self._checked_full.get(workspace_id, -FULL_EVERY_S) >= FULL_EVERY_S
            try:
                if full:
                    self.client.check()  # it may have been updated under us
                reconcile(self.store, self.client, workspace_id, full=full)
                overlap.serve(self.store, self.client, self.settings, workspace_id)
            except LabelStudioError as error:
                self._label_studio_error = str(error)
                log.warning("%s", error)
                return
            self._label_studio_error = ""
            if full:
                self._checked_full[workspace_id] = time.monotonic()
            with self.store.session() as session:
                for project, newest in pending.items():
                    store.handle_hints(session, project, newest)

    def _safely(self, action: Any, *arguments: Any) -> Any:
        """The loop goes on whatever happens to one workspace."""
        try:
            return action(*arguments)
        except BackendError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("the loop met a bug")
        return None

    def _wake_up(self) -> None:
        self._wake.set()
