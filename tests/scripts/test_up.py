"""What `make up` says when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts import up
from scripts.services import ServiceError, System


def end_with_error(*_: Any) -> None:
    raise ServiceError("Label Studio has ended")


@pytest.fixture(autouse=True)
def no_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "stop_on_signals", lambda: None)


def test_system_that_does_not_start_is_called_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(System, "start", end_with_error)
    assert up.main(["--directory", str(tmp_path)]) == 1
    assert "not started: Label Studio has ended" in capsys.readouterr().out


def test_system_that_ends_later_is_called_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(System, "start", lambda *_: None)
    monkeypatch.setattr(System, "label_studio_url", "http://127.0.0.1:1")
    monkeypatch.setattr(up, "set_up_workspace", lambda *_: None)
    monkeypatch.setattr(up, "show_addresses", lambda *_: None)
    monkeypatch.setattr(up, "stay_up", end_with_error)
    assert up.main(["--directory", str(tmp_path)]) == 1
    assert "\nstopped: Label Studio has ended" in capsys.readouterr().out
