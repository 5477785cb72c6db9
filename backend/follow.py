"""Follows a growing `metrics.jsonl` into the store, a batch at a time.

A resumed trainer cuts the file back to its checkpoint: that is noticed by the bytes before our place, and the
file is then read again from its beginning. Knows nothing of processes; the launcher calls `Follower.read`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from backend import store
from backend.tables import RunRow, SampleRow

log = logging.getLogger(__name__)

_FINGERPRINT_BYTES = 256
_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Batch:
    """New whole lines of a metrics file."""

    lines: tuple[dict[str, Any], ...] = ()
    restarted: bool = False
    """What was read before is void: the file was cut back; `lines` begin at its beginning."""

    def __bool__(self) -> bool:
        return bool(self.lines) or self.restarted


@dataclass
class Follower:
    """A place in one metrics file."""

    path: Path
    _offset: int = 0
    _before: bytes = field(default=b"", repr=False)

    def read(self) -> Batch:
        """The whole lines since the last call; at most a few megabytes of them."""
        try:
            with self.path.open("rb") as file:
                restarted = not self._unchanged_before(file)
                if restarted:
                    self._offset, self._before = 0, b""
                file.seek(self._offset)
                new = file.read(_BATCH_BYTES)
        except FileNotFoundError:
            return Batch()
        new = new[: new.rfind(b"\n") + 1]
        self._offset += len(new)
        self._before = (self._before + new)[-_FINGERPRINT_BYTES:]
        return Batch(tuple(_objects(new)), restarted)

    def _unchanged_before(self, file: Any) -> bool:
        file.seek(self._offset - len(self._before))
        return bool(file.read(len(self._before)) == self._before)


def store_batch(session: Session, run: RunRow, batch: Batch) -> None:
    """Write a batch into the run's metrics, samples and progress; the same batch again changes nothing."""
    if batch.restarted:
        store.forget_steps(session, run.id, after_step=-1)
    for line in batch.lines:
        step = line["step"]
        if isinstance(values := line.get("metrics"), dict):
            numbers = {str(name)[:64]: float(v) for name, v in values.items() if _is_number(v)}
            store.add_metrics(session, run.id, step, numbers, at=line.get("time"))
        elif isinstance(progress := line.get("progress"), dict):
            run.progress_done, run.progress_total = int(progress["done"]), int(progress["total"])
            run.progress_what = str(progress["what"])[:64]
        elif isinstance(sample := line.get("sample"), dict):
            session.merge(
                SampleRow(
                    run_id=run.id,
                    step=step,
                    prompt_id=str(sample["prompt_id"])[:64],
                    prompt=str(sample["prompt"]),
                    response=str(sample["response"]),
                    score=sample["score"] if _is_number(sample["score"]) else None,
                )
            )


def _objects(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            log.warning("skipped a metrics line that is no JSON")
            continue
        if isinstance(content, dict) and isinstance(content.get("step"), int):
            yield content


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
