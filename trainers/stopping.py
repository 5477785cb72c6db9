"""Ending a stage in good order when the process is told to (SIGTERM, Ctrl-C).

Standard library only. A stage with checkpoints asks `stop_requested()` where it can save one, saves it and
raises `Stopped`. One that never asks is interrupted where it is: what it leaves is whole or absent anyway.
`trainers.__main__` turns `Stopped` into exit code 75.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

EXIT_STOPPED = 75
GRACE_S = 60.0
"""A stage that asks has this long to come to its next checkpoint."""
INTERRUPT_GRACE_S = 10.0
"""One that does not ask has this long to clean up."""

_requested = threading.Event()
_asked = threading.Event()


class Stopped(BaseException):
    """The stage ends early and goes on when started again. No `Exception`, so that nothing swallows it."""


def stop_requested() -> bool:
    """True once the process was told to end: save a checkpoint and raise `Stopped`."""
    _asked.set()
    return _requested.is_set()


def install() -> None:
    """Let SIGTERM and SIGINT end the stage in good order. For the entry point only."""
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGINT, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _requested.is_set():
        return
    _requested.set()
    timer = threading.Timer(GRACE_S if _asked.is_set() else INTERRUPT_GRACE_S, os._exit, args=(EXIT_STOPPED,))
    timer.daemon = True
    timer.start()
    if not _asked.is_set():
        raise Stopped
