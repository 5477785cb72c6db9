"""Reads the prompts that a user brings: CSV, JSON, JSON Lines or plain text, one prompt a line.

Pure file reading; knows nothing of Label Studio. What Label Studio's own import would choke on or silently take
(another encoding, a missing column, empty lines, duplicates) is mended here or said with the line's number.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.errors import PromptFileError

COLUMNS = ("prompt", "question", "text", "instruction", "题目", "问题", "提示")
"""Names of the column that holds the prompt, in order of preference."""
LONGEST_PROMPT = 4000
MOST_PROMPTS = 10_000


def read_prompts(path: Path) -> list[str]:
    """The distinct prompts of a file, in its order.

    Raises: PromptFileError: it cannot be read, holds no prompt, or too many or too long ones.
    """
    text = _decode(path)
    try:
        found = _parse(path, text)
    except (csv.Error, RecursionError) as error:
        raise PromptFileError(f"`{path}` cannot be read as {path.suffix[1:].upper()}: {error}") from error
    prompts: dict[str, None] = {}
    for number, value in found:
        if prompt := " ".join(value.split()):
            if len(prompt) > LONGEST_PROMPT:
                raise PromptFileError(
                    f"`{path}` line {number}: the prompt has {len(prompt)} characters; at most are {LONGEST_PROMPT}"
                )
            prompts[prompt] = None
    if not prompts:
        raise PromptFileError(f"`{path}` holds no prompt; needed is one a line, or a column `prompt`")
    if len(prompts) > MOST_PROMPTS:
        raise PromptFileError(
            f"`{path}` holds {len(prompts)} prompts; at most {MOST_PROMPTS} go in at once (100 to 200 are enough"
            " for a round): split the file"
        )
    return list(prompts)


def write_prompts(path: Path, prompts: Sequence[str]) -> None:
    """A CSV file as Label Studio imports it: one column `prompt`, UTF-8."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["prompt"])
        writer.writerows([prompt] for prompt in prompts)


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PromptFileError(f"`{path}` cannot be read: {error.strerror or error}") from error
    for encoding in ("utf-8-sig", "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise PromptFileError(f"`{path}` is neither UTF-8 nor GB18030 text; save it as UTF-8")


def _parse(path: Path, text: str) -> list[tuple[int, str]]:
    """(line number, prompt) of every entry; of JSON the number of the entry."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _csv(path, text, "\t" if suffix == ".tsv" else ",")
    if suffix == ".json":
        entries = _json(path, text, 1)
        if not isinstance(entries, list):
            raise PromptFileError(f'`{path}` is no list; needed is ["…", …] or [{{"prompt": "…"}}, …]')
        return [(number, _prompt_of(path, entry, number)) for number, entry in enumerate(entries, start=1)]
    lines = list(enumerate(text.splitlines(), start=1))
    if suffix == ".jsonl":
        return [(n, _prompt_of(path, _json(path, line, n), n)) for n, line in lines if line.strip()]
    if suffix in (".txt", ".md", ""):
        return lines
    raise PromptFileError(f"`{path}` ends in `{suffix}`; needed is .csv, .tsv, .json, .jsonl or .txt")


def _csv(path: Path, text: str, delimiter: str) -> list[tuple[int, str]]:
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)
    names = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = names
    column = next((name for name in COLUMNS if name in names), None)
    if column is None:
        raise PromptFileError(
            f"`{path}` has the columns {', '.join(f'`{name}`' for name in names) or 'none'};"
            " needed is one named `prompt`"
        )
    return [(reader.line_num, row[column] or "") for row in reader]


def _json(path: Path, text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise PromptFileError(f"`{path}` line {number} is no JSON: {error}") from error


def _prompt_of(path: Path, entry: Any, number: int) -> str:
    if isinstance(entry, dict):
        entry = next((entry[name] for name in COLUMNS if name in entry), None)
    if not isinstance(entry, str):
        raise PromptFileError(f"`{path}` entry {number} has no text under `prompt`")
    return entry
