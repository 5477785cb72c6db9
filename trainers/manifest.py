"""Directories that are complete or not there at all, and that show every change made to them afterwards.

Standard library only; knows nothing of models or runs. `trainers.run_dir` writes checkpoints and models with
it, the backend's registry publishes with it, and `trainers.models` loads only what `verify_manifest` passes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainers.errors import DiskFullError, ModelError

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
"""Prefix of what is being written; left behind by a crash, it may be deleted by whoever holds the lock."""
PICKLES = frozenset({".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".npy", ".npz"})
"""Suffixes of formats that can run code when loaded."""
TORCH_STATES = frozenset({".pt", ".pth"})
"""Allowed in checkpoints only, which this program itself wrote and loads with `weights_only=True`."""
LEAST_FREE_BYTES = 4096
"""With less than a block left a disk is full."""
_MAX_MANIFEST_BYTES = 16 * 1024 * 1024


def write_json_atomic(path: Path, content: object) -> None:
    """Write a JSON file that appears whole or not at all, also through a power cut.

    Raises:
        ValueError: a number is not finite; JSON has no word for it.
        DiskFullError: the disk is full.
    """
    text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(text.encode("utf-8", errors="replace") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _as_run_error(error, path) from error


def write_directory(
    directory: Path, write: Callable[[Path], None], lineage: dict[str, Any], *, torch_states: bool = False
) -> None:
    """Make a directory with its manifest that appears whole or not at all; replaces an older one.

    Args:
        directory: where it shall be; what `write` makes is renamed to it.
        write: fills the empty directory that it is given.
        lineage: where the content comes from; kept in the manifest.
        torch_states: allow `.pt` files (checkpoints).
    Raises:
        DiskFullError: the disk is full.
        ModelError: `write` left something that `verify_manifest` would refuse.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f"{TEMPORARY}{directory.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        write(temporary)
        write_manifest(temporary, lineage, torch_states=torch_states)
        remove_directory(directory)
        temporary.rename(directory)
        fsync_directory(directory.parent)
    except BaseException as error:
        is_full = _is_full(temporary)  # torch and safetensors say it in words of their own
        shutil.rmtree(temporary, ignore_errors=True)
        if is_full and isinstance(error, Exception):
            raise disk_full(directory) from error
        if isinstance(error, OSError):
            raise _as_run_error(error, directory) from error
        raise


def write_manifest(directory: Path, lineage: dict[str, Any], *, torch_states: bool = False) -> None:
    """Flush every file of a directory to disk, then write `manifest.json`: from here on it is complete.

    Args:
        directory: what to describe.
        lineage: where the content comes from: parents, dataset hash, configuration, versions.
        torch_states: allow `.pt` files (checkpoints).
    Raises:
        ModelError: a symlink, a special file or a pickle lies in the directory.
    """
    files = {}
    for path in _files(directory, torch_states=torch_states):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(directory).as_posix()] = {
            "sha256": sha256_of(path),
            "size": path.stat().st_size,
        }
    for folder in sorted({(directory / name).parent for name in files}):
        fsync_directory(folder)
    write_json_atomic(directory / MANIFEST, {"files": files, "lineage": lineage})


def verify_manifest(directory: Path, *, torch_states: bool = False) -> dict[str, Any]:
    """Check that a directory is exactly what its manifest says.

    Args:
        directory: what `write_manifest` described.
        torch_states: allow `.pt` files (checkpoints).
    Returns:
        The manifest: `files` (name -> sha256 and size) and `lineage`.
    Raises:
        ModelError: a file is missing, extra, changed, a link, special or a pickle; or there is no manifest.
    """
    if directory.is_symlink():
        raise ModelError(f"`{directory}` is a symlink; needed is the directory itself")
    manifest = _read_manifest(directory)
    stated = manifest["files"]
    present = {p.relative_to(directory).as_posix(): p for p in _files(directory, torch_states=torch_states)}
    if extra := sorted(set(present) - set(stated)):
        raise _tampered(directory, f"the manifest does not know {extra}")
    if missing := sorted(set(stated) - set(present)):
        raise _tampered(directory, f"{missing} are missing")
    for name, path in present.items():
        if path.stat().st_size != stated[name].get("size") or sha256_of(path) != stated[name].get("sha256"):
            raise _tampered(directory, f"`{name}` has changed")
    return manifest


def remove_directory(directory: Path) -> None:
    """Delete a directory so that a crash leaves it whole or gone, never half of it under its name."""
    if not directory.exists() and not directory.is_symlink():
        return
    doomed = directory.with_name(f"{TEMPORARY}old-{directory.name}-{os.getpid()}")
    shutil.rmtree(doomed, ignore_errors=True)
    directory.rename(doomed)
    if doomed.is_symlink() or doomed.is_file():
        doomed.unlink()
    else:
        shutil.rmtree(doomed, ignore_errors=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(directory: Path, *, torch_states: bool) -> Iterator[Path]:
    """Every file below a directory but the manifest. Opens nothing and follows no link."""
    refused = PICKLES - TORCH_STATES if torch_states else PICKLES
    for path in sorted(directory.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) or path == directory / MANIFEST:
            continue
        name = path.relative_to(directory).as_posix()
        if not stat.S_ISREG(mode):
            raise _tampered(directory, f"`{name}` is a symlink or a special file")
        if path.suffix.lower() in refused:
            raise _tampered(directory, f"`{name}` can run code when loaded (needed is safetensors)")
        yield path


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise ModelError(f"`{directory}` has no {MANIFEST}: it is incomplete; make it again")
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise _tampered(directory, f"{MANIFEST} is larger than {_MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _tampered(directory, f"{MANIFEST} is no JSON") from error
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise _tampered(directory, f"{MANIFEST} has no `files`")
    return manifest  # type: ignore[no-any-return]


def _tampered(directory: Path, fault: str) -> ModelError:
    return ModelError(
        f"`{directory}` is not used: {fault}; delete the directory and make or publish it again"
    )


def says_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(path: Path) -> DiskFullError:
    return DiskFullError(f"`{path}` cannot be written: the disk is full; free some space and start again")


def _as_run_error(error: OSError, path: Path) -> OSError | DiskFullError:
    return disk_full(path) if says_full(error) else error


def _is_full(directory: Path) -> bool:
    return shutil.disk_usage(directory).free < LEAST_FREE_BYTES
