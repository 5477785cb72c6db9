"""The verdict of a round as people read it: HTML for Label Studio's HyperText tag, and plain text.

Pure. Chinese and English side by side. Everything that is not ours is escaped: model text comes here.
HyperText shows tables, styles and inline SVG; it runs no script and loads no picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from backend.advice import Advice

EXAMPLES = 6
_LONGEST_EXAMPLE = 600

VERDICTS: Mapping[str, tuple[str, str, str]] = {
    "better": ("新模型更好", "The new model is better", "#15803d"),
    "worse": ("新模型更差", "The new model is worse", "#b91c1c"),
    "no_difference": ("没有明显差别", "No difference that matters", "#475569"),
    "not_enough_evidence": ("证据不足", "Not enough evidence", "#b45309"),
}
BASELINES = {"longer": "越长越好 longer wins", "shorter": "越短越好 shorter wins"}
KINDS = {
    "rank": (
        "按名次", "by rank",
        {"adjacent": "相邻 adjacent", "between": "居中 between", "first_last": "首尾 first against last"},
    ),
    "style": ("按风格", "by style", {"same": "相同 same", "different": "不同 different"}),
    "length": (
        "按长度", "by length",
        {"longer": "较长者胜 longer preferred", "shorter": "较短者胜 shorter preferred",
         "about_equal": "长度相近 about equal"},
    ),
    "language": ("按语言", "by language", {"zh": "中文 Chinese", "en": "英文 English"}),
}  # fmt: skip
_WIN, _TIE, _LOSS = "#16a34a", "#94a3b8", "#dc2626"


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
    """As `backend.verdict.judge_round` gives it."""
    reward: Mapping[str, Any] = field(default_factory=dict)
    ppo: Mapping[str, Any] = field(default_factory=dict)
    compare: Mapping[str, Any] = field(default_factory=dict)
    advice: Sequence[Advice] = ()
    examples: Sequence[Example] = ()


def to_html(report: Report) -> str:
    """The report as one fragment of HTML."""
    zh, en, colour = _verdict_words(report)
    return "\n".join(
        [
            f'<div style="{_style(font_family="system-ui, sans-serif", line_height="1.6")}">',
            f"<h2>{escape(report.title)} · 第 {report.number} 轮 · Round {report.number}</h2>",
            f'<p style="{_style(font_size="1.4em", font_weight="700", color=colour)}">{zh} · {en}</p>',
            _review_section(report),
            _numbers_section(report),
            _advice_section(report.advice),
            _examples_section(report.examples),
            "</div>",
        ]
    )


def to_text(report: Report) -> str:
    """The same in a few lines for a terminal."""
    zh, en, _ = _verdict_words(report)
    verdict = report.verdict
    lines = [f"{report.title} · 第 {report.number} 轮 · Round {report.number}: {zh} · {en}"]
    for zh_name, en_name, key in (("训练过的题目", "seen", "seen"), ("没见过的题目", "never seen", "unseen")):
        c = verdict[key]
        lines.append(
            f"  {zh_name} · {en_name}: {c['wins']} 胜 wins, {c['ties']} 平 ties, {c['losses']} 负 losses"
        )
    lines += [f"  {zh_name} · {en_name}: {value}" for zh_name, en_name, value in _numbers(report)]
    for advice in report.advice:
        lines += [f"  → {advice.zh}", f"    {advice.en}"]
    return "\n".join(lines)


def _verdict_words(report: Report) -> tuple[str, str, str]:
    return VERDICTS.get(str(report.verdict.get("verdict")), VERDICTS["not_enough_evidence"])


def _review_section(report: Report) -> str:
    verdict = report.verdict
    rows = [
        _bar_row("训练过的题目 · seen in training", verdict["seen"], verdict.get("p_seen")),
        _bar_row("没见过的题目 · never seen", verdict["unseen"], verdict.get("p_unseen")),
    ]
    legend = "".join(
        f'<span style="{_style(color=colour, margin_right="1em")}">■ {words}</span>'
        for colour, words in ((_WIN, "胜 wins"), (_TIE, "平 ties"), (_LOSS, "负 losses"))
    )
    return f"<h3>盲评结果 · Blind review</h3>\n<p>{legend}</p>\n<table>{''.join(rows)}</table>"


def _bar_row(name: str, counts: Mapping[str, int], p_value: float | None) -> str:
    shown = f"{counts['wins']} / {counts['ties']} / {counts['losses']}"
    p = "" if p_value is None else f"p = {p_value:.3g}"
    cells = (name, _bar(counts), shown, p)
    style = _style(padding="4px 12px 4px 0")
    return "<tr>" + "".join(f'<td style="{style}">{cell}</td>' for cell in cells) + "</tr>"


def _bar(counts: Mapping[str, int], width: int = 320, height: int = 18) -> str:
    """Wins, ties and losses as one bar of inline SVG."""
    total = sum(counts[name] for name in ("wins", "ties", "losses"))
    parts, x = [], 0.0
    for name, colour in (("wins", _WIN), ("ties", _TIE), ("losses", _LOSS)):
        share = width * counts[name] / total if total else 0.0
        if share:
            parts.append(f'<rect x="{x:.1f}" y="0" width="{share:.1f}" height="{height}" fill="{colour}"/>')
        x += share
    background = f'<rect x="0" y="0" width="{width}" height="{height}" fill="#e2e8f0"/>'
    return f'<svg width="{width}" height="{height}" role="img">{background}{"".join(parts)}</svg>'


def _numbers(report: Report) -> list[tuple[str, str, str]]:
    verdict, reward, ppo = report.verdict, report.reward, report.ppo
    low, high = verdict.get("interval") or (0.0, 1.0)
    found = [
        ("模型", "model", report.model),
        ("胜率", "win rate", f"{_percent(verdict.get('win_rate'))} ({low:.0%} – {high:.0%})"),
        ("显著性", "sign test", f"p = {verdict['p_value']:.3g}"),
        ("已评对比", "comparisons judged", f"{verdict['judged']} / {verdict['comparisons']}"),
        (
            "平均长度（字符）",
            "mean length (characters)",
            f"{_number(verdict.get('length_before'))} → {_number(verdict.get('length_after'))}",
        ),
    ]
    found += _reward_numbers(reward)
    if ppo:
        shown = f"{_number(ppo.get('reward_before'), 2)} → {_number(ppo.get('reward_after'), 2)}"
        found.append(("奖励", "reward", shown))
        found.append(("PPO 更新", "PPO updates", f"{ppo.get('updates')} ({ppo.get('stop_reason')})"))
    if report.compare.get("garbled_after") is not None:
        found.append(("乱码或重复的回答", "garbled answers", f"{report.compare['garbled_after']:.1%}"))
    return found


def _reward_numbers(reward: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Held-out accuracy, what it must beat, and where it holds."""
    if not reward:
        return []
    accuracy = _share(reward, "accuracy", "interval")
    found = [("奖励模型准确率（未见题目）", "reward model, held-out accuracy", accuracy)]
    if best := reward.get("best_baseline"):
        beaten = (
            "模型明显更好 clearly beaten" if reward["beats_baselines"] else "未明显超过 not clearly beaten"
        )
        shown = _share(reward, f"baseline_{best}", f"baseline_{best}_interval")
        found.append(("最好的简单规则", "best simple rule", f"{BASELINES[best]}: {shown}, {beaten}"))
    calibration = reward.get("calibration") or {}
    if calibration.get("error") is not None:
        shown = f"{calibration['error']:.1%} (仅因偶然 by chance alone: {calibration['noise']:.1%})"
        found.append(("概率偏差", "calibration error", shown))
    for name, kinds in (reward.get("accuracy_by_kind") or {}).items():
        zh, en, words = KINDS[name]
        shown = ", ".join(
            f"{words[kind]} {_percent(figures['accuracy'])} ({figures['pairs']})"
            for kind, figures in kinds.items()
        )
        found.append((f"准确率{zh}（对数）", f"accuracy {en} (pairs)", shown))
    return found


