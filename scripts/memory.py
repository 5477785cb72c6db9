"""How much memory a program and everything that it started use together, at the most."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil

INTERVAL_S = 0.5


class PeakMemory:
    """Measures resident memory while the context is open; a page that processes share counts for each."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="memory", daemon=True)
        self._peak = 0

    @property
    def peak_mb(self) -> float:
        return round(self._peak / 2**20, 1)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _measure(self) -> None:
        while True:
            self._peak = max(self._peak, self._now())
            if self._done.wait(self._interval_s):
                return

    def _now(self) -> int:
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:  # ended since it was listed
                continue
        return total
