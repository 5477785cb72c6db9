"""The durable workflows (DBOS): what happens after a run was queued, step by step, across crashes.

    prepare    generate candidates → ranking tasks
    improve    reward model → gate → PPO → policy → comparisons → review tasks
    conclude   verdict → report → promotion

Rows are the truth, DBOS remembers which step comes next: `ensure` starts a workflow for everything that the
rows say is due and none works on, so that losing DBOS's database loses nothing. Each step does the same when
it runs again. Traps of DBOS: it records an `Exception` as the step's outcome for good, but a `BaseException`
(`Interrupted`) leaves it to be resumed; executor and version must stay the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dbos import DBOS, DBOSConfig, SetWorkflowID
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from backend import store as queries
from backend.adjudication import mark_contested
from backend.errors import BackendError, LabelStudioError, UnauthorisedError, UnreachableError
from backend.failures import Failure
from backend.inputs import queue_compare, queue_ppo, settings_of
from backend.launcher import Interrupted, Launcher
from backend.outputs import Outputs
from backend.policy import BUSY_ROUNDS
from backend.ranking_queue import aim_of_result
from backend.rounds import Rounds
from backend.settings import Settings
from backend.store import Store
from backend.tables import ModelRow, PromptRow, RoundRow, RunKind, RunRow
from backend.writeback import WriteBack

log = logging.getLogger(__name__)

EXECUTOR = "backend"
"""DBOS resumes only the work of the executor of this name; the data directory's lock keeps it single."""
VERSION = "1"
"""Else a hash of the code, so that every update would strand what is pending. Raise it with the steps."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0
_Result = TypeVar("_Result")


class Workflows:
    """The workflows of one data directory. One instance a process: DBOS is a singleton."""

    def __init__(
        self,
        settings: Settings,
        opened: Store,
        launcher: Launcher,
        writeback: WriteBack,
        done: Callable[[], None],
    ) -> None:
        """
        Args:
            done: called when something ended that may let something else start.
        """
        self.settings = settings
        self.store = opened
        self.launcher = launcher
        self.writeback = writeback
        self.rounds = Rounds(settings, opened)
        self.outputs = Outputs(settings)
        self.label_studio_error = ""
        self._done = done
        self._stopping = threading.Event()
        self._running: set[int] = set()

    def launch(self) -> None:
        """Start DBOS; it resumes what was interrupted."""
        config: DBOSConfig = {
            "name": "label-studio-rlhf",
            "system_database_url": _workflow_database(self.settings),
            "executor_id": EXECUTOR,
            "application_version": VERSION,
            "log_level": "ERROR",
            "use_listen_notify": False,
        }
        DBOS(config=config)

        def prepare(workspace_id: str, run_id: str | None) -> None:
            self._guarded(None, lambda: self._prepare(workspace_id, run_id))

        def improve(round_id: str) -> None:
            self._guarded(round_id, lambda: self._improve(round_id))

        def conclude(round_id: str) -> None:
            self._guarded(round_id, lambda: self._conclude(round_id))

        self._workflows = {
            body.__name__: DBOS.workflow(name=body.__name__)(body) for body in (prepare, improve, conclude)
        }
        DBOS.launch()

    def stop(self) -> None:
        """Let trainers save and end, and leave every workflow to be resumed."""
        self._stopping.set()
        self.launcher.stop()
        deadline = time.monotonic() + self.launcher.grace_s + 5
        while self._running and time.monotonic() < deadline:
            time.sleep(0.05)
        DBOS.destroy(destroy_registry=True)

    def ensure(self) -> None:
        """Start a workflow for everything that is due and that none works on."""
        active = _active()
        with self.store.reading() as session:
            due = _due(session)
        for name, subject, arguments in due:
            self._start(active, name, subject, arguments)

    def start_conclude(self, round_id: str) -> None:
        """Reach the verdict now; does nothing if that is under way."""
        self._start(_active(), "conclude", round_id, (round_id,))

    def _start(self, active: set[str], name: str, subject: str, arguments: tuple[Any, ...]) -> None:
        prefix = f"{name}:{subject}:"
        if not any(workflow_id.startswith(prefix) for workflow_id in active):
            with SetWorkflowID(f"{prefix}{time.time_ns()}"):
                DBOS.start_workflow(self._workflows[name], *arguments)

    # --- the journey ---

    def _prepare(self, workspace_id: str, run_id: str | None) -> None:
        if run_id is not None:
            self._step("generate", self._run, run_id)
        self._step("publish rankings", self._publish_rankings, workspace_id)

    def _improve(self, round_id: str) -> None:
        # 1. The reward model learns from the rankings and scores every answer.
        if not self._step("train the reward model", self._train_reward, round_id):
            return
        self._step("publish predictions", self._publish_predictions, round_id)

        # 2. The gate: is it good enough to learn from?
        if not self._step("decide the gate", self._decide_gate, round_id):
            return

        # 3. PPO moves the policy towards the reward.
        if not self._step("train the policy", self._train, round_id, "ppo"):
            return

        # 4. The policy before and the one after answer the same prompts.
        self._step("choose the comparisons", self._begin_comparison, round_id)
        if not self._step("compare", self._train, round_id, "compare"):
            return

        # 5. People judge them blind.
        self._step("publish reviews", self._publish_reviews, round_id)

    def _conclude(self, round_id: str) -> None:
        self._step("reach the verdict", self.rounds.reach_verdict, round_id)
        self._step("publish the report", self._publish_report, round_id)
        self._step("decide the round", self.rounds.decide, round_id)

    # --- steps: each may run again from its beginning ---

    def _run(self, run_id: str) -> bool:
        """Run one stage to its end. Returns: whether it succeeded."""
        with self.store.reading() as session:
            kind = queries.run(session, run_id).kind
        finish = {
            "generate": self.outputs.finish_generate,
            "reward": self.outputs.finish_reward,
            "ppo": self.outputs.finish_ppo,
            "compare": self.outputs.finish_compare,
        }[kind]
        if kind in ("reward", "ppo"):
            end = self.launcher.run_stage(run_id, finish, self.outputs.stage_model)
        else:
            end = self.launcher.run_stage(run_id, finish)
        return end.state == "succeeded"

    def _train(self, round_id: str, kind: RunKind) -> bool:
        """Run the round's newest run of a kind; a round whose run failed has failed."""
        with self.store.reading() as session:
            run = newest_run(session, round_id, kind)
        if self._run(run.id):
            return True
        with self.store.reading() as session:
            run = queries.run(session, run.id)
        cancelled = Failure("cancelled", f"the {kind} run was cancelled")
        self.rounds.fail(round_id, Failure(run.failure or "bug", run.error) if run.error else cancelled)
        return False

    def _train_reward(self, round_id: str) -> bool:
        """A round in which PPO runs again with an earlier round's reward model has none to train."""
        return not self._trains_reward(round_id) or self._train(round_id, "reward")

    def _trains_reward(self, round_id: str) -> bool:
        with self.store.reading() as session:
            current = queries.round_by_id(session, round_id)
            runs = queries.runs(session, current.workspace, round_id=round_id)
            return any(run.kind == "reward" for run in runs)

    def _decide_gate(self, round_id: str) -> bool:
        with self.store.session() as session:
            current = queries.round_by_id(session, round_id)
            if current.state != "rewarding":
                return current.state in BUSY_ROUNDS  # PPO was started by hand, or this step ran before
            result = newest_run(session, round_id, "reward").result or {}
            auto = settings_of(self.settings, queries.workspace(session, current.workspace)).auto_ppo
            if result.get("outcome") == "passed" and auto:
                queue_ppo(session, self.settings, current)
                return True
            current.state, current.reason = "gated", str(result.get("outcome", ""))
            return False

    def _begin_comparison(self, round_id: str) -> None:
        with self.store.session() as session:
            current = queries.round_by_id(session, round_id)
            ppo = newest_run(session, round_id, "ppo")
            policy = session.scalars(select(ModelRow).where(ModelRow.run_id == ppo.id)).one()
            queue_compare(session, self.settings, current, policy.id)

    def _publish_rankings(self, workspace_id: str) -> int:
        """What Label Studio refuses stays ready and is tried again: someone must mend the project first."""
        with self.store.reading() as session:
            settings = settings_of(self.settings, queries.workspace(session, workspace_id))
        return self._patiently(lambda: self.writeback.publish_rankings(workspace_id, settings.repeated_tasks))

    def _publish_predictions(self, round_id: str) -> int:
        """Predictions, and marks on the tasks that divide the team: without them the round goes on."""
        if not self._trains_reward(round_id):
            return 0
        with self.store.reading() as session:
            run = newest_run(session, round_id, "reward")
            model = session.scalars(select(ModelRow).where(ModelRow.run_id == run.id)).one()
            aim = aim_of_result(run.result or {}, run.config["gate_accuracy"])
        try:
            mark_contested(self.store, self.writeback.client, model.workspace)
            return self.writeback.publish_predictions(model.workspace, model.id, aim)
        except BackendError as error:
            log.warning("the predictions of %s or the marks were not shown: %s", model.id, error)
            return 0

    def _publish_reviews(self, round_id: str) -> int:
        with self.store.reading() as session:
            workspace_id = queries.round_by_id(session, round_id).workspace
        written = self._patiently(lambda: self.writeback.publish_reviews(workspace_id, round_id))
        with self.store.session() as session:
            current = queries.round_by_id(session, round_id)
            if current.state == "comparing":
                current.state = "reviewing"
        return written

    def _publish_report(self, round_id: str) -> int | None:
        """The verdict holds without it, so a deleted report project is no failure."""
        workspace_id, report = self.rounds.report(round_id)
        try:
            return self._patiently(lambda: self.writeback.publish_report(workspace_id, report))
        except LabelStudioError as error:
            log.warning("the report of round %s was not written: %s", round_id, error)
            return None

    # --- how steps run ---

    def _step(self, name: str, step: Callable[..., _Result], *arguments: Any) -> _Result:
        def attempt() -> _Result:
            while True:
                try:
                    return step(*arguments)
                except (
                    OperationalError
                ) as error:  # locked, or its disk is full: as soon as that ends we go on
                    log.warning("%s: the database cannot be used (%s); trying again", name, error.orig)
                    if self._stopping.wait(_FIRST_PAUSE_S):
                        raise Interrupted("the server stops") from error

        return DBOS.run_step({"name": name}, attempt)

    def _guarded(self, round_id: str | None, body: Callable[[], None]) -> None:
        """Run a workflow's body; a failure becomes the round's reason instead of a workflow's silent end."""
        if self._stopping.is_set():
            raise Interrupted("the server stops")
        self._running.add(threading.get_ident())
        try:
            body()
        except BackendError as error:
            log.warning("workflow stopped: %s", error)
            if isinstance(error, LabelStudioError):
                self.label_studio_error = str(error)
            self._fail(round_id, Failure.of(error))
        except Exception as error:
            log.exception("workflow stopped by a bug")
            self._fail(
                round_id, Failure("bug", f"{type(error).__name__}: this is a bug, see the backend's log")
            )
        finally:
            self._running.discard(threading.get_ident())
            self._done()

    def _fail(self, round_id: str | None, failure: Failure) -> None:
        if round_id is not None:
            self._step("record the failure", self.rounds.fail, round_id, failure)

    def _patiently(self, action: Callable[[], _Result]) -> _Result:
        """Try until Label Studio is there again and lets us in; other faults are the action's own."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                result = action()
            except (UnreachableError, UnauthorisedError) as error:
                self.label_studio_error = str(error)
                log.warning("%s; trying again in %.0f s", error, pause)
                if self._stopping.wait(pause):
                    raise Interrupted("the server stops") from error
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                self.label_studio_error = ""
                return result


def _active() -> set[str]:
    """Ids of the workflows that are running or will be resumed."""
    found = DBOS.list_workflows(
        status=["PENDING", "ENQUEUED", "DELAYED"], app_version=VERSION, load_input=False, load_output=False
    )
    return {workflow.workflow_id for workflow in found}


def newest_run(session: Session, round_id: str, kind: RunKind) -> RunRow:
    """The round's run of a kind that was queued last."""
    query = select(RunRow).where(RunRow.round_id == round_id, RunRow.kind == kind)
    return session.scalars(query.order_by(RunRow.created.desc()).limit(1)).one()


def _due(session: Session) -> list[tuple[str, str, tuple[Any, ...]]]:
    """(workflow, subject, arguments) of everything that the rows say must be worked on."""
    due: list[tuple[str, str, tuple[Any, ...]]] = []
    open_runs = select(RunRow).where(RunRow.kind == "generate", RunRow.state.in_(("queued", "running")))
    preparing = set()
    for run in session.scalars(open_runs):
        due.append(("prepare", run.workspace, (run.workspace, run.id)))
        preparing.add(run.workspace)
    ready = select(PromptRow.workspace).where(PromptRow.state == "ready").distinct()
    for workspace_id in session.scalars(ready):
        if workspace_id not in preparing:
            due.append(("prepare", workspace_id, (workspace_id, None)))
    busy = select(RoundRow).where(RoundRow.state.in_(BUSY_ROUNDS))
    due += [("improve", current.id, (current.id,)) for current in session.scalars(busy)]
    return due


def _workflow_database(settings: Settings) -> str:
    if settings.store_url.startswith("sqlite"):
        return f"sqlite:///{Path(settings.data_dir).absolute() / 'workflows.sqlite3'}"
    return settings.store_url
