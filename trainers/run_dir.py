"""The directory of one run: what a stage reads, writes and resumes from, and how others see that it ended.

    config.json  input/*.jsonl  metrics.jsonl  checkpoints/checkpoint-000012/  model/  output/*.jsonl
    result.json  written last: its presence means finished      error.json  why the run failed
    begun.json   stage, configuration and input of what is here so far
    run.lock     held by the trainer at work

Standard library only; knows nothing of what the stages do. The backend's launcher starts a stage on such a
directory, follows its metrics and takes `result.json`, `output/` and `model/` from it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trainers.errors import ModelError, RunError
from trainers.manifest import (
    TEMPORARY,
    remove_directory,
    sha256_of,
    verify_manifest,
    write_directory,
    write_json_atomic,
    write_manifest,
)
from trainers.metrics import METRICS, Metrics

__all__ = ["METRICS", "Metrics", "RunDir", "verify_manifest", "write_json_atomic", "write_manifest"]

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
_RUN_ID = re.compile(r"[a-z0-9-]{1,64}")
_FILE_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,63}")
_CHECKPOINT = re.compile(r"checkpoint-(\d{6,})")


@dataclass(frozen=True)
class RunDir:
    """One run's directory."""

    path: Path

    @classmethod
    def of(cls, root: Path, run_id: str) -> RunDir:
        """The directory of a run below `root`.

        Raises: RunError: the id is no id, or the directory is a link that leads elsewhere.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise RunError(f"`{run_id!r}` is no run id; needed is `[a-z0-9-]{{1,64}}`")
        path = root / run_id
        if path.is_symlink():
            raise RunError(f"`{path}` is a symlink; needed is a directory")
        return cls(path)

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @property
    def error_path(self) -> Path:
        return self.path / "error.json"

    @property
    def begun_path(self) -> Path:
        return self.path / "begun.json"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model_dir(self) -> Path:
        """The produced model; complete when its manifest is there."""
        return self.path / "model"

    def input(self, name: str) -> Path:
        """A file of `input/`; the folder is made when first asked for."""
        return self._file("input", name)

    def output(self, name: str) -> Path:
        """A file of `output/`; the folder is made when first asked for."""
        return self._file("output", name)

    def metrics(self, offset: int | None = None) -> Metrics:
        """The run's metrics to append to; `offset` from the checkpoint that is resumed, 0 to begin anew."""
        self.path.mkdir(parents=True, exist_ok=True)
        return Metrics(self.metrics_path, offset)

    @contextmanager
    def lock(self, lock_timeout_s: float = 30.0) -> Iterator[None]:
        """Hold the directory alone; a dead holder's lock is free at once.

        Raises: RunError: another process still holds it after `lock_timeout_s`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "run.lock").open("a") as file:
            _wait_for_lock(file, lock_timeout_s)
            self._remove_leftovers()
            yield

    def begin(self, stage: str, config: dict[str, Any], free: Collection[str] = ()) -> None:
        """Remember what the run is made of; what is here of something else is not gone on with.

        Until something has been made, everything may change: a mistake is mended and the run started again.

        Args:
            free: fields of the configuration that change how the work is done, not what comes out.
        Raises: RunError: the stage, the configuration or the input is another one than that of what is here.
        """
        now: dict[str, Any] = {"stage": stage, "config": config, "input": self._hashes_of_input()}
        before = self.begun()
        if before is not None and self._holds_work():
            changed = [] if before["stage"] == stage else ["the stage"]
            for part, prefix in (("config", ""), ("input", "input/")):
                names = sorted(before[part].keys() | now[part].keys())
                differ = [name for name in names if before[part].get(name) != now[part].get(name)]
                changed += [f"`{prefix}{name}`" for name in differ if name not in free]
            if changed:
                raise RunError(
                    f"{', '.join(changed)} changed after `{self.path}` had begun, and what it holds was made "
                    "with what was there before; put it back, or begin a new run directory"
                )
        write_json_atomic(self.begun_path, now)

    def begun(self) -> dict[str, Any] | None:
        """What `begin` remembered.

        Raises: RunError: the file is damaged.
        """
        if not self.begun_path.is_file():
            return None
        try:
            found = json.loads(self.begun_path.read_text(encoding="utf-8"))
            return {"stage": found["stage"], "config": dict(found["config"]), "input": dict(found["input"])}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"`{self.begun_path}` is damaged; begin a new run directory") from error

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Save what the run needs to go on from `step`; keeps this checkpoint and the one before.

        Args:
            step: the update that was finished.
            write: fills the empty directory that it is given.
        Returns:
            The complete checkpoint.
        Raises:
            RunError: the disk is full; the checkpoints from before are untouched.
        """
        path = self.checkpoints_dir / f"checkpoint-{step:06d}"
        write_directory(path, write, {"step": step}, torch_states=True)
        earlier = [known for known, _ in self._checkpoints() if known < step][: KEPT_CHECKPOINTS - 1]
        for known, other in self._checkpoints():
            if known != step and known not in earlier:
                remove_directory(other)
        return path

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is complete and unchanged; `None` if the run must begin anew."""
        for _, path in self._checkpoints():
            try:
                verify_manifest(path, torch_states=True)
            except ModelError as error:
                log.warning("skipped a damaged checkpoint: %s", error)
            else:
                return path
        return None

    def save_model(self, write: Callable[[Path], None], lineage: dict[str, Any]) -> Path:
        """Make `model/`, which appears whole with its manifest or not at all."""
        write_directory(self.model_dir, write, lineage)
        return self.model_dir

    def write_result(self, result: dict[str, Any]) -> None:
        """Declare the run finished. Call it last."""
        write_json_atomic(self.result_path, result)
        self.error_path.unlink(missing_ok=True)

    def write_error(self, error: BaseException) -> None:
        """Record why the run failed."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json_atomic(self.error_path, {"type": type(error).__name__, "message": str(error)})

    def _hashes_of_input(self) -> dict[str, str]:
        folder = self.path / "input"
        return {path.name: sha256_of(path) for path in sorted(folder.glob("*")) if path.is_file()}

    def _holds_work(self) -> bool:
        """Whether there is something to go on from."""
        output = self.path / "output"
        return bool(self._checkpoints()) or self.model_dir.is_dir() or any(output.glob("*"))

    def _file(self, folder: str, name: str) -> Path:
        if not _FILE_NAME.fullmatch(name):
            raise RunError(f"`{name!r}` is no file name; needed is `[a-z0-9_.-]`, not beginning with a dot")
        directory = self.path / folder
        directory.mkdir(parents=True, exist_ok=True)
        return directory / name

    def _checkpoints(self) -> list[tuple[int, Path]]:
        """Step and path of every checkpoint, complete or not, newest first."""
        if not self.checkpoints_dir.is_dir():
            return []
        matches = [(_CHECKPOINT.fullmatch(path.name), path) for path in self.checkpoints_dir.iterdir()]
        return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)

    def _remove_leftovers(self) -> None:
        """Delete what a killed predecessor was writing."""
        for folder in (self.path, self.checkpoints_dir):
            for path in folder.glob(f"{TEMPORARY}*"):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _wait_for_lock(file: IO[str], lock_timeout_s: float) -> None:
    deadline = time.monotonic() + lock_timeout_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise RunError(
                    f"`{file.name}` is held by another trainer for more than {lock_timeout_s:g} s;"
                    " wait until it ends or stop it, then start again"
                ) from error
            time.sleep(0.1)
        else:
            return
