"""For the tests of the web part: a service over a seeded store whose actions are only written down.

The rows are real, the store is real, waitress and Flask are real; what would reach Label Studio or start a
training is recorded in `calls`. `python -m tests.backend.web STAGE PORT` shows a stage in a browser.
"""

from __future__ import annotations

import atexit
import base64
import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from backend.actions import Applied
from backend.service import Service
from backend.settings import Settings
from backend.store import Store
from backend.training import TrainingAnswer
from backend.wsgi import server
from tests.backend.console_seed import Stage, seed

USERNAME, PASSWORD = "admin", "a-good-password"
WEBHOOK_SECRET = "a-secret-for-hooks"
AUTHORISED = {"Authorization": "Basic " + base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()}

DATABASE = "backend.sqlite3"
_KINDS = {"candidates": "generate", "reward": "reward", "ppo": "ppo"}


class SeededService(Service):
    """Reads the store; records what it is asked to do."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.calls: list[tuple[object, ...]] = []

    def hint(self, project: int, action: str) -> None:
        self.calls.append(("hint", project, action))

    def start_training(self, project: int, *, serve: str = "") -> TrainingAnswer:
        self.calls.append(("start_training", project))
        return TrainingAnswer(True, "reward-00000001", "开始训练。", "Training starts.")

    def start_ppo(self, workspace: str) -> TrainingAnswer:
        self.calls.append(("start_ppo", workspace))
        return TrainingAnswer(True, "ppo-00000001", "开始 PPO。", "PPO starts.")

    def cancel(self, run_id: str) -> None:
        self.calls.append(("cancel", run_id))

    def retry(self, run_id: str) -> None:
        self.calls.append(("retry", run_id))

    def conclude(self, workspace: str) -> None:
        self.calls.append(("conclude", workspace))

    def apply(self, workspace: str, advice: str) -> Applied:
        self.calls.append(("apply", workspace, advice))
        return Applied(advice, "已执行。", "Done.", None)

    def revert(self, workspace: str, advice: str) -> Applied:
        self.calls.append(("revert", workspace, advice))
        return Applied(advice, "已撤回。", "Taken back.", None)

    def promote(self, workspace: str, model_id: str, reason: str) -> None:
        self.calls.append(("promote", workspace, model_id))


def settings(directory: Path, **changes: object) -> Settings:
    values: dict[str, object] = {
        "label_studio_api_key": "0" * 40,
        "password": PASSWORD,
        "webhook_secret": WEBHOOK_SECRET,
        "session_secret": "a-secret-for-sessions",
        "data_dir": directory,
        "port": 0,
    }
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


def seeded(directory: Path, stage: Stage | None = "decided") -> SeededService:
    directory.mkdir(exist_ok=True)
    if stage is not None:
        shutil.copyfile(_template(stage), directory / DATABASE)
    return SeededService(settings(directory))


@functools.cache
def _template(stage: Stage) -> Path:
    """Seeding takes most of a second; a copy takes none."""
    path = Path(tempfile.mkdtemp(prefix="console-seed-")) / DATABASE
    opened = Store(f"sqlite:///{path}")
    opened.create_all()
    seed(opened, stage)
    opened.close()
    atexit.register(shutil.rmtree, path.parent)
    return path


def fastest_s(request: Callable[[], TestResponse]) -> float:
    """The shortest of ten: what the code takes, without what else the machine does."""
    times = []
    for _ in range(10):
        began = time.perf_counter()
        assert request().status_code < 300
        times.append(time.perf_counter() - began)
    return min(times)


def csrf_of(client: FlaskClient) -> str:
    """Log in as a person does; returns the session's token."""
    client.get("/", headers={"Accept": "text/html"})
    with client.session_transaction() as session:
        token = session["csrf"]
    form = {"username": USERNAME, "password": PASSWORD, "csrf_token": token}
    assert client.post("/login", data=form).status_code == 303
    with client.session_transaction() as session:
        return str(session["csrf"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        shown = seeded(Path(scratch), cast("Stage", sys.argv[1]))
        server(SeededService(settings(shown.settings.data_dir, port=int(sys.argv[2])))).run()