def _share(figures: Mapping[str, Any], name: str, interval: str) -> str:
    low, high = figures.get(interval) or (0.0, 1.0)
    return f"{_percent(figures.get(name))} ({low:.0%} – {high:.0%})"


def _numbers_section(report: Report) -> str:
    style = _style(padding="2px 16px 2px 0")
    rows = "".join(
        f'<tr><td style="{style}">{zh} · {en}</td><td style="{style}"><b>{escape(value)}</b></td></tr>'
        for zh, en, value in _numbers(report)
    )
    return f"<h3>数据 · Figures</h3>\n<table>{rows}</table>"


def _advice_section(advice: Sequence[Advice]) -> str:
    if not advice:
        return ""
    items = "".join(f"<li>{escape(found.zh)}<br/>{escape(found.en)}</li>" for found in advice)
    return f"<h3>建议 · Advice</h3>\n<ul>{items}</ul>"


def _examples_section(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    words = {"after": "新模型更好 · after", "before": "旧模型更好 · before", "tie": "一样 · tie"}
    style = _style(padding="8px", vertical_align="top", white_space="pre-wrap", border="1px solid #cbd5e1")
    head = "".join(
        f'<th style="{style}">{name}</th>'
        for name in ("问题 · Question", "训练前 · Before", "训练后 · After", "评审 · Judged")
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="{style}">{cell}</td>'
            for cell in (
                *(escape(_cut(text)) for text in (example.prompt, example.before, example.after)),
                words.get(example.result, "—"),
            )
        )
        + "</tr>"
        for example in examples[:EXAMPLES]
    )
    table = _style(border_collapse="collapse")
    return f'<h3>例子 · Examples</h3>\n<table style="{table}"><tr>{head}</tr>{rows}</table>'


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_EXAMPLE else text[:_LONGEST_EXAMPLE] + "…"


def _percent(value: float | None) -> str:
    return "—" if value is None else f"{value:.0%}"


def _number(value: float | None, digits: int = 0) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


def _style(**properties: str) -> str:
    return "; ".join(f"{name.replace('_', '-')}: {value}" for name, value in properties.items())
