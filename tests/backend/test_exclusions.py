"""Whose rankings count."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend import store
from backend.errors import ConflictError
from backend.exclusions import annotators, exclude, exclusions, include
from backend.store import Store
from backend.tables import RankingRow, WorkspaceRow


@pytest.fixture
def opened(tmp_path: Path) -> Store:
    """Annotator 1 has rankings 1 to 3, 2 has 4 and 5 and a repeat, one whose account is gone has 7."""
    opened = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    opened.create_all()
    with opened.session() as session:
        for number, name in enumerate(("team", "other")):
            projects = {
                f"{kind}_project": 3 * number + k for k, kind in enumerate(("prompts", "ranking", "review"))
            }
            session.add(WorkspaceRow(id=name, title=name, **projects))
        for annotation, annotator in enumerate((1, 1, 1, 2, 2, 2, 0), start=1):
            session.add(
                RankingRow(
                    annotation_id=annotation, workspace="team", task=annotation, prompt_id=f"p{annotation}",
                    annotator=annotator, updated_at="t", result_hash=f"h{annotation}",
                    state="repeat" if annotation == 6 else "active", order=[["a"], ["b"]],
                )
            )  # fmt: skip
        session.add(
            RankingRow(
                annotation_id=8, workspace="other", task=8, prompt_id="p8", annotator=2, updated_at="t",
                result_hash="h8", state="active", order=[["a"], ["b"]],
            )
        )  # fmt: skip
    return opened


def counting(opened: Store, workspace: str = "team") -> list[int]:
    with opened.reading() as session:
        return [row.annotation_id for row in store.active_rankings(session, workspace)]


def test_rankings_of_an_excluded_annotator_count_nowhere_and_are_still_there(opened: Store) -> None:
    with opened.session() as session:
        before = store.dataset_hash(session, "team")
        assert exclude(session, "team", 2, "does not read") == 2
        assert exclude(session, "team", 2, "never reads") == 2  # again: the reason alone is new
        session.flush()
        assert [(row.annotator, row.reason) for row in exclusions(session, "team")] == [(2, "never reads")]
        assert store.repeated_rankings(session, "team") == []
        assert store.dataset_hash(session, "team") != before
        assert annotators(session, "team") == {0: 1, 1: 3, 2: 2}
    assert counting(opened) == [1, 2, 3, 7]
    assert counting(opened, "other") == [8]  # the same person in another team
    with opened.session() as session:
        assert include(session, "team", 2) == 2
        assert store.dataset_hash(session, "team") == before
        assert len(store.repeated_rankings(session, "team")) == 1
    assert counting(opened) == [1, 2, 3, 4, 5, 7]


def test_people_whose_accounts_are_gone_can_be_excluded_together(opened: Store) -> None:
    with opened.session() as session:
        exclude(session, "team", 0, "")
    assert counting(opened) == [1, 2, 3, 4, 5]


def test_nobody_to_exclude_or_include_names_those_who_are_there(opened: Store) -> None:
    with opened.session() as session:
        with pytest.raises(ConflictError, match=r"#1, 3 rankings; #2, 2 rankings"):
            exclude(session, "team", 9, "")
        with pytest.raises(ConflictError, match="excluded: nobody"):
            include(session, "team", 1)
        exclude(session, "team", 1, "")
        session.flush()
        with pytest.raises(ConflictError, match="excluded: `1`"):
            include(session, "team", 2)
