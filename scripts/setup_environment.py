"""Makes the two virtual environments and Label Studio's empty database: `make setup`.

Standard library only, because it runs before anything is installed. It can be repeated at any time: what is
there and fits the requirement files is left alone, what was interrupted is made again. pip's output goes to
var/log/; the terminal shows one line a step.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
LOGS = ROOT / "var" / "log"
SUPPORTED = ((3, 11), (3, 12))
NEEDED_GIB = 4.0  # measured with the CPU build of torch: 3.1; the CUDA build takes 5 more
STAMP = "installed.sha256"


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment and what pip installs into it, one call of pip each."""

    title: str
    path: Path
    installs: tuple[tuple[str, ...], ...]

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.path / STAMP

    def fingerprint(self) -> str:
        """Changes when the set-up would make something else."""
        digest = hashlib.sha256(f"{sys.version_info[:2]} {self.installs}".encode())
        for file in sorted(REQUIREMENTS.glob("*.txt")):
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    def is_ready(self) -> bool:
        return self.python.exists() and self.stamp.exists() and self.stamp.read_text() == self.fingerprint()


def environments(torch_index: str) -> list[Environment]:
    """The environments of this project."""
    index = ("--extra-index-url", torch_index) if torch_index else ()
    return [
        Environment(
            "backend and trainers",
            ROOT / ".venv",
            (
                (*_from("torch.txt"), *index),
                (*_from("development.txt"), *_from("torch.txt"), *index),
                ("--no-deps", *_from("no-dependencies.txt")),
            ),
        ),
        Environment("Label Studio", ROOT / ".venv-label-studio", (_from("label-studio.txt"),)),
    ]


def _from(file_name: str) -> tuple[str, str]:
    return "-r", str(REQUIREMENTS / file_name)


def main() -> int:
    """Set up what is missing; 0 when everything is there."""
    try:
        check_python(sys.version_info[:2], sys.executable)
        missing = [e for e in environments(os.environ.get("TORCH_INDEX", "")) if not e.is_ready()]
        if missing:
            check_disk(shutil.disk_usage(ROOT).free, [e for e in missing if not e.path.exists()])
            began = time.monotonic()
            print("Setting up (once; needs the network and 4 to 9 GB) — 首次安装，请稍候")
            make_all(missing)
            print(f"  finished in {time.monotonic() - began:.0f} s", flush=True)
        make_database_template()
    except SetupError as error:
        print(f"\nset-up stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up interrupted; `make setup` goes on where it was", file=sys.stderr)
        return 130
    return 0


def check_python(version: tuple[int, ...], executable: str) -> None:
    """Raises: SetupError: the requirements are not locked for this Python, or it has no venv."""
    if version not in SUPPORTED:
        raise SetupError(
            f"`{executable}` is Python {version[0]}.{version[1]}; needed is 3.11 or 3.12."
            " Install one (Debian, Ubuntu: apt-get install python3.11-venv)"
            " and run `make setup PYTHON=python3.11`."
        )
    try:
        import ensurepip  # noqa: F401 - Debian ships it in a package of its own
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            f"`{executable}` has no venv module; install it: apt-get install python3.{version[1]}-venv"
        ) from None


def check_disk(free_bytes: int, missing: list[Environment]) -> None:
    """Raises: SetupError: too little space for what is missing."""
    free_gib = free_bytes / 2**30
    if missing and free_gib < NEEDED_GIB:
        raise SetupError(
            f"`{ROOT}` has {free_gib:.1f} GB free; needed are {NEEDED_GIB:.0f} GB."
            " Free some space, or clone the project to a larger disk."
        )


def make_all(missing: list[Environment]) -> None:
    """Make environments side by side: each mostly waits for the network or for one core.

    Raises: SetupError: one could not be made; the others are finished first.
    """
    with ThreadPoolExecutor(len(missing)) as pool:
        made = [pool.submit(make, environment) for environment in missing]
    for one in made:
        one.result()


def make(environment: Environment) -> None:
    """Make one virtual environment and fill it.

    Raises: SetupError: pip failed; shows the end of its output.
    """
    log_path = LOGS / f"setup{environment.path.name}.log"
    LOGS.mkdir(parents=True, exist_ok=True)
    log_path.unlink(missing_ok=True)
    environment.stamp.unlink(missing_ok=True)
    with step(f"{environment.title}: virtual environment"):
        run([sys.executable, "-m", "venv", *clear_if_broken(environment), str(environment.path)], log_path)
    for arguments in environment.installs:
        names = " ".join(Path(a).stem for a in arguments if a.endswith(".txt"))
        with step(f"{environment.title}: packages ({names})"):
            run([str(environment.python), "-m", "pip", "install", *arguments], log_path)
    environment.stamp.write_text(environment.fingerprint())


def clear_if_broken(environment: Environment) -> list[str]:
    """`--clear` for an environment of another Python: pip would mix the two."""
    if not environment.path.exists():
        return []
    ask = [str(environment.python), "-c", "import sys; print(sys.version_info[:2])"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        answer = ""
    return [] if answer == str(sys.version_info[:2]) else ["--clear"]


def make_database_template() -> None:
    """Raises: SetupError: Label Studio's migrations failed."""
    sys.path.insert(0, str(ROOT))
    from scripts.label_studio_server import TEMPLATES, VERSION, LabelStudioStartError, database_template

    if (TEMPLATES / f"{VERSION}.sqlite3").exists():
        return
    try:
        with step("Label Studio: empty database"):
            database_template()
    except LabelStudioStartError as error:
        raise SetupError(str(error)) from error


def run(command: list[str], log_path: Path) -> None:
    """Run a command with its output in a file.

    Raises: SetupError: it failed; the message ends with the last lines of its output.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_USER")}
    environment |= {"PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with log_path.open("ab") as log:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    if done.returncode != 0:
        raise SetupError(
            f"`{' '.join(command[:5])} …` failed with status {done.returncode}. Its last lines:\n"
            f"{tail(log_path)}\nThe whole output is in `{log_path}`."
            " If it is the network, run `make setup` again: it goes on from there."
        )


def tail(log_path: Path, lines: int = 15) -> str:
    """The last lines of pip's output that say something."""
    text = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [f"    {line}" for line in text if not line.startswith("WARNING: Location")]
    return "\n".join(said[-lines:])


class Steps:
    """What is under way: one live line on a terminal; elsewhere a line when a step begins and ends."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ticking = False

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        with self._lock:
            self._begun[title] = time.monotonic()
            if not sys.stdout.isatty():
                print(f"  {title} …", flush=True)
            elif not self._ticking:
                self._ticking = True
                threading.Thread(target=self._tick, daemon=True).start()
        try:
            yield
        except BaseException:
            with self._lock:
                del self._begun[title]
            raise
        with self._lock:
            line = f"  {title}: {time.monotonic() - self._begun.pop(title):.0f} s"
            print(f"\r{line:<{self._width()}}" if sys.stdout.isatty() else line, flush=True)

    def _tick(self) -> None:
        while True:
            with self._lock:
                if not self._begun:
                    self._ticking = False
                    return
                now = time.monotonic()
                shown = " · ".join(f"{title} … {now - begun:.0f} s" for title, begun in self._begun.items())
                print(f"\r  {shown}"[: self._width()].ljust(self._width()), end="", flush=True)
            time.sleep(1)

    @staticmethod
    def _width() -> int:
        return shutil.get_terminal_size().columns - 1


step = Steps().step


if __name__ == "__main__":
    sys.exit(main())
