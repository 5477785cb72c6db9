"""Writes the tables of docs/advice.md and docs/advice.zh-CN.md: `python -m scripts.advice_pages`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from backend.advice_actions import ACTIONS
from backend.advice_rules import RULES

Language = Literal["en", "zh"]

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES: dict[Language, Path] = {"en": DOCS / "advice.md", "zh": DOCS / "advice.zh-CN.md"}
BEGIN, END = "<!-- advice: begin -->\n", "<!-- advice: end -->\n"

_HEADS: dict[Language, str] = {
    "en": "| id | fires when | says | applying it |\n",
    "zh": "| 编号 | 何时出现 | 内容 | 执行 |\n",
}
_CHANGES: dict[str, tuple[str, str]] = {
    "lower_clip": ("clip 0.15，更新次数 ×1.5", "clip range 0.15, 1.5 times the updates"),
    "smaller_steps": ("学习率减半", "half the learning rate"),
    "raise_kl": ("KL 系数加倍", "twice the KL coefficient"),
    "dearer_ending": ("未结束回答的惩罚加倍", "twice the penalty for answers that do not end"),
    "fewer_updates": ("更新次数减半", "half the updates of the best checkpoint"),
    "more_spread": ("相似度上限降到 0.6，再执行时更低", "highest similarity 0.6, lower each time"),
    "larger_review": ("盲评增加所缺的题数", "the missing reviews more"),
}
"""What an action does to the settings, in general; with its numbers the console and the report say it."""


def table(language: Language) -> str:
    """One row a rule, in the order in which advice is shown."""
    rows = []
    for rule in RULES:
        when, says = (rule.when_zh, rule.zh) if language == "zh" else (rule.when_en, rule.en)
        rows.append(
            f"| `{rule.id}` | {when} | {_shown(says, language)} | {_applied(rule.action, language)} |\n"
        )
    return _HEADS[language] + "|---|---|---|---|\n" + "".join(rows)


def with_table(page: str, language: Language) -> str:
    """The page with the table between its marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table(language) + END + rest.split(END)[1]


def _shown(sentence: str, language: Language) -> str:
    """Placeholders as the names of what is measured."""
    such_as, first_served = {
        "zh": ("，如……", "，Label Studio 会先给出……"),
        "en": (", such as …", "; Label Studio serves … first"),
    }[language]
    words = sentence.replace("{such_as}", such_as).replace("{first_served}", first_served)
    return re.sub(r"\{(\w+)[^}]*\}", r"*\1*", words)


def _applied(action_id: str | None, language: Language) -> str:
    if action_id is None:
        return "—"
    action, place = ACTIONS[action_id], 0 if language == "zh" else 1
    words = action.zh if language == "zh" else action.en
    if action_id not in _CHANGES:
        return words
    return f"{_CHANGES[action_id][place]}{'；' if place == 0 else '; '}{words}"


if __name__ == "__main__":
    for name, path in PAGES.items():
        path.write_text(with_table(path.read_text(encoding="utf-8"), name), encoding="utf-8")
