"""Stages as real child processes: leases, fences, retries, cancelling, dying with the parent."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend import leases, store
from backend.errors import ConflictError, RegistryError
from backend.launcher import Interrupted, Launcher, StageEnd
from backend.store import Store
from backend.tables import RunRow
from trainers.run_dir import RunDir

PROGRAM = (sys.executable, str(Path(__file__).with_name("stage_program.py")))


@pytest.fixture
def opened(tmp_path: Path) -> Store:
    opened = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    opened.create_all()
    return opened


@pytest.fixture
def launcher(tmp_path: Path, opened: Store) -> Iterator[Launcher]:
    launcher = make_launcher(tmp_path, opened)
    yield launcher
    launcher.stop()


def make_launcher(tmp_path: Path, opened: Store, **options: Any) -> Launcher:
    given = {"lease_s": 30, "poll_s": 0.05, "grace_s": 1, "retry_delay_s": 0.05, **options}
    return Launcher(opened, tmp_path / "runs", program=PROGRAM, **given)


def queue(tmp_path: Path, opened: Store, run_id: str = "reward-1", **script: Any) -> str:
    RunDir(tmp_path / "runs" / run_id).input("script.json").write_text(json.dumps(script))
    with opened.session() as session:
        session.add(RunRow(id=run_id, workspace="team", kind="reward", dataset_hash=run_id))
    return run_id


def run_row(opened: Store, run_id: str) -> RunRow:
    with opened.reading() as session:
        return store.run(session, run_id)


def nothing(*_: Any) -> None:
    """Take nothing over."""


def wait_for(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class InBackground:
    """A `run_stage` in a thread, with how it ended."""

    def __init__(self, launcher: Launcher, run_id: str) -> None:
        self.end: StageEnd | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(launcher, run_id))
        self.thread.start()

    def _run(self, launcher: Launcher, run_id: str) -> None:
        try:
            self.end = launcher.run_stage(run_id, nothing)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.error = error

    def join(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()


def test_finished_stage_hands_over_result_metrics_samples_and_progress(
    tmp_path: Path, opened: Store, launcher: Launcher
) -> None:
    run_id = queue(tmp_path, opened, steps=4)
    seen: list[dict[str, Any]] = []
    end = launcher.run_stage(run_id, lambda session, run, result: seen.append(result))
    assert end.state == "succeeded" and seen == [end.result] and end.result["steps"] == 4
    row = run_row(opened, run_id)
    assert (row.state, row.result, row.progress_done, row.progress_total) == ("succeeded", end.result, 4, 4)
    with opened.reading() as session:
        assert [(m.step, m.value) for m in store.metrics(session, run_id)] == [
            (n, float(n)) for n in range(4)
        ]
        assert [s.response for s in store.samples(session, run_id)] == [f"answer {n}" for n in range(4)]


def test_child_knows_no_secret(tmp_path: Path, opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_PASSWORD", "canary")
    end = make_launcher(tmp_path, opened).run_stage(queue(tmp_path, opened), nothing)
    assert end.result["secret"] == ""


def test_run_that_has_ended_is_not_run_again(tmp_path: Path, opened: Store, launcher: Launcher) -> None:
    run_id = queue(tmp_path, opened)
    launcher.run_stage(run_id, nothing)
    assert launcher.run_stage(run_id, lambda *_: pytest.fail("taken over twice")).state == "succeeded"
    assert (tmp_path / "runs" / run_id / "starts").read_text() == "1"


def test_killed_child_is_started_again_and_its_void_metrics_are_dropped(
    tmp_path: Path, opened: Store, launcher: Launcher
) -> None:
    run_id = queue(tmp_path, opened, steps=6, pause_s=0.05, fail=["kill", "bug"])
    assert launcher.run_stage(run_id, nothing).state == "succeeded"
    with opened.reading() as session:
        assert [m.value for m in store.metrics(session, run_id)] == [200.0 + n for n in range(6)]


def test_child_that_fails_three_times_fails_the_run_with_a_message(
    tmp_path: Path, opened: Store, launcher: Launcher
) -> None:
    run_id = queue(tmp_path, opened, fail=["bug", "bug", "kill", "none left"])
    end = launcher.run_stage(run_id, lambda *_: pytest.fail("there is no result"))
    assert end.state == "failed" and "memory" in end.error
    assert (run_row(opened, run_id).error, run_row(opened, run_id).failure) == (end.error, "memory")
    assert (tmp_path / "runs" / run_id / "starts").read_text() == "3"


def test_error_that_a_user_must_mend_is_told_and_not_retried(
    tmp_path: Path, opened: Store, launcher: Launcher
) -> None:
    run_id = queue(tmp_path, opened, fail=["user"])
    end = launcher.run_stage(run_id, nothing)
    assert end.error == "all rankings tie; rank some answers apart"
    assert run_row(opened, run_id).failure == "data"
    assert (tmp_path / "runs" / run_id / "starts").read_text() == "1"


def test_real_trainer_tells_what_a_user_must_mend(tmp_path: Path, opened: Store) -> None:
    run_id = queue(tmp_path, opened)
    (tmp_path / "runs" / run_id / "config.json").write_text('{"base_model": ""}')
    launcher = Launcher(opened, tmp_path / "runs", poll_s=0.05)
    end = launcher.run_stage(run_id, nothing)
    assert end.state == "failed" and "`base_model`" in end.error
    assert run_row(opened, run_id).failure == "settings"
    assert "attempt 2" not in (tmp_path / "runs" / run_id / "trainer.log").read_text()
    assert "Fatal" not in (tmp_path / "runs" / run_id / "trainer.log").read_text()


def test_failing_take_over_fails_the_run_and_rolls_back(
    tmp_path: Path, opened: Store, launcher: Launcher
) -> None:
    def finish(session: Any, run: RunRow, result: Any) -> None:
        session.add(RunRow(id="never", workspace="team", kind="ppo", dataset_hash="x"))
        raise RegistryError("the disk is full")

    run_id = queue(tmp_path, opened)
    assert launcher.run_stage(run_id, finish) == StageEnd("failed", {}, "the disk is full")
    with opened.reading() as session:
        assert session.get(RunRow, "never") is None


@pytest.mark.parametrize("ignore_term", [False, True])
def test_cancelled_run_stops_its_child_even_one_that_ignores_it(
    tmp_path: Path, opened: Store, launcher: Launcher, ignore_term: bool
) -> None:
    run_id = queue(tmp_path, opened, steps=1000, pause_s=0.05, ignore_term=ignore_term)
    background = InBackground(launcher, run_id)
    wait_for(lambda: run_row(opened, run_id).progress_total > 0)
    pid = run_row(opened, run_id).pid
    assert pid
    launcher.cancel(run_id)
    background.join()
    assert background.end and background.end.state == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConflictError):
        launcher.cancel(run_id)


def test_stopped_server_leaves_the_run_to_be_claimed_at_once(tmp_path: Path, opened: Store) -> None:
    run_id = queue(tmp_path, opened, steps=1000, pause_s=0.05)
    first = make_launcher(tmp_path, opened)
    background = InBackground(first, run_id)
    wait_for(lambda: run_row(opened, run_id).progress_total > 0)
    first.stop()
    background.join()
    assert isinstance(background.error, Interrupted)
    row = run_row(opened, run_id)
    assert (row.state, row.lease_until) == ("running", 0.0)


def test_only_one_stage_runs_at_a_time(tmp_path: Path, opened: Store, launcher: Launcher) -> None:
    first = InBackground(launcher, queue(tmp_path, opened, "reward-1", steps=10, pause_s=0.05))
    wait_for(lambda: run_row(opened, "reward-1").progress_total > 0)
    second = InBackground(launcher, queue(tmp_path, opened, "reward-2"))
    time.sleep(0.3)
    assert run_row(opened, "reward-2").state == "queued"
    first.join()
    second.join()
    assert second.end and second.end.state == "succeeded"


def test_lease_of_a_living_owner_is_respected_and_renewed(tmp_path: Path, opened: Store) -> None:
    run_id = queue(tmp_path, opened, steps=30, pause_s=0.05)
    owner = InBackground(make_launcher(tmp_path, opened, lease_s=0.8), run_id)
    wait_for(lambda: run_row(opened, run_id).progress_total > 0)
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        with opened.session() as session:
            assert leases.claim(session, run_id, lease_s=1) is None
        time.sleep(0.05)
    owner.join()
    assert owner.end and owner.end.state == "succeeded"


def test_overtaken_owner_stops_and_takes_nothing_over(tmp_path: Path, opened: Store) -> None:
    run_id = queue(tmp_path, opened, steps=1000, pause_s=0.05)
    launcher = make_launcher(tmp_path, opened)
    background = InBackground(launcher, run_id)
    wait_for(lambda: run_row(opened, run_id).progress_total > 0)
    with opened.session() as session:
        assert leases.claim(session, run_id, lease_s=60, now=time.time() + 3600) == 2
    background.join()
    assert isinstance(background.error, Interrupted)
    assert run_row(opened, run_id).state == "running"


def test_owner_overtaken_after_training_takes_nothing_over(
    tmp_path: Path, opened: Store, launcher: Launcher
) -> None:
    def overtake(run: RunRow, _run_dir: RunDir, fence: int) -> None:
        with opened.session() as session:
            assert leases.claim(session, run.id, lease_s=60, now=time.time() + 3600) == fence + 1

    run_id = queue(tmp_path, opened)
    with pytest.raises(Interrupted):
        launcher.run_stage(run_id, lambda *_: pytest.fail("taken over without the fence"), overtake)
    assert run_row(opened, run_id).state == "running"


def test_released_leases_can_be_claimed(opened: Store, tmp_path: Path) -> None:
    run_id = queue(tmp_path, opened)
    with opened.session() as session:
        leases.claim(session, run_id, lease_s=3600)
        assert leases.claim(session, run_id, lease_s=3600) is None
        leases.release(session)
        session.expire_all()
        assert leases.claim(session, run_id, lease_s=3600) == 2


def test_run_that_killed_its_server_ten_times_fails(
    tmp_path: Path, opened: Store, launcher: Launcher
) -> None:
    run_id = queue(tmp_path, opened)
    with opened.session() as session:
        store.run(session, run_id).attempts = 10
    assert "10 times" in launcher.run_stage(run_id, nothing).error
    assert run_row(opened, run_id).failure == "restarts"


OWNER = """
import sys
from pathlib import Path
from backend.launcher import Launcher, Interrupted
from backend.store import Store
root, run_id, lease, program = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
launcher = Launcher(
    Store(f"sqlite:///{root / 'store.sqlite3'}"), root / "runs",
    program=(sys.executable, program), lease_s=lease, poll_s=0.05, grace_s=1,
)
try:
    end = launcher.run_stage(run_id, lambda session, run, result: (root / "taken").touch())
    print("ended", end.state, flush=True)
