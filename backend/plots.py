"""Plots of a report as inline SVG: accuracy and what bounds it, PPO's looks. Pure.

Label Studio's HyperText tag shows inline SVG and runs nothing. Takes numbers of the stages' results only, so
that nothing here need be escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.markup import percent, style

_INK, _QUIET, _LINE, _FILL = "#1d4ed8", "#64748b", "#cbd5e1", "#93c5fd"
_SIZE, _EDGE = 180, 42
"""Of a square plot: its inner width, and the room around it for the axes."""


def plots(reward: Mapping[str, Any], ppo: Mapping[str, Any], gate_accuracy: float) -> str:
    """All plots for which there are figures, side by side where there is room; else nothing."""
    found = [
        accuracy_plot(reward, gate_accuracy),
        *look_plots(ppo.get("looks") or (), ppo.get("best_update")),
    ]
    box = style(display="inline-block", vertical_align="top", margin="0 24px 16px 0")
    shown = "".join(f'<div style="{box}">{plot}</div>' for plot in found if plot)
    return f"<h3>图 · Plots</h3>\n<div>{shown}</div>" if shown else ""


def accuracy_plot(reward: Mapping[str, Any], gate_accuracy: float) -> str:
    """The held-out accuracy and the simple rules with their intervals, beside the gate and the ceiling."""
    rows = [
        (name, reward[key], reward[interval])
        for name, key, interval in (
            ("模型 model", "accuracy", "interval"),
            ("越长越好 longer", "baseline_longer", "baseline_longer_interval"),
            ("越短越好 shorter", "baseline_shorter", "baseline_shorter_interval"),
        )
        if reward.get(key) is not None and reward.get(interval)
    ]
    if not rows:
        return ""
    left, width, height = 110, 220, 26
    parts = []
    for place, (name, value, (low, high)) in enumerate(rows):
        y = place * height + 6
        x, begin, end = (left + width * share for share in (value, low, high))
        parts.append(_text(0, y + 11, name))
        parts.append(f'<rect x="{begin:.1f}" y="{y}" width="{end - begin:.1f}" height="14" fill="{_FILL}"/>')
        parts.append(f'<rect x="{x - 1.5:.1f}" y="{y}" width="3" height="14" fill="{_INK}"/>')
    bottom = len(rows) * height + 4
    for share, colour in ((gate_accuracy, "#b45309"), (reward.get("ceiling"), "#15803d")):
        if share is not None:
            parts.append(_line(left + width * share, 0, left + width * share, bottom, colour))
    parts += [_line(left, bottom, left + width, bottom), _text(left, bottom + 14, "0 %")]
    parts.append(_text(left + width, bottom + 14, "100 %", "end"))
    caption = f'<span style="{style(color="#b45309")}">| 门槛 gate {percent(gate_accuracy)}</span>'
    if reward.get("ceiling") is not None:
        caption += (
            f' <span style="{style(color="#15803d")}">| 上限 ceiling {percent(reward["ceiling"])}</span>'
        )
    svg = _svg(left + width + 4, bottom + 18, parts)
    return f"{_title('未见题目上的准确率', 'Held-out accuracy')}{svg}<br/><small>{caption}</small>"


def look_plots(looks: Sequence[Mapping[str, Any]], best_update: int | None) -> list[str]:
    """Score and KL on the verification prompts over PPO's updates; a circle where the policy was kept."""
    if len(looks) < 2:
        return []
    named = (("score", "验证得分", "Verification score"), ("kl", "KL（nats）", "KL (nats)"))
    return [
        _title(zh, en) + _curve([(look["update"], look[name]) for look in looks], best_update)
        for name, zh, en in named
    ]


def _curve(points: Sequence[tuple[int, float]], marked: int | None) -> str:
    values = [value for _, value in points]
    low, high = min(values), max(values)
    span, last = (high - low) or 1.0, points[-1][0] or 1
    places = [(update, *_at(update / last, (value - low) / span)) for update, value in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for _, x, y in places)
    parts = _frame("0", f"{last}", f"{low:.3g}", f"{high:.3g}")
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_INK}" stroke-width="2"/>')
    parts += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_INK}"/>'
        for update, x, y in places
        if update == marked
    ]
    return _svg(*_OUTER, parts)


_OUTER = (_SIZE + _EDGE + 24, _SIZE + 30)


def _at(x: float, y: float) -> tuple[float, float]:
    """Where a point of the unit square lies."""
    return _EDGE + _SIZE * x, 7 + _SIZE * (1 - y)


def _frame(left: str, right: str, bottom: str, top: str) -> list[str]:
    """The axes, with what stands at their ends."""
    (x0, y0), (x1, y1) = _at(0, 0), _at(1, 1)
    return [
        _line(x0, y0, x1, y0),
        _line(x0, y0, x0, y1),
        _text(x0, y0 + 14, left),
        _text(x1, y0 + 14, right, "end"),
        _text(x0 - 3, y0, bottom, "end"),
        _text(x0 - 3, y1 + 8, top, "end"),
    ]


def _line(x0: float, y0: float, x1: float, y1: float, colour: str = _LINE) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="{_QUIET}" text-anchor="{anchor}">{words}</text>'
    )


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    inner = "".join(parts)
    return (
        f'<svg width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' role="img">{inner}</svg>'
    )


def _title(zh: str, en: str) -> str:
    return f'<div style="{style(font_size="0.9em", font_weight="600")}">{zh} · {en}</div>'
