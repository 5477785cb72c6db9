"""Generated secrets."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from backend.settings import read_settings_file
from scripts.credentials import FILE_NAME, Credentials, load_or_create, main


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_system_gets_secrets_of_its_own() -> None:
    first, second = Credentials(), Credentials()
    secret = (
        "label_studio_password",
        "label_studio_api_key",
        "backend_password",
        "webhook_secret",
        "session_secret",
    )
    assert all(getattr(first, name) != getattr(second, name) for name in secret)
    assert all(len(getattr(first, name)) >= 20 for name in secret)


def test_label_studio_token_is_forty_hex_digits() -> None:
    token = Credentials().label_studio_api_key
    assert len(token) == 40
    assert int(token, 16) >= 0


def test_credentials_stay_the_same_and_are_private(tmp_path: Path) -> None:
    directory = tmp_path / "system"
    first = load_or_create(directory)
    assert load_or_create(directory) == first
    assert (mode(directory), mode(directory / FILE_NAME)) == (0o700, 0o600)


def test_file_that_others_could_read_becomes_private(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("BACKEND_PASSWORD=chosen-by-hand\n")
    (tmp_path / FILE_NAME).chmod(0o644)
    assert load_or_create(tmp_path).backend_password == "chosen-by-hand"
    assert mode(tmp_path / FILE_NAME) == 0o600


def test_secrets_are_not_in_the_representation() -> None:
    credentials = Credentials()
    assert credentials.backend_password not in repr(credentials)
    assert credentials.label_studio_api_key not in repr(credentials)


def test_compose_file_is_private_and_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ".env"
    assert main([str(path)]) == 0
    written = path.read_text()
    assert mode(path) == 0o600
    assert len(read_settings_file(path)["POSTGRES_PASSWORD"]) >= 20
    assert main([str(path)]) == 1
    assert path.read_text() == written
    assert written not in capsys.readouterr().out