except Interrupted as error:
    print("interrupted", error, flush=True)
"""


def start_owner(tmp_path: Path, run_id: str, lease_s: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", OWNER, str(tmp_path), run_id, str(lease_s), PROGRAM[1]]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def freeze(process: subprocess.Popen[str], database: Path) -> None:
    """Stop it where it does not hold the database's write lock, which would stop everyone."""
    while True:
        process.send_signal(signal.SIGSTOP)
        connection = sqlite3.connect(database, timeout=0.5)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        else:
            return
        finally:
            connection.close()


def test_killed_server_takes_its_child_along_and_the_next_goes_on(tmp_path: Path, opened: Store) -> None:
    run_id = queue(tmp_path, opened, steps=40, pause_s=0.05)
    server = start_owner(tmp_path, run_id, lease_s=60)
    wait_for(lambda: run_row(opened, run_id).progress_total > 0)
    pid = run_row(opened, run_id).pid
    assert pid
    server.kill()
    server.communicate()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    with opened.session() as session:
        leases.release(session)
    assert make_launcher(tmp_path, opened).run_stage(run_id, nothing).state == "succeeded"
    assert run_row(opened, run_id).fence == 2


def test_server_frozen_past_its_lease_is_refused_when_it_wakes(tmp_path: Path, opened: Store) -> None:
    run_id = queue(tmp_path, opened, steps=20, pause_s=0.1)
    frozen = start_owner(tmp_path, run_id, lease_s=1.0)
    wait_for(lambda: run_row(opened, run_id).progress_total > 0)
    freeze(frozen, tmp_path / "store.sqlite3")
    taken: list[str] = []
    end = make_launcher(tmp_path, opened).run_stage(run_id, lambda s, run, r: taken.append(run.id))
    assert (end.state, taken) == ("succeeded", [run_id])
    frozen.send_signal(signal.SIGCONT)
    output, _ = frozen.communicate(timeout=20)
    assert run_row(opened, run_id).fence == 2
    assert output.startswith("ended succeeded")  # it learned of the end
    assert not (tmp_path / "taken").exists()  # and took nothing over
