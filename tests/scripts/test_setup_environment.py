"""Set-up; with an environment of its own that installs nothing from the network."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import setup_environment
from scripts.setup_environment import Environment, SetupError, check_disk, check_python, environments, make


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    path = tmp_path_factory.mktemp("setup") / "venv"
    return Environment("test", path, (("--help",),))  # `pip install --help` installs nothing


@pytest.fixture(autouse=True)
def _logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_environment, "LOGS", tmp_path)


def test_every_requirement_file_is_installed_somewhere() -> None:
    named = {
        Path(word).name
        for e in environments("")
        for arguments in e.installs
        for word in arguments
        if word.endswith("txt")
    }
    included = {"backend.txt"}  # by development.txt
    assert named | included == {path.name for path in Path("requirements").glob("*.txt")}


def test_every_requirement_has_one_exact_version() -> None:
    for path in Path("requirements").glob("*.txt"):
        for line in path.read_text().splitlines():
            assert line.startswith(("#", "-r ")) or line.count("==") == 1, f"{path}: {line}"


def test_direct_dependencies_have_the_locked_versions() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    locked = "\n".join(path.read_text() for path in Path("requirements").glob("*.txt")).splitlines()
    wanted = [Requirement(t) for t in project["dependencies"] + project["optional-dependencies"]["dev"]]
    missing = [f"{canonicalize_name(r.name)}{r.specifier}" for r in wanted]
    assert not set(missing) - set(locked), "run `make lock`"


def test_second_set_up_finds_nothing_to_do_until_the_requirements_change(environment: Environment) -> None:
    assert not environment.is_ready()
    make(environment)
    assert environment.is_ready()
    assert not dataclasses.replace(environment, installs=(("--help", "--quiet"),)).is_ready()


def test_failure_shows_the_end_of_the_output_and_leaves_nothing_that_looks_ready(
    environment: Environment,
) -> None:
    broken = dataclasses.replace(environment, installs=(("--no-such-option",),))
    with pytest.raises(SetupError) as error:
        make(broken)
    assert "no such option: --no-such-option" in str(error.value)
    assert "setupvenv.log" in str(error.value)
    assert not broken.is_ready()
    assert not environment.is_ready()


@pytest.mark.parametrize("version", [(3, 10), (3, 13), (2, 7)])
def test_other_python_is_refused_with_what_is_needed(version: tuple[int, int]) -> None:
    with pytest.raises(SetupError, match=r"needed is 3.11 or 3.12"):
        check_python(version, "python")


def test_full_disk_is_said_before_anything_is_installed(environment: Environment) -> None:
    with pytest.raises(SetupError, match=r"1\.0 GB free; needed are 4 GB"):
        check_disk(2**30, [environment])
    check_disk(2**30, [])


def test_ready_set_up_takes_under_a_second() -> None:
    command = [sys.executable, "-X", "importtime", "scripts/setup_environment.py"]
    ready = all(e.is_ready() for e in environments(os.environ.get("TORCH_INDEX", "")))
    if not ready:
        pytest.skip("this checkout was not set up by `make setup`")
    done = subprocess.run(command, timeout=5, capture_output=True, text=True, check=True)
    assert done.stdout == ""
