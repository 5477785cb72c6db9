"""Everything that advice is given on. Plain data: results of stages, counts, settings in effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.settings import Settings
from trainers.acquisition import Aim


@dataclass(frozen=True)
class Removed:
    """Rankings that models in use depend on and that do not count any more as they were."""

    reward: int = 0
    """Behind the newest reward model."""
    of_reward: int = 0
    serving: int = 0
    """Behind the serving policy, its ancestors' included."""
    of_serving: int = 0
    clean: str = "base"
    """The newest of the serving policy and its ancestors that depends on none of them."""


@dataclass(frozen=True)
class Measurements:
    """What the rules look at; results are those of the stages' `result.json`, empty if not run."""

    settings: Settings = field(default_factory=Settings)
    """Those in effect for the workspace."""
    prompts: int = 0
    flagged: int = 0
    """Prompts without two usable candidates."""
    compared: int = 0
    """Prompts with candidates to rank."""
    variants: int = 0
    """Those of them whose candidates are variants of one answer (`trainers.spread.ALIKE`)."""
    unranked: int = 0
    """Prompts whose task nobody has annotated yet."""
    rankings: int = 0
    suspicious: int = 0
    generate: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=dict)
    ppo: Mapping[str, Any] = field(default_factory=dict)
    compare: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    promoted: bool = False
    """The round's policy serves already."""
    consistency: Mapping[str, Any] = field(default_factory=dict)
    """`trainers.agreement.SelfConsistency` of the tasks that were served twice."""
    contested: tuple[str, ...] = ()
    """Ids of the prompts that divide the team most, the most divisive first."""
    rank_next: tuple[str, ...] | None = None
    """Prompts that help the reward model through its gate, the most useful first; none if nobody looked."""
    rank_aim: Aim = "both"
    """What these are for."""
    removed: Removed = field(default_factory=Removed)
    people: Mapping[int, str] = field(default_factory=dict)
    """Names of the annotators (`backend.people`)."""
    prompts_named: Mapping[str, str] = field(default_factory=dict)
    """Texts of the prompts that the advice names."""
