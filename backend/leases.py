"""Who owns a run: one process at a time, for as long as it renews its lease.

Each owner has a higher fence than the one before. Whoever writes or publishes shows it in the same
transaction, so that a process which was taken for dead and wakes up again changes nothing.
"""

from __future__ import annotations

import time

from sqlalchemy.orm import Session

from backend.errors import FenceError
from backend.tables import RunRow


def claim(session: Session, run_id: str, *, lease_s: float, now: float | None = None) -> int | None:
    """Become the run's owner.

    Returns:
        The fence to show when writing, or `None` if a living owner holds it or it has ended.
    """
    now = time.time() if now is None else now
    row = session.get(RunRow, run_id, with_for_update=True, populate_existing=True)
    if row is None or row.state not in ("queued", "running") or row.lease_until > now:
        return None
    row.state, row.fence, row.attempts = "running", row.fence + 1, row.attempts + 1
    row.lease_until, row.started = now + lease_s, row.started or now
    return row.fence


def renew(session: Session, run_id: str, fence: int, *, lease_s: float, now: float | None = None) -> None:
    """Raises: FenceError: another owner has taken the run over, or it has ended."""
    hold(session, run_id, fence).lease_until = (time.time() if now is None else now) + lease_s


def hold(session: Session, run_id: str, fence: int) -> RunRow:
    """The run, for its owner alone: call it in the transaction that writes or publishes.

    Raises: FenceError: another owner has taken the run over, or it has ended.
    """
    row = session.get(RunRow, run_id, with_for_update=True, populate_existing=True)
    if row is None or row.fence != fence or row.state != "running":
        state = f"it is {row.state} with fence {row.fence}" if row else "it does not exist"
        raise FenceError(
            f"run `{run_id}` is not ours any more (fence {fence}; {state}); this process must stop"
        )
    return row


def release(session: Session) -> None:
    """Free the runs of a server that died. Only for who knows it did: the holder of the data directory."""
    session.query(RunRow).filter(RunRow.state == "running").update({RunRow.lease_until: 0.0})
