"""The database: transactions, and the queries that decisions rest on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from backend import store as queries
from backend.errors import NotFoundInStoreError, SettingsError
from backend.store import Store
from backend.tables import HintRow, RankingRow, RunRow, SampleRow, WorkspaceRow


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'below' / 'test.sqlite3'}")
    made.create_all()
    yield made
    made.close()


def workspace(name: str = "team", first: int = 1) -> WorkspaceRow:
    return WorkspaceRow(
        id=name, title=name, prompts_project=first, ranking_project=first + 1, review_project=first + 2
    )


def run(key: str = "reward-00000001", **fields: Any) -> RunRow:
    return RunRow(**{"id": key, "workspace": "team", "kind": "reward", "dataset_hash": "h", **fields})


def ranking(annotation: int, **fields: Any) -> RankingRow:
    known = {
        "annotation_id": annotation, "workspace": "team", "task": 1, "prompt_id": "p1", "annotator": 1,
        "updated_at": "2026-01-01", "result_hash": "r", "state": "active", "order": [["a"], ["b"]],
    }  # fmt: skip
    return RankingRow(**{**known, **fields})


def test_failed_transaction_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.session() as session:
        session.add(workspace())
        session.flush()
        raise RuntimeError
    with store.reading() as session:
        assert queries.workspaces(session) == []


def test_database_of_another_version_is_refused_and_kept(store: Store) -> None:
    with store.session() as session:
        session.add(workspace())
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE runs DROP COLUMN failure"))
    with pytest.raises(SettingsError, match=r"another version of this program \(it lacks runs.failure\)"):
        store.create_all()
    with store.reading() as session:
        assert len(queries.workspaces(session)) == 1


def test_reader_does_not_wait_for_a_writer(store: Store) -> None:
    with store.session() as writing:
        writing.add(workspace())
        writing.flush()
        began = time.monotonic()
        with store.reading() as session:
            assert queries.workspaces(session) == []
        assert time.monotonic() - began < 1


def test_writers_that_read_first_wait_for_each_other(store: Store) -> None:
    """With SQLite's own transactions half of these would fail with `database is locked`."""
    with store.session() as session:
        session.add(run())
    failures: list[Exception] = []

    def count_up() -> None:
        try:
            for _ in range(20):
                with store.session() as session:
                    row = queries.run(session, "reward-00000001")
                    row.progress_done += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must show it
            failures.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with store.reading() as session:
        assert queries.run(session, "reward-00000001").progress_done == 80


def test_text_with_a_nul_can_be_stored_anywhere(store: Store) -> None:
    with store.session() as session:
        session.add(run(error="a\x00b"))
    with store.reading() as session:
        assert queries.run(session, "reward-00000001").error == "a\ufffdb"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_opened_with_the_driver_that_is_installed(scheme: str) -> None:
    assert Store(f"{scheme}://user:secret@127.0.0.1:1/name").engine.driver == "psycopg"


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////proc/none/x.sqlite3", "oracle+nothing://x/y"])
def test_unusable_url_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        Store(url).create_all()


def test_unknown_workspace_says_which_are_known(store: Store) -> None:
    with store.session() as session:
        session.add(workspace())
    with (
        store.reading() as session,
        pytest.raises(NotFoundInStoreError, match=r"known: `team`.*setup_project x"),
    ):
        queries.workspace(session, "x")


def test_project_belongs_to_its_workspace_only(store: Store) -> None:
    with store.session() as session:
        session.add_all([workspace("one", 1), workspace("two", 11)])
    with store.reading() as session:
        found = [queries.workspace_of_project(session, project) for project in (1, 2, 3, 12, 99)]
    assert [row.id if row else None for row in found] == ["one", "one", "one", "two", None]


def test_hint_that_arrives_meanwhile_stays_pending(store: Store) -> None:
    with store.session() as session:
        queries.add_hint(session, 5, "ANNOTATION_CREATED")
    with store.session() as session:
        pending = queries.pending_hints(session)
        queries.add_hint(session, 5, "x" * 1000)
    with store.session() as session:
        queries.handle_hints(session, 5, pending[5])
    with store.session() as session:
        assert list(queries.pending_hints(session)) == [5]
        queries.handle_hints(session, 5, queries.pending_hints(session)[5])
        assert queries.pending_hints(session) == {}


def test_handled_hints_are_forgotten_after_a_day_and_pending_ones_never(store: Store) -> None:
    old = time.time() - 90_000
    with store.session() as session:
        session.add_all([HintRow(project=p, action="a", received=old) for p in (5, 6)])
        session.add(HintRow(project=5, action="a"))
        session.flush()
        queries.handle_hints(session, 5, queries.pending_hints(session)[5])
        assert [(h.project, h.handled) for h in session.query(HintRow)] == [(6, False), (5, True)]


def test_second_run_on_the_same_data_is_impossible(store: Store) -> None:
    with store.session() as session:
        session.add(run("reward-00000001"))
    with pytest.raises(IntegrityError), store.session() as session:
        session.add(run("reward-00000002"))
    with store.session() as session:
        session.add_all([run("ppo-00000001", kind="ppo"), run("reward-00000003", dataset_hash="i")])
        assert queries.run_for(session, "team", "reward", "h") is not None
        assert queries.run_for(session, "other", "reward", "h") is None


def test_dataset_hash_knows_only_the_set_of_active_rankings(store: Store) -> None:
    hashes = []
    for rows in (
        [ranking(1), ranking(2)],
        [ranking(2), ranking(1), ranking(3, state="superseded")],
        [ranking(1), ranking(2, result_hash="s")],
        [ranking(1), ranking(2, updated_at="2026-01-02")],
        [ranking(1)],
    ):
        with store.session() as session:
            session.query(RankingRow).delete()
            session.add_all(rows)
            session.flush()
            hashes.append(queries.dataset_hash(session, "team"))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_new_rankings_are_those_that_the_last_run_did_not_see(store: Store) -> None:
    with store.session() as session:
        session.add_all([ranking(1), ranking(2), ranking(3, state="malformed")])
        session.flush()
        assert queries.new_rankings(session, "team") == 2
        used = queries.snapshot(queries.active_rankings(session, "team"))
        session.add(run(snapshot=used))
        session.flush()
        assert queries.new_rankings(session, "team") == 0
        session.add(ranking(4))
        session.get_one(RankingRow, 1).result_hash = "edited"
        session.flush()
        assert queries.new_rankings(session, "team") == 2


def test_same_metric_again_replaces_and_forgetting_cuts(store: Store) -> None:
    with store.session() as session:
        for step, value in ((1, 0.5), (2, 0.4), (2, 0.3), (3, 0.2)):
            queries.add_metrics(session, "r", step, {"reward/loss": value}, at=float(step))
        session.add(SampleRow(run_id="r", step=3, prompt_id="p", prompt="?", response="!", score=None))
        session.flush()
        assert [m.value for m in queries.metrics(session, "r")] == [0.5, 0.3, 0.2]
        assert [m.step for m in queries.metrics(session, "r", after_step=1)] == [2, 3]
        queries.forget_steps(session, "r", after_step=2)
        assert [m.step for m in queries.metrics(session, "r")] == [1, 2]
        assert queries.samples(session, "r") == []
