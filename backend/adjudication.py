"""Shows in Label Studio which tasks divide the team, and sends them to one more annotator.

A task on which the annotators disagree more often than they agree (`trainers.agreement`) gets its
disagreement as a column of task data, and the table a tab with these tasks alone. Label Studio is asked what
it shows before anything is written, so that marking again writes nothing. Writing moves a task's
`updated_at`: `backend.reconcile` reads it again and finds nothing new. `backend.overlap` lets it serve them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sqlalchemy.orm import Session

import label_config
from backend import overlap
from backend import store as queries
from backend.inputs import ranking_record
from backend.label_studio import LabelStudioClient
from backend.settings import Settings
from backend.store import Store
from trainers.agreement import PromptAgreement, prompt_agreements

log = logging.getLogger(__name__)

MOST_MARKED = 50
"""Tasks that are marked at a time, the most divisive: each costs Label Studio a third of a second."""
TAB = "分歧 Disagreement"


def send_on(store: Store, client: LabelStudioClient, settings: Settings, workspace_id: str) -> int:
    """Mark the tasks that divide the team, and let each be ranked by one person more than have.

    Returns: how many tasks that are.
    Raises: LabelStudioError: Label Studio did not answer; the same again goes on where it was.
    """
    project, contested = _read(store, workspace_id)
    marked = _mark(client, project, contested)
    with store.session() as session:
        overlap.ask(session, workspace_id, {task: own.annotators + 1 for task, own in contested.items()})
    overlap.serve(store, client, settings, workspace_id)
    return marked


def mark_contested(store: Store, client: LabelStudioClient, workspace_id: str) -> int:
    """Bring the marks up to date.

    Returns: how many tasks are marked now.
    Raises: LabelStudioError: Label Studio did not answer; the same again goes on where it was.
    """
    return _mark(client, *_read(store, workspace_id))


def _read(store: Store, workspace_id: str) -> tuple[int, dict[int, PromptAgreement]]:
    """The ranking project, and its contested tasks."""
    with store.reading() as session:
        return queries.workspace(session, workspace_id).ranking_project, _contested(session, workspace_id)


def _mark(client: LabelStudioClient, project: int, contested: Mapping[int, PromptAgreement]) -> int:
    tasks = {task["id"]: task["data"] for task in client.tasks(project, annotations=False)}
    for task, data in tasks.items():
        found = contested.get(task)
        mark = None if found is None else _percent(found)
        if data.get(label_config.DISAGREEMENT) != mark:
            rest = {key: value for key, value in data.items() if key != label_config.DISAGREEMENT}
            marked = rest if mark is None else {**rest, label_config.DISAGREEMENT: mark}
            client.update_task(task, marked)
    shown = contested.keys() & tasks.keys()
    if shown and TAB not in {tab["data"].get("title") for tab in client.tabs(project)}:
        client.create_tab(
            project,
            TAB,
            label_config.hidden_columns("ranking"),
            widths=label_config.column_widths("ranking"),
            filled=label_config.DISAGREEMENT,
        )
    log.info("project %d: %d tasks divide the team", project, len(shown))
    return len(shown)


def _contested(session: Session, workspace_id: str) -> dict[int, PromptAgreement]:
    """Ranking task → how far its annotators agree, of the most divisive ones."""
    tasks = {
        prompt.prompt_id: prompt.ranking_task
        for prompt in queries.prompts(session, workspace_id, "published")
        if prompt.ranking_task is not None
    }
    rankings = [ranking_record(row) for row in queries.active_rankings(session, workspace_id)]
    found = [own for own in prompt_agreements(rankings) if own.contested and own.prompt_id in tasks]
    return {tasks[own.prompt_id]: own for own in found[:MOST_MARKED]}


def _percent(found: PromptAgreement) -> int:
    """Share of the judgements in which two annotators disagree, in whole percent."""
    return round(100 * (1 - (found.rate or 0.0)))
