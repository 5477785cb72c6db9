from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import types
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainers import stopping
from trainers.__main__ import STAGES, main
from trainers.config import CompareConfig, PPOConfig
from trainers.distributed import Group
from trainers.errors import DataError, RunError
from trainers.field_docs import field_docs
from trainers.run_dir import RunDir

Stage = Callable[[CompareConfig, RunDir], dict[str, Any]]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "compare-1")
    run_dir.path.mkdir()
    run_dir.config_path.write_text('{"base_model": "base", "seed": 7}')
    return run_dir


@pytest.fixture
def run_stage(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Stage], int]:  # the real ones need a model; the command needs only their contract
    monkeypatch.setattr(stopping, "install", lambda: None)  # leave the test process's signals alone

    def run(stage: Stage, *options: str) -> int:
        module = types.ModuleType("trainers.compare")
        module.run = stage  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "trainers.compare", module)
        return main(["compare", "--run-dir", str(run_dir.path), *options])

    return run


def fail(error: BaseException) -> Stage:
    def stage(config: CompareConfig, run_dir: RunDir) -> dict[str, Any]:
        raise error

    return stage


def written(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# --- how a stage ends


def test_result_is_what_the_stage_returns_with_its_configuration(
    run_dir: RunDir, run_stage: Callable[[Stage], int]
) -> None:
    assert run_stage(lambda config, run_dir: {"seed": config.seed, "prompts": 3}) == 0
    assert written(run_dir.result_path) == {"seed": 7, "prompts": 3}
    assert not run_dir.error_path.exists()


def test_stage_runs_under_the_lock(run_dir: RunDir, run_stage: Callable[[Stage], int]) -> None:
    def stage(config: CompareConfig, run_dir: RunDir) -> dict[str, Any]:
        with pytest.raises(RunError, match="held by another"), run_dir.lock(lock_timeout_s=0):
            pass
        return {}

    assert run_stage(stage) == 0


def test_finished_run_is_not_run_again(run_dir: RunDir, run_stage: Callable[[Stage], int]) -> None:
    run_stage(lambda config, run_dir: {"first": True})
    assert run_stage(fail(AssertionError("ran again"))) == 0
    assert written(run_dir.result_path) == {"first": True}


def test_finished_run_is_told_and_is_no_other_stages_nor_configurations(
    run_dir: RunDir,
    run_stage: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_stage(lambda config, run_dir: {"first": True})
    assert run_stage(fail(AssertionError("ran again"))) == 0
    assert "compare is finished already" in capsys.readouterr().err
    assert main(["ppo", "--run-dir", str(run_dir.path)]) == 2
    assert "is a finished `compare`" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text('{"base_model": "base", "seed": 8}')
    assert run_stage(fail(AssertionError("ran again")), "--config", str(other)) == 2
    assert "belongs to another configuration" in capsys.readouterr().err


def test_error_of_the_user_is_one_line_without_traceback(
    run_dir: RunDir, run_stage: Callable[[Stage], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stage(fail(DataError("found 1 prompt;\nneeded are 2"))) == 2
    assert capsys.readouterr().err == "error: found 1 prompt; needed are 2\n"
    assert written(run_dir.error_path) == {"type": "DataError", "message": "found 1 prompt;\nneeded are 2"}
    assert not run_dir.result_path.exists()


def test_bug_leaves_its_traceback_on_stderr_and_its_name_in_the_run(
    run_dir: RunDir, run_stage: Callable[[Stage], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stage(fail(ZeroDivisionError("division"))) == 1
    assert "Traceback" in capsys.readouterr().err
    assert written(run_dir.error_path) == {"type": "ZeroDivisionError", "message": "division"}


def on_full_disk(config: CompareConfig, run_dir: RunDir) -> dict[str, Any]:
    with Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")
    return {}


def test_full_disk_is_told_in_one_line(
    run_dir: RunDir, run_stage: Callable[[Stage], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stage(on_full_disk) == 2
    message = f"`{run_dir.path}` cannot be written: the disk is full; free some space and start again"
    assert capsys.readouterr().err == f"error: {message}\n"
    assert written(run_dir.error_path) == {"type": "DiskFullError", "message": message}


def test_failed_stage_lets_its_files_go_before_the_reason_is_written(
    run_dir: RunDir, run_stage: Callable[[Stage], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Any]] = []
    gone = []

    def stage(config: CompareConfig, run_dir: RunDir) -> dict[str, Any]:
        half_written = (run_dir.path / "half").open("wb")
        held.append(weakref.ref(half_written))
        return on_full_disk(config, run_dir)

    monkeypatch.setattr(RunDir, "write_error", lambda run_dir, error: gone.append(held[0]() is None))
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        assert run_stage(stage) == 2
    assert gone == [True]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda run_dir: (run_dir.path / "run.lock").mkdir(), "run.lock` cannot be used: Is a directory"),
        (lambda run_dir: (run_dir.path / "output").touch(), "output` cannot be used: File exists"),
    ],
    ids=["lock", "output"],
)
def test_directory_that_cannot_be_written_is_told_in_one_line(
    run_dir: RunDir,
    run_stage: Callable[[Stage], int],
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[RunDir], None],
    told: str,
) -> None:
    spoil(run_dir)
    assert run_stage(lambda config, run_dir: {"path": str(run_dir.output("comparisons.jsonl"))}) == 2
    found = capsys.readouterr().err
    assert told in found
    assert "Traceback" not in found


# --- what an interrupted run goes on with


def interrupted(config: CompareConfig, run_dir: RunDir) -> dict[str, Any]:
    run_dir.save_checkpoint(3, lambda directory: (directory / "state.pt").write_bytes(b"3"))
    raise stopping.Stopped


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run_dir: run_dir.config_path.write_text('{"base_model": "base", "seed": 8}'), "`seed`"),
        (lambda run_dir: run_dir.input("prompts.jsonl").write_text("{}"), "`input/prompts.jsonl`"),
    ],
    ids=["configuration", "input"],
)
def test_what_was_begun_is_not_gone_on_with_as_something_else(
    run_dir: RunDir,
    run_stage: Callable[[Stage], int],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[RunDir], object],
    told: str,
) -> None:
    assert run_stage(interrupted) == 75
    change(run_dir)
    assert run_stage(fail(AssertionError("went on"))) == 2
    assert f"{told} changed after" in capsys.readouterr().err


