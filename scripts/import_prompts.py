"""Puts the prompts of a file into a workspace: `python -m scripts.import_prompts FILE --workspace NAME`.

`scripts.prompt_file` reads it; the tasks go into the workspace's prompts project, where the backend finds
them like any import made in Label Studio. What is there already is left out, so that an import that was cut
off can be repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend import store as queries
from backend.annotations import ParsedPrompt, parse_prompt
from backend.errors import BackendError
from backend.label_studio import LabelStudioClient
from backend.settings import Settings
from backend.store import Store
from label_config import HISTORY, PROMPT, SYSTEM
from scripts.display import Display, Stage
from scripts.prompt_file import read_prompt_file

BATCH = 200


@dataclass(frozen=True)
class Imported:
    """What became of a file's prompts."""

    project: int
    imported: int
    present: int
    """Prompts that the project held before."""
    empty: int
    duplicates: int

    def describe(self) -> str:
        left_out = {
            "already there": self.present,
            "empty": self.empty,
            "duplicate": self.duplicates,
        }
        said = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
        return f"{self.imported} prompts" + (f"; left out: {said}" if said else "")


def import_prompts(
    path: Path, project: int, client: LabelStudioClient, stage: Stage | None = None
) -> Imported:
    """Import the prompts of a file that the project does not hold yet.

    Raises:
        PromptFileError: the file cannot be used; nothing was imported.
        LabelStudioError: Label Studio did not take them all; a repetition goes on from there.
    """
    file = read_prompt_file(path)
    parsed = (parse_prompt(task["data"]) for task in client.tasks(project, annotations=False))
    known = {prompt.prompt_id for prompt in parsed if isinstance(prompt, ParsedPrompt)}
    new = [prompt for prompt in file.prompts if prompt.prompt_id not in known]
    for start in range(0, len(new), BATCH):
        client.import_tasks(project, [_task_data(prompt) for prompt in new[start : start + BATCH]])
        if stage:
            stage.count(min(start + BATCH, len(new)), len(new))
    return Imported(project, len(new), len(file.prompts) - len(new), file.empty, file.duplicates)


def _task_data(prompt: ParsedPrompt) -> dict[str, Any]:
    history = [turn.to_json() for turn in prompt.history]
    parts = {PROMPT: prompt.text, SYSTEM: prompt.system, HISTORY: history}
    return {name: value for name, value in parts.items() if value}


def _project_of(settings: Settings, workspace: str) -> int:
    store = Store(settings.store_url)
    try:
        store.create_all()
        with store.reading() as session:
            return queries.workspace(session, workspace).prompts_project
    finally:
        store.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Import a file, and say what was left out."""
    parser = argparse.ArgumentParser(prog="python -m scripts.import_prompts", description=__doc__)
    parser.add_argument("file", type=Path, help=".csv or .tsv with a column `prompt`, .json, .jsonl or .txt")
    parser.add_argument("--workspace", required=True, help="the name given to scripts.setup_project")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.from_environment()
        project = _project_of(settings, options.workspace)
        with LabelStudioClient.of(settings) as client:
            client.check()
            with Display().stage(f"Importing {options.file.name} · 导入题目") as stage:
                stage.outcome = import_prompts(options.file, project, client, stage).describe()
    except BackendError as error:
        print(f"not imported: {error}", file=sys.stderr)
        return 2
    print(f"  {settings.label_studio_url}/projects/{project}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
