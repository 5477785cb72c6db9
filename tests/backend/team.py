"""A ranking project of a fake Label Studio, and a store that follows it."""

from __future__ import annotations

from dataclasses import replace

import label_config
from backend.annotations import ranking_task_data
from backend.label_studio import LabelStudioClient
from backend.reconcile import Changes, reconcile
from backend.settings import Settings
from backend.store import Store
from backend.tables import PromptRow, ResponseRow, WorkspaceRow
from tests.fake_label_studio import TOKEN, FakeLabelStudio, ranking_result


class Team:
    """A fake Label Studio with a ranking project, and a store that follows it."""

    def __init__(self) -> None:
        self.settings = Settings(label_studio_url=FakeLabelStudio.url, label_studio_api_key=TOKEN)
        self.fake = FakeLabelStudio()
        self.client = LabelStudioClient(self.fake.url, TOKEN, transport=self.fake.transport(), backoff_s=0)
        self.store = Store("sqlite://")
        self.store.create_all()
        made = {
            kind: self.client.create_project(title=kind, label_config=label_config.read(kind))["id"]
            for kind in ("prompts", "ranking", "review")
        }
        self.project = made["ranking"]
        with self.store.session() as session:
            fields = {f"{kind}_project": project for kind, project in made.items()}
            session.add(WorkspaceRow(id="team", title="Team", **fields))

    def task(self, name: str) -> int:
        """A published task of ours with the answers `name1`, `name2` and `name3`."""
        ids = [f"{name}{n}" for n in (1, 2, 3)]
        data = ranking_task_data("?", [(key, key) for key in ids], source_key=f"ranking:{name}")
        task = self.fake.add_task(self.project, data)
        with self.store.session() as session:
            session.add_all(
                ResponseRow(id=key, workspace="team", prompt_id=name, text=key, policy="base") for key in ids
            )
            session.add(
                PromptRow(
                    workspace="team", prompt_id=name, text=name, split="train", state="published",
                    ranking_task=task,
                )
            )  # fmt: skip
        return task

    def rank(self, task: int, *orders: str) -> None:
        """One order a person, in the places of the answers: `321` is the third answer first."""
        for user, order in enumerate(orders, start=10):
            self.rank_as(user, task, order)

    def rank_as(self, user: int, task: int, order: str) -> None:
        ids = [answer["id"] for answer in self.fake.task_rows[task]["data"]["answers"]]
        self.fake.annotate(task, ranking_result(*(ids[int(n) - 1] for n in order)), user=user)

    def two_each(self) -> Settings:
        """Settings by which two people rank every task."""
        return replace(self.settings, rankings_per_task=2)

    def look(self) -> Changes:
        return reconcile(self.store, self.client, "team", full=False)

    def served(self, *tasks: int) -> list[tuple[int, bool] | None]:
        """Of each task for how many people it was told to ask, and whether it still does."""
        rows = [self.fake.task_rows[task] for task in tasks]
        return [(row["overlap"], not row["is_labeled"]) if "overlap" in row else None for row in rows]

    def writes(self) -> list[tuple[str, str]]:
        return [request for request in self.fake.requests if request[0] != "GET"]
