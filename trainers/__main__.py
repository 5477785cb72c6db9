"""`python -m trainers STAGE --run-dir D`: run one stage on its run directory.

Knows the stages by name only and imports the one that runs. Configures logging, turns what a stage raises
into an exit code and `error.json`, and writes `result.json` last. Where torchrun has started several of these
processes, the main one alone holds and writes the run directory. Exit codes:

    0   finished, now or before (`result.json` is there)
    1   a bug: traceback on stderr, error.json
    2   something to act on: one line on stderr, error.json
    75  stopped (SIGTERM, Ctrl-C, or the parent is gone); started again, the stage goes on
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from trainers import stopping
from trainers.config import FREE_FIELDS, CompareConfig, GenerationConfig, PPOConfig, RewardConfig, StageConfig
from trainers.distributed import Group, joined
from trainers.errors import DiskFullError, RunError, TrainerError
from trainers.field_docs import field_docs
from trainers.manifest import disk_full, says_full, write_json_atomic
from trainers.progress_bar import progress_bar
from trainers.run_dir import RunDir

STAGES: dict[str, tuple[type[StageConfig], str]] = {
    "generate": (GenerationConfig, "write candidate answers to the prompts of `input/prompts.jsonl`"),
    "reward": (RewardConfig, "train the reward model on `input/rankings.jsonl` and hold it against the gate"),
    "ppo": (PPOConfig, "move the policy towards the reward on the prompts of `input/prompts.jsonl`"),
    "compare": (CompareConfig, "answer `input/prompts.jsonl` with two models, for blind review"),
}
IN_SEVERAL_PROCESSES = ("ppo",)
"""Stages that torchrun may start several times: they share their work."""
EXIT_DONE, EXIT_BUG, EXIT_USER = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    run_dir = RunDir(options.run_dir)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request
    stopping.install()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the run shows its own
    # read when torch is imported: idle threads sleep instead of spinning, 4 times faster on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("RLHF_EXIT_WITH_PARENT") == "1":
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        if not run_dir.path.is_dir():
            raise RunError(f"`{run_dir.path}` is no directory; needed is a run directory with its `input/`")
        with joined() as group, contextlib.ExitStack() as held:
            if group.size > 1 and options.stage not in IN_SEVERAL_PROCESSES:
                raise RunError(
                    f"torchrun started {group.size} processes, but `{options.stage}` runs in one;"
                    f" start it as `python -m trainers {options.stage}`"
                )
            if not group.is_main:
                logging.getLogger().setLevel(logging.WARNING)  # what all do alike is told once
            if group.on_main(run_dir.result_path.is_file):
                return group.on_main(lambda: _tell_finished(options.stage, run_dir, options.config))
            group.on_main(lambda: held.enter_context(run_dir.lock()))
            return _run_locked(options.stage, run_dir, options.config or run_dir.config_path, group)
    except (TrainerError, OSError) as error:
        return _tell(_of_disk(error, run_dir) or error)
    except stopping.Stopped:
        return _tell_stopped(options.stage)


def _run_locked(stage: str, run_dir: RunDir, config_path: Path, group: Group) -> int:
    """Run the stage and record how it ended; only the holder of the lock writes into the directory."""
    if group.on_main(run_dir.result_path.is_file):  # by the trainer that held the lock before
        return EXIT_DONE
    try:
        config = group.on_main(lambda: _begin(stage, run_dir, config_path))
        result = _run(stage, run_dir, config, group)
        group.on_main(lambda: run_dir.write_result(result))
    except Exception as error:  # noqa: BLE001 - the last resort: recorded, shown, exit code 1
        known = error if isinstance(error, TrainerError) else _of_disk(error, run_dir)
        if known is None:
            traceback.print_exc()
        _let_go(error)
        if group.is_main:
            with contextlib.suppress(DiskFullError, OSError):  # it is told on stderr all the same
                run_dir.write_error(known or error)
        return _tell(known) if known else EXIT_BUG
    return EXIT_DONE


def _let_go(error: BaseException | None) -> None:
    """Files that the traceback's frames hold open may take the last space, which `error.json` needs."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _of_disk(error: Exception, run_dir: RunDir) -> TrainerError | None:
    """What the operating system refused, as something to act on; `None` if it is something else."""
    if says_full(error):
        return disk_full(run_dir.path)
    if isinstance(error, OSError) and error.filename is not None:
        return RunError(f"`{error.filename}` cannot be used: {error.strerror}; mend that and start again")
    return None


def _run(stage: str, run_dir: RunDir, config: StageConfig, group: Group) -> dict[str, Any]:
    terminal = Console(stderr=True, force_terminal=None if group.is_main else False)
    with progress_bar(stage, run_dir.metrics_path, terminal):
        result: dict[str, Any] = importlib.import_module(f"trainers.{stage}").run(config, run_dir)
    return result


def _begin(stage: str, run_dir: RunDir, config_path: Path) -> StageConfig:
    """The run directory says what it was made with, and is not gone on with under another configuration."""
    run_dir.error_path.unlink(missing_ok=True)
    config = STAGES[stage][0].read(config_path)
    if not run_dir.config_path.exists():
        write_json_atomic(run_dir.config_path, config.to_json())
    else:
        _require_same(run_dir, config)
    run_dir.begin(stage, config.to_json(), FREE_FIELDS)
    return config


def _require_same(run_dir: RunDir, config: StageConfig) -> None:
    if type(config).read(run_dir.config_path) != config:
        raise RunError(
            f"`{run_dir.path}` belongs to another configuration (its `config.json`);"
            " leave out --config to go on with that, or begin a new run directory"
        )


def _exit_with_parent() -> None:
    """End when the pipe on stdin closes: the process that holds it is gone, its successor starts us again."""
    while os.read(sys.stdin.fileno(), 4096):  # `sys.stdin.read` holds a lock: ending would abort
        pass
    os._exit(stopping.EXIT_STOPPED)


def _tell_finished(stage: str, run_dir: RunDir, config_path: Path | None) -> int:
    """Nothing is to be done, unless something else is asked for than what is here.

    Raises: RunError: another stage or another configuration.
    """
    begun = run_dir.begun()
    if begun is not None and begun["stage"] != stage:
        raise RunError(
            f"`{run_dir.path}` is a finished `{begun['stage']}`; give `{stage}` a directory of its own"
        )
    if config_path is not None:
        _require_same(run_dir, STAGES[stage][0].read(config_path))
    print(f"{stage} is finished already: `{run_dir.result_path}`", file=sys.stderr)
    return EXIT_DONE


def _tell(error: Exception) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return EXIT_USER


def _tell_stopped(stage: str) -> int:
    print(f"{stage} was stopped; start it again to go on", file=sys.stderr)
    return stopping.EXIT_STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainers", description="Run one stage on its run directory."
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, (kind, purpose) in STAGES.items():
        stage = stages.add_parser(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            epilog=_describe_fields(kind),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        stage.add_argument("--run-dir", type=Path, required=True, metavar="D", help="the run directory")
        stage.add_argument("--config", type=Path, metavar="F", help="JSON object; default: D/config.json")
    return parser


def _describe_fields(kind: type[StageConfig]) -> str:
    lines = ["fields of the configuration:"]
    for field in field_docs(kind):
        default = "required" if field.default is None else f"default {field.default}"
        lines += [f"  {field.name}: {field.type}, {default}", f"      {field.doc}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
