"""Runs a stage as a child process, `python -m trainers STAGE`, on behalf of one run row.

Whoever runs a run holds its lease and shows its fence with everything that it writes; who lost it stops. The
child dies with us (a pipe), is followed by its metrics file, is started again a few times if it fails, and
goes on where it was. Knows nothing of Label Studio or of what the stages learn: `finish` takes the result.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from backend import leases, store
from backend.errors import BackendError, ConflictError, FenceError
from backend.failures import Failure, kind_of
from backend.follow import Follower, store_batch
from backend.store import Store
from backend.tables import RunRow, RunState
from trainers.errors import TrainerError
from trainers.run_dir import RunDir

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Starts of a failing child before the run has failed."""
MAX_OWNERS = 10
"""Owners that may die over a run before it has failed: what kills its server must not do so for ever."""
_SECRETS = ("LABEL_STUDIO_API_KEY", "BACKEND_PASSWORD", "WEBHOOK_SECRET", "SESSION_SECRET", "DATABASE_URL")
_EXIT_USER_ERROR = 2
_EXIT_STOPPED = 75
_NICENESS = 10
_ENDED: frozenset[RunState] = frozenset({"succeeded", "failed", "cancelled"})


class Interrupted(BaseException):
    """This process stops, or another one took the run over: leave everything as it is for who goes on.

    No `Exception`, so that nothing records it as a failure: the workflow stays pending and is resumed.
    """


@dataclass(frozen=True)
class StageEnd:
    """How a run ended."""

    state: RunState
    result: dict[str, Any]
    error: str = ""


Finish = Callable[[Session, RunRow, dict[str, Any]], None]
"""Takes over what a finished run made, in the transaction that ends the run and holds its fence."""
Prepare = Callable[[RunRow, RunDir, int], None]
"""Slow work before that transaction: copying a model. Gets the fence."""


def _nothing(_run: RunRow, _run_dir: RunDir, _fence: int) -> None:
    """No slow work."""


