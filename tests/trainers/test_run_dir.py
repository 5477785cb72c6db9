from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.errors import ModelError, RunError
from trainers.manifest import MANIFEST, write_directory
from trainers.run_dir import RunDir, verify_manifest, write_json_atomic, write_manifest

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.json|\.txt|\.safetensors)?", fullmatch=True)
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=2).map("/".join), st.binary(max_size=64), min_size=1
)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "ppo-1234abcd")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "tokenizer").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(bytes(range(256)))
    (directory / "tokenizer" / "vocab.json").write_text("{}")
    write_manifest(directory, {"parent": "base"})
    return directory


def write_step(step: int) -> Callable[[Path], None]:
    return lambda directory: (directory / "state.pt").write_bytes(b"%d" % step) and None


# --- manifests


def test_unchanged_directory_verifies_and_gives_its_lineage(model: Path) -> None:
    manifest = verify_manifest(model)
    assert manifest["lineage"] == {"parent": "base"}
    assert set(manifest["files"]) == {"model.safetensors", "tokenizer/vocab.json"}
    assert manifest["files"]["model.safetensors"]["size"] == 256


def flip_byte(model: Path) -> None:
    content = bytearray((model / "model.safetensors").read_bytes())
    content[100] ^= 1
    (model / "model.safetensors").write_bytes(content)


def link_file(model: Path) -> None:
    (model / "model.safetensors").rename(model.parent / "elsewhere")
    (model / "model.safetensors").symlink_to(model.parent / "elsewhere")


def link_directory(model: Path) -> None:
    (model / "tokenizer").rename(model.parent / "elsewhere")
    (model / "tokenizer").symlink_to(model.parent / "elsewhere")


def link_manifest(model: Path) -> None:
    (model / MANIFEST).rename(model.parent / MANIFEST)
    (model / MANIFEST).symlink_to(model.parent / MANIFEST)


def plant_pickle(model: Path) -> None:
    (model / "adapter_model.bin").write_bytes(pickle.dumps({}))
    (model / MANIFEST).unlink()
    write_manifest(model, {}, torch_states=True)


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        (flip_byte, "`model.safetensors` has changed"),
        (
            lambda model: (model / "model.safetensors").write_bytes(bytes(255)),
            "`model.safetensors` has changed",
        ),
        (lambda model: (model / "extra.json").write_text("{}"), "does not know .*extra.json"),
        (lambda model: (model / "tokenizer" / "vocab.json").unlink(), "vocab.json.* are missing"),
        (lambda model: (model / "weights.bin").write_bytes(b""), "`weights.bin` can run code"),
        (lambda model: (model / "OPTIMIZER.PT").write_bytes(b""), "`OPTIMIZER.PT` can run code"),
        (link_file, "`model.safetensors` is a symlink"),
        (link_directory, "`tokenizer` is a symlink"),
        (link_manifest, "has no manifest.json"),
        (lambda model: os.mkfifo(model / "pipe"), "`pipe` is a symlink or a special file"),
        (lambda model: (model / MANIFEST).unlink(), "has no manifest.json"),
        (lambda model: (model / MANIFEST).write_text("["), "is no JSON"),
        (lambda model: (model / MANIFEST).write_text("[" * 100_000), "is no JSON"),
        (lambda model: (model / MANIFEST).write_bytes(b"\xff"), "is no JSON"),
        (
            lambda model: (model / MANIFEST).write_text('{"files": {"model.safetensors": 1}}'),
            "has no `files`",
        ),
        (lambda model: (model / MANIFEST).write_text("[]"), "has no `files`"),
        (lambda model: os.truncate(model / MANIFEST, 17 * 1024 * 1024), "is larger than"),
    ],
)
def test_tampered_directory_is_refused(model: Path, tamper: Callable[[Path], object], fault: str) -> None:
    tamper(model)
    with pytest.raises(ModelError, match=fault):
        verify_manifest(model)


def test_pickle_is_refused_when_the_manifest_is_written(model: Path) -> None:
    with pytest.raises(ModelError, match="can run code"):
        plant_pickle(model)


def test_link_to_a_whole_model_is_refused(model: Path) -> None:
    (model.parent / "link").symlink_to(model)
    with pytest.raises(ModelError, match="is a symlink"):
        verify_manifest(model.parent / "link")


