"""Shapes of which a report's plots are made: inline SVG, in one style. Pure; escapes nothing by itself.

A square plot has its axes' ends labelled; points of the unit square, y upwards, are placed by `place`.
"""

from __future__ import annotations

from collections.abc import Sequence

INK, QUIET, FAINT, FILL = "#1d4ed8", "#64748b", "#cbd5e1", "#93c5fd"
_SIDE, _LEFT, _TOP, _RIGHT, _BOTTOM = 180, 42, 7, 24, 23
"""Inner width of a square plot, and the room around it."""


def place(x: float, y: float) -> tuple[float, float]:
    """Where a point of the unit square lies in a square plot."""
    return _LEFT + _SIDE * x, _TOP + _SIDE * (1 - y)


def square(parts: Sequence[str], across: tuple[str, str], up: tuple[str, str]) -> str:
    """A square plot of parts, with what stands at the ends of its axes."""
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    frame = [
        line(x0, y0, x1, y0),
        line(x0, y0, x0, y1),
        label(x0, y0 + 14, across[0]),
        label(x1, y0 + 14, across[1], "end"),
        label(x0 - 3, y0, up[0], "end"),
        label(x0 - 3, y1 + 8, up[1], "end"),
    ]
    return picture(_LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM, [*frame, *parts])


def picture(width: float, height: float, parts: Sequence[str]) -> str:
    inner = "".join(parts)
    return (
        f'<svg width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' role="img">{inner}</svg>'
    )


def line(x0: float, y0: float, x1: float, y1: float, colour: str = FAINT, *, dashes: str = "none") -> str:
    ends = f'x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-dasharray="{dashes}"/>'


def curve(points: Sequence[tuple[float, float]]) -> str:
    shown = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{shown}" fill="none" stroke="{INK}" stroke-width="2"/>'


def dot(x: float, y: float, radius: float = 4) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{INK}" fill-opacity="0.8"/>'


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def label(x: float, y: float, words: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="{QUIET}" text-anchor="{anchor}">{words}</text>'
    )
