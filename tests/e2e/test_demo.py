"""`make demo`, whole: every part is real, only smaller than for a user."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scripts.credentials import FILE_NAME
from scripts.label_studio_server import VIRTUAL_ENVIRONMENT
from scripts.prompt_file import read_prompts, write_prompts

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
PROMPTS = 48
SMALLER = {"GATE_ACCURACY": "0.6", "PPO_UPDATES": "3", "REVIEW_SEEN": "4", "REVIEW_UNSEEN": "4"}


class Journey:
    """One finished run of the demo."""

    def __init__(self, directory: Path) -> None:
        self.system = directory / "system"
        prompts = directory / "prompts.csv"
        write_prompts(prompts, read_prompts(Path("scripts/demo_prompts.csv"))[80 - PROMPTS // 2 :][:PROMPTS])
        command = [sys.executable, "-m", "scripts.demo", "--once", "--seed", "1", "--prompts", str(prompts)]
        places = ["--out", str(directory / "out"), "--directory", str(self.system)]
        self.done = subprocess.run(
            command + places, env=os.environ | SMALLER, capture_output=True, text=True, check=False
        )
        self.report_path = directory / "out" / "report.json"

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self.report_path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    if not VIRTUAL_ENVIRONMENT.exists():
        pytest.skip("Label Studio is not installed; `make setup` installs it")
    yield Journey(tmp_path_factory.mktemp("demo"))


def test_demo_reaches_a_verdict(journey: Journey) -> None:
    assert journey.done.returncode == 0, journey.done.stdout + journey.done.stderr
    assert "Verdict" in journey.done.stdout


def test_report_holds_the_whole_journey(journey: Journey) -> None:
    report = journey.report
    assert report["prompts"] == PROMPTS
    assert report["candidates"] == 3 * PROMPTS
    assert (report["rankings"], report["annotators"]) == (60, 3)
    assert report["reward_model"]["outcome"] == "passed"
    assert report["ppo"]["updates"] <= 3
    assert sum(report["review"]["seen"].values()) == 4
    assert sum(report["review"]["unseen"].values()) == 4
    assert {model["kind"] for model in report["models"]} == {"reward", "policy"}
    assert report["peak_rss_mb"] < 3000


def test_simulation_is_said_and_no_traceback_is_shown(journey: Journey) -> None:
    assert "simulated" in journey.done.stdout
    assert "Traceback" not in journey.done.stdout + journey.done.stderr


def test_nothing_runs_afterwards_and_secrets_are_private(journey: Journey) -> None:
    directory = str(journey.system)
    assert not [p for p in psutil.process_iter(["cmdline"]) if directory in " ".join(p.info["cmdline"] or ())]
    assert stat.S_IMODE((journey.system / FILE_NAME).stat().st_mode) == 0o600
    assert not (journey.system / "processes.json").exists()


def test_no_log_holds_a_secret_or_an_answer(journey: Journey) -> None:
    secrets = [
        line.partition("=")[2]
        for line in (journey.system / FILE_NAME).read_text().splitlines()
        if not line.partition("=")[0].endswith("USERNAME")
    ]
    logs = "".join(log.read_text(errors="replace") for log in (journey.system / "logs").glob("*.log"))
    assert logs
    assert not [secret for secret in secrets if secret in logs]
    assert "快递三天没动静" not in logs
