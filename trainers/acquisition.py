"""Which prompts to rank next: those that teach the reward model most, or those that prove most about it.

Pure, standard library only. Two kinds of ranking help a reward model through its gate. Rankings of `train`
prompts teach it, and those whose answers it can hardly order teach most. Rankings of held-out prompts measure
it, and these have to be a random sample: measured on the pairs that it is least sure of, a good model looks
bad. Takes scores from the reward stage; the backend writes the places into Label Studio.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from trainers.evaluation import Outcome
from trainers.records import Split

Aim = Literal["learn", "measure", "both"]
"""What the next rankings are for: `learn`: prompts to learn from first; `measure`: held-out ones first."""


@dataclass(frozen=True)
class Unranked:
    """A prompt that nobody has ranked."""

    prompt_id: str
    split: Split
    scores: tuple[float, ...]
    """The reward model's scores of its answers; two or more."""


def aim_of(outcome: Outcome, accuracy: float | None, gate_accuracy: float) -> Aim:
    """What a reward model lacks to pass its gate: accuracy, evidence of it, or either.

    Below the gate for certain it has to learn. At the gate or above, but with too wide an interval, all it
    needs is to be measured.

    Args:
        outcome: of the gate.
        accuracy: held-out accuracy that the gate looked at.
        gate_accuracy: what it must reach.
    """
    if outcome == "failed":
        return "learn"
    reached = accuracy is not None and accuracy >= gate_accuracy
    return "measure" if outcome == "not_enough_evidence" and reached else "both"


def places(unranked: Iterable[Unranked], aim: Aim) -> dict[str, float]:
    """Prompt id -> place in the queue, from 0 (rank it next) to 1, in this order.

    Prompts to learn from come by `sureness`, held-out ones in an order drawn by their ids. With `both` the
    two kinds mix in the proportion in which they are there.
    """
    prompts = list(unranked)
    learn = sorted(
        (p for p in prompts if p.split == "train"), key=lambda p: (sureness(p.scores), p.prompt_id)
    )
    measure = sorted((p for p in prompts if p.split != "train"), key=lambda p: _drawn(p.prompt_id))
    found = {}
    for group, first in ((learn, "learn"), (measure, "measure")):
        start, share = (0.0, 1.0) if aim == "both" else (0.0 if aim == first else 0.5, 0.5)
        for number, prompt in enumerate(group):
            found[prompt.prompt_id] = start + share * (number + 0.5) / len(group)
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))


def sureness(scores: Sequence[float]) -> float:
    """How sure an order by these scores is, from 0 (two answers score the same) to 1.

        min over neighbours of 2 σ(d) − 1 = tanh(min d / 2),   d: difference of two neighbouring scores

    σ(d) is the Bradley-Terry probability that the better one of two answers is preferred.

    Raises: ValueError: fewer than two scores.
    """
    ordered = sorted(scores)
    return math.tanh(min(better - worse for worse, better in itertools.pairwise(ordered)) / 2)


def _drawn(prompt_id: str) -> bytes:
    """A random order that is the same whatever else there is."""
    return hashlib.sha256(f"measure/{prompt_id}".encode()).digest()
