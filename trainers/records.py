"""The records that travel between the stages, and their JSON Lines form.

Standard library only: everything else may import this, this imports nothing of ours but the errors.
Data flows Prompt -> Candidates -> Ranking -> (`trainers.preferences`) Preference -> ... -> Comparison.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from trainers.errors import RecordError

Language = Literal["zh", "en"]
Split = Literal["train", "verification", "unseen"]
"""`train`: the reward model and PPO learn from it. `verification`: chooses the checkpoint. `unseen`: nothing
learns from it or is chosen by it; held-out accuracy uses `verification` and `unseen`."""


class Record:
    """A frozen dataclass that goes to and from one JSON object."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Raises: RecordError: a field is missing or unknown, is no text or none of its choices."""
        try:
            record = cls(**data)
        except TypeError as error:
            raise RecordError(f"`{cls.__name__}` cannot be read from {sorted(data)}: {error}") from error
        for name, choices in _text_fields(cls).items():  # type: ignore[arg-type] # mypy: a class is hashable
            value = getattr(record, name)
            if not isinstance(value, str):
                raise RecordError(f"`{name}` is a {type(value).__name__}; needed is a text")
            if choices and value not in choices:
                raise RecordError(f"`{name}` is `{value[:20]}`; needed is one of {', '.join(choices)}")
        return record


@cache
def _text_fields(kind: type[Record]) -> dict[str, tuple[str, ...]]:
    """Fields that hold text, with what is allowed in them; nothing named allows all."""
    types = get_type_hints(kind)
    return {name: get_args(own) for name, own in types.items() if own is str or get_origin(own) is Literal}


@dataclass(frozen=True)
class Message(Record):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt(Record):
    """What the model is asked: the last user turn, with what came before it."""

    id: str
    text: str
    system: str = ""
    history: tuple[Message, ...] = ()
    split: Split = "train"

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        history = tuple(Message.from_json(turn) for turn in data.get("history", ()))
        return super().from_json({**data, "history": history})


@dataclass(frozen=True)
class Response(Record):
    """One answer to one prompt, with where it came from."""

    id: str
    prompt_id: str
    text: str
    policy: str
    """Id of the model that wrote it; `base` is the base model."""
    style: str = "default"
    """Key of the style instruction that it was sampled with (`trainers.generate.STYLES`)."""
    temperature: float = 1.0
    finished: bool = True
    """True if the model ended by itself, False if it was cut at the length limit."""
    flags: tuple[str, ...] = ()
    """Faults that quality control found and could not mend, e.g. `near_duplicate`."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return super().from_json({**data, "flags": tuple(data.get("flags", ()))})


@dataclass(frozen=True)
class Candidates(Record):
    """A prompt with the answers to rank."""

    prompt: Prompt
    responses: tuple[Response, ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(Prompt.from_json(data["prompt"]), tuple(Response.from_json(r) for r in data["responses"]))


@dataclass(frozen=True)
class Ranking(Record):
    """One annotator's order of the answers to one prompt."""

    id: str
    prompt_id: str
    annotator: str
    order: tuple[tuple[str, ...], ...]
    """Response ids from best to worst; ids in one group are tied."""
    close: bool = False
    """The annotator called it a close call."""
    all_bad: bool = False
    """The annotator found no answer acceptable; the order still counts."""
    round: int = 1
    """Round of the loop that it was made in; older ones may count less (`trainers.preferences`)."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return super().from_json({**data, "order": tuple(tuple(group) for group in data["order"])})


@dataclass(frozen=True)
class Preference(Record):
    """One response preferred to another, by one or more annotators."""

    prompt_id: str
    chosen_id: str
    rejected_id: str
    weight: float = 1.0
    """(votes for − votes against) / number of votes, in (0, 1]; votes of older rounds may count less."""
    votes: int = 1


@dataclass(frozen=True)
class Comparison(Record):
    """The answers of two models to one prompt, for blind review."""

    id: str
    prompt: Prompt
    seen: bool
    """True if PPO trained on the prompt."""
    before: Response
    after: Response

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return super().from_json(
            {
                **data,
                "prompt": Prompt.from_json(data["prompt"]),
                "before": Response.from_json(data["before"]),
                "after": Response.from_json(data["after"]),
            }
        )


RecordT = TypeVar("RecordT", bound=Record)


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write one record a line; the file appears whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", errors="replace") as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_jsonl(path: Path, kind: type[RecordT]) -> list[RecordT]:
    """Read the records of a file.

    Raises:
        RecordError: the file is missing, or a line is no record of this kind; names the line.
    """
    if not path.is_file():
        raise RecordError(f"`{path}` is missing; needed is a JSON Lines file with a `{kind.__name__}` a line")
    records = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                records.append(kind.from_json(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RecordError(f"`{path}` line {number} is no `{kind.__name__}`: {error}") from error
    return records
