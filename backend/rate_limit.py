"""How often something may happen: events counted per key in a sliding window, in memory.

Knows nothing of HTTP. Used against guessed passwords (`backend.auth`) and floods of hints (`backend.hooks`).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

_MOST_KEYS = 10_000


class RateLimit:
    """At most `most` events per key within `window_s`. Threads may share one."""

    def __init__(self, most: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.window_s = window_s
        self._clock = clock
        self._events: OrderedDict[Hashable, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, key: Hashable) -> float:
        """Seconds until the next event is allowed; 0 if it is now. Counts nothing."""
        with self._lock:
            events = self._recent(key)
            return 0.0 if len(events) < self.most else events[0] + self.window_s - self._clock()

    def add(self, key: Hashable) -> None:
        """Count one event; of the oldest keys those above ten thousand are forgotten."""
        with self._lock:
            self._events.setdefault(key, deque(maxlen=self.most)).append(self._clock())
            self._events.move_to_end(key)
            while len(self._events) > _MOST_KEYS:
                self._events.popitem(last=False)

    def _recent(self, key: Hashable) -> deque[float]:
        events = self._events.get(key, deque())
        while events and events[0] <= self._clock() - self.window_s:
            events.popleft()
        if not events:
            self._events.pop(key, None)
        return events