@given(tree=TREES, data=st.data())
def test_any_change_of_any_file_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes], data: st.DataObject
) -> None:
    tree = {
        name: content for name, content in tree.items() if not any(o.startswith(name + "/") for o in tree)
    }
    tree.pop(MANIFEST, None)
    directory = tmp_path_factory.mktemp("tree")
    for name, content in tree.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    write_manifest(directory, {})
    assert set(verify_manifest(directory)["files"]) == set(tree)
    if not tree:
        return
    victim = data.draw(st.sampled_from(sorted(tree)))
    replacement = data.draw(st.binary(max_size=64).filter(lambda content: content != tree[victim]))
    (directory / victim).write_bytes(replacement)
    with pytest.raises(ModelError, match="has changed"):
        verify_manifest(directory)


@given(st.text(max_size=30))
def test_manifest_never_leads_out_of_its_directory(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    directory = tmp_path_factory.mktemp("model")
    for hostile in (f"../{name}", f"/etc/{name}", f"%2e%2e/{name}", f"{name}\0"):
        (directory / MANIFEST).write_text(json.dumps({"files": {hostile: {"sha256": "", "size": 0}}}))
        with pytest.raises(ModelError, match="are missing"):
            verify_manifest(directory)


def test_directory_whose_writing_fails_leaves_the_old_one_and_no_rest(model: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_directory(model, fail, {})
    assert verify_manifest(model)["lineage"] == {"parent": "base"}
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_full_disk_is_a_run_error_and_leaves_the_old_directory(model: Path) -> None:
    def fill(directory: Path) -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    with pytest.raises(RunError, match="disk is full; free some space"):
        write_directory(model, fill, {})
    verify_manifest(model)


def test_full_disk_is_a_run_error_in_whatever_words_a_library_says_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(model)._replace(free=0)
    monkeypatch.setattr("trainers.manifest.shutil.disk_usage", lambda path: usage)

    def write(directory: Path) -> None:
        raise RuntimeError("unexpected pos 1025792 vs 1025680")

    with pytest.raises(RunError, match="disk is full; free some space"):
        write_directory(model, write, {})
    verify_manifest(model)


# --- JSON


def test_json_with_nan_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "result.json", {"accuracy": 0.5, "text": "行\ud800"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(tmp_path / "result.json", {"accuracy": float("nan")})
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == {
        "accuracy": 0.5,
        "text": "行?",
    }


# --- paths

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "%2e%2e",
    "A",
    "a\n",
    "a\0",
    "a" * 65,
    "ü",
    "a b",
    "~",
]


@pytest.mark.parametrize("run_id", HOSTILE)
def test_hostile_run_id_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(RunError, match="no run id"):
        RunDir.of(tmp_path, run_id)


@given(st.one_of(st.text(max_size=80), st.from_regex(r"[./%a-z0-9-]*", fullmatch=True)))
def test_run_directory_lies_directly_below_its_root(run_id: str) -> None:
    root = Path("/srv/runs")
    try:
        run_dir = RunDir.of(root, run_id)
    except RunError:
        return
    assert run_dir.path.resolve().parent == root
    assert run_dir.path.name == run_id


@given(st.one_of(st.text(max_size=80), st.from_regex(r"[./%a-z0-9-]*", fullmatch=True)))
def test_input_file_lies_directly_in_its_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    run_dir = RunDir(tmp_path_factory.getbasetemp())
    try:
        path = run_dir.input(name)
    except RunError:
        return
    assert path.resolve().parent == (run_dir.path / "input").resolve()


def test_linked_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ppo-1").symlink_to("/tmp")
    with pytest.raises(RunError, match="symlink"):
        RunDir.of(tmp_path, "ppo-1")


# --- lock


def test_lock_is_refused_while_another_holds_it(run_dir: RunDir) -> None:
    with (
        run_dir.lock(),
        pytest.raises(RunError, match="held by another trainer"),
        run_dir.lock(lock_timeout_s=0),
    ):
        pass
    with run_dir.lock(lock_timeout_s=0):
        pass


def test_lock_of_a_killed_holder_is_free_and_its_rest_is_removed(run_dir: RunDir) -> None:
    program = (
        "import sys, time; from pathlib import Path; from trainers.run_dir import RunDir\n"
        "run_dir = RunDir(Path(sys.argv[1]))\n"
        "def write(directory):\n"
        "    (directory / 'state.pt').write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
        "with run_dir.lock(): run_dir.save_checkpoint(1, write)\n"
    )
    command = [sys.executable, "-c", program, str(run_dir.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert len(list(run_dir.checkpoints_dir.iterdir())) == 1
        holder.kill()
    with run_dir.lock(lock_timeout_s=5):
        assert list(run_dir.checkpoints_dir.iterdir()) == []
        assert run_dir.latest_checkpoint() is None


def test_lock_waits_for_its_holder(run_dir: RunDir) -> None:
    program = (
        "import sys, time; from pathlib import Path; from trainers.run_dir import RunDir\n"
        "with RunDir(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(0.5)\n"
    )
    command = [sys.executable, "-c", program, str(run_dir.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        start = time.monotonic()
        with run_dir.lock(lock_timeout_s=20):
            assert time.monotonic() - start > 0.2


# --- checkpoints


def test_the_two_newest_checkpoints_are_kept(run_dir: RunDir) -> None:
    assert run_dir.latest_checkpoint() is None
    for step in (4, 8, 12):
        run_dir.save_checkpoint(step, write_step(step))
    assert sorted(path.name for path in run_dir.checkpoints_dir.iterdir()) == [
        "checkpoint-000008",
        "checkpoint-000012",
    ]
    latest = run_dir.latest_checkpoint()
    assert latest is not None
    assert (latest / "state.pt").read_bytes() == b"12"


def test_truncated_checkpoint_is_skipped_with_a_warning(
    run_dir: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (4, 8):
        run_dir.save_checkpoint(step, write_step(step))
    os.truncate(run_dir.checkpoints_dir / "checkpoint-000008" / "state.pt", 0)
    with caplog.at_level(logging.WARNING):
        latest = run_dir.latest_checkpoint()
    assert latest is not None
    assert latest.name == "checkpoint-000004"
    assert "checkpoint-000008" in caplog.text


def test_checkpoint_of_a_resumed_run_replaces_the_damaged_one(run_dir: RunDir) -> None:
    for step in (4, 8):
        run_dir.save_checkpoint(step, write_step(step))
    (run_dir.checkpoints_dir / "checkpoint-000008" / MANIFEST).unlink()
    run_dir.save_checkpoint(6, write_step(6))
    assert sorted(path.name for path in run_dir.checkpoints_dir.iterdir()) == [
        "checkpoint-000004",
        "checkpoint-000006",
    ]
    run_dir.save_checkpoint(6, write_step(66))
    latest = run_dir.latest_checkpoint()
    assert latest is not None
    assert (latest / "state.pt").read_bytes() == b"66"


def test_failed_checkpoint_leaves_the_one_before(run_dir: RunDir) -> None:
    run_dir.save_checkpoint(4, write_step(4))
    with pytest.raises(ZeroDivisionError):
        run_dir.save_checkpoint(8, lambda directory: 1 // 0)  # type: ignore[arg-type, return-value]
    assert [path.name for path in run_dir.checkpoints_dir.iterdir()] == ["checkpoint-000004"]


def test_saved_model_is_complete_and_can_be_replaced(run_dir: RunDir) -> None:
    for content in (b"1", b"2"):
        run_dir.save_model(lambda d, c=content: (d / "model.safetensors").write_bytes(c), {"run": "ppo-1"})  # type: ignore[misc]
    assert verify_manifest(run_dir.model_dir)["lineage"] == {"run": "ppo-1"}
    assert (run_dir.model_dir / "model.safetensors").read_bytes() == b"2"


# --- how it ended


def test_result_ends_an_earlier_error(run_dir: RunDir) -> None:
    run_dir.write_error(ModelError("does not fit"))
    assert json.loads(run_dir.error_path.read_text()) == {"type": "ModelError", "message": "does not fit"}
    run_dir.write_result({"updates": 3})
    assert json.loads(run_dir.result_path.read_text()) == {"updates": 3}
    assert not run_dir.error_path.exists()
