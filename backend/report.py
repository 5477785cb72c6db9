"""What a round found, as people read it: HTML for Label Studio's HyperText tag, a page, text, and JSON.

Pure. Chinese and English side by side. Everything that is not ours is escaped: model text comes here.
HyperText shows tables, styles and inline SVG; it runs no script and loads no picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from backend.advice import Advice
from backend.markup import heading, scrolling, style
from backend.plots import calibration_section, plots
from backend.report_ppo import ppo_numbers
from backend.report_review import (
    leaderboard_lines,
    leaderboard_section,
    review_lines,
    review_numbers,
    review_section,
    verdict_words,
)
from backend.report_reward import reward_numbers
from backend.status import ActionView
from trainers.leaderboard import Standing

EXAMPLES = 6
_LONGEST_EXAMPLE = 600


@dataclass(frozen=True)
class Example:
    """One comparison, with how it was judged."""

    prompt: str
    before: str
    after: str
    seen: bool
    result: str
    """`after`, `before` or `tie`."""


@dataclass(frozen=True)
class Report:
    """What a round found."""

    title: str
    number: int
    model: str
    verdict: Mapping[str, Any]
    """As `backend.verdict.judge_round` gives it; empty before the review has ended."""
    reward: Mapping[str, Any] = field(default_factory=dict)
    ppo: Mapping[str, Any] = field(default_factory=dict)
    compare: Mapping[str, Any] = field(default_factory=dict)
    leaderboard: Sequence[Standing] = ()
    """Of all versions of all rounds, best first."""
    advice: Sequence[Advice] = ()
    actions: Sequence[ActionView] = ()
    """Advice that was applied and that this round acts on."""
    examples: Sequence[Example] = ()
    data: Sequence[tuple[str, str, str]] = ()
    """As `backend.data_report.data_rows` gives them."""
    round_id: str = ""
    gate_accuracy: float = 0.85
    """What the reward model's accuracy is held against."""
    reason: tuple[str, str] = ("", "")
    """Why the round stopped where it is, in Chinese and English; empty if it did not."""
    before: str = ""
    """The model that the round's is compared with, from which it was trained."""


def to_html(report: Report) -> str:
    """The report as one fragment of HTML."""
    zh, en, colour = verdict_words(report.verdict)
    return "\n".join(
        [
            f'<div style="{style(font_family="system-ui, sans-serif", line_height="1.6")}">',
            f"<h2>{escape(_heading(report))}</h2>",
            f'<p style="{style(font_size="1.4em", font_weight="700", color=colour)}">{zh} · {en}</p>',
            review_section(report.verdict),
            _advice_section(report.advice),
            _actions_section(report.actions),
            leaderboard_section(report.leaderboard, report.model),
            plots(report.reward, report.ppo, report.gate_accuracy),
            _numbers_section(report),
            calibration_section(report.reward),
            _data_section(report.data),
            _examples_section(report.examples),
            "</div>",
        ]
    )


