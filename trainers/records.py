"""The records that travel between the stages, and their JSON Lines form.

Standard library only: everything else may import this, this imports the errors and `trainers.field_types`.
Data flows Prompt -> Candidates -> Ranking -> (`trainers.preferences`) Preference -> ... -> Comparison.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from trainers.errors import RecordError
from trainers.field_types import MOST, fits, in_words

Language = Literal["zh", "en"]
Split = Literal["train", "verification", "unseen"]
"""`train`: the reward model and PPO learn from it. `verification`: chooses the checkpoint. `unseen`: nothing
learns from it or is chosen by it; held-out accuracy uses `verification` and `unseen`."""


_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,19}")
"""What a message may repeat of a text: a word as in code, never a prompt or an answer."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class Record:
    """A frozen dataclass that goes to and from one JSON object."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The record that an object holds: lists become tuples, objects records.

        Raises: RecordError: a field is missing or unknown, its value is none that its annotation allows, an
            id is empty, or a text does not fit UTF-8.
        """
        if not isinstance(data, dict):
            raise RecordError(f"a `{cls.__name__}` is {_found(data)}; needed is an object")
        fields = _fields(cls)  # type: ignore[arg-type] # mypy: a class is hashable
        if unknown := [name for name in data if name not in fields]:
            shown = f"`{unknown[0]}`" if _WORD.fullmatch(unknown[0]) else "of a name that is no word"
            raise RecordError(f"`{cls.__name__}` has no field {shown}; it has {', '.join(fields)}")
        required = [name for name, own in fields.items() if own.required]
        if missing := [name for name in required if name not in data]:
            raise RecordError(f"`{missing[0]}` is missing; a `{cls.__name__}` needs {', '.join(required)}")
        record = {}
        for name, value in data.items():
            record[name] = _read(f"`{name}`", value, fields[name].kind, fields[name].needed)
            if (name == "id" or name.endswith("_id")) and not record[name].strip():
                raise RecordError(f"`{name}` is empty; needed is at least one visible character")
        return cls(**record)


@dataclass(frozen=True)
class _Field:
    """What a field of a record may hold."""

    kind: Any
    """The annotation, resolved."""
    required: bool
    needed: str
    """What a message says is needed; empty where the annotation says it."""


@cache
def _fields(record: type[Record]) -> dict[str, _Field]:
    kinds = get_type_hints(record)
    return {
        own.name: _Field(kinds[own.name], own.default is dataclasses.MISSING, own.metadata.get("needed", ""))
        for own in dataclasses.fields(record)  # type: ignore[arg-type]
    }


def _read(where: str, value: Any, kind: Any, needed: str) -> Any:
    """The value as its annotation wants it, or the error that says where it does not fit."""
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        part = get_args(kind)[0]
        return tuple(
            _read(f"item {number} of {where}", item, part, needed)
            for number, item in enumerate(value, start=1)
        )
    if _is_record(kind) and isinstance(value, dict):
        try:
            return kind.from_json(value)
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from error
    if not fits(value, kind):
        raise RecordError(f"{where} is {_found(value)}; needed is {needed or in_words(kind)}")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise RecordError(
            f"{where} holds half a character (a lone surrogate); needed is text that fits UTF-8"
        )
    return value


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Record)


def _found(value: object) -> str:
    """A value as a message may name it: by what it is, unless it is a word."""
    if isinstance(value, str):
        return f"`{value}`" if _WORD.fullmatch(value) else "a text" if value else "empty"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return "a number" if abs(value) < MOST else "too large a number"
    if isinstance(value, float):
        return "a number" if math.isfinite(value) else "no finite number"
    return "an object" if isinstance(value, dict) else "a list"


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


@dataclass(frozen=True)
class Candidates(Record):
    """A prompt with the answers to rank."""

    prompt: Prompt
    responses: tuple[Response, ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Raises: RecordError: see `Record`; or a response is to another prompt, or has the id of another."""
        candidates = super().from_json(data)
        asked = candidates.prompt.id
        seen: set[str] = set()
        for response in candidates.responses:
            if response.prompt_id != asked:
                raise RecordError(
                    f"response `{response.id}` is to prompt `{response.prompt_id}`, but stands with prompt"
                    f" `{asked}`; needed is the same id"
                )
            if response.id in seen:
                raise RecordError(f"response `{response.id}` is there twice; needed is each id once")
            seen.add(response.id)
        return candidates


@dataclass(frozen=True)
class Ranking(Record):
    """One annotator's order of the answers to one prompt."""

    id: str
    prompt_id: str
    annotator: str
    order: tuple[tuple[str, ...], ...] = field(
        metadata={"needed": 'a list of response ids for each place, e.g. [["a1"], ["a2"]]'}
    )
    """Response ids from best to worst; ids in one group are tied."""
    close: bool = False
    """The annotator called it a close call."""
    all_bad: bool = False
    """The annotator found no answer acceptable; the order still counts."""
    round: int = 1
    """Round of the loop that it was made in; older ones may count less (`trainers.preferences`)."""


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
        found = "a directory" if path.is_dir() else "missing"
        raise RecordError(f"`{path}` is {found}; needed is a JSON Lines file with a `{kind.__name__}` a line")
    records = []
    # what is no UTF-8 becomes lone surrogates, so that its line is known
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if alien := _ALIEN.search(line):
                found = _encoding(line, alien[0])
                raise RecordError(
                    f"`{path}` line {number} is no UTF-8 text: found is {found}; needed is UTF-8, not packed"
                )
            try:
                records.append(kind.from_json(_object(line)))
            except RecordError as error:
                raise RecordError(f"`{path}` line {number} is no `{kind.__name__}`: {error}") from error
    return records


_ALIEN = re.compile("[\0\udc80-\udcff]")
_ONE_A_LINE = "needed is one JSON object a line"


def _encoding(line: str, alien: str) -> str:
    """What a line that is no UTF-8 seems to be; `alien` is its first wrong byte."""
    content = line.encode("utf-8", errors="surrogateescape")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    if content.startswith(b"\x1f\x8b"):
        return "gzip"
    return f"the byte 0x{alien.encode('utf-8', errors='surrogateescape')[0]:02x}"


def _object(line: str) -> dict[str, Any]:
    """The JSON object of a line."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        if line.lstrip().startswith("["):
            raise RecordError(f"it begins a JSON list; {_ONE_A_LINE}, not an array") from error
        column = min(error.pos, len(line.rstrip())) + 1
        raise RecordError(f"it is no JSON from column {column} on; {_ONE_A_LINE}") from error
    except RecursionError as error:
        raise RecordError(f"it is nested too deep; {_ONE_A_LINE}") from error
    except ValueError as error:
        raise RecordError(f"it holds a number that is too long; {_ONE_A_LINE}") from error
    if isinstance(value, list):
        raise RecordError(f"it is a JSON list; {_ONE_A_LINE}, not an array")
    if not isinstance(value, dict):
        found = "a text" if isinstance(value, str) else _found(value)
        raise RecordError(f"it is {found}; {_ONE_A_LINE}")
    return value
