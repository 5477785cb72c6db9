"""Publishing, promoting, rolling back: real files, a real SQLite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend import leases, registry, store
from backend.errors import ConflictError, FenceError, NotFoundInStoreError, RegistryError
from backend.store import Store
from backend.tables import ModelRow, RunRow, WorkspaceRow
from trainers.run_dir import RunDir


@pytest.fixture
def opened(tmp_path: Path) -> Store:
    opened = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    opened.create_all()
    with opened.session() as session:
        session.add(
            WorkspaceRow(id="team", title="Team", prompts_project=1, ranking_project=2, review_project=3)
        )
    return opened


def trained(tmp_path: Path, opened: Store, run_id: str, content: str = "weights") -> tuple[Path, int]:
    """A finished PPO run with its model; returns the model's directory and our fence."""
    run = RunDir(tmp_path / "runs" / run_id)

    def write(directory: Path) -> None:
        (directory / "model.safetensors").write_text(content)

    run.save_model(write, {"run": run_id})
    with opened.session() as session:
        session.add(RunRow(id=run_id, workspace="team", round_id="team-r1", kind="ppo", dataset_hash=run_id))
        session.flush()
        fence = leases.claim(session, run_id, lease_s=60)
    assert fence is not None
    return run.model_dir, fence


def publish(tmp_path: Path, opened: Store, run_id: str, model_dir: Path, fence: int) -> str:
    staged = registry.stage_model(model_dir, tmp_path / "models", f"{run_id}-{fence}")
    with opened.session() as session:
        run = leases.hold(session, run_id, fence)
        row = registry.publish(session, run, "policy", staged, parent="base", base_model="b", metrics={})
        return row.id


def test_published_model_is_the_runs_and_verifies(tmp_path: Path, opened: Store) -> None:
    model_id = publish(tmp_path, opened, "ppo-1", *trained(tmp_path, opened, "ppo-1", "abc"))
    assert model_id == "policy-team-1"
    with opened.session() as session:
        path = Path(registry.resolve(session, "team", model_id, base_model="b"))
    assert (path / "model.safetensors").read_text() == "abc"
    assert path == tmp_path / "models" / "policy-team-1"


def test_publishing_again_gives_the_same_model_and_leaves_no_copy(tmp_path: Path, opened: Store) -> None:
    model_dir, fence = trained(tmp_path, opened, "ppo-1")
    first = publish(tmp_path, opened, "ppo-1", model_dir, fence)
    assert publish(tmp_path, opened, "ppo-1", model_dir, fence) == first
    assert [path.name for path in (tmp_path / "models").iterdir()] == [first]


def test_lost_fence_publishes_nothing(tmp_path: Path, opened: Store) -> None:
    model_dir, fence = trained(tmp_path, opened, "ppo-1")
    with opened.session() as session:
        assert leases.claim(session, "ppo-1", lease_s=60, now=1e12) == fence + 1
    with pytest.raises(FenceError):
        publish(tmp_path, opened, "ppo-1", model_dir, fence)
    with opened.session() as session:
        assert store.models(session, "team") == []


def test_directory_left_between_rename_and_commit_is_replaced(tmp_path: Path, opened: Store) -> None:
    left = tmp_path / "models" / "policy-team-1"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    publish(tmp_path, opened, "ppo-1", *trained(tmp_path, opened, "ppo-1"))
    assert sorted(path.name for path in left.iterdir()) == ["manifest.json", "model.safetensors"]


@pytest.mark.parametrize("fault", ["changed", "extra", "pickle", "symlink", "gone", "other"])
def test_tampered_model_is_refused(tmp_path: Path, opened: Store, fault: str) -> None:
    model_id = publish(tmp_path, opened, "ppo-1", *trained(tmp_path, opened, "ppo-1"))
    path = tmp_path / "models" / model_id
    if fault == "changed":
        (path / "model.safetensors").write_text("weightz")
    elif fault == "extra":
        (path / "more.json").write_text("{}")
    elif fault == "pickle":
        (path / "x.bin").write_bytes(b"")
    elif fault == "symlink":
        (path / "model.safetensors").rename(tmp_path / "elsewhere")
        (path / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    elif fault == "gone":
        (path / "manifest.json").unlink()
    else:  # a consistent model of somebody else under the same name
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["lineage"] = {"run": "another"}
        (path / "manifest.json").write_text(json.dumps(manifest))
    with opened.session() as session, pytest.raises(RegistryError):
        registry.resolve(session, "team", model_id, base_model="b")


def test_incomplete_model_cannot_be_published(tmp_path: Path, opened: Store) -> None:
    model_dir, fence = trained(tmp_path, opened, "ppo-1")
    (model_dir / "manifest.json").unlink()
    with pytest.raises(RegistryError):
        publish(tmp_path, opened, "ppo-1", model_dir, fence)
    assert list((tmp_path / "models").iterdir()) == []


def test_rollbacks_walk_back_through_the_promotions(tmp_path: Path, opened: Store) -> None:
    for number in (1, 2):
        publish(tmp_path, opened, f"ppo-{number}", *trained(tmp_path, opened, f"ppo-{number}"))
    with opened.session() as session:
        registry.promote(session, "team", "policy-team-1", "better")
        registry.promote(session, "team", "policy-team-2", "better")
        session.flush()
        assert registry.rollback(session, "team") == "policy-team-1"
        session.flush()
        assert registry.rollback(session, "team") == "base"
        session.flush()
        with pytest.raises(ConflictError):
            registry.rollback(session, "team")
        session.flush()
        states = {m.id: m.state for m in store.models(session, "team")}
        assert states == {"policy-team-1": "rolled_back", "policy-team-2": "rolled_back"}
        assert [(p.previous, p.model) for p in store.promotions(session, "team")] == [
            ("base", "policy-team-1"),
            ("policy-team-1", "policy-team-2"),
            ("policy-team-2", "policy-team-1"),
            ("policy-team-1", "base"),
        ]
        assert store.workspace(session, "team").serving_policy == "base"


def test_promotion_of_reward_model_or_unknown_or_foreign_model_is_refused(opened: Store) -> None:
    with opened.session() as session:
        session.add(ModelRow(id="reward-team-1", workspace="team", kind="reward", run_id="r", path="x"))
        session.add(ModelRow(id="policy-other-1", workspace="other", kind="policy", run_id="p", path="x"))
        session.flush()
        with pytest.raises(ConflictError):
            registry.promote(session, "team", "reward-team-1", "")
        with pytest.raises(NotFoundInStoreError):
            registry.promote(session, "team", "policy-team-9", "")
        with pytest.raises(NotFoundInStoreError):
            registry.promote(session, "team", "policy-other-1", "")


def test_garbage_is_what_no_row_knows(tmp_path: Path, opened: Store) -> None:
    model_id = publish(tmp_path, opened, "ppo-1", *trained(tmp_path, opened, "ppo-1"))
    (tmp_path / "models" / ".tmp-ppo-2-1").mkdir()
    (tmp_path / "models" / "policy-team-2").mkdir()
    with opened.session() as session:
        assert registry.collect_garbage(session, tmp_path / "models") == [".tmp-ppo-2-1", "policy-team-2"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == [model_id]
