"""Between Label Studio's JSON and our records. Pure: no request, no database.

`backend.reconcile` parses what people wrote with it, the workflow builds task data with it. Nothing that
comes from Label Studio is trusted to have a shape: what cannot be read becomes `Malformed` with a reason.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from label_config import (
    ALL_BAD,
    ANSWERS,
    CLOSE,
    JUDGEMENT,
    LEFT,
    PROMPT,
    RANKING,
    RIGHT,
    SOURCE_KEY,
    TIE,
    VERDICT,
)

MAX_PROMPT_CHARACTERS = 4000
SUSPICIOUS_LEAD_TIME_S = 2.0
"""Submitted faster than this and in the displayed order: perhaps not read."""

_REPEAT = "repeat:"
_UNNAMED_COLUMN = "$undefined$"  # what Label Studio calls the lines of a text file
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


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


def normalise(text: str) -> str:
    """The same text for what looks the same: NFC, no control characters, no outer or repeated blanks."""
    text = (
        unicodedata.normalize("NFC", _SURROGATE.sub("\ufffd", text)).replace("\r\n", "\n").replace("\r", "\n")
    )
    lines = (re.sub(r"[ \t\u00a0]+", " ", _CONTROL.sub("", line)).strip() for line in text.split("\n"))
    return "\n".join(lines).strip("\n\ufeff \u3000")


def prompt_id(text: str, system: str = "") -> str:
    """`p` and 12 hex digits that depend on the normalised text and system message only."""
    content = json.dumps([normalise(text), normalise(system)], ensure_ascii=False)
    return "p" + hashlib.sha256(content.encode()).hexdigest()[:12]


def parse_prompt(data: object) -> ParsedPrompt | Malformed:
    """The prompt of a task of the prompts project. Reasons: `missing_column`, `empty`, `too_long`."""
    if not isinstance(data, Mapping):
        return Malformed("missing_column")
    text = data.get(PROMPT, data.get(_UNNAMED_COLUMN))
    if isinstance(text, int | float):
        text = str(text)
    if not isinstance(text, str):
        return Malformed("missing_column")
    system = data.get("system")
    system = normalise(system) if isinstance(system, str) else ""
    if not (text := normalise(text)):
        return Malformed("empty")
    if len(text) + len(system) > MAX_PROMPT_CHARACTERS:
        return Malformed("too_long")
    return ParsedPrompt(prompt_id(text, system), text, system)


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
        prompt: its text, with its system message if it has one (`shown_prompt`).
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


def shown_prompt(text: str, system: str = "") -> str:
    """The prompt as people see it."""
    return f"〔{system}〕\n\n{text}" if system else text


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
