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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from backend import store
from backend.errors import ConflictError
from backend.service import Prediction, Service, TrainingAnswer
from backend.settings import Settings
from backend.status import AdviceView, Counts, ModelView, RoundView, RunView, Step, WorkspaceStatus
from backend.store import Store
from backend.wsgi import server
from tests.backend.console_seed import Stage, seed

USERNAME, PASSWORD = "admin", "a-good-password"
WEBHOOK_SECRET = "a-secret-for-hooks"
AUTHORISED = {"Authorization": "Basic " + base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()}

DATABASE = "backend.sqlite3"
_KINDS = {"candidates": "generate", "reward": "reward", "ppo": "ppo"}


class SeededService(Service):
    """Reads the store; records what it is asked to do."""

    def __init__(self, settings: Settings, advice: tuple[AdviceView, ...] = ()) -> None:
        super().__init__(settings)
        self.store.create_all()
        self.calls: list[tuple[object, ...]] = []
        self.advice = advice

    def hint(self, project: int, action: str) -> None:
        self.calls.append(("hint", project, action))

    def start_training(self, project: int) -> TrainingAnswer:
        self.calls.append(("start_training", project))
        return TrainingAnswer(True, "reward-00000001", "开始训练。", "Training starts.")

    def start_ppo(self, workspace: str) -> TrainingAnswer:
        self.calls.append(("start_ppo", workspace))
        return TrainingAnswer(True, "ppo-00000001", "开始 PPO。", "PPO starts.")

    def cancel(self, run_id: str) -> None:
        self.calls.append(("cancel", run_id))

    def promote(self, workspace: str, model_id: str, reason: str) -> None:
        self.calls.append(("promote", workspace, model_id))

    def rollback(self, workspace: str) -> str:
        raise ConflictError("there is no earlier model; `base` serves already")

    def workspaces(self) -> tuple[str, ...]:
        with self.store.reading() as session:
            return tuple(row.id for row in store.workspaces(session))

    def owns_project(self, project: int) -> bool:
        with self.store.reading() as session:
            return store.workspace_of_project(session, project) is not None

    def predictions(self, project: int, answers: Sequence[Sequence[str]]) -> list[Prediction | None]:
        return [self._prediction(ids) for ids in answers]

    def model_version(self, project: int) -> str:
        return "reward-team-1"

    def settings_of(self, workspace: str) -> Mapping[str, object]:
        return {"gate_accuracy": self.settings.gate_accuracy}

    def check_label_studio(self) -> str:
        return ""

    def _prediction(self, ids: Sequence[str]) -> Prediction | None:
        with self.store.reading() as session:
            rows = {row.id: row.score for row in store.responses(session, "team")}
        scores = {answer: rows[answer] for answer in ids if rows.get(answer) is not None}
        if not ids or len(scores) != len(ids):
            return None
        return Prediction(tuple(sorted(ids, key=lambda a: -(scores[a] or 0))), 0.75, "reward-team-1")

    def status(self, workspace: str) -> WorkspaceStatus:
        with self.store.reading() as session:
            row = store.workspace(session, workspace)
            rounds = [
                RoundView(
                    r.id, r.number, r.state, r.verdict, len(store.comparisons(session, r.id)),
                    len(store.active_judgements(session, r.id)), r.reason, r.created, r.finished,
                )
                for r in store.rounds(session, workspace)
            ]  # fmt: skip
            runs = tuple(
                RunView(
                    r.id, r.kind, r.state, r.round_id, r.attempts, r.progress_done, r.progress_total,
                    r.progress_what, r.result, r.error, r.created, r.started, r.finished,
                )
                for r in store.runs(session, workspace)
            )  # fmt: skip
            models = tuple(
                ModelView(
                    m.id, m.kind, m.round_id, m.run_id, m.parent, m.state,
                    m.id == row.serving_policy, m.metrics, m.created,
                )
                for m in store.models(session, workspace)
            )  # fmt: skip
            rankings = len(store.active_rankings(session, workspace))
            prompts = len(store.prompts(session, workspace))
        current = rounds[-1] if rounds else None
        return WorkspaceStatus(
            workspace, row.title, row.prompts_project, row.ranking_project, row.review_project,
            row.serving_policy,
            Counts(prompts, prompts, 0, prompts * 3, rankings, rankings, 18, 3, 0, 0, 0),
            tuple(_step(key, runs) for key in ("candidates", "rankings", "reward", "ppo", "review")),
            "下一步。", "What comes next.", current, tuple(rounds), runs, models, self.advice,
        )  # fmt: skip


def _step(key: str, runs: tuple[RunView, ...]) -> Step:
    run = next((r for r in runs if r.kind == _KINDS.get(key)), None)
    state = "waiting" if run is None else "running" if run.state == "running" else "done"
    done, total = (run.progress_done, run.progress_total) if run else (0, 0)
    return Step(key, state, "原因。", f"Why {key} is here.", done, total, run.id if run else None)  # type: ignore[arg-type]


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
