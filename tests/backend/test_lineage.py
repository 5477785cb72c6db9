"""What a model comes from, and what of it is not as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import NotFoundInStoreError
from backend.exclusions import exclude
from backend.lineage import Dependence, dependences, lineage_of, newest_clean
from backend.lineage_text import to_text
from backend.store import Store
from backend.tables import ModelRow, RankingRow, RoundRow, RunRow, WorkspaceRow


@pytest.fixture
def opened(tmp_path: Path) -> Store:
    """Two rounds: policy 1 learned from rankings 1 to 4, policy 2, its child, from 1 to 6."""
    opened = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    opened.create_all()
    with opened.session() as session:
        session.add(
            WorkspaceRow(
                id="team", title="Team", prompts_project=1, ranking_project=2, review_project=3,
                serving_policy="policy-team-2",
            )
        )  # fmt: skip
        for annotation in range(1, 7):
            session.add(
                RankingRow(
                    annotation_id=annotation, workspace="team", task=annotation, prompt_id=f"p{annotation}",
                    annotator=2 - annotation % 2, updated_at="t", result_hash=f"h{annotation}",
                    state="active", order=[["a"], ["b"]],
                )
            )  # fmt: skip
        for number, parent in ((1, "base"), (2, "policy-team-1")):
            session.add(RoundRow(id=f"team-r{number}", workspace="team", number=number, state="decided"))
            learned = [[n, f"h{n}"] for n in range(1, 3 + 2 * number)]
            origin = {"parent": parent, "reward_model": f"reward-team-{number}"}
            for kind, run, snapshot, lineage in (
                ("reward", f"reward-{number}", learned, {}),
                ("policy", f"ppo-{number}", [], origin),
            ):
                session.add(
                    RunRow(
                        id=run, workspace="team", round_id=f"team-r{number}", dataset_hash=run,
                        kind="reward" if kind == "reward" else "ppo", snapshot=snapshot, state="succeeded",
                        config={"seed": number, "base_model": "b", "lineage": lineage},
                    )
                )  # fmt: skip
                session.add(
                    ModelRow(
                        id=f"{kind}-team-{number}", workspace="team", kind=kind, run_id=run, path="x",
                        round_id=f"team-r{number}", parent=parent if kind == "policy" else "base",
                        base_model="b", manifest_sha256="f00", created=10.0 * number + (kind == "policy"),
                    )
                )  # fmt: skip
    return opened


def removed(opened: Store) -> dict[str, tuple[int, int]]:
    with opened.reading() as session:
        return {name: (found.removed, found.rankings) for name, found in dependences(session, "team").items()}


def test_models_depend_on_their_rankings_and_on_those_of_their_parents(opened: Store) -> None:
    assert removed(opened) == {
        "reward-team-1": (0, 4), "policy-team-1": (0, 4), "reward-team-2": (0, 6), "policy-team-2": (0, 6),
    }  # fmt: skip


@pytest.mark.parametrize("fate", ["deleted", "edited", "cancelled"])
def test_ranking_that_is_not_as_it_was_marks_every_model_that_learned_from_it(
    opened: Store, fate: str
) -> None:
    with opened.session() as session:
        for annotation in (1, 6):
            row = session.get_one(RankingRow, annotation)
            if fate == "edited":
                row.result_hash = "other"
            else:
                row.state = fate  # type: ignore[assignment]
    assert removed(opened) == {
        "reward-team-1": (1, 4), "policy-team-1": (1, 4), "reward-team-2": (2, 6), "policy-team-2": (2, 6),
    }  # fmt: skip
    with opened.reading() as session:
        lineage = lineage_of(session, "policy-team-2")
        dependent = dependences(session, "team")
        assert newest_clean(session, "policy-team-2", dependent) == "base"
    assert {own.annotation: own.fate for own in lineage.rankings if own.fate != "active"} == {
        1: fate,
        6: fate,
    }


def test_child_of_a_marked_policy_is_marked_though_its_reward_model_is_clean(opened: Store) -> None:
    with opened.session() as session:
        session.get_one(RankingRow, 1).state = "deleted"
        session.get_one(RunRow, "reward-2").snapshot = [[n, f"h{n}"] for n in range(2, 7)]
    found = removed(opened)
    assert (found["reward-team-2"], found["policy-team-2"]) == ((0, 5), (1, 6))


def test_newest_clean_policy_is_where_training_may_go_on(opened: Store) -> None:
    with opened.session() as session:
        session.get_one(RankingRow, 5).state = "deleted"  # the second round alone learned from it
    with opened.reading() as session:
        dependent = dependences(session, "team")
        assert newest_clean(session, "policy-team-2", dependent) == "policy-team-1"
        assert newest_clean(session, "policy-team-1", dependent) == "policy-team-1"
        assert newest_clean(session, "base", dependent) == "base"


def test_lineage_goes_to_the_exact_rankings(opened: Store) -> None:
    with opened.session() as session:
        exclude(session, "team", 2, "")
    with opened.reading() as session:
        lineage = lineage_of(session, "policy-team-2")
    assert [model.id for model in lineage.models] == [
        "policy-team-2", "reward-team-2", "policy-team-1", "reward-team-1",
    ]  # fmt: skip
    newest = lineage.models[0]
    assert (newest.parent, newest.reward_model, newest.serving) == ("policy-team-1", "reward-team-2", True)
    assert (newest.config, newest.dependence) == ({"seed": 2, "base_model": "b"}, Dependence(6, 3))
    assert lineage.excluded == (2,)
    assert [(own.annotation, own.annotator, own.round, own.fate) for own in lineage.rankings] == [
        (1, 1, 1, "active"), (2, 2, 1, "excluded"), (3, 1, 1, "active"), (4, 2, 1, "excluded"),
        (5, 1, 2, "active"), (6, 2, 2, "excluded"),
    ]  # fmt: skip
    assert lineage.rankings[0].models == ("reward-team-1", "reward-team-2")
    assert (lineage.rankings[4].prompt_id, lineage.rankings[4].result_hash) == ("p5", "h5")
    assert lineage.rankings[4].models == ("reward-team-2",)
    text = to_text(lineage, {1: "Lin Wang"})
    assert "annotator Lin Wang (#1)" in text
    assert "6 个排序 rankings: 3 不变 unchanged, 3 标注者已排除 annotator excluded" in text
    assert "depends on 6 rankings, 3 of them gone or changed" in text
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("  #")]
    assert shown == ["#2", "#4", "#6", "#1", "#3", "#5"]  # what changed comes first


def test_reward_model_has_a_lineage_of_its_own(opened: Store) -> None:
    with opened.reading() as session:
        lineage = lineage_of(session, "reward-team-1")
        assert [model.id for model in lineage.models] == ["reward-team-1"]
        assert [own.annotation for own in lineage.rankings] == [1, 2, 3, 4]
        with pytest.raises(NotFoundInStoreError, match="`policy-team-9`"):
            lineage_of(session, "policy-team-9")
