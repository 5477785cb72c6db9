"""`make demo`: the whole journey on this machine, ranked and reviewed by a simulated team.

Starts a fresh system, and from then on does only what people would do: imports prompts, ranks and reviews
through Label Studio's own API. What the backend makes of it is read from its status. Ends with the verdict, a
report and the addresses, and stays up so that everything can be looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from backend.errors import BackendError
from backend.report_ppo import stop_words
from backend.report_review import leaderboard_lines
from backend.rounds import leaderboard
from backend.service import Service
from backend.settings import Settings
from backend.status import RunView, WorkspaceStatus
from scripts.accounts import AccountError
from scripts.annotators import TASTES, Taste, TasteError, find_taste
from scripts.demo_report import build_report, describe
from scripts.display import Display, Stage
from scripts.memory import PeakMemory
from scripts.prompt_file import read_prompts, write_prompts
from scripts.services import ROOT, ServiceError, System, stop_running
from scripts.setup_project import set_up_workspace
from scripts.simulated_team import SimulatedTeam, TeamError
from scripts.terminal import show_addresses, stay_up, stop_on_signals

WORKSPACE = "demo"
PROMPTS = Path(__file__).with_name("demo_prompts.csv")
RANKINGS_PER_PROMPT = 1.25
"""Every prompt is ranked once, a quarter of them again by another person: agreement needs an overlap."""
STALLED_S = 900.0
"""A stage that shows no progress for so long is given up."""


class DemoError(Exception):
    """The journey did not reach its end; says where it stopped and what to look at."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the journey reached its end, whatever the verdict; 1 when something failed."""
    options = _parser().parse_args(arguments)
    display = Display()
    stop_on_signals()
    try:
        taste = find_taste(options.annotator)
        prompts = read_prompts(options.prompts)
        directory = _fresh(options.directory)
        with PeakMemory() as memory, System(directory, _settings(options, len(prompts))) as system:
            demo = Demo(system, display, memory)
            demo.run(taste, prompts, options)
            if not options.once:
                stay_up(system, display)
    except (DemoError, ServiceError, AccountError, TeamError, TasteError, BackendError) as error:
        display.console.print(f"\nthe demo stopped: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        display.say("\nstopped · 已停止")
        return 130
    return 0


class Demo:
    """One journey in one running system."""

    def __init__(self, system: System, display: Display, memory: PeakMemory) -> None:
        self._system = system
        self._display = display
        self._memory = memory
        self._began = time.monotonic()
        self._imported = 0

    def run(self, taste: Taste, prompts: Sequence[str], options: argparse.Namespace) -> None:
        """All stages, then the report."""
        self._start()
        team = self._sign_up(taste, options)
        show_addresses(self._system, self._display, options.annotator)
        batches = _split(prompts, options.rounds)
        for number, batch in enumerate(batches, start=1):
            if len(batches) > 1:
                self._display.say(f"\n[bold]Round {number} of {len(batches)} · 第 {number} 轮[/]")
            self._candidates(batch, number)
            self._rankings(team, _rankings_per_round(len(prompts), options.rounds))
            if not self._training() or not self._review(team):
                break
            if number < len(batches):
                self._promote()
        self._report(options.out or self._system.directory)

    def _start(self) -> None:
        with self._display.stage("Label Studio and backend · 启动服务") as stage:
            self._system.start(stage.note)
            self._settings = Settings.from_environment(os.environ | self._system.environment())
            set_up_workspace(self._settings, WORKSPACE, title="Demo · 模拟 simulated")
            self._service = Service(self._settings)
            stage.outcome = f"{self._system.label_studio_url}  {self._system.backend_url}"

    def _sign_up(self, taste: Taste, options: argparse.Namespace) -> SimulatedTeam:
        with self._display.stage("Simulated team signs up · 模拟标注员注册") as stage:
            token = self._system.credentials.label_studio_api_key
            team = SimulatedTeam(self._system.label_studio_url, token, taste, options.seed)
            stage.outcome = ", ".join(person.name for person, _ in team.people)
        return team

    def _candidates(self, prompts: Sequence[str], number: int) -> None:
        """Import the prompts as a lead would, and wait for the ranking tasks."""
        with self._display.stage("Prompts → candidate answers · 生成候选回答") as stage:
            path = self._system.directory / f"prompts-{number}.csv"
            write_prompts(path, prompts)
            self._import(path)
            self._imported += len(prompts)

            def ready(status: WorkspaceStatus) -> bool:
                counts = status.counts
                return counts.prompts_published + counts.prompts_flagged >= self._imported

            counts = self._wait(stage, ready, "generate").counts
            stage.outcome = (
                f"{counts.responses} answers to {counts.prompts_published} prompts,"
                f" {counts.prompts_flagged} prompts set aside"
            )

    def _import(self, path: Path) -> None:
        """Through Label Studio's own import of a file."""
        project = self._status().prompts_project
        with path.open("rb") as file:
            answer = httpx.post(
                f"{self._system.label_studio_url}/api/projects/{project}/import",
                headers={"Authorization": f"Token {self._system.credentials.label_studio_api_key}"},
                files={"file": (path.name, file, "text/csv")},
                timeout=120,
            )
        if answer.status_code != 201:
            raise DemoError(f"Label Studio refused the import of `{path}`: status {answer.status_code}")

    def _rankings(self, team: SimulatedTeam, wanted: int) -> None:
        with self._display.stage("Simulated team ranks · 模拟标注员排序") as stage:
            made = team.rank(self._status().ranking_project, wanted, stage.count)
            stage.outcome = f"{made} rankings by {len(team.people)} people"

    def _training(self) -> bool:
        """Wait for reward model, PPO and comparisons, which start by themselves; False if the gate holds."""
        with self._display.stage("Reward model · 奖励模型") as stage:
            status = self._wait(stage, _past("collecting", "rewarding"), "reward")
            result = _result(status, "reward")
            accuracy = result.get("accuracy")
            shown = "accuracy unknown" if accuracy is None else f"held-out accuracy {accuracy:.1%}"
            stage.outcome = f"{result.get('outcome')}: {shown}"
        if status.round and status.round.state == "gated":
            return False
        with self._display.stage("PPO · 强化学习") as stage:
            status = self._wait(stage, _past("tuning"), "ppo")
            result = _result(status, "ppo")
            stage.outcome = (
                f"reward {result['reward_before']:.2f} → {result['reward_after']:.2f} after"
                f" {result['updates']} updates ({stop_words(result)})"
            )
        with self._display.stage("Before and after answer · 生成前后对比") as stage:
            status = self._wait(stage, _past("comparing"), "compare")
            stage.outcome = f"{status.counts.comparisons} comparisons"
        return True

    def _review(self, team: SimulatedTeam) -> bool:
        """Judge all comparisons blind and wait for the verdict; False if there is none."""
        with self._display.stage("Simulated team reviews blind · 盲评") as stage:
            made = team.review(self._status().review_project, stage.count)
            status = self._wait(stage, _past("reviewing"), None)
            stage.outcome = f"{made} judgements"
        return status.round is not None and status.round.verdict is not None

    def _promote(self) -> None:
        """Let a winner write the next round's candidates, as the lead does by command; else go on without."""
        verdict = (current.verdict or {}).get("verdict") if (current := self._status().round) else None
        if verdict != "better":
            self._display.say("not promoted: the review does not say better · 盲评未判定更好，不上线")
            return
        policies = [model.id for model in self._status().models if model.kind == "policy"]
        command = [sys.executable, "-m", "backend", "promote", policies[-1], "--workspace", WORKSPACE]
        environment = os.environ | self._system.environment()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DemoError(f"`{policies[-1]}` could not be promoted: {done.stderr.strip()}")
        self._display.say(f"promoted {policies[-1]} · 已上线")

    def _report(self, directory: Path) -> None:
        with self._service.store.reading() as session:
            standings = leaderboard(session, WORKSPACE)
        report = build_report(
            self._status(),
            standings,
            seconds_total=time.monotonic() - self._began,
            peak_rss_mb=self._memory.peak_mb,
        )
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "report.json"
        path.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        self._display.say()
        for line in (*describe(report), *leaderboard_lines(standings)):
            self._display.say(line)
        self._display.say(f"  report: {path}")

    def _status(self) -> WorkspaceStatus:
        return self._service.status(WORKSPACE)

    def _wait(
        self, stage: Stage, reached: Callable[[WorkspaceStatus], bool], kind: str | None
    ) -> WorkspaceStatus:
        """Read the status until a point of the journey is reached, showing the run of a kind.

        Raises: DemoError: the round failed, or nothing moved for a long time. ServiceError: a part has ended.
        """
        seen: object = None
        moved = time.monotonic()
        while True:
            self._system.check()
            status = self._status()
            if status.round and status.round.state == "failed":
                raise DemoError(f"{status.round.reason_en}; see `{self._system.backend_log}`")
            if reached(status):
                return status
            run = _newest(status, kind)
            if run and run.state == "failed":
                raise DemoError(f"{run.error}; see `{self._system.backend_log}`")
            if run and run.state == "running":
                stage.count(run.progress_done, run.progress_total)
                stage.note(run.progress_what)
            if (now := (status.counts, status.round, run)) != seen:
                seen, moved = now, time.monotonic()
            if time.monotonic() - moved > STALLED_S:
                raise DemoError(f"nothing moved for {STALLED_S:.0f} s; see `{self._system.backend_log}`")
            time.sleep(0.5)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make demo", description="Run the whole journey with a simulated team."
    )
    parser.add_argument("--once", action="store_true", help="exit after the verdict")
    parser.add_argument("--out", type=Path, help="directory for report.json (default: the system's)")
    parser.add_argument(
        "--annotator", default="concise", help=f"what the team likes: {', '.join(TASTES)} or module:function"
    )
    parser.add_argument("--rounds", type=int, default=1, choices=range(1, 10), metavar="1-9")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="CSV, JSON or txt file of prompts")
    parser.add_argument("--base-model", default="", help="local directory or hub name of another model")
    parser.add_argument("--directory", type=Path, default=Path("var/demo"), help="where the system lives")
    return parser


