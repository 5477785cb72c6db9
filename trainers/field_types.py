"""Whether a JSON value is of the type that a dataclass's field is annotated with, and that type in words.

Standard library only; used by `trainers.config` and `trainers.records`.
"""

from __future__ import annotations

import math
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

MOST = 2**63
"""Whole numbers are below this."""
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    NoneType: "null",
}


def fits(value: object, kind: Any) -> bool:
    """Whether a value is of this type; a whole number is also a number, true and false are none.

    Args:
        kind: `bool`, `int`, `float`, `str`, `None`, another class, a `Literal`, a union of these, or a tuple
            of any number of one of them.
    """
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(fits(part, get_args(kind)[0]) for part in value)
    if isinstance(kind, UnionType):
        return any(fits(value, part) for part in get_args(kind))
    if kind is float and isinstance(value, float):
        return math.isfinite(value)
    if kind in (float, int):
        return type(value) is int and abs(value) < MOST
    return type(value) is kind


def in_words(kind: Any) -> str:
    """What is needed, as a message says it."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return f"a list, each item {in_words(get_args(kind)[0])}"
    if isinstance(kind, UnionType):
        return " or ".join(map(in_words, get_args(kind)))
    return _WORDS.get(kind, "an object")
