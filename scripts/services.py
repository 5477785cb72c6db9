"""One running system: Label Studio and the backend as child processes of this one.

Both write their logs to files of the system's directory. Restarts nothing: who started it hears when a part
has ended, and starts it again. Knows nothing of workspaces, prompts or training; `up` and `demo` do the rest.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlsplit

import psutil

from backend.settings import SETTINGS_FILE, Settings, read_settings_file
from scripts.credentials import Credentials, load_or_create, write_private
from scripts.label_studio_server import LabelStudioServer, LabelStudioStartError, Progress, free_port

ROOT = Path(__file__).resolve().parent.parent
LABEL_STUDIO_PORT = 8080
BACKEND_PORT = 9090
BACKEND_START_S = 90.0
BACKEND_STOP_S = 60.0
"""Long enough for a trainer to save a checkpoint."""


class ServiceError(Exception):
    """A part of the system cannot start or has ended; says why and where its log is."""


class System:
    """Label Studio and the backend in one directory; a context manager that stops both at the end."""

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        """
        Args:
            directory: holds credentials, logs and all data; made if missing.
            settings: environment variables of the backend that differ from this process's own.
        """
        self.directory = directory.absolute()
        self.log_dir = self.directory / "logs"
        self.credentials: Credentials = load_or_create(self.directory)
        self._settings = dict(settings or {})
        self._backend_port = 0
        self._label_studio: LabelStudioServer | None = None
        self._backend: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def label_studio_url(self) -> str:
        """Raises: ServiceError: not started."""
        if self._label_studio is None:
            raise ServiceError("Label Studio was not started")
        return self._label_studio.url

    @property
    def backend_url(self) -> str:
        return f"http://127.0.0.1:{self._backend_port}"

    @property
    def backend_log(self) -> Path:
        return self.log_dir / "backend.log"

    def environment(self) -> dict[str, str]:
        """The backend's settings, secrets included, as environment variables."""
        return {
            **self.credentials.to_environment(),
            "LABEL_STUDIO_URL": self.label_studio_url,
            "BACKEND_URL": self.backend_url,
            "BACKEND_HOST": "127.0.0.1",
            "BACKEND_PORT": str(self._backend_port),
            "DATA_DIR": str(self.directory / "data"),
            **self._settings,
        }

    def start(self, progress: Progress | None = None) -> None:
        """Start both and return when both answer.

        Raises:
            ServiceError: one does not start, or this system is running already.
            SettingsError: the backend would refuse its settings.
        """
        Settings.from_environment(os.environ | self.credentials.to_environment() | self._settings)
        self._take_lock()
        try:
            _end_leftovers(self.directory / "processes.json", progress)
            self._start_label_studio(progress)
            self._start_backend(progress)
        except BaseException:
            self.stop(progress)
            raise

    def stop(self, progress: Progress | None = None) -> None:
        """Stop the backend, then Label Studio; does nothing for what has ended."""
        say = progress or (lambda _text: None)
        if self._backend is not None:
            say("stopping the backend (a running training saves a checkpoint)")
            _end(self._backend.pid, BACKEND_STOP_S)
            self._backend.wait()
            self._backend = None
        if self._label_studio is not None:
            say("stopping Label Studio")
            self._label_studio.stop()
            self._label_studio = None
        if self._lock is not None:
            (self.directory / "processes.json").unlink(missing_ok=True)
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def check(self) -> None:
        """Raises: ServiceError: a part has ended."""
        if self._label_studio is not None and not self._label_studio.is_running():
            raise ServiceError(f"Label Studio has ended; see `{self._label_studio.log_path}`")
        if self._backend is not None and (status := self._backend.poll()) is not None:
            raise ServiceError(
                f"the backend has ended with status {status}; see `{self.backend_log}`."
                f" Its last lines:\n{_tail(self.backend_log)}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _take_lock(self) -> None:
        lock = (self.directory / "lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ServiceError(
                f"the system in `{self.directory}` is running already;"
                " stop it with Ctrl-C there, or with `make down`"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _start_label_studio(self, progress: Progress | None) -> None:
        self._label_studio = LabelStudioServer(
            self.directory / "label-studio",
            choose_port(self._earlier_port("LABEL_STUDIO_URL", LABEL_STUDIO_PORT)),
            self.credentials.label_studio_username,
            self.credentials.label_studio_password,
            self.credentials.label_studio_api_key,
            self.log_dir / "label-studio.log",
        )
        try:
            self._label_studio.start(progress)
            self._record()
            self._label_studio.wait_ready(progress=progress)
        except LabelStudioStartError as error:
            raise ServiceError(str(error)) from error

    def _start_backend(self, progress: Progress | None) -> None:
        self._backend_port = choose_port(self._earlier_port("BACKEND_URL", BACKEND_PORT))
        values = self.environment()
        write_private(self.directory / "settings.env", values)
        SETTINGS_FILE.parent.mkdir(parents=True, exist_ok=True)
        write_private(SETTINGS_FILE, values)  # so that `python -m backend status` finds this system
        with self.backend_log.open("ab") as log:
            self._backend = subprocess.Popen(
                [sys.executable, "-m", "backend", "serve"],
                env=os.environ | values,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches us first, and we stop it in order
            )
        self._record()
        began = time.monotonic()
        while (waited := time.monotonic() - began) < BACKEND_START_S:
            self.check()
            if _answers(f"{self.backend_url}/health"):
                return
            if progress:
                progress(f"the backend is starting ({waited:.0f} s)")
            time.sleep(0.3)
        raise ServiceError(
            f"the backend does not answer on {self.backend_url} after {BACKEND_START_S:.0f} s;"
            f" see `{self.backend_log}`"
        )

    def _earlier_port(self, variable: str, default: int) -> int:
        """The port of the last start: webhooks and bookmarks know it."""
        earlier = read_settings_file(self.directory / "settings.env")
        return urlsplit(earlier.get(variable, "")).port or default

    def _record(self) -> None:
        """Remember what runs, so that the next start can end what a killed one left."""
        pids = [p.pid for p in (self._label_studio, self._backend) if p is not None and p.pid is not None]
        processes = [{"pid": pid, "created": psutil.Process(pid).create_time()} for pid in pids]
        (self.directory / "processes.json").write_text(json.dumps(processes), encoding="utf-8")


def choose_port(preferred: int) -> int:
    """The preferred port, or a free one if another program has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return free_port()
    return preferred


def stop_running(directory: Path, timeout_s: float = 90.0) -> bool:
    """Ask the process that runs the system of a directory to stop, and wait until it has; False if none runs.

    Raises: ServiceError: it did not stop in time.
    """
    path = directory / "lock"
    if not path.exists():
        return False
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = int(lock.read())
        else:
            return _end_leftovers(directory / "processes.json", None)
    process = psutil.Process(pid)
    process.terminate()
    try:
        process.wait(timeout_s)
    except psutil.TimeoutExpired:
        raise ServiceError(f"process {pid} did not stop within {timeout_s:.0f} s") from None
    return True


def _end_leftovers(record: Path, progress: Progress | None) -> bool:
    """End the processes of a start that was itself killed; True if there were any."""
    try:
        processes: list[dict[str, Any]] = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    found = False
    for known in reversed(processes):
        try:
            same = psutil.Process(known["pid"]).create_time() == known["created"]
        except psutil.NoSuchProcess:
            continue
        if same:
            found = True
            if progress:
                progress("ending what an earlier start left running")
            _end(known["pid"], BACKEND_STOP_S)
    record.unlink(missing_ok=True)
    return found


def _end(pid: int, timeout_s: float) -> None:
    """End a process in good order, or after a while in bad."""
    try:
        process = psutil.Process(pid)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout_s)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()
    except psutil.NoSuchProcess:
        return


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _tail(path: Path, lines: int = 12) -> str:
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in text[-lines:])
