"""What a measure finds: runs, and the rows of the table that they add up to.

Standard library only. `runner` fills `Results`, the measures make rows of them, `page` and the terminal show
these.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

RatioOf = Literal["peer / ours", "ours / peer"]


class BenchmarkError(Exception):
    """A measurement cannot be made or trusted; the message says what to do."""


BY_CHANCE = 0.01
"""Share by which the work of two sides may differ."""


@dataclass(frozen=True)
class Run:
    """One program's run in a process of its own."""

    case: str
    """What was worked on, for example a model's size."""
    side: str
    """Whose program ran: `ours`, or a peer's name."""
    seed: int
    figures: dict[str, float]
    """What the program measured, by name; the unit is the name's end."""


@dataclass(frozen=True)
class Results:
    """One measure's runs, and how they were made."""

    measure: str
    quick: bool
    machine: str
    """In words."""
    runs: tuple[Run, ...]

    def write(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.measure}.json"
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises: BenchmarkError: the file is no result of this program."""
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**data, "runs": tuple(Run(**run) for run in data["runs"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BenchmarkError(
                f"`{path}` cannot be read as a result ({error}); delete it and measure again"
            ) from error


@dataclass(frozen=True)
class Spread:
    """A number over several seeds."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Median, least and most."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Goal:
    """What a row has to reach."""

    direction: Literal["at least", "at most"]
    value: float

    def is_reached(self, value: float) -> bool:
        return value >= self.value if self.direction == "at least" else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.direction == 'at least' else '≤'} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    unit: str
    ours: Spread
    against: str = ""
    """The peer; empty where ours is held against a goal alone."""
    peer: Spread | None = None
    ratio: Spread | None = None
    """The middle is the ratio of the medians, the ends are the least and the most of the seeds' ratios."""
    goal: Goal | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """`None` where there is no goal, or nothing to hold against it."""
        value = self.ratio if self.against else self.ours
        return None if self.goal is None or value is None else self.goal.is_reached(value.middle)


def figures(runs: Iterable[Run], case: str, side: str, name: str) -> dict[int, float]:
    """seed -> figure, of the runs of one case and side that have it."""
    own = (run for run in runs if run.case == case and run.side == side and name in run.figures)
    return {run.seed: run.figures[name] for run in own}


def compare(
    runs: Sequence[Run],
    case: str,
    sides: tuple[str, str],
    figure: str,
    *,
    what: str,
    unit: str,
    ratio: RatioOf,
    goal: Goal | None = None,
    scale: float = 1.0,
    note: str = "",
) -> Row:
    """The row of a figure that two sides have, seed by seed.

    Args:
        sides: (ours, peer).
        scale: the figure times this is in `unit`.
    Raises: BenchmarkError: our side has no such figure.
    """
    ours, peer = (figures(runs, case, side, figure) for side in sides)
    if not ours:
        raise BenchmarkError(f"no run of `{sides[0]}` on `{case}` has `{figure}`; measure again")

    def divide(ours: float, peer: float) -> float:
        return peer / ours if ratio == "peer / ours" else ours / peer

    row = Row(
        what, unit, Spread.of([value * scale for value in ours.values()]), sides[1], goal=goal, note=note
    )
    if not peer:
        return row
    pairs = [divide(ours[seed], peer[seed]) for seed in sorted(ours.keys() & peer.keys())]
    middle = divide(statistics.median(ours.values()), statistics.median(peer.values()))
    of_peer = Spread.of([value * scale for value in peer.values()])
    return dataclasses.replace(row, peer=of_peer, ratio=Spread(middle, min(pairs), max(pairs)))


def require_equal_work(runs: Sequence[Run], case: str, names: Sequence[str]) -> None:
    """Hold two sides to having done the same, but for the few responses that end early by chance.

    Raises: BenchmarkError: a figure that must be equal on all sides is not.
    """
    for name in names:
        found = {run.side: run.figures[name] for run in runs if run.case == case and name in run.figures}
        if found and max(found.values()) > (1 + BY_CHANCE) * min(found.values()):
            said = ", ".join(f"{side} {value:g}" for side, value in found.items())
            raise BenchmarkError(
                f"`{case}`: the sides did unequal work, `{name}` is {said}; the programs must be mended"
            )


def by_case(runs: Iterable[Run], make: Callable[[str], Row]) -> list[Row]:
    """One row a case, in the order in which they were run."""
    return [make(case) for case in dict.fromkeys(run.case for run in runs)]