def to_page(report: Report) -> str:
    """The report as a page of its own."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(_heading(report))}</title>"
    body = style(max_width="1100px", margin="0 auto", padding="0 16px 32px")
    return (
        f'<!doctype html>\n<html lang="zh"><head>{head}</head><body style="{body}">\n{to_html(report)}\n'
        "</body></html>\n"
    )


def outcome(report: Report) -> str:
    """Which round, and what came out, in one line."""
    zh, en, _ = verdict_words(report.verdict)
    return f"第 {report.number} 轮 · Round {report.number}: {zh} · {en}"


def to_text(report: Report) -> str:
    """The same in a few lines for a terminal."""
    lines = [f"{report.title} · {outcome(report)}", *review_lines(report.verdict)]
    lines += [
        f"  {zh_name} · {en_name}: {value}" for zh_name, en_name, value in (*_numbers(report), *report.data)
    ]
    lines += leaderboard_lines(report.leaderboard)
    lines += [f"  ✓ {action_line(action)}" for action in report.actions]
    for advice in report.advice:
        lines += [f"  → {advice.zh}", f"    {advice.en}"]
        lines += [f"    python -m backend apply {advice.id}"] if advice.applies else []
    return "\n".join(lines) + "\n"


def to_json(report: Report) -> str:
    """Everything that the report is made from, all examples included."""
    return json.dumps(asdict(report), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def action_line(action: ActionView) -> str:
    """What was changed and why, in both languages."""
    changed = " · ".join(filter(None, (action.changed_zh, action.changed_en)))
    run = f" ({action.run_id})" if action.run_id else ""
    return f"{changed or action.advice}{run}: {action.zh} · {action.en}"


def _heading(report: Report) -> str:
    return f"{report.title} · 第 {report.number} 轮 · Round {report.number}"


def _numbers(report: Report) -> list[tuple[str, str, str]]:
    found = [("模型", "model", report.model), *review_numbers(report.verdict)]
    if report.before:
        found.insert(1, ("与之对比的模型", "compared with", report.before))
    if any(report.reason):
        found.insert(0, ("停在这里的原因", "stopped because", " · ".join(report.reason)))
    found += [*reward_numbers(report.reward), *ppo_numbers(report.ppo)]
    if report.compare.get("garbled_after") is not None:
        found.append(("乱码或重复的回答", "garbled answers", f"{report.compare['garbled_after']:.1%}"))
    return found


def _numbers_section(report: Report) -> str:
    return f"{heading('结果', 'Figures')}\n{_rows(_numbers(report))}"


def _data_section(rows: Sequence[tuple[str, str, str]]) -> str:
    return f"{heading('数据', 'Data')}\n{_rows(rows)}" if rows else ""


def _rows(rows: Sequence[tuple[str, str, str]]) -> str:
    cell = style(padding="2px 16px 2px 0", vertical_align="top")
    shown = "".join(
        f'<tr><td style="{cell}">{zh} · {en}</td><td style="{cell}"><b>{escape(value)}</b></td></tr>'
        for zh, en, value in rows
    )
    return f"<table>{shown}</table>"


def _advice_section(advice: Sequence[Advice]) -> str:
    if not advice:
        return ""
    quiet = style(color="#64748b")
    items = "".join(
        f"<li>{escape(found.zh)}<br/>{escape(found.en)}"
        + (
            f'<br/><span style="{quiet}">→ {escape(found.does_zh)} · {escape(found.does_en)}</span>'
            if found.action
            else ""
        )
        + "</li>"
        for found in advice
    )
    return f"{heading('建议', 'Advice')}\n<ul>{items}</ul>"


def _actions_section(actions: Sequence[ActionView]) -> str:
    if not actions:
        return ""
    items = "".join(f"<li>{escape(action_line(action))}</li>" for action in actions)
    return f"{heading('本轮的改动与原因', 'What was changed for this round, and why')}\n<ul>{items}</ul>"


def _examples_section(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    words = {"after": "新模型更好 · after", "before": "旧模型更好 · before", "tie": "一样 · tie"}
    box = style(
        padding="8px",
        min_width="5em",
        vertical_align="top",
        white_space="pre-wrap",
        border="1px solid #cbd5e1",
    )
    head = "".join(
        f'<th style="{box}">{name}</th>'
        for name in ("问题 · Question", "训练前 · Before", "训练后 · After", "评审 · Judged")
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="{box}">{cell}</td>'
            for cell in (
                *(escape(_cut(text)) for text in (example.prompt, example.before, example.after)),
                words.get(example.result, "—"),
            )
        )
        + "</tr>"
        for example in examples[:EXAMPLES]
    )
    table = style(border_collapse="collapse", min_width="640px")
    whole = f'<table style="{table}"><tr>{head}</tr>{rows}</table>'
    return f"{heading('例子', 'Examples')}\n{scrolling(whole)}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_EXAMPLE else text[:_LONGEST_EXAMPLE] + "…"
