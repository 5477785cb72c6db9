"""Between Label Studio's JSON and our records. Pure: no request, no database.

`backend.reconcile` parses what people wrote with it, the workflow builds task data with it. Nothing that
comes from Label Studio is trusted to have a shape: what cannot be read becomes `Malformed` with a reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from label_config import (
    ALL_BAD,
    ANSWERS,
    CLOSE,
    HISTORY,
    JUDGEMENT,
    LEFT,
    PROMPT,
    RANKING,
    RIGHT,
    SOURCE_KEY,
    SYSTEM,
    TIE,
    VERDICT,
)
from trainers.errors import RecordError
from trainers.preferences import normalise_prompt, prompt_id
from trainers.records import Message, Prompt

MAX_PROMPT_CHARACTERS = 4000
SUSPICIOUS_LEAD_TIME_S = 2.0
"""Submitted faster than this and in the displayed order: perhaps not read."""

_REPEAT = "repeat:"
_UNNAMED_COLUMN = "$undefined$"  # what Label Studio calls the lines of a text file
_SPEAKERS = {"user": "Q: ", "assistant": "A: "}


@dataclass(frozen=True)
class Malformed:
    """An annotation or task that cannot be used, and why."""

    reason: str


@dataclass(frozen=True)
class Cancelled:
    """The annotator skipped the task."""


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt as it was imported, normalised."""

    prompt_id: str
    text: str
    system: str = ""
    history: tuple[Message, ...] = ()


@dataclass(frozen=True)
class ParsedRanking:
    """One annotator's order of the answers of one task."""

    order: tuple[tuple[str, ...], ...]
    """Groups of response ids from best to worst; ids in one group are tied."""
    close: bool = False
    all_bad: bool = False
    suspicious: bool = False


@dataclass(frozen=True)
class ParsedJudgement:
    """Which side a reviewer preferred."""

    side: Literal["left", "right", "tie"]


# --- prompts ---


def parse_prompt(data: object) -> ParsedPrompt | Malformed:
    """The prompt of a task of the prompts project.

    Reasons: `missing_column`, `empty`, `bad_history`, `too_long`.
    """
    if not isinstance(data, Mapping):
        return Malformed("missing_column")
    text = data.get(PROMPT, data.get(_UNNAMED_COLUMN))
    if isinstance(text, int | float):
        text = str(text)
    if not isinstance(text, str):
        return Malformed("missing_column")
    if not (text := _normalise(text)):
        return Malformed("empty")
    if (history := _parse_history(data.get(HISTORY))) is None:
        return Malformed("bad_history")
    system = data.get(SYSTEM)
    system = _normalise(system) if isinstance(system, str) else ""
    if len(text) + len(system) + sum(len(turn.content) for turn in history) > MAX_PROMPT_CHARACTERS:
        return Malformed("too_long")
    return ParsedPrompt(prompt_id(text, system, history), text, system, history)


def _normalise(text: str) -> str:
    try:
        return normalise_prompt(text)
    except RecordError:
        return ""


def _parse_history(value: object) -> tuple[Message, ...] | None:
    """The turns before the prompt, the user's and the assistant's in turn; `None` if they are something else.

    In a CSV file they are JSON in a cell.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list):
        return None
    turns = []
    for number, turn in enumerate(value):
        role: Literal["user", "assistant"] = "assistant" if number % 2 else "user"
        content = turn.get("content") if isinstance(turn, Mapping) and turn.get("role") == role else None
        if not isinstance(content, str) or not (content := _normalise(content)):
            return None
        turns.append(Message(role, content))
    return tuple(turns) if len(turns) % 2 == 0 else None


# --- what people wrote ---


def result_hash(annotation: Mapping[str, Any]) -> str:
    """What the annotation says, without the random region ids that Label Studio adds."""
    kept = [
        [region.get("from_name"), region.get("type"), region.get("value")]
        for region in _regions(annotation)
        if region.get("from_name") in (RANKING, JUDGEMENT, VERDICT)
    ]
    content = json.dumps(
        [bool(annotation.get("was_cancelled")), sorted(kept, key=lambda region: str(region[0]))],
        sort_keys=True,
    )
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def annotator_of(annotation: Mapping[str, Any]) -> int:
    """The user who wrote it; 0 if that account is gone."""
    user = annotation.get("completed_by")
    if isinstance(user, Mapping):
        user = user.get("id")
    return user if isinstance(user, int) and not isinstance(user, bool) else 0


def displayed_ids(data: object) -> tuple[str, ...] | Malformed:
    """The answers' ids of a ranking task, in the order in which they are displayed."""
    answers = data.get(ANSWERS) if isinstance(data, Mapping) else None
    if not isinstance(answers, list) or len(answers) < 2:
        return Malformed("the task has no answers to rank")
    ids = tuple(str(answer.get("id")) if isinstance(answer, Mapping) else "" for answer in answers)
    if "" in ids or "None" in ids or len(set(ids)) < len(ids):
        return Malformed("the task's answers have no distinct ids")
    return ids