def test_how_the_work_is_done_may_change(run_dir: RunDir, run_stage: Callable[[Stage], int]) -> None:
    assert run_stage(interrupted) == 75
    run_dir.config_path.write_text('{"base_model": "base", "seed": 7, "batch_size": 8, "threads": 1}')
    assert run_stage(lambda config, run_dir: {"batch_size": config.batch_size}) == 0
    assert written(run_dir.result_path) == {"batch_size": 8}


def test_mistake_is_mended_before_anything_was_made(
    run_dir: RunDir, run_stage: Callable[[Stage], int]
) -> None:
    assert run_stage(fail(DataError("too few prompts"))) == 2
    run_dir.input("prompts.jsonl").write_text("{}")
    run_dir.config_path.write_text('{"base_model": "base", "seed": 8}')
    assert run_stage(lambda config, run_dir: {"seed": config.seed}) == 0


def test_next_attempt_clears_the_error(run_dir: RunDir, run_stage: Callable[[Stage], int]) -> None:
    run_stage(fail(DataError("too little")))
    assert run_stage(lambda config, run_dir: {"error_there": run_dir.error_path.exists()}) == 0
    assert written(run_dir.result_path) == {"error_there": False}
    assert not run_dir.error_path.exists()


def test_stopped_stage_is_no_failure(run_dir: RunDir, run_stage: Callable[[Stage], int]) -> None:
    assert run_stage(fail(stopping.Stopped())) == 75
    assert not run_dir.error_path.exists()
    assert not run_dir.result_path.exists()


