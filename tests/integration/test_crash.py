"""kill -9 of the server, over and over, with a real Label Studio: the round still ends as if nothing was.

One model of each kind, every ranking accounted for, one task for every prompt and every comparison.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from backend import store
from backend.label_studio import LabelStudioClient
from backend.settings import Settings
from backend.store import Store
from backend.tables import RankingRow, RunRow
from scripts.label_studio_server import LabelStudioServer, free_port
from scripts.setup_project import set_up_workspace
from tests.fake_label_studio import ranking_result, verdict_result

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PROMPTS, RANKINGS = 16, 6
STAGES = ("generate", "reward", "ppo", "compare")


class Team:
    """One workspace in a real Label Studio, and its server process, which is killed again and again."""

    def __init__(self, label_studio: LabelStudioServer, directory: Path, name: str) -> None:
        self.name = name
        port = free_port()
        self.environment = {
            **os.environ,
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.token,
            "BACKEND_URL": f"http://127.0.0.1:{port}",
            "BACKEND_PORT": str(port),
            "BACKEND_PASSWORD": "a-long-test-password",
            "WEBHOOK_SECRET": "a-long-test-secret",
            "SESSION_SECRET": "another-long-test-secret",
            "DATA_DIR": str(directory / "data"),
            "SETTINGS_FILE": str(directory / "none.env"),
            "RECONCILE_SECONDS": "0.5",
            "TRAIN_AFTER_RANKINGS": str(RANKINGS),
            "REVIEW_SEEN": "3",
            "REVIEW_UNSEEN": "3",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }
        self.log_path = directory / "server.log"
        self.settings = Settings.from_environment(self.environment)
        self.client = LabelStudioClient(label_studio.url, label_studio.token, 60)
        self.projects = set_up_workspace(self.settings, name, client=self.client).projects
        self.store = Store(self.settings.store_url)
        self.server: subprocess.Popen[bytes] | None = None

    def start(self, slow_stage: str = "", slow_s: float = 600) -> None:
        environment = {**self.environment, "SLOW_STAGE": slow_stage, "SLOW_S": str(slow_s)}
        with self.log_path.open("ab") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.crash_server"],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.server = None

    # --- what people do ---

    def import_prompts(self) -> None:
        self.client.import_tasks(
            self.projects["prompts"], [{"prompt": f"question {n}"} for n in range(PROMPTS)]
        )

    def rank(self) -> None:
        for task in list(self.client.tasks(self.projects["ranking"], annotations=False))[:RANKINGS]:
            answers = sorted(task["data"]["answers"], key=lambda answer: len(answer["body"]))
            self.client.create_annotation(
                task["id"], ranking_result(*(a["id"] for a in answers)), lead_time=9
            )

    def review(self) -> None:
        for task in self.client.tasks(self.projects["review"]):
            if not task["annotations"]:
                side = "left" if task["data"]["left"].startswith("AFTER") else "right"
                self.client.create_annotation(task["id"], verdict_result(side), lead_time=9)

    # --- where it stands ---

    def published(self) -> bool:
        with self.store.reading() as session:
            return store.prompt_counts(session, self.name).get("published", 0) == PROMPTS

    def round_state(self) -> str:
        with self.store.reading() as session:
            current = store.current_round(session, self.name)
            return current.state if current else ""

    def answers(self) -> bool:
        """Whether the server has started."""
        try:
            return httpx.get(f"{self.settings.backend_url}/health", timeout=1).is_success
        except httpx.HTTPError:
            return False

    def held_up(self, kind: str) -> RunRow | None:
        """The run of a kind while its stage is held up."""
        with self.store.reading() as session:
            running = select(RunRow).where(RunRow.kind == kind, RunRow.state == "running")
            run = session.scalars(running).first()
        return run if run is not None and run.progress_done == 1 and run.pid else None

    def wait(self, condition: Callable[[], object], timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.log_path.read_text()[-4000:]
            time.sleep(0.05)

    def assert_as_if_nothing_was(self) -> None:
        with self.store.reading() as session:
            runs = [(run.kind, run.state) for run in store.runs(session, self.name)]
            models = [model.id for model in store.models(session, self.name)]
            annotations = set(session.scalars(select(RankingRow.annotation_id)))
            used = next(run.snapshot for run in store.runs(session, self.name) if run.kind == "reward")
            (current,) = store.rounds(session, self.name)
            comparisons = store.comparisons(session, current.id)
            judgements = store.active_judgements(session, current.id)
        assert runs == [(kind, "succeeded") for kind in STAGES]
        assert models == [f"reward-{self.name}-1", f"policy-{self.name}-1"]
        assert sorted(path.name for path in self.settings.models_dir.iterdir()) == sorted(models)
        assert current.verdict and current.verdict["verdict"] in ("better", "not_enough_evidence")
        assert len(judgements) == len(comparisons) == current.verdict["judged"] > 0

        ranked = [a["id"] for t in self.client.tasks(self.projects["ranking"]) for a in t["annotations"]]
        assert {key[0] for key in used} == annotations == set(ranked) and len(ranked) == RANKINGS
        for kind, number in (("ranking", PROMPTS), ("review", len(comparisons)), ("report", 1)):
            tasks = list(self.client.tasks(self.projects[kind], annotations=False))  # type: ignore[index]
            keys = {task["data"]["source_key"] for task in tasks}
            assert len(tasks) == len(keys) == number, kind


@pytest.fixture
def team(label_studio: LabelStudioServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Team]:
    team = Team(label_studio, tmp_path, f"crash-{zlib.crc32(request.node.name.encode()) % 10**6}")
    yield team
    team.kill()
    team.store.close()
    team.client.close()


def test_server_killed_in_every_stage_ends_the_round_once(team: Team) -> None:
    team.start("generate")
    team.import_prompts()
    for stage, following in zip(STAGES, (*STAGES[1:], ""), strict=True):
        team.wait(lambda stage=stage: team.held_up(stage))  # type: ignore[misc]
        run = team.held_up(stage)
        assert run is not None
        team.kill()
        team.wait(lambda run=run: not Path(f"/proc/{run.pid}").exists(), 10)  # type: ignore[misc]
        team.start(following)
        if stage == "generate":
            team.wait(team.published)
            team.rank()
    team.wait(lambda: team.round_state() == "reviewing")
    team.kill()
    team.review()  # nobody listens
    team.start()
    team.wait(lambda: team.round_state() == "decided")
    team.assert_as_if_nothing_was()


@pytest.mark.parametrize("seed", [1, 2])
def test_server_killed_at_any_moment_ends_the_round_once(team: Team, seed: int) -> None:
    rng = random.Random(seed)
    team.import_prompts()
    ranked = reviewed = False
    kills = 0
    while team.round_state() != "decided":
        assert kills < 40, team.log_path.read_text()[-4000:]
        team.start()
        team.wait(team.answers)
        until = time.monotonic() + rng.uniform(
            0.0, 7.0
        )  # what was interrupted is resumed after a second or two
        while time.monotonic() < until and team.round_state() != "decided":
            if not ranked and team.published():
                team.rank()
                ranked = True
            if not reviewed and team.round_state() == "reviewing":
                team.review()
                reviewed = True
            time.sleep(0.02)
        team.kill()
        kills += 1
    team.start()
    team.wait(lambda: len(list(team.client.tasks(team.projects["report"], annotations=False))) > 0)
    team.assert_as_if_nothing_was()


def test_server_frozen_past_its_lease_keeps_the_directory_and_goes_on(team: Team) -> None:
    """Nobody else can take its data directory meanwhile; overtaking is tested in test_launcher."""
    team.start("generate", slow_s=3)
    team.import_prompts()
    team.wait(lambda: team.held_up("generate"))
    assert team.server is not None
    team.server.send_signal(signal.SIGSTOP)
    second = subprocess.run(
        [sys.executable, "-m", "backend", "serve"],
        env={**team.environment, "BACKEND_PORT": str(free_port())},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 2 and "another backend (process" in second.stderr
    assert "Traceback" not in second.stderr
    team.server.send_signal(signal.SIGCONT)
    team.wait(team.published)
