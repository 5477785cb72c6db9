"""CPU seconds, memory and optimiser steps of the process that runs; options in, figures out.

Standard library only, because it runs in every environment: ours and the peers' are measured by this alone.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def main(measure: Callable[[dict[str, Any]], dict[str, float]]) -> None:
    """Read the options, measure, write the figures."""
    options = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    figures = measure(options)
    Path(sys.argv[2]).write_text(json.dumps(figures), encoding="utf-8")


class CpuClock:
    """CPU seconds of all threads of this process, less what is spent paused."""

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self._now = now
        self._begun = now()

    def seconds(self) -> float:
        return self._now() - self._begun

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        began = self._now()
        try:
            yield
        finally:
            self._begun += self._now() - began


class Updates:
    """Times updates: `begin` before the first, `end` after each; the first ones warm up and do not count."""

    def __init__(self, warm_up: int, now: Callable[[], float] = time.process_time) -> None:
        self._warm_up = warm_up
        self._now = now
        self._marks: list[float] = []
        self._memory = Memory()

    def begin(self) -> None:
        self._memory = Memory()
        self._marks = [self._now()]

    def end(self) -> None:
        self._marks.append(self._now())

    def figures(self) -> dict[str, float]:
        """Mean seconds of an update, and growth of peak memory over all of them, warm-up included."""
        counted = [after - before for before, after in itertools.pairwise(self._marks)]
        return {"seconds": statistics.fmean(counted[self._warm_up :]), **self._memory.figures()}


class Memory:
    """Growth of the resident memory's peak from now on; Linux only."""

    def __init__(self) -> None:
        self._before = 0
        if _STATUS.is_file():
            _CLEAR_REFS.write_text("5")  # resets the peak to what is resident now
            self._before = _status_kib("VmRSS")

    def figures(self) -> dict[str, float]:
        if not _STATUS.is_file():
            return {}
        return {"memory_growth_mib": (_status_kib("VmHWM") - self._before) / 1024}


def _status_kib(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1])
