"""What a measure is made of: jobs to run, inputs that they work on, rows from what they found.

Each module of `measures/` holds one or more `Measure`s; `runner` carries them out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scripts.benchmark.results import Row, Run

Scale = Literal["full", "quick"]
"""`quick` is for trying the programs out; its figures say nothing."""
EnvironmentName = Literal["project", "trl-1.12"]
OURS = "ours"


@dataclass(frozen=True)
class Input:
    """A directory that a program makes once, and that later runs find again."""

    name: str
    program: str
    options: Mapping[str, Any]
    """JSON; another `Input` stands for its directory."""

    @property
    def directory_name(self) -> str:
        """Another one for other options."""
        said = json.dumps([self.program, self.options], sort_keys=True, default=_name_of_input)
        return f"{self.name}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def _name_of_input(value: object) -> str:
    assert isinstance(value, Input)  # noqa: S101 - options hold JSON and inputs
    return value.directory_name


@dataclass(frozen=True)
class Job:
    """One run to make."""

    case: str
    side: str
    """`OURS`, `OURS` with a variant, or the peer's name."""
    program: str
    """A module of `programs/`."""
    options: Mapping[str, Any]
    """As in `Input`; the seed is added when it runs."""
    environment: EnvironmentName = "project"

    @property
    def is_peer(self) -> bool:
        return not self.side.startswith(OURS)


@dataclass(frozen=True)
class Measure:
    """Something that can be measured."""

    name: str
    title: str
    jobs: Callable[[Scale], Sequence[Job]]
    """In the order in which they run, for each seed again: peer and ours in turn."""
    rows: Callable[[Sequence[Run]], list[Row]]
    missing: Callable[[], str] = lambda: ""
    """Why this machine cannot measure it at full size; empty where it can."""
