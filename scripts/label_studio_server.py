"""A real Label Studio as a child process, for the demo, `make up` and the integration tests.

Knows nothing of the backend. Its first start would migrate an empty database for a minute, so the migrated
file is kept as a template per version; a data directory without a database begins with a copy of it.
Talks to the outside through `url`; the log goes to `log_path`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VIRTUAL_ENVIRONMENT = ROOT / ".venv-label-studio"
TEMPLATES = ROOT / "var" / "cache" / "label-studio-template"
DATABASE = "label_studio.sqlite3"
VERSION = "1.23.2"

# Label Studio's own list less loopback, where our backend listens: webhooks go nowhere else on this network,
# least of all to a cloud's metadata address.
BANNED_SUBNETS = (
    "0.0.0.0/8,10.0.0.0/8,100.64.0.0/10,169.254.0.0/16,172.16.0.0/12,192.0.0.0/24,192.0.2.0/24,"
    "192.88.99.0/24,192.168.0.0/16,198.18.0.0/15,198.51.100.0/24,203.0.113.0/24,224.0.0.0/4,240.0.0.0/4,"
    "::/128,::ffff:0:0/96,::ffff:0:0:0/96,64:ff9b::/96,64:ff9b:1::/48,100::/64,2001::/32,2001:20::/28,"
    "2001:db8::/32,2002::/16,fc00::/7,fe80::/10,ff00::/8"
)

Progress = Callable[[str], None]


class LabelStudioStartError(Exception):
    """Label Studio did not start; says why and where its log is."""


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LabelStudioServer:
    """One Label Studio on 127.0.0.1 with one administrator."""

    def __init__(
        self, data_dir: Path, port: int, username: str, password: str, token: str, log_path: Path
    ) -> None:
        """
        Args:
            data_dir: holds its database and uploads; made if missing.
            username: e-mail address of the administrator, made at the first start.
            token: the administrator's API token, 40 hex digits.
        """
        self.data_dir = data_dir.absolute()
        self.port = port
        self.username = username
        self.password = password
        self.token = token
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, progress: Progress | None = None) -> None:
        """Start the process; `wait_ready` says when it answers.

        Raises: LabelStudioStartError: it is not installed, or the port is taken.
        """
        if self.is_running():
            return
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise LabelStudioStartError(
                    f"port {self.port} is taken by another program; stop that one or choose another port"
                )
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.data_dir / DATABASE).exists():
            _copy(database_template(progress), self.data_dir / DATABASE)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        command = [_program(), "start", "--no-browser", "--port", str(self.port)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--internal-host", "127.0.0.1", "--host", self.url],
                env=_environment(self.data_dir) | self._administrator(),
                cwd=self.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches us first, and we stop it in order
            )

    def wait_ready(self, timeout_s: float = 180.0, progress: Progress | None = None) -> None:
        """Return when it answers.

        Raises: LabelStudioStartError: it ended, or did not answer in time.
        """
        began = time.monotonic()
        while (waited := time.monotonic() - began) < timeout_s:
            if self._process is None or self._process.poll() is not None:
                raise LabelStudioStartError(
                    f"Label Studio ended while starting; the reason is at the end of `{self.log_path}`"
                )
            if self._answers():
                return
            if progress:
                progress(f"Label Studio is starting ({waited:.0f} s)")
            time.sleep(0.3)
        raise LabelStudioStartError(
            f"Label Studio does not answer on {self.url} after {timeout_s:.0f} s; see `{self.log_path}`"
        )

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the process; does nothing if it has ended."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            os.killpg(self._process.pid, number)

    def _administrator(self) -> dict[str, str]:
        return {
            "LABEL_STUDIO_USERNAME": self.username,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
        }

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:  # noqa: S310 - our own address
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def database_template(progress: Progress | None = None) -> Path:
    """A migrated database without users; made when there is none of this version yet (about a minute).

    Raises: LabelStudioStartError: Label Studio is not installed, or its migrations failed.
    """
    template = TEMPLATES / f"{VERSION}.sqlite3"
    TEMPLATES.mkdir(parents=True, exist_ok=True)
    with (TEMPLATES / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that start at once make one template
        if not template.exists():
            if progress:
                progress("making Label Studio's database (once, about a minute)")
            _make_template(template)
    return template


def _make_template(template: Path) -> None:
    scratch = TEMPLATES / f"making-{os.getpid()}"
    scratch.mkdir()
    log_path = TEMPLATES / "migrate.log"
    try:
        with log_path.open("wb") as log:  # every command migrates first; `version` does nothing else
            done = subprocess.run(
                [_program(), "version"],
                env=_environment(scratch),
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode != 0 or not (scratch / DATABASE).exists():
            raise LabelStudioStartError(f"Label Studio could not make its database; see `{log_path}`")
        (scratch / DATABASE).replace(template)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all: a half copied database would look like a real one."""
    temporary = target.with_suffix(".copying")
    shutil.copyfile(source, temporary)
    temporary.chmod(0o600)
    temporary.replace(target)


def _program() -> str:
    program = VIRTUAL_ENVIRONMENT / "bin" / "label-studio"
    if not program.exists():
        raise LabelStudioStartError(f"`{program}` does not exist; install Label Studio with `make setup`")
    return str(program)


def _environment(data_dir: Path) -> dict[str, str]:
    inherited = {
        k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
    }
    return inherited | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(data_dir),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "USE_DEFAULT_BANNED_SUBNETS": "false",
        "USER_ADDITIONAL_BANNED_SUBNETS": BANNED_SUBNETS,
        "ML_BLOCK_LOCAL_IP": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "FEATURE_FLAGS_OFFLINE": "true",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }
