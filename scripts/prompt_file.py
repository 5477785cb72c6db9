"""Reads the prompts that a user brings: CSV, JSON, JSON Lines or plain text, one prompt a line.

A prompt may have a system message and earlier turns (`system`, `history`), except in plain text. Pure file
reading; knows nothing of Label Studio. What Label Studio's own import would choke on or silently take
(another encoding, a missing column, empty lines, duplicates) is mended here, or said with its line.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.annotations import MAX_PROMPT_CHARACTERS, Malformed, ParsedPrompt, parse_prompt
from backend.errors import PromptFileError
from backend.prompt_rows import MAX_PROMPTS
from label_config import HISTORY, PROMPT, SYSTEM

COLUMNS = ("prompt", "question", "text", "instruction", "题目", "问题", "提示")
"""Names of the column that holds the prompt, in order of preference."""
MOST_PROMPTS = MAX_PROMPTS
LARGEST_FILE = 64 * 2**20
_REFUSALS = {
    "missing_column": "there is no text under `prompt`",
    "too_long": f"the prompt is longer than {MAX_PROMPT_CHARACTERS} characters, with all that belongs to it",
    "bad_history": '`history` is no conversation; needed is [{"role": "user", "content": "…"}, '
    '{"role": "assistant", "content": "…"}, …], in turn, the assistant last',
}
"""What is said of a prompt, by the reason of `backend.annotations.parse_prompt`."""


@dataclass(frozen=True)
class PromptFile:
    """What a file holds."""

    prompts: list[ParsedPrompt]
    """The distinct ones, in the file's order."""
    empty: int
    """Entries without text."""
    duplicates: int
    """Entries that say the same as an earlier one."""
    encoding: str


def read_prompts(path: Path) -> list[str]:
    """The distinct texts of a file, in its order, without system message and history.

    Raises: PromptFileError: as `read_prompt_file`.
    """
    return list(dict.fromkeys(prompt.text for prompt in read_prompt_file(path).prompts))


def read_prompt_file(path: Path) -> PromptFile:
    """The prompts of a file, and what was left out.

    Raises: PromptFileError: it cannot be read, holds no prompt, or too many or too long ones.
    """
    text, encoding = _decode(path)
    try:
        found = _parse(path, text)
    except (csv.Error, RecursionError) as error:
        raise PromptFileError(f"`{path}` cannot be read as {path.suffix[1:].upper()}: {error}") from error
    prompts: dict[str, ParsedPrompt] = {}
    empty = 0
    for number, entry in found:
        match parse_prompt(entry):
            case ParsedPrompt() as prompt:
                prompts.setdefault(prompt.prompt_id, prompt)
            case Malformed("empty"):
                empty += 1
            case Malformed(reason):
                raise PromptFileError(f"`{path}` line {number}: {_REFUSALS[reason]}")
    if not prompts:
        raise PromptFileError(f"`{path}` holds no prompt; needed is one a line, or a column `prompt`")
    if len(prompts) > MOST_PROMPTS:
        raise PromptFileError(
            f"`{path}` holds {len(prompts)} prompts; a workspace takes at most {MOST_PROMPTS}, and"
            " 100 to 200 are enough for a round: leave some out, or use several workspaces"
        )
    return PromptFile(list(prompts.values()), empty, len(found) - empty - len(prompts), encoding)


def write_prompts(path: Path, prompts: Sequence[str]) -> None:
    """A CSV file as Label Studio imports it: one column `prompt`, UTF-8."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["prompt"])
        writer.writerows([prompt] for prompt in prompts)


def _decode(path: Path) -> tuple[str, str]:
    """The text and its encoding."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise PromptFileError(f"`{path}` cannot be read: {error.strerror or error}") from error
    if len(data) > LARGEST_FILE:
        raise PromptFileError(f"`{path}` is larger than {LARGEST_FILE // 2**20} MB; split the file")
    encodings = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "gb18030")
    line = 1
    for encoding in encodings:
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
    raise PromptFileError(f"`{path}` line {line} is neither UTF-8, GB18030 nor UTF-16 text; save it as UTF-8")


def _parse(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    """(line number, a prompt as a task's data) of every entry; of JSON the number of the entry."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _csv(path, text, "\t" if suffix == ".tsv" else ",")
    if suffix == ".json":
        entries = _json(path, text, 1)
        if not isinstance(entries, list):
            raise PromptFileError(f'`{path}` is no list; needed is ["…", …] or [{{"prompt": "…"}}, …]')
        return [(number, _data_of(entry)) for number, entry in enumerate(entries, start=1)]
    lines = list(enumerate(re.split(r"\r\n|\r|\n", text.rstrip("\r\n")), start=1))
    if suffix == ".jsonl":
        return [(n, _data_of(_json(path, line, n))) for n, line in lines if line.strip()]
    if suffix in (".txt", ".md", ""):
        return [(number, {PROMPT: line}) for number, line in lines]
    raise PromptFileError(f"`{path}` ends in `{suffix}`; needed is .csv, .tsv, .json, .jsonl or .txt")


def _csv(path: Path, text: str, delimiter: str) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = names
    column = next((name for name in COLUMNS if name in names), None)
    if column is None:
        shown = f"has the columns {', '.join(f'`{name}`' for name in names)}" if names else "is empty"
        raise PromptFileError(f"`{path}` {shown}; needed is a column named `prompt`")
    return [(reader.line_num, _data_of({**row, column: row[column] or ""})) for row in reader]


def _json(path: Path, text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise PromptFileError(f"`{path}` line {number} is no JSON: {error}") from error


def _data_of(entry: Any) -> dict[str, Any]:
    """What a task of the prompts project would hold: the prompt, and what belongs to it."""
    if not isinstance(entry, dict):
        return {PROMPT: entry if isinstance(entry, str) else None}
    prompt = next((entry[name] for name in COLUMNS if name in entry), None)
    return {PROMPT: prompt, SYSTEM: entry.get(SYSTEM), HISTORY: entry.get(HISTORY)}
