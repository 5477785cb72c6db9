"""Starting and stopping the system; the demo's test starts its two programs for real."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from backend.errors import SettingsError
from backend.lock import DirectoryLock
from scripts import services
from scripts.services import ServiceError, System, choose_port, stop_running

HOLD_LOCK = """
import signal, sys, time
from pathlib import Path
from scripts.services import System
signal.signal(signal.SIGTERM, signal.default_int_handler)
system = System(Path(sys.argv[1]))
system._take_lock()
print("locked", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    system.stop()
"""


def start_holder(directory: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, directory], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdout.readline() == "locked\n"
    return holder


def test_preferred_port_is_taken_when_free_and_left_when_not() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert choose_port(port) != port
    assert choose_port(port) == port


def test_second_start_in_one_directory_is_refused(tmp_path: Path) -> None:
    holder = start_holder(tmp_path)
    try:
        with pytest.raises(ServiceError, match="running already"):
            System(tmp_path).start()
    finally:
        assert stop_running(tmp_path)
    assert holder.wait(10) == 0
    holder.communicate()


def test_settings_that_the_backend_would_refuse_are_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"`/nope`, which holds no `config\.json`"):
        System(tmp_path, {"BASE_MODEL": "/nope"}).start()
    assert not (tmp_path / "lock").exists()


def test_stopping_says_whether_anything_ran(tmp_path: Path) -> None:
    assert stop_running(tmp_path) is False
    holder = start_holder(tmp_path)
    assert stop_running(tmp_path) is True
    assert stop_running(tmp_path) is False
    holder.communicate()


def test_processes_of_a_killed_start_are_ended(tmp_path: Path) -> None:
    orphan = subprocess.Popen(["sleep", "60"])
    record = [{"pid": orphan.pid, "created": psutil.Process(orphan.pid).create_time()}]
    (tmp_path / "processes.json").write_text(json.dumps(record))
    (tmp_path / "lock").touch()
    assert stop_running(tmp_path) is True
    assert not psutil.pid_exists(orphan.pid)
    orphan.wait()
    assert not (tmp_path / "processes.json").exists()


def test_process_that_only_has_the_same_number_is_spared(tmp_path: Path) -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    record = [{"pid": innocent.pid, "created": psutil.Process(innocent.pid).create_time() - 100}]
    (tmp_path / "processes.json").write_text(json.dumps(record))
    (tmp_path / "lock").touch()
    assert stop_running(tmp_path) is False
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


def test_backend_that_ends_at_once_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "SETTINGS_FILE", tmp_path / "settings.env")
    monkeypatch.setattr(System, "label_studio_url", "http://127.0.0.1:1")
    monkeypatch.setattr(System, "_start_label_studio", lambda self, progress: self.log_dir.mkdir())
    taken = DirectoryLock(tmp_path / "system" / "data")
    taken.take()
    with pytest.raises(ServiceError, match="another backend"):
        System(tmp_path / "system").start()
    taken.release()
    assert stop_running(tmp_path / "system") is False


def test_settings_are_private_and_hold_what_the_terminal_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(System, "label_studio_url", "http://127.0.0.1:8080")
    system = System(tmp_path, {"SEED": "7"})
    environment = system.environment()
    assert environment["SEED"] == "7"
    assert environment["LABEL_STUDIO_API_KEY"] == system.credentials.label_studio_api_key
    assert environment["DATA_DIR"] == str(tmp_path / "data")


def test_slow_process_is_killed_after_its_time() -> None:
    stubborn = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    assert stubborn.stdout
    stubborn.stdout.readline()
    began = time.monotonic()
    services._end(stubborn.pid, timeout_s=0.5)
    assert time.monotonic() - began < 5
    assert not psutil.pid_exists(stubborn.pid)
    stubborn.communicate()
