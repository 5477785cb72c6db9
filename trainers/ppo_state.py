"""Everything that a PPO run changes while it goes on, and its checkpoint.

Random numbers and the order of prompts are functions of seed and update, so they need no state: a resumed run
draws what an uninterrupted one would. Used by `trainers.ppo` only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainers.advantages import ScoreMoments
from trainers.errors import RunError
from trainers.trainable_policy import TrainablePolicy
from trainers.value_model import ValueModel
from trainers.verification import Look, Stop

STATE_FILE = "state.pt"
Item = TypeVar("Item")


@dataclass
class TrainingState:
    """Where a run stands after `update` updates."""

    kl_coef: float
    update: int = 0
    step_scale: float = 1.0
    """Factor of the step size that follows the measured change of the policy."""
    moments: ScoreMoments = field(default_factory=ScoreMoments)
    looks: list[Look] = field(default_factory=list)
    train_scores: list[float] = field(default_factory=list)
    """Mean score of each update's rollouts since the last look."""
    best_update: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Answers to the same few verification prompts at each look."""
    stop: Stop | None = None
    seconds: float = 0.0
    resumed: int = 0


def save_state(
    directory: Path,
    state: TrainingState,
    policy: TrainablePolicy,
    optimizer: torch.optim.Optimizer,
    value_model: ValueModel,
    offset: int,
) -> None:
    """Write a checkpoint into an empty directory.

    Args:
        offset: the length of metrics.jsonl now.
    """
    content = {
        **{name: getattr(state, name) for name in _PLAIN},
        "moments": dataclasses.asdict(state.moments),
        "looks": [dataclasses.asdict(look) for look in state.looks],
        "stop": None if state.stop is None else dataclasses.asdict(state.stop),
        "weights": policy.trainable_state(),
        "optimizer": optimizer.state_dict(),
        "value_model": value_model.state(),
        "offset": offset,
    }
    torch.save(content, directory / STATE_FILE)


def load_state(
    directory: Path, policy: TrainablePolicy, optimizer: torch.optim.Optimizer, value_model: ValueModel
) -> tuple[TrainingState, int]:
    """Read a checkpoint back into the policy, the optimizer and the value model.

    Returns:
        (state, offset of metrics.jsonl).
    Raises:
        RunError: the file is no checkpoint of this program.
        ModelError: it belongs to another model.
    """
    try:
        content = torch.load(directory / STATE_FILE, map_location="cpu", weights_only=True)
        state = TrainingState(
            **{name: content[name] for name in _PLAIN},
            moments=ScoreMoments(**content["moments"]),
            looks=[Look(**look) for look in content["looks"]],
            stop=None if content["stop"] is None else Stop(**content["stop"]),
        )
        weights, optimizer_state, offset = content["weights"], content["optimizer"], int(content["offset"])
        values = content["value_model"]
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise RunError(
            f"`{directory}` is no checkpoint that can be read; delete it and start again"
        ) from error
    policy.load_trainable_state(weights)
    optimizer.load_state_dict(optimizer_state)
    value_model.load_state(values)
    return state, offset


def generator_for(seed: int, update: int, purpose: str) -> torch.Generator:
    """Random numbers that depend on nothing but these three."""
    digest = hashlib.sha256(f"{seed}/{update}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def prompts_of_update(items: Sequence[Item], seed: int, update: int, count: int) -> list[Item]:
    """The items for this update (counted from 1): all in random order before any comes again."""
    chosen = []
    for position in range((update - 1) * count, update * count):
        order = list(range(len(items)))
        random.Random(f"{seed}/{position // len(items)}").shuffle(order)
        chosen.append(items[order[position % len(items)]])
    return chosen


_RECORDS = ("moments", "looks", "stop")
_PLAIN = tuple(member.name for member in dataclasses.fields(TrainingState) if member.name not in _RECORDS)
