"""The generated secrets of one system, in a private file of its directory.

Nothing has a default password: what is not in the file yet is drawn at random when it is first needed.
`python -m scripts.credentials .env` writes such values for docker compose.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from backend.settings import read_settings_file

FILE_NAME = "credentials.env"


def _password() -> str:
    return secrets.token_urlsafe(15)


@dataclass(frozen=True)
class Credentials:
    """Who may do what in one system. Field names are the variables' names in lower case."""

    label_studio_username: str = "admin@example.com"
    """E-mail address of Label Studio's administrator, the user that the backend acts as."""
    label_studio_password: str = field(default_factory=_password, repr=False)
    label_studio_api_key: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)
    """That user's access token: 40 hex digits."""
    backend_username: str = "admin"
    """User of the console, and of Label Studio's calls to the backend."""
    backend_password: str = field(default_factory=_password, repr=False)
    webhook_secret: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)
    session_secret: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)

    def to_environment(self) -> dict[str, str]:
        """As environment variables."""
        return {name.upper(): value for name, value in asdict(self).items()}


def load_or_create(directory: Path) -> Credentials:
    """The credentials of a system; drawn and stored at its first start."""
    path = directory / FILE_NAME
    stored = {name.lower(): value for name, value in read_settings_file(path).items()}
    known = {name: value for name, value in stored.items() if name in Credentials.__dataclass_fields__}
    credentials = Credentials(**known)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, credentials.to_environment())
    return credentials


def write_private(path: Path, values: dict[str, str]) -> None:
    """`NAME=value` lines that only the owner can read; whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
    temporary.replace(path)


def compose_environment() -> dict[str, str]:
    """New values for everything that docker-compose.yml requires, and its profile."""
    return {**Credentials().to_environment(), "POSTGRES_PASSWORD": _password(), "COMPOSE_PROFILES": "cpu"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a `.env` file for docker compose; never over an existing one, whose passwords are in use."""
    parser = argparse.ArgumentParser(description="Draw the secrets that docker-compose.yml requires.")
    parser.add_argument("file", type=Path, help="the file to write, usually .env")
    path = parser.parse_args(arguments).file
    if path.exists():
        print(f"`{path}` exists and its passwords may be in use; move it away first", file=sys.stderr)
        return 1
    write_private(path, compose_environment())
    print(f"wrote {path}, readable by you only; set COMPOSE_PROFILES=gpu in it to use the server's GPUs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
