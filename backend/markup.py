"""Pieces of HTML and of text that every part of a report is made of. Pure; escapes nothing by itself."""

from __future__ import annotations


def style(**properties: str) -> str:
    """The value of a style attribute."""
    return "; ".join(f"{name.replace('_', '-')}: {value}" for name, value in properties.items())


def heading(zh: str, en: str) -> str:
    """The heading of a section; Label Studio's own style would make it smaller than the text below it."""
    look = style(font_size="1.15em", font_weight="700", margin="1.2em 0 0.3em")
    return f'<h3 style="{look}">{zh} · {en}</h3>'


def scrolling(table: str) -> str:
    """A table that is moved sideways by itself where the page is narrow."""
    return f'<div style="{style(overflow_x="auto")}">{table}</div>'


def percent(value: float | None) -> str:
    return "—" if value is None else f"{value:.0%}"


def number(value: float | None, digits: int = 0) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


def share(value: float | None, interval: tuple[float, float] | list[float] | None) -> str:
    """A share with its interval."""
    low, high = interval or (0.0, 1.0)
    return f"{percent(value)} ({low:.0%} – {high:.0%})"
