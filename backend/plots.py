"""Plots of a report: accuracy and what bounds it, whether probabilities hold, PPO's looks. Pure.

Label Studio's HyperText tag shows inline SVG and runs nothing. Takes numbers of the stages' results only, so
that nothing here need be escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.markup import heading, percent, style
from backend.svg import FILL, INK, QUIET, bar, curve, dot, label, line, picture, place, square

_GATE, _CEILING = "#b45309", "#15803d"


def plots(reward: Mapping[str, Any], ppo: Mapping[str, Any], gate_accuracy: float) -> str:
    """All plots for which there are figures, side by side where there is room; else nothing."""
    found = [
        accuracy_plot(reward, gate_accuracy),
        *look_plots(ppo.get("looks") or (), ppo.get("best_update")),
    ]
    box = style(display="inline-block", vertical_align="top", margin="0 24px 16px 0", max_width="334px")
    shown = "".join(f'<div style="{box}">{plot}</div>' for plot in found if plot)
    return f"{heading('图', 'Plots')}\n<div>{shown}</div>" if shown else ""


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
    for number, (name, value, (low, high)) in enumerate(rows):
        y = number * height + 6
        x, begin, end = (left + width * share for share in (value, low, high))
        parts += [label(0, y + 11, name), bar(begin, y, end - begin, 14, FILL), bar(x - 1.5, y, 3, 14, INK)]
    bottom = len(rows) * height + 4
    for share, colour in ((gate_accuracy, _GATE), (reward.get("ceiling"), _CEILING)):
        if share is not None:
            parts.append(line(left + width * share, 0, left + width * share, bottom, colour))
    parts += [line(left, bottom, left + width, bottom), label(left, bottom + 14, "0 %")]
    parts.append(label(left + width, bottom + 14, "100 %", "end"))
    caption = f'<span style="{style(color=_GATE)}">| 门槛 gate {percent(gate_accuracy)}</span>'
    if reward.get("ceiling") is not None:
        caption += (
            f' <span style="{style(color=_CEILING)}">| 上限 ceiling {percent(reward["ceiling"])}</span>'
        )
    svg = picture(left + width + 4, bottom + 18, parts)
    return _titled("未见题目上的准确率", "Held-out accuracy", svg, caption)


def look_plots(looks: Sequence[Mapping[str, Any]], best_update: int | None) -> list[str]:
    """Score and KL on the verification prompts over PPO's updates; a dot where the policy was kept."""
    if len(looks) < 2:
        return []
    caption = "● 采用 kept: 扣除 KL 代价后最好 best after the price of its KL"
    return [
        _titled(zh, en, _looks([(look["update"], look[name]) for look in looks], best_update), caption)
        for name, zh, en in (
            ("score", "验证得分", "Verification score"),
            ("kl", "KL（nats）", "KL (nats)"),
        )
    ]


def calibration_section(reward: Mapping[str, Any]) -> str:
    """How often the reward model is right against how sure it was; nothing with a single point."""
    points = (reward.get("calibration") or {}).get("points") or ()
    if len(points) < 2:
        return ""
    most = max(point["pairs"] for point in points)
    diagonal = line(*place(0, 0.5), *place(1, 1), QUIET, dashes="4 4")
    dots = [
        dot(*place(2 * point["predicted"] - 1, point["observed"]), 3 + 4 * (point["pairs"] / most) ** 0.5)
        for point in points
    ]
    svg = square([diagonal, *dots], ("50%", "100%"), ("0%", "100%"))
    words = (
        "横轴：模型预计得分高的回答更受偏好的概率；纵轴：实际如此的比例；点越大，对数越多。点在虚线上最好，"
        "在虚线下方表示过于自信。<br/>Across: how probable the model calls it that the answer with the higher"
        " score is preferred; up: how often it is; larger dots are more pairs. On the dashed line is best,"
        " below it the model is too sure."
    )
    title = heading("奖励模型的概率是否可信", "Calibration of the reward model")
    return f"{title}\n<p>{words}</p>\n{svg}"


def _looks(points: Sequence[tuple[int, float]], kept: int | None) -> str:
    values = [value for _, value in points]
    low, high = min(values), max(values)
    span, last = (high - low) or 1.0, points[-1][0] or 1
    places = {update: place(update / last, (value - low) / span) for update, value in points}
    parts = [curve(list(places.values())), *(dot(*at) for update, at in places.items() if update == kept)]
    return square(parts, ("0", f"{last}"), (_rounded(low), _rounded(high)))


def _rounded(value: float) -> str:
    return f"{round(value, 2) + 0.0:g}"  # + 0.0: never "-0"


def _titled(zh: str, en: str, svg: str, caption: str) -> str:
    title = f'<div style="{style(font_size="0.9em", font_weight="600")}">{zh} · {en}</div>'
    return f"{title}{svg}<br/><small>{caption}</small>"