class Launcher:
    """Runs stages, a few at a time."""

    def __init__(
        self,
        opened: Store,
        runs_dir: Path,
        *,
        program: Sequence[str] = (sys.executable, "-m", "trainers"),
        slots: int = 1,
        lease_s: float = 60.0,
        poll_s: float = 0.3,
        grace_s: float = 20.0,
        retry_delay_s: float = 2.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            program: what runs `STAGE --run-dir D`; `accelerate launch … -m trainers` for several GPUs.
            slots: trainers at the same time.
            lease_s: how long a silent owner keeps its run.
            grace_s: how long a child may take to save a checkpoint before it is killed.
            environment: the children's; ours without the secrets if not given.
        """
        self.store = opened
        self.runs_dir = runs_dir.absolute()
        self.lease_s, self.poll_s, self.grace_s = lease_s, poll_s, grace_s
        self.retry_delay_s = retry_delay_s
        self._program = tuple(program)
        self._slots = threading.Semaphore(slots)
        self._stopping = threading.Event()
        self._environment = dict(environment) if environment is not None else _without_secrets(os.environ)

    def run_stage(self, run_id: str, finish: Finish, prepare: Prepare = _nothing) -> StageEnd:
        """Own a run to its end: train, then take its result over in one transaction with its fence.

        Returns:
            How it ended; also if it had ended before, by anyone.
        Raises:
            Interrupted: the server stops, or another owner has the run.
        """
        with self._slot():
            while True:
                if (end := self._ended(run_id)) is not None:
                    return end
                with self.store.session() as session:
                    fence = leases.claim(session, run_id, lease_s=self.lease_s)
                if fence is not None:
                    break
                self._wait(min(self.lease_s, 1.0))  # a living owner has it, or a dead one's lease runs out
            try:
                return self._own(run_id, fence, finish, prepare)
            except FenceError as error:
                if (end := self._ended(run_id)) is not None:
                    return end
                log.warning("%s", error)
                raise Interrupted(str(error)) from error

    def cancel(self, run_id: str) -> None:
        """End a run for good; its child stops within seconds.

        Raises: NotFoundInStoreError: no such run. ConflictError: it has ended.
        """
        with self.store.session() as session:
            run = store.run(session, run_id)
            if run.state in _ENDED:
                raise ConflictError(f"run `{run_id}` cannot be cancelled: it is {run.state}")
            run.state, run.finished = "cancelled", time.time()

    def stop(self) -> None:
        """Let every child save and end; every `run_stage` raises `Interrupted`. For good."""
        self._stopping.set()

    def _own(self, run_id: str, fence: int, finish: Finish, prepare: Prepare) -> StageEnd:
        run_dir = RunDir.of(self.runs_dir, run_id)
        with self.store.reading() as session:
            owners = store.run(session, run_id).attempts
        if owners > MAX_OWNERS and not run_dir.result_path.is_file():
            log_path = run_dir.path / "trainer.log"
            error = f"the server ended {MAX_OWNERS} times while it ran; see `{log_path}`"
            return self._fail(run_id, fence, Failure("restarts", error))
        with self._heartbeat(run_id, fence):
            failure = self._train(run_id, fence, run_dir)
        if failure is not None:
            return self._fail(run_id, fence, failure)
        result = json.loads(run_dir.result_path.read_text(encoding="utf-8"))
        try:
            with self.store.reading() as session:
                run = store.run(session, run_id)
            with self._heartbeat(run_id, fence):
                prepare(run, run_dir, fence)
            with self.store.session() as session:
                run = leases.hold(session, run_id, fence)
                finish(session, run, result)
                run.state, run.result, run.finished, run.error = "succeeded", result, time.time(), ""
        except FenceError:
            raise
        except (BackendError, TrainerError) as fault:
            return self._fail(run_id, fence, Failure.of(fault))
        return StageEnd("succeeded", result)

    def _train(self, run_id: str, fence: int, run_dir: RunDir) -> Failure | None:
        """Run the child until it has a result. Returns: why it has none after all attempts; else nothing."""
        follower = Follower(run_dir.metrics_path)
        for attempt in range(1, ATTEMPTS + 1):
            code = self._run_child(run_id, fence, run_dir, follower)
            if run_dir.result_path.is_file():
                return None
            failure = _reason(run_dir, code)
            log.warning("run %s: attempt %d of %d ended with code %d", run_id, attempt, ATTEMPTS, code)
            with self.store.session() as session:
                run = leases.hold(session, run_id, fence)
                run.error, run.failure = failure.detail, failure.kind
            if code == _EXIT_USER_ERROR and run_dir.error_path.is_file():
                break  # trying again would not help; without the file another trainer held the directory
            if attempt < ATTEMPTS:
                self._wait(self.retry_delay_s)
        return failure

    def _run_child(self, run_id: str, fence: int, run_dir: RunDir, follower: Follower) -> int:
        child = self._spawn(run_id, run_dir)
        try:
            with self.store.session() as session:
                leases.hold(session, run_id, fence).pid = child.pid
            while True:
                ended = _wait_child(child, self.poll_s)
                if batch := follower.read():
                    with self.store.session() as session:
                        store_batch(session, leases.hold(session, run_id, fence), batch)
                elif ended:
                    return child.returncode
                else:
                    with self.store.reading() as session:
                        leases.hold(session, run_id, fence)
                if self._stopping.is_set():
                    raise Interrupted("the server stops")
        finally:
            _stop_child(child, self.grace_s)
            if self._stopping.is_set():
                self._release(run_id, fence)

    def _spawn(self, run_id: str, run_dir: RunDir) -> subprocess.Popen[bytes]:
        run_dir.error_path.unlink(missing_ok=True)
        stage = run_id.partition("-")[0]
        with (run_dir.path / "trainer.log").open("ab") as output:
            child = subprocess.Popen(
                [*self._program, stage, "--run-dir", str(run_dir.path)],
                stdin=subprocess.PIPE,  # closes when we die, however we die
                stdout=output,
                stderr=output,
                env={**self._environment, "RLHF_EXIT_WITH_PARENT": "1"},
                start_new_session=True,
            )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, _NICENESS)  # the web stays responsive
        return child

    @contextlib.contextmanager
    def _heartbeat(self, run_id: str, fence: int) -> Iterator[None]:
        """Renew the lease while the body runs. Losing it is noticed by whoever next shows the fence."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self.lease_s / 4):
                try:
                    with self.store.session() as session:
                        leases.renew(session, run_id, fence, lease_s=self.lease_s)
                except FenceError:
                    return
                except Exception:  # a locked or restarting database: the next beat tries again
                    log.warning("the lease of run %s could not be renewed", run_id, exc_info=True)

        thread = threading.Thread(target=beat, name=f"lease-{run_id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        while not self._slots.acquire(timeout=0.2):
            if self._stopping.is_set():
                raise Interrupted("the server stops")
        try:
            yield
        finally:
            self._slots.release()

    def _wait(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Interrupted("the server stops")

    def _ended(self, run_id: str) -> StageEnd | None:
        with self.store.reading() as session:
            run = store.run(session, run_id)
        return StageEnd(run.state, run.result or {}, run.error) if run.state in _ENDED else None

    def _fail(self, run_id: str, fence: int, failure: Failure) -> StageEnd:
        with self.store.session() as session:
            run = leases.hold(session, run_id, fence)
            run.state, run.finished = "failed", time.time()
            run.error, run.failure = failure.detail, failure.kind
        return StageEnd("failed", {}, failure.detail)

    def _release(self, run_id: str, fence: int) -> None:
        """Let the next server claim the run at once."""
        with contextlib.suppress(FenceError), self.store.session() as session:
            leases.hold(session, run_id, fence).lease_until = 0.0


def _wait_child(child: subprocess.Popen[bytes], timeout_s: float) -> bool:
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _stop_child(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """Ask it to save and end; kill it if it does not."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        if not _wait_child(child, grace_s):
            child.kill()
            child.wait()
    if child.stdin:
        with contextlib.suppress(OSError):
            child.stdin.close()


def _reason(run_dir: RunDir, code: int) -> Failure:
    """What to tell the user of a child that ended without a result."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        left = json.loads(run_dir.error_path.read_text(encoding="utf-8"))
        if message := left["message"]:
            return Failure(kind_of(str(left.get("type"))), str(message))
    log_path = run_dir.path / "trainer.log"
    if code == -signal.SIGKILL:
        return Failure("memory", f"the trainer was killed, probably because memory ran out; see `{log_path}`")
    if code == _EXIT_STOPPED:
        return Failure(
            "stopped", "the trainer was stopped from outside; it goes on where it was when started again"
        )
    return Failure("bug", f"the trainer ended with code {code}; see `{log_path}`")


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child: it can find our packages and knows no secret."""
    kept = {name: value for name, value in environment.items() if name not in _SECRETS}
    paths = (str(Path(__file__).resolve().parent.parent), environment.get("PYTHONPATH", ""))
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
