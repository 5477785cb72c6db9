"""Shows our results to people in Label Studio: ranking tasks, review tasks, the report, predicted orders.

Every task that we write carries a `source_key` that says which row it was made from. Before writing, also
before trying again, Label Studio is asked which keys are there: a crash or a timeout makes no twin. Raises
what `backend.label_studio` raises; `backend.workflow` decides about trying again.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

import label_config
from backend import store as queries
from backend.annotations import (
    ranking_prediction,
    ranking_source_key,
    ranking_task_data,
    repeat_source_key,
    report_source_key,
    review_source_key,
    review_task_data,
    shown_prompt,
)
from backend.inputs import prompt_record
from backend.label_studio import LabelStudioClient
from backend.ranking_queue import next_tasks
from backend.report import Report, outcome, to_html
from backend.store import Store
from backend.tables import ComparisonRow, PromptRow, ResponseRow
from trainers.acquisition import Aim

log = logging.getLogger(__name__)

BATCH = 200
"""Tasks in one import: small enough that it is done long before the request times out."""


class WriteBack:
    """Writes to one Label Studio."""

    def __init__(self, opened: Store, client: LabelStudioClient) -> None:
        self.store = opened
        self.client = client

    def publish_rankings(self, workspace_id: str, repeated: float = 0.0) -> int:
        """Make the ranking task of every prompt that is ready, and after them a second one of some.

        Args:
            repeated: share of the prompts that get a second task. Whoever ranked the first may be served it
                too; only the agreement of that person with themselves is measured by it.
        Returns: how many prompts were published.
        """
        with self.store.reading() as session:
            project = queries.workspace(session, workspace_id).ranking_project
            answers = _answers(session, workspace_id)
            ready = queries.prompts(session, workspace_id, "ready")
            tasks = {
                _ranking_key(prompt): _ranking_data(prompt, answers[prompt.prompt_id]) for prompt in ready
            }
            again = {
                _repeat_key(prompt): _repeat_data(prompt, answers[prompt.prompt_id])
                for prompt in ready
                if _is_chosen(prompt.prompt_id, repeated)
            }
        found = self._ensure(project, {**tasks, **again})
        with self.store.session() as session:
            for prompt in queries.prompts(session, workspace_id, "ready"):
                if (key := _ranking_key(prompt)) in found:
                    prompt.ranking_task, prompt.state = found[key], "published"
        return len(tasks)

    def publish_reviews(self, workspace_id: str, round_id: str) -> int:
        """Make the review task of every comparison of a round. Returns: how many there are."""
        with self.store.reading() as session:
            project = queries.workspace(session, workspace_id).review_project
            tasks = {
                review_source_key(workspace_id, comparison.id): _review_data(comparison)
                for comparison in queries.comparisons(session, round_id)
            }
        found = self._ensure(project, tasks)
        with self.store.session() as session:
            for comparison in queries.comparisons(session, round_id):
                comparison.review_task = found[review_source_key(workspace_id, comparison.id)]
        return len(found)

    def publish_report(self, workspace_id: str, report: Report) -> int | None:
        """Make the report task of a round. Returns: its id, none if the workspace has no report project."""
        with self.store.reading() as session:
            project = queries.workspace(session, workspace_id).report_project
        if project is None:
            return None
        key = report_source_key(workspace_id, report.number)
        data = {
            label_config.ROUND: outcome(report), label_config.REPORT: to_html(report),
            label_config.SOURCE_KEY: key,
        }  # fmt: skip
        return self._ensure(project, {key: data})[key]

    def publish_predictions(self, workspace_id: str, model_id: str, aim: Aim) -> int:
        """Let Label Studio serve those tasks first whose ranking helps most; see `backend.ranking_queue`.

        Label Studio serves the lowest score of the project's `model_version` first; with several annotators
        each gets one of the lowest few, so that they do not meet. Tasks without a score come last.

        Returns: how many predictions were written.
        """
        with self.store.reading() as session:
            project = queries.workspace(session, workspace_id).ranking_project
            predictions = [
                {
                    "task": found.task,
                    **ranking_prediction(found.order, score=found.place, model_version=model_id),
                }
                for found in next_tasks(session, workspace_id, aim)
            ]
        if predictions:
            self.client.create_predictions(project, predictions)
            self.client.update_project(project, model_version=model_id, sampling="Uncertainty sampling")
        return len(predictions)

    def _ensure(self, project: int, wanted: Mapping[str, dict[str, Any]]) -> dict[str, int]:
        """Task id of every wanted key, made if it is not there."""
        if not wanted:
            return {}
        known = self.client.source_keys(project)
        missing = [key for key in wanted if key not in known]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            ids = self.client.import_tasks(project, [wanted[key] for key in batch])
            known.update(zip(batch, ids, strict=True))
        if missing:
            log.info("project %d: wrote %d tasks", project, len(missing))
        return {key: known[key] for key in wanted}


def _answers(session: Session, workspace_id: str) -> dict[str, list[ResponseRow]]:
    """The answers of each prompt in displayed order."""
    found: dict[str, list[ResponseRow]] = defaultdict(list)
    for response in queries.responses(session, workspace_id):
        found[response.prompt_id].append(response)
    return found


def _ranking_key(prompt: PromptRow) -> str:
    return ranking_source_key(prompt.workspace, prompt.round, prompt.prompt_id)


def _ranking_data(prompt: PromptRow, answers: Sequence[ResponseRow]) -> dict[str, Any]:
    shown = [(answer.id, answer.text) for answer in answers]
    asked = shown_prompt(prompt_record(prompt))
    return ranking_task_data(asked, shown, source_key=_ranking_key(prompt))


def _repeat_key(prompt: PromptRow) -> str:
    return repeat_source_key(prompt.workspace, prompt.round, prompt.prompt_id)


def _repeat_data(prompt: PromptRow, answers: Sequence[ResponseRow]) -> dict[str, Any]:
    """In the opposite order: who submits what is displayed disagrees with themselves."""
    return {**_ranking_data(prompt, answers[::-1]), label_config.SOURCE_KEY: _repeat_key(prompt)}


def _is_chosen(prompt_id: str, share: float) -> bool:
    """The same choice whatever else there is."""
    digest = hashlib.sha256(f"repeat/{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _review_data(comparison: ComparisonRow) -> dict[str, Any]:
    sides = (comparison.after, comparison.before)
    left, right = sides if comparison.after_side == "left" else sides[::-1]
    return review_task_data(
        comparison.prompt, left, right, source_key=review_source_key(comparison.workspace, comparison.id)
    )
