"""A workspace on a fake Label Studio, and a store that follows it."""

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

KINDS: tuple[label_config.Name, ...] = ("prompts", "ranking", "review")


class Followed:
    """A fake Label Studio with one workspace, and a store that is to follow it."""

    def __init__(self) -> None:
        self.fake = FakeLabelStudio()
        self.client = LabelStudioClient(self.fake.url, TOKEN, transport=self.fake.transport(), backoff_s=0)
        self.store = Store("sqlite://")
        self.store.create_all()
        self.prompts, self.ranking, self.review = (
            int(self.client.create_project(title=kind, label_config=label_config.read(kind))["id"])
            for kind in KINDS
        )
        with self.store.session() as session:
            session.add(
                WorkspaceRow(
                    id="team", title="Team", prompts_project=self.prompts, ranking_project=self.ranking,
                    review_project=self.review,
                )
            )  # fmt: skip

    def look(self, *, full: bool = False) -> Changes:
        return reconcile(self.store, self.client, "team", full=full)


class Team(Followed):
    """People who rank the tasks of the ranking project."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings(label_studio_url=FakeLabelStudio.url, label_studio_api_key=TOKEN)

    def task(self, name: str) -> int:
        """A published task of ours with the answers `name1`, `name2` and `name3`."""
        ids = [f"{name}{n}" for n in (1, 2, 3)]
        data = ranking_task_data("?", [(key, key) for key in ids], source_key=f"ranking:{name}")
        task = self.fake.add_task(self.ranking, data)
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

    def served(self, *tasks: int) -> list[tuple[int, bool] | None]:
        """Of each task for how many people it was told to ask, and whether it still does."""
        rows = [self.fake.task_rows[task] for task in tasks]
        return [(row["overlap"], not row["is_labeled"]) if "overlap" in row else None for row in rows]

    def writes(self) -> list[tuple[str, str]]:
        return [request for request in self.fake.requests if request[0] != "GET"]
