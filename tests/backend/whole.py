"""A whole backend for tests: a real service, store, launcher and DBOS over the fake Label Studio."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import label_config
from backend.label_studio import LabelStudioClient
from backend.launcher import Launcher
from backend.service import Service
from backend.settings import Settings
from backend.store import Store
from backend.tables import WorkspaceRow
from tests.fake_label_studio import TOKEN, FakeLabelStudio, ranking_result, verdict_result

PROGRAM = (sys.executable, str(Path(__file__).with_name("fast_stages.py")))
ROOT = Path(__file__).resolve().parents[2]


class Whole:
    """One team with its projects; `service` can be stopped and made again on the same data."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.environment: dict[str, str] = {}
        self.label_studio = FakeLabelStudio()
        given = {
            "label_studio_url": self.label_studio.url, "label_studio_api_key": TOKEN, "data_dir": directory,
            "reconcile_seconds": 0.2, "train_after_rankings": 6, "review_seen": 3, "review_unseen": 3,
            "training_cooldown_s": 0.0, "base_model": str(directory / "base"), **settings,
        }  # fmt: skip
        self.settings = Settings(**given)
        self.projects = {
            kind: int(self.client().create_project(title=kind, label_config=label_config.read(kind))["id"])
            for kind in label_config.NAMES
        }
        store = Store(self.settings.store_url)
        store.create_all()
        with store.session() as session:
            fields = {f"{kind}_project": project for kind, project in self.projects.items()}
            session.add(WorkspaceRow(id="team", title="Team", **fields))
        store.close()
        self.service = self.make_service()

    def client(self) -> LabelStudioClient:
        return LabelStudioClient(
            self.label_studio.url, TOKEN, 5, transport=self.label_studio.transport(), backoff_s=0.01
        )

    def make_service(self) -> Service:
        launcher = Launcher(
            Store(self.settings.store_url), self.settings.runs_dir, program=PROGRAM, poll_s=0.05, grace_s=1,
            retry_delay_s=0.05, environment={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
        )  # fmt: skip
        return Service(self.settings, client=self.client(), launcher=launcher)

    def restart(self) -> None:
        self.service.stop()
        self.service = self.make_service()
        self.service.start()

    # --- what people do ---

    def import_prompts(self, number: int, word: str = "question") -> None:
        for n in range(number):
            self.label_studio.add_task(self.projects["prompts"], {"prompt": f"{word} {n}"})
        self.service.hint(self.projects["prompts"], "TASKS_CREATED")

    def tasks(self, kind: label_config.Name) -> list[dict[str, Any]]:
        rows = list(self.label_studio.task_rows.values())
        return [row for row in rows if row["project"] == self.projects[kind]]

    def rank(self, number: int, user: int = 1) -> None:
        """Rank tasks that this user has not ranked, shorter answers first."""
        done = {a["task"] for a in self.label_studio.annotation_rows.values() if a["completed_by"] == user}
        for task in [task for task in self.tasks("ranking") if task["id"] not in done][:number]:
            answers = sorted(task["data"]["answers"], key=lambda answer: len(answer["body"]))
            result = ranking_result(*(answer["id"] for answer in answers))
            self.label_studio.annotate(task["id"], result, user=user)
        self.service.hint(self.projects["ranking"], "ANNOTATION_CREATED")

    def review(self, prefer: str = "AFTER") -> None:
        """Judge every comparison that is not judged."""
        done = {annotation["task"] for annotation in self.label_studio.annotation_rows.values()}
        for task in [task for task in self.tasks("review") if task["id"] not in done]:
            side = "left" if task["data"]["left"].startswith(prefer) else "right"
            self.label_studio.annotate(task["id"], verdict_result(side))
        self.service.hint(self.projects["review"], "ANNOTATION_CREATED")

    # --- waiting ---

    def wait(self, condition: Callable[[], object], timeout_s: float = 40) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.service.status("team")
            time.sleep(0.05)

    def wait_for_round(self, state: str, number: int = 1) -> None:
        def reached() -> bool:
            found = self.service.status("team").round
            return found is not None and (found.number, found.state) == (number, state)

        self.wait(reached)

    def published(self) -> int:
        return self.service.status("team").counts.prompts_published