def test_stage_that_does_not_share_its_work_is_not_run_by_several_processes(
    run_dir: RunDir,
    run_stage: Callable[[Stage], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("trainers.__main__.joined", lambda: contextlib.nullcontext(Group(rank=1, size=2)))
    assert run_stage(fail(AssertionError("ran"))) == 2
    assert "2 processes, but `compare` runs in one" in capsys.readouterr().err


# --- bad input


def test_missing_run_directory_is_an_error_and_not_made(tmp_path: Path) -> None:
    ended = run_command("compare", "--run-dir", str(tmp_path / "typo"))
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "is no directory" in ended.stderr
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("config", "fault"),
    [(None, "cannot be read"), ("{", "cannot be read"), ('{"base_model": ""}', "`base_model`")],
)
def test_bad_configuration_is_an_error_of_the_user(
    run_dir: RunDir,
    run_stage: Callable[[Stage], int],
    capsys: pytest.CaptureFixture[str],
    config: str | None,
    fault: str,
) -> None:
    run_dir.config_path.unlink()
    if config is not None:
        run_dir.config_path.write_text(config)
    assert run_stage(fail(AssertionError("ran"))) == 2
    assert fault in capsys.readouterr().err
    assert written(run_dir.error_path)["type"] == "ConfigError"


def test_given_configuration_is_kept_and_another_one_refused(
    run_dir: RunDir, run_stage: Callable[..., int], tmp_path: Path
) -> None:
    run_dir.config_path.unlink()
    given = tmp_path / "given.json"
    given.write_text('{"base_model": "base", "seed": 1}')
    assert run_stage(fail(DataError("later")), "--config", str(given)) == 2
    assert CompareConfig.read(run_dir.config_path) == CompareConfig(base_model="base", seed=1)
    given.write_text('{"base_model": "base", "seed": 2}')
    assert run_stage(fail(AssertionError("ran")), "--config", str(given)) == 2
    assert written(run_dir.error_path)["type"] == "RunError"


# --- help


@pytest.mark.parametrize("stage", STAGES)
def test_help_shows_every_field_with_its_documentation(
    stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([stage, "--help"])
    shown = capsys.readouterr().out
    for field in field_docs(STAGES[stage][0]):
        assert field.doc
        assert f"  {field.name}: {field.type}, " in shown
        assert field.doc in shown


def test_field_docs_are_those_of_the_source() -> None:
    docs = {field.name: field for field in field_docs(PPOConfig)}
    assert docs["base_model"].default is None
    assert docs["base_model"].doc == "Local Hugging Face directory or hub name of the base model."
    assert (docs["clip_range"].type, docs["clip_range"].default) == ("float", "0.2")
    assert docs["clip_range"].doc == "PPO's clip of the probability ratio; 0.15 where the style is unstable."


# --- the process

PROLOGUE = """
import sys, time, types
from pathlib import Path
from trainers import stopping
from trainers.__main__ import main
from trainers.stopping import Stopped, stop_requested
stage = types.ModuleType("trainers.compare")
sys.modules["trainers.compare"] = stage
def run(config, run_dir):
    print("running", flush=True)
{body}
stage.run = run
if __name__ == "__main__":
    sys.exit(main(["compare", "--run-dir", sys.argv[1]]))
"""
SLEEPS = "    time.sleep(60)\n"
SAVES = """
    stop_requested()
    print("asked", flush=True)
    while not stop_requested():
        time.sleep(0.05)
    run_dir.save_checkpoint(3, lambda directory: (directory / "state.pt").write_bytes(b"3"))
    raise Stopped
"""


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainers", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def start(body: str, run_dir: RunDir, lines: int = 1, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROLOGUE.format(body=body), str(run_dir.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **options)
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    return process


def end(process: subprocess.Popen[str]) -> int:
    try:
        process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_a_stage_saves_its_checkpoint_first(run_dir: RunDir, number: int) -> None:
    process = start(SAVES, run_dir, lines=2)
    process.send_signal(number)
    assert end(process) == 75
    assert run_dir.latest_checkpoint() is not None
    assert not run_dir.error_path.exists()


def test_told_to_end_a_stage_that_does_not_ask_is_interrupted(run_dir: RunDir) -> None:
    process = start(SLEEPS, run_dir)
    begin = time.monotonic()
    process.terminate()
    assert end(process) == 75
    assert time.monotonic() - begin < 9  # well before the hard end
    assert not run_dir.error_path.exists()
    with run_dir.lock(lock_timeout_s=0):
        pass


def test_stage_that_never_comes_to_an_end_is_ended(run_dir: RunDir) -> None:
    body = "    stopping.GRACE_S = 0.3\n    stop_requested()\n    print('asked', flush=True)\n" + SLEEPS
    process = start(body, run_dir, lines=2)
    process.terminate()
    assert end(process) == 75


def test_stage_ends_with_its_parent(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_EXIT_WITH_PARENT", "1")
    process = start(SLEEPS, run_dir)
    assert process.stdin is not None
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=10) == 75
    assert process.stdout is not None
    process.stdout.close()


def test_second_trainer_waits_and_takes_the_result_of_the_first(run_dir: RunDir) -> None:
    first = start("    time.sleep(1); return {'by': 'first'}\n", run_dir)
    second = start("    return {'by': 'second'}\n", run_dir, lines=0)
    assert (end(first), end(second)) == (0, 0)
    assert written(run_dir.result_path) == {"by": "first"}


def test_command_imports_no_torch_before_the_stage(run_dir: RunDir) -> None:
    body = "    return {'torch': 'torch' in sys.modules}\n"
    assert end(start(body, run_dir)) == 0
    assert written(run_dir.result_path) == {"torch": False}
