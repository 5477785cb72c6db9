"""Writes the table of docs/settings.md from the settings themselves: `python -m scripts.settings_page`."""

from __future__ import annotations

from pathlib import Path

from backend.settings import Documented, documented

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def table() -> str:
    """One row a setting, in the order in which they are declared."""
    rows = [f"| `{s.variable}` | {_shown(s.default)} | {s.doc}{_note(s)} |\n" for s in documented()]
    return "| variable | default | what it does |\n|---|---|---|\n" + "".join(rows)


def with_table(page: str) -> str:
    """The page with the table between its marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def _note(setting: Documented) -> str:
    return " (secret)" if setting.secret else ""


def _shown(default: str) -> str:
    return f"`{default}`" if default and " " not in default else default


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
