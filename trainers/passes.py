"""Which token sequences go through a model together: as many as memory allows, with little waste.

Pure; knows token ids and nothing of models. Used by `trainers.reward_model`.
"""

from __future__ import annotations

from collections.abc import Sequence

LENGTH_SPREAD = 1.3
"""The longest row of a pass is at most this many times its shortest, where padding is paid for."""

Rows = Sequence[Sequence[int]]


def common_beginning(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    differ = (number for number, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def by_length(rows: Rows, most: int, spread: float = LENGTH_SPREAD) -> list[list[int]]:
    """Passes of rows that are about equally long, by their numbers.

    Args:
        most: rows in a pass.
        spread: the longest is at most this many times the shortest; with infinity how many passes there are
            depends on the number of rows alone.
    """
    passes: list[list[int]] = []
    for number in sorted(range(len(rows)), key=lambda number: (len(rows[number]), tuple(rows[number]))):
        last = passes[-1] if passes else []
        if not last or len(last) == most or len(rows[number]) > spread * len(rows[last[0]]):
            passes.append([number])
        else:
            last.append(number)
    return passes


def by_beginning(rows: Rows, most: int) -> list[list[int]]:
    """Passes in which rows that begin alike, as all answers to a prompt do, are together, by their numbers.

    Args:
        most: rows in a pass.
    """
    groups: list[list[int]] = []
    for number in sorted(range(len(rows)), key=lambda number: tuple(rows[number])):
        row, above = rows[number], rows[groups[-1][-1]] if groups else ()
        if groups and 2 * common_beginning(above, row) >= min(len(above), len(row)):
            groups[-1].append(number)
        else:
            groups.append([number])
    passes: list[list[int]] = [[]]
    for group in sorted(groups, key=lambda group: max(len(rows[number]) for number in group)):
        if len(passes[-1]) + len(group) > most and passes[-1]:
            passes.append([])
        for number in group:
            if len(passes[-1]) == most:
                passes.append([])
            passes[-1].append(number)
    return passes if rows else []