def _settings(options: argparse.Namespace, prompts: int) -> dict[str, str]:
    """The backend's settings for this demo."""
    rankings = _rankings_per_round(prompts, options.rounds)
    settings = {"SEED": str(options.seed), "TRAIN_AFTER_RANKINGS": str(rankings)}
    return settings | ({"BASE_MODEL": options.base_model} if options.base_model else {})


def _rankings_per_round(prompts: int, rounds: int) -> int:
    """The same in each, because training starts by itself at this many; some rounds have a prompt more."""
    return max(1, int(prompts // rounds * RANKINGS_PER_PROMPT))


def _split(prompts: Sequence[str], rounds: int) -> list[Sequence[str]]:
    """Equal parts, one a round; prompts of every kind in each."""
    return [part for part in (prompts[number::rounds] for number in range(rounds)) if part]


def _fresh(directory: Path) -> Path:
    """An empty directory for the system; an earlier demo is stopped and removed.

    Raises: DemoError: it holds something else.
    """
    if directory.exists() and any(directory.iterdir()):
        if not (directory / "demo").exists():
            raise DemoError(f"`{directory}` is no earlier demo's directory; give an empty one")
        stop_running(directory)
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    (directory / "demo").touch()
    return directory


def _past(*states: str) -> Callable[[WorkspaceStatus], bool]:
    """Whether the current round has left these states."""
    return lambda status: status.round is not None and status.round.state not in states


def _newest(status: WorkspaceStatus, kind: str | None) -> RunView | None:
    runs = [run for run in status.runs if run.kind == kind]
    return runs[-1] if runs else None


def _result(status: WorkspaceStatus, kind: str) -> dict[str, object]:
    run = _newest(status, kind)
    return (run.result if run else None) or {}


if __name__ == "__main__":
    sys.exit(main())
