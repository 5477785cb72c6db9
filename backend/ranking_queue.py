"""Which tasks to rank next, best first: what Label Studio serves by and what the advice names.

Reads rows only. `trainers.acquisition` says which prompts help most; `backend.writeback` writes their places
into Label Studio as prediction scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from sqlalchemy.orm import Session

from backend import store
from backend.tables import ResponseRow
from trainers.acquisition import Aim, Unranked, aim_of, places
from trainers.evaluation import Outcome
from trainers.records import Split


@dataclass(frozen=True)
class NextTask:
    """A task that nobody has ranked."""

    prompt_id: str
    split: Split
    task: int
    order: tuple[str, ...]
    """The reward model's order of the answers, best first."""
    place: float
    """Its place in the queue, from 0 (rank it next) to 1."""


def next_tasks(session: Session, workspace_id: str, aim: Aim) -> list[NextTask]:
    """The tasks that nobody ranked and whose answers all have a score, the most useful first."""
    ranked = {ranking.task for ranking in store.active_rankings(session, workspace_id)}
    answers: dict[str, list[ResponseRow]] = {}
    for response in store.responses(session, workspace_id):
        answers.setdefault(response.prompt_id, []).append(response)
    found: dict[str, NextTask] = {}
    scores: dict[str, tuple[float, ...]] = {}
    for prompt in store.prompts(session, workspace_id, "published"):
        key, task, ordered = (
            prompt.prompt_id,
            prompt.ranking_task,
            by_score(answers.get(prompt.prompt_id, ())),
        )
        if task is not None and task not in ranked and ordered is not None:
            order = tuple(response.id for response in ordered)
            found[key] = NextTask(key, cast(Split, prompt.split), task, order, place=0.0)
            scores[key] = scores_of(ordered)
    place = places([Unranked(key, own.split, scores[key]) for key, own in found.items()], aim)
    return [replace(found[key], place=at) for key, at in place.items()]


def prompts_to_name(tasks: Iterable[NextTask], aim: Aim) -> list[str]:
    """Ids of the prompts among the next tasks that serve the aim, in the same order."""
    wanted: dict[Aim, set[Split]] = {"learn": {"train"}, "measure": {"verification", "unseen"}}
    return [found.prompt_id for found in tasks if found.split in wanted.get(aim, {found.split})]


def aim_of_result(reward: Mapping[str, Any], gate_accuracy: float) -> Aim:
    """What the next rankings are for, by the result of a reward run."""
    outcome = cast(Outcome, reward.get("outcome", "passed"))
    return aim_of(outcome, reward.get("accuracy"), gate_accuracy)


def by_score(responses: Sequence[ResponseRow]) -> list[ResponseRow] | None:
    """The answers to one prompt, best first; none if one has no score or there are fewer than two."""
    if len(responses) < 2 or any(response.score is None for response in responses):
        return None
    return sorted(responses, key=lambda response: (-cast(float, response.score), response.id))


def scores_of(scored: Sequence[ResponseRow]) -> tuple[float, ...]:
    """The scores of answers that all have one."""
    return tuple(cast(float, response.score) for response in scored)
