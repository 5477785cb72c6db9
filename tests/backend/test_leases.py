"""Who owns a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from backend import leases
from backend.errors import FenceError
from backend.store import Store
from backend.tables import RunRow


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store("sqlite://")
    made.create_all()
    yield made
    made.close()


def run(**fields: Any) -> RunRow:
    return RunRow(id="reward-00000001", workspace="team", kind="reward", dataset_hash="h", **fields)


def test_living_owner_keeps_its_run_and_a_dead_one_loses_it(store: Store) -> None:
    with store.session() as session:
        session.add(run())
        session.flush()
        first = leases.claim(session, "reward-00000001", lease_s=10, now=100)
        assert first == 1
        assert leases.claim(session, "reward-00000001", lease_s=10, now=109) is None
        leases.renew(session, "reward-00000001", first, lease_s=10, now=109)
        assert leases.claim(session, "reward-00000001", lease_s=10, now=118) is None
        assert leases.claim(session, "reward-00000001", lease_s=10, now=120) == 2
        with pytest.raises(FenceError, match="must stop"):
            leases.hold(session, "reward-00000001", first)
        assert leases.hold(session, "reward-00000001", 2).attempts == 2


def test_ended_run_cannot_be_claimed_or_written(store: Store) -> None:
    with store.session() as session:
        session.add(run(state="cancelled", fence=1))
        session.flush()
        assert leases.claim(session, "reward-00000001", lease_s=1) is None
        with pytest.raises(FenceError, match="cancelled"):
            leases.hold(session, "reward-00000001", 1)
