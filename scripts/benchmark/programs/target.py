"""A programmatic reward, and the moment at which PPO has reached a given height of it.

Standard library only: ours and the peer are scored and stopped by the same code.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from scripts.benchmark.programs.meter import CpuClock

BATCHES = 3
"""The mean score of this many updates' answers decides: one update's is too noisy."""
SHORTEST = 10


def brevity(answer: str) -> float:
    """Half the length is worth ln 2; nothing is gained below ten characters."""
    return -math.log(max(len(answer), SHORTEST))


class Ended(BaseException):
    """The target is reached, or all updates are made. No `Exception`, so that nothing swallows it."""


class Target:
    """Scores each update's answers and ends the run."""

    def __init__(self, target: float, most_updates: int) -> None:
        self._target = target
        self._most_updates = most_updates
        self._recent: deque[float] = deque(maxlen=BATCHES)
        self._updates = 0
        self._clock = CpuClock()

    def begin(self) -> None:
        """Training begins: the time counts from now."""
        self._clock = CpuClock()

    def scores(self, answers: Sequence[str]) -> list[float]:
        """One score an answer.

        Raises: Ended: these answers reach the target, or are the last.
        """
        scores = [brevity(answer) for answer in answers]
        self._updates += 1
        self._recent.append(statistics.fmean(scores))
        if self._is_reached() or self._updates >= self._most_updates:
            raise Ended
        return scores

    def figures(self) -> dict[str, float]:
        return {
            "seconds": self._clock.seconds(),
            "reached": float(self._is_reached()),
            "updates": float(self._updates),
            "reward": statistics.fmean(self._recent),
        }

    def _is_reached(self) -> bool:
        return len(self._recent) == BATCHES and statistics.fmean(self._recent) >= self._target
