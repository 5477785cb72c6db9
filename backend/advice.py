"""What to do next, each with the number that says so. Pure: measurements in, sentences out.

`backend.advice_rules` is the table, `backend.advice_actions` says what applying a piece of advice does. The
console and the report show what fires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.advice_actions import ACTIONS, Starts
from backend.advice_rules import RULES, Rule
from backend.advice_triggers import NAMED, Numbers
from backend.data_report import quoted
from backend.measurements import Measurements
from trainers.acquisition import Aim

FIRST_SERVED: Mapping[Aim, tuple[str, str]] = {
    "learn": ("模型最拿不准的题目", "those whose answers the model can hardly order"),
    "measure": ("用来检验它的题目", "those that measure it"),
    "both": ("最有用的题目", "the most useful"),
}


@dataclass(frozen=True)
class Advice:
    """One thing to do."""

    id: str
    zh: str
    en: str
    action: str | None = None
    """A key of `backend.advice_actions.ACTIONS`."""
    does_zh: str = ""
    """What applying it does, with the settings' values before and after; empty if there is no action."""
    does_en: str = ""
    changes: Mapping[str, float] = field(default_factory=dict)
    """Settings that applying it gives the workspace."""

    @property
    def applies(self) -> bool:
        """True if the backend can do it; else it is people's work."""
        return self.action is not None and not ACTIONS[self.action].for_people


def advise(measured: Measurements) -> list[Advice]:
    """Everything worth doing now, the most useful first."""
    return [_said(rule, numbers, measured) for rule in RULES if (numbers := rule.fires(measured)) is not None]


def starts_of(advice_id: str) -> Starts:
    """What applying a piece of advice starts."""
    action = next((rule.action for rule in RULES if rule.id == advice_id), None)
    return "" if action is None else ACTIONS[action].starts


def _said(rule: Rule, numbers: Numbers, measured: Measurements) -> Advice:
    names: Sequence[str] = numbers.get("named", ())
    named = quoted(names, measured.prompts_named)
    zh, en = (f"，如 {named}", f", such as {named}") if names else ("", "")
    first_zh, first_en = _first_served(measured)
    sentences = (
        rule.zh.format(**numbers, such_as=zh, first_served=first_zh),
        rule.en.format(**numbers, such_as=en, first_served=first_en),
    )
    action = None if rule.action is None else ACTIONS[rule.action]
    if action is None or (action.starts == "generate" and not measured.unranked + measured.flagged):
        return Advice(rule.id, *sentences)
    words = action.words(measured, numbers)
    return Advice(rule.id, *sentences, action.id, *words, action.changes(measured, numbers))


def _first_served(m: Measurements) -> tuple[str, str]:
    """Which tasks Label Studio serves first, or that there are none to serve."""
    if m.rank_next is None:
        return "", ""
    if not m.rank_next:
        return (
            "；这样的题目已经排完，请先导入新题目",
            "; none that help are left, so import more prompts first",
        )
    zh, en = FIRST_SERVED[m.rank_aim]
    named = quoted(m.rank_next[:NAMED], m.prompts_named)
    return f"，Label Studio 会先给出{zh}，如 {named}", f"; Label Studio serves {en} first, such as {named}"
