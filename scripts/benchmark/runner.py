"""Carries out a measure: each run in a process of its own at one thread, peer and ours in turn.

What the programs print goes to var/log/benchmark/; what they work on is made once below var/benchmark/.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark.machine import describe_machine
from scripts.benchmark.measure import EnvironmentName, Input, Measure, Scale
from scripts.benchmark.peers import python_of
from scripts.benchmark.results import BenchmarkError, Results, Run
from scripts.display import Display
from scripts.setup_environment import ROOT, tail

INPUTS = ROOT / "var" / "benchmark"
LOGS = ROOT / "var" / "log" / "benchmark"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


def run_program(program: str, options: Mapping[str, Any], python: Path, log: Path) -> dict[str, float]:
    """Run a module of `programs/`; what it measured.

    Raises: BenchmarkError: it failed; shows the end of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        asked, found = Path(directory, "options.json"), Path(directory, "figures.json")
        asked.write_text(json.dumps(options), encoding="utf-8")
        command = [str(python), "-m", f"scripts.benchmark.programs.{program}", str(asked), str(found)]
        with log.open("wb") as file:
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **_ONE_THREAD, **_QUIET}, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, check=False,
            )  # fmt: skip
        if done.returncode != 0 or not found.is_file():
            raise BenchmarkError(
                f"`{program}` failed with status {done.returncode}. Its last lines:\n{tail(log)}\n"
                f"The whole output is in `{log}`."
            )
        figures: dict[str, float] = json.loads(found.read_text(encoding="utf-8"))
    return figures


RunProgram = Callable[[str, Mapping[str, Any], Path, Path], dict[str, float]]
"""(module of `programs/`, options, Python, log) -> figures."""


def carry_out(
    measure: Measure,
    scale: Scale,
    seeds: Sequence[int],
    display: Display,
    *,
    with_peers: bool = True,
    inputs: Path = INPUTS,
    run: RunProgram = run_program,
) -> Results:
    """Make every run of a measure.

    Args:
        with_peers: without, only our side runs and no peer's environment is made.
        inputs: where what the programs work on is made and found again.
        run: how a program is run.
    Raises: BenchmarkError: a program failed, or a peer's environment cannot be made.
    """
    jobs = [job for job in measure.jobs(scale) if with_peers or not job.is_peer]
    pythons = {name: python_of(name) for name in sorted({job.environment for job in jobs})}
    maker = _Maker(inputs, run)
    runs: list[Run] = []
    with display.stage(f"{measure.name}: {measure.title}") as stage:
        count = len(jobs) * len(seeds)
        for seed in seeds:
            for job in jobs:
                stage.count(len(runs), count)
                stage.note("making what it works on")
                options = {**maker.resolved(job.options), "seed": seed}
                stage.note(f"{job.case}, {job.side}, seed {seed}")
                log = LOGS / f"{measure.name}-{job.case}-{job.side}-{seed}.log".replace(" ", "-")
                figures = maker.run(job.program, options, pythons[job.environment], log)
                runs.append(Run(job.case, job.side, seed, figures))
        stage.outcome = f"{count} runs"
    return Results(measure.name, scale == "quick", describe_machine(), tuple(runs))


def has_cuda(environment: EnvironmentName = "project") -> bool:
    """Whether torch finds a GPU there."""
    ask = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([python_of(environment), "-c", ask], check=False).returncode == 0


class _Maker:
    """Makes inputs that are not there yet."""

    def __init__(self, inputs: Path, run: RunProgram) -> None:
        self.inputs = inputs
        self.run = run

    def resolved(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with a directory for each input."""
        return {
            name: self._made(value) if isinstance(value, Input) else value for name, value in options.items()
        }

    def _made(self, wanted: Input) -> str:
        directory = self.inputs / wanted.directory_name
        if not directory.is_dir():
            options = self.resolved(wanted.options)
            self.inputs.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f"{wanted.name}-unfinished-", dir=self.inputs))
            log = LOGS / f"make-{directory.name}.log"
            try:
                self.run(wanted.program, {**options, "out": str(unfinished)}, python_of("project"), log)
                unfinished.replace(directory)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        return str(directory)
