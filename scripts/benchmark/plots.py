"""Plots as SVG: what the page shows of ratios and of growth. Standard library only; numbers in, text out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from scripts.benchmark.results import Spread

COLOURS = ("#2f6fb2", "#c4622d", "#3c8a4e")
INK, FAINT = "#777", "#bbb"
"""Grey enough to be read on a light and on a dark page."""
LETTER = 6.6
"""Mean width of a letter of the labels, generously."""
_STYLE = f"font-family='sans-serif' font-size='12' fill='{INK}'"


@dataclass(frozen=True)
class Bar:
    """One line of the plot of ratios."""

    label: str
    times: Spread
    """How many times better than the peer."""
    goal: float


@dataclass(frozen=True)
class Curve:
    """One line of a plot of growth."""

    label: str
    points: Sequence[tuple[float, float]]
    """(factor, multiple of what it is at factor 1)."""


def ratios(bars: Sequence[Bar]) -> str:
    """Each measure's ratio with its spread, and its goal as a mark, on one logarithmic scale; the ratio again
    in figures."""
    width, step, top = 320, 26, 34
    left = 20 + LETTER * max(len(bar.label) for bar in bars)
    most = max(2.0, *(max(bar.times.high, bar.goal) for bar in bars))
    least = min(0.8, *(bar.times.low for bar in bars))
    height = top + step * len(bars) + 10

    def x(value: float) -> float:
        return left + width * math.log(value / least) / math.log(most / least)

    lines = []
    for tick in _ticks(least, most):
        lines.append(_line(x(tick), top - 8, x(tick), height - 8, FAINT, dashed=tick != 1))
        lines.append(_text(x(tick), top - 14, f"{tick:g}×", "middle"))
    for index, bar in enumerate(bars):
        y = top + step * index + step / 2
        colour = COLOURS[2] if bar.times.middle >= bar.goal else COLOURS[1]
        lines.append(_text(left - 12, y + 4, bar.label, "end"))
        lines.append(_line(x(bar.times.low), y, x(bar.times.high), y, colour, width=3))
        lines.append(f"<circle cx='{x(bar.times.middle):.1f}' cy='{y:.1f}' r='5' fill='{colour}'/>")
        lines.append(_line(x(bar.goal), y - 8, x(bar.goal), y + 8, INK, width=2))
        lines.append(_text(left + width + 20, y + 4, f"{bar.times.middle:.1f}×", "start", colour))
    return _svg(left + width + 70, height, lines)


def growth(panels: Sequence[tuple[str, Sequence[Curve]]]) -> str:
    """Side by side, each with logarithmic axes and the line of linear growth."""
    lines = []
    side, gap, top = 260, 90, 30
    for index, (title, curves) in enumerate(panels):
        left = 50 + index * (side + gap)
        most_x = max(x for curve in curves for x, _ in curve.points)
        most_y = max(most_x, *(y for curve in curves for _, y in curve.points))
        least_y = min(1.0, *(y for curve in curves for _, y in curve.points))

        def place(x: float, y: float, at: tuple[float, ...] = (left, most_x, least_y, most_y)) -> str:
            left, most_x, least_y, most_y = at
            across = left + side * math.log(x) / math.log(most_x)
            up = top + side - side * math.log(y / least_y) / math.log(most_y / least_y)
            return f"{across:.1f},{up:.1f}"

        lines.append(_text(left + side / 2, top - 12, title, "middle"))
        lines.append(
            f"<rect x='{left}' y='{top}' width='{side}' height='{side}' fill='none' stroke='{FAINT}'/>"
        )
        lines.append(_path([place(1, 1), place(most_x, most_x)], FAINT, dashed=True))
        for factor in sorted({x for curve in curves for x, _ in curve.points}):
            across, _ = place(factor, 1).split(",")
            lines.append(_text(float(across), top + side + 18, f"{factor:g}×", "middle"))
        for tick in _ticks(least_y, most_y):
            _, up = place(1, tick).split(",")
            lines.append(_text(left - 8, float(up) + 4, f"{tick:g}×", "end"))
        for number, curve in enumerate(curves):
            colour = COLOURS[number % len(COLOURS)]
            lines.append(_path([place(x, y) for x, y in curve.points], colour))
            lines += [_circle(place(x, y), colour) for x, y in curve.points]
            lines.append(_text(left + 12, top + 20 + 17 * number, curve.label, "start", colour))
    return _svg(50 + len(panels) * (side + gap), top + side + 34, lines)


def _ticks(least: float, most: float) -> Iterator[float]:
    """Powers of two."""
    power = math.ceil(math.log2(least) - 1e-9)
    while 2.0**power <= most * (1 + 1e-9):
        yield 2.0**power
        power += 1


def _svg(width: float, height: float, lines: Sequence[str]) -> str:
    size = f"viewBox='0 0 {width:g} {height:g}' width='{width:g}' height='{height:g}'"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size} {_STYLE}>\n" + "\n".join(lines) + "\n</svg>\n"


def _text(x: float, y: float, text: str, anchor: str, colour: str = INK) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}'>{escape(text)}</text>"


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, dashed: bool = False
) -> str:
    ends = f"x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'"
    return f"<line {ends} stroke='{colour}' stroke-width='{width:g}'{_dashes(dashed)}/>"


def _path(points: Sequence[str], colour: str, *, dashed: bool = False) -> str:
    return (
        f"<polyline points='{' '.join(points)}' fill='none' stroke='{colour}'"
        f" stroke-width='2'{_dashes(dashed)}/>"
    )


def _circle(place: str, colour: str) -> str:
    across, up = place.split(",")
    return f"<circle cx='{across}' cy='{up}' r='4' fill='{colour}'/>"


def _dashes(dashed: bool) -> str:
    return " stroke-dasharray='3 4'" if dashed else ""