def parse_ranking(
    annotation: Mapping[str, Any], displayed: Sequence[str]
) -> ParsedRanking | Malformed | Cancelled:
    """Read an annotation of the ranking project.

    A tie, or all bad without an order, puts all answers into one group. A partial list orders what it names.
    Label Studio sends the displayed order where nobody moved an answer: with all bad, that is no order.
    """
    if annotation.get("was_cancelled"):
        return Cancelled()
    rank = _rank(annotation, displayed)
    if isinstance(rank, Malformed):
        return rank
    choice = _choice(annotation, JUDGEMENT)
    untouched = list(rank) == list(displayed)
    if choice == TIE or (choice == ALL_BAD and (untouched or not rank)):
        return ParsedRanking(order=(tuple(sorted(displayed)),), all_bad=choice == ALL_BAD)
    if len(rank) < 2:
        return Malformed("the ranking is empty" if not rank else "the ranking names one answer only")
    lead_time = lead_time_of(annotation)
    hasty = lead_time is not None and lead_time < SUSPICIOUS_LEAD_TIME_S
    return ParsedRanking(
        order=tuple((answer,) for answer in rank),
        close=choice == CLOSE,
        all_bad=choice == ALL_BAD,
        suspicious=untouched and hasty,
    )


def parse_judgement(annotation: Mapping[str, Any]) -> ParsedJudgement | Malformed | Cancelled:
    """Read an annotation of the review project."""
    if annotation.get("was_cancelled"):
        return Cancelled()
    choice = _choice(annotation, VERDICT)
    if choice == LEFT:
        return ParsedJudgement("left")
    if choice == RIGHT:
        return ParsedJudgement("right")
    if choice == TIE:
        return ParsedJudgement("tie")
    return Malformed("no verdict was chosen" if choice is None else "the verdict is none of left, tie, right")


def lead_time_of(annotation: Mapping[str, Any]) -> float | None:
    """Seconds that the annotator took; none where Label Studio did not measure it."""
    value = annotation.get("lead_time")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


# --- what we show ---


def ranking_task_data(
    prompt: str, responses: Sequence[tuple[str, str]], *, source_key: str
) -> dict[str, Any]:
    """The data of a ranking task.

    Args:
        prompt: from `shown_prompt`.
        responses: (id, text) in displayed order, which must be shuffled.
        source_key: from `ranking_source_key`.
    """
    answers = [{"id": response_id, "body": text} for response_id, text in responses]
    return {PROMPT: prompt, ANSWERS: answers, SOURCE_KEY: source_key}


def review_task_data(prompt: str, left: str, right: str, *, source_key: str) -> dict[str, Any]:
    """The data of a review task; which side is which stays in our store."""
    return {PROMPT: prompt, LEFT: left, RIGHT: right, SOURCE_KEY: source_key}


def ranking_prediction(order: Sequence[str], *, score: float, model_version: str) -> dict[str, Any]:
    """A prediction that the ranking page can load: `order` must hold exactly the task's ids."""
    region = {
        "from_name": RANKING,
        "to_name": ANSWERS,
        "type": "ranker",
        "value": {"ranker": {RANKING: list(order)}},
    }
    return {"model_version": model_version, "score": score, "result": [region]}


def shown_prompt(prompt: Prompt) -> str:
    """The prompt as people see it, with its system message and what was said before."""
    parts = [f"〔{prompt.system}〕"] if prompt.system else []
    turns = [*prompt.history, Message("user", prompt.text)] if prompt.history else []
    parts += [_SPEAKERS[turn.role] + turn.content for turn in turns] or [prompt.text]
    return "\n\n".join(parts)


def ranking_source_key(workspace: str, round_number: int, prompt: str) -> str:
    return f"ranking:{workspace}:{round_number}:{prompt}"


def repeat_source_key(workspace: str, round_number: int, prompt: str) -> str:
    """Of a ranking task that is served a second time."""
    return f"{_REPEAT}{workspace}:{round_number}:{prompt}"


def is_repeat(data: object) -> bool:
    """True of the data of a ranking task that is served a second time."""
    key = data.get(SOURCE_KEY) if isinstance(data, Mapping) else None
    return isinstance(key, str) and key.startswith(_REPEAT)


def review_source_key(workspace: str, comparison_id: str) -> str:
    return f"review:{workspace}:{comparison_id}"


def report_source_key(workspace: str, round_number: int) -> str:
    return f"report:{workspace}:{round_number}"


# --- regions ---


def _regions(annotation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    result = annotation.get("result")
    return [region for region in result if isinstance(region, Mapping)] if isinstance(result, list) else []


def _values(annotation: Mapping[str, Any], control: str) -> list[Mapping[str, Any]]:
    values = (region.get("value") for region in _regions(annotation) if region.get("from_name") == control)
    return [value for value in values if isinstance(value, Mapping)]


def _choice(annotation: Mapping[str, Any], control: str) -> str | None:
    for value in _values(annotation, control):
        choices = value.get("choices")
        if isinstance(choices, list) and choices:
            return str(choices[-1])
    return None


def _rank(annotation: Mapping[str, Any], displayed: Collection[str]) -> list[str] | Malformed:
    """The listed ids; empty if there is no order at all."""
    values = _values(annotation, RANKING)
    if not values:
        return []
    ranker = values[-1].get("ranker")
    rank = ranker.get(RANKING) if isinstance(ranker, Mapping) else None
    if not isinstance(rank, list) or not all(isinstance(answer, str | int) for answer in rank):
        return Malformed("the ranking is no list of answers")
    ids = [str(answer) for answer in rank]
    if len(set(ids)) < len(ids):
        return Malformed("the ranking names an answer twice")
    if set(ids) - set(displayed):
        return Malformed("the ranking names an answer that the task does not have")
    return ids
