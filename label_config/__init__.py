"""The labeling interfaces of the Label Studio projects, and the names of their controls.

`ranking.xml`, `review.xml`, `prompts.xml` and `report.xml` share `style.css`. A team may reword and restyle
them; `check` says whether `backend.annotations` can still read what they write. Standard library only.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final, Literal, get_args

Name = Literal["prompts", "ranking", "review", "report"]
NAMES: Final[tuple[Name, ...]] = get_args(Name)

PROMPT: Final = "prompt"
"""Object and task data key: the prompt's text."""
SYSTEM: Final = "system"
"""Task data key of the prompts project: the system message, where there is one."""
HISTORY: Final = "history"
"""Task data key of the prompts project: the turns before the prompt, where there are some."""
ANSWERS: Final = "answers"
"""Object and task data key: the list of `{"id", "body"}` to rank."""
RANKING: Final = "ranking"
"""Control: the order. Also the key below `ranker` in its result: `{"ranker": {"ranking": ["a2", "a1"]}}`."""
JUDGEMENT: Final = "judgement"
"""Control: `close`, `tie` or `all_bad`, or nothing when the order is clear."""
CLOSE: Final = "close"
TIE: Final = "tie"
ALL_BAD: Final = "all_bad"
VERDICT: Final = "verdict"
"""Control of the review: `left`, `tie` or `right`."""
LEFT: Final = "left"
RIGHT: Final = "right"
REPORT: Final = "report"
"""Task data key of a report: HTML."""
ROUND: Final = "round"
"""Task data key of a report: its round, and what came out, for the table of tasks."""
DISAGREEMENT: Final = "disagreement"
"""Task data key of a ranking task that divides the team: percent of the judgements in which two disagree."""
SOURCE_KEY: Final = "source_key"
"""Task data key that says which of our rows a task was made from; look for it before writing again."""

_HIDDEN_COLUMNS = (
    "tasks:inner_id", "tasks:annotations_results", "tasks:annotations_ids", "tasks:predictions_score",
    "tasks:predictions_model_versions", "tasks:predictions_results", "tasks:file_upload",
    "tasks:storage_filename", "tasks:updated_at", "tasks:updated_by", "tasks:avg_lead_time",
    "tasks:draft_exists", "tasks:total_predictions",
)  # fmt: skip
_OUR_COLUMNS: Final[dict[Name, tuple[str, ...]]] = {
    "prompts": (
        "tasks:completed_at",
        "tasks:total_annotations",
        "tasks:cancelled_annotations",
        "tasks:annotators",
    ),
    "ranking": ("tasks:data.source_key", "tasks:data.answers"),
    "review": ("tasks:data.source_key",),
    "report": ("tasks:data.source_key", "tasks:data.report"),
}
_WIDTHS: Final[dict[Name, dict[str, int]]] = {
    "prompts": {"tasks:data.prompt": 560},
    "ranking": {"tasks:data.prompt": 560},
    "review": {"tasks:data.prompt": 320, "tasks:data.left": 320, "tasks:data.right": 320},
    "report": {"tasks:data.round": 560},
}

_DIRECTORY = Path(__file__).resolve().parent
_STYLE = "/* style.css */"
_MOST_CHARACTERS = 100_000

# per interface: (tag, name, attribute, its value) of what must be there
_NEEDED: Final[dict[Name, tuple[tuple[str, str, str, str], ...]]] = {
    "prompts": (("Text", PROMPT, "value", "$prompt"),),
    "ranking": (
        ("Text", PROMPT, "value", "$prompt"),
        ("List", ANSWERS, "value", "$answers"),
        ("Ranker", RANKING, "toName", ANSWERS),
    ),
    "review": (
        ("Text", PROMPT, "value", "$prompt"),
        ("Text", LEFT, "value", "$left"),
        ("Text", RIGHT, "value", "$right"),
        ("Choices", VERDICT, "toName", PROMPT),
    ),
    "report": (("HyperText", REPORT, "value", "$report"),),
}
_CHOICES: Final[dict[str, frozenset[str]]] = {
    JUDGEMENT: frozenset({CLOSE, TIE, ALL_BAD}),
    VERDICT: frozenset({LEFT, TIE, RIGHT}),
}
_DATA: Final[dict[Name, frozenset[str]]] = {
    "prompts": frozenset({PROMPT}),
    "ranking": frozenset({PROMPT, ANSWERS, SOURCE_KEY}),
    "review": frozenset({PROMPT, LEFT, RIGHT, SOURCE_KEY}),
    "report": frozenset({REPORT, SOURCE_KEY}),
}


def read(name: Name) -> str:
    """The interface as Label Studio wants it: its XML with the shared style inside."""
    style = re.sub(
        r"/\*.*?\*/\s*", "", (_DIRECTORY / "style.css").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    return (_DIRECTORY / f"{name}.xml").read_text(encoding="utf-8").strip().replace(_STYLE, style.strip())


def hidden_columns(name: Name) -> tuple[str, ...]:
    """What a project's table of tasks has that is not for people."""
    return (*_HIDDEN_COLUMNS, *_OUR_COLUMNS[name])


def column_widths(name: Name) -> dict[str, int]:
    """Pixels for the columns that hold sentences; Label Studio gives each 150."""
    return dict(_WIDTHS[name])


def check(name: Name, xml: str) -> list[str]:
    """What keeps a changed interface from working with ours; empty if nothing does.

    Words, style and further controls are free. Names, data keys and choice values are not.
    """
    if len(xml) > _MOST_CHARACTERS or "<!DOCTYPE" in xml.upper():
        return [f"the interface is longer than {_MOST_CHARACTERS} characters or declares entities"]
    try:
        root = ET.fromstring(xml)  # noqa: S314 - no entities, bounded length
    except ET.ParseError as error:
        return [f"the interface is no XML: {error}"]
    tags = list(root.iter())
    return [
        *(fault for needed in _NEEDED[name] for fault in _tag_faults(tags, *needed)),
        *(fault for tag in tags if tag.tag == "Choices" for fault in _choice_faults(tag)),
        *_data_faults(name, tags),
    ]


def _tag_faults(tags: list[ET.Element], kind: str, name: str, attribute: str, value: str) -> list[str]:
    found = [tag for tag in tags if tag.tag == kind and tag.get("name") == name]
    if not found:
        return [f'`<{kind} name="{name}">` is missing']
    if found[0].get(attribute) != value:
        shown = found[0].get(attribute)
        return [f'`<{kind} name="{name}">` has {attribute}="{shown}"; needed is {attribute}="{value}"']
    if kind == "Ranker" and found[0].find("Bucket") is not None:
        return ["the Ranker has buckets; needed is one list from best to worst"]
    return []


def _choice_faults(tag: ET.Element) -> list[str]:
    needed = _CHOICES.get(tag.get("name", ""))
    if needed is None:
        return []
    values = {choice.get("alias") or choice.get("value") for choice in tag.iter("Choice")}
    if missing := sorted(needed - values):
        return [f'`<Choices name="{tag.get("name")}">` has no choice with alias {missing}']
    return []


def _data_faults(name: Name, tags: list[ET.Element]) -> list[str]:
    """Label Studio refuses our tasks if the interface shows a column that they do not have."""
    shown = {value[1:] for tag in tags for value in tag.attrib.values() if re.fullmatch(r"\$\w+", value)}
    return [f"`${key}` is shown, but our tasks have no such column" for key in sorted(shown - _DATA[name])]
