"""Writes requirements/*.txt from what the two virtual environments hold: `make lock`.

Run it after changing a version in pyproject.toml and installing it. Without torch: its build depends on the
machine, so `scripts.setup_environment` installs it from its own line. Without label-studio-ml: it is
installed without its dependencies, which pin a Flask of 2021.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
ELSEWHERE = {"torch", "label-studio-ml", "label-studio-tools", "label-studio-rlhf"}
TOOLS = {"pip", "setuptools", "wheel"}

HEADER = (
    "# Made by `python -m scripts.lock_requirements`; direct dependencies are chosen in pyproject.toml.\n"
)


def main() -> None:
    """Write the three lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = closure(project["dependencies"])
    ours_and_tools = closure(project["dependencies"] + project["optional-dependencies"]["dev"])
    tools = {name: version for name, version in ours_and_tools.items() if name not in ours}
    write("backend.txt", HEADER, ours)
    write("development.txt", HEADER + "-r backend.txt\n", tools)
    write("label-studio.txt", HEADER, installed(ROOT / ".venv-label-studio"))


def closure(requirements: list[str]) -> dict[str, str]:
    """Name and installed version of the requirements and of everything that they need, on this machine."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"`{name}` is required but not installed; run `make setup` first") from None
        found[name] = package.version
        for text in package.requires or []:
            needed = Requirement(text)
            if applies(needed, extras):
                needed.marker = None
                waiting.append(needed)
    return found


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Whether a requirement holds on this machine for a package installed with these extras."""
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def installed(environment: Path) -> dict[str, str]:
    """Everything that a virtual environment holds."""
    listing = subprocess.run(
        [environment / "bin" / "pip", "list", "--format", "json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {canonicalize_name(entry["name"]): entry["version"] for entry in json.loads(listing)}


def write(file_name: str, header: str, packages: dict[str, str]) -> None:
    """One `name==version` a line, sorted; local version labels such as `+cpu` are dropped."""
    lines = [
        f"{name}=={version.partition('+')[0]}\n"
        for name, version in sorted(packages.items())
        if name not in ELSEWHERE | TOOLS
    ]
    (REQUIREMENTS / file_name).write_text(header + "".join(lines), encoding="utf-8")
    print(f"requirements/{file_name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
