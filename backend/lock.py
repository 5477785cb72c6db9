"""One server a data directory: a file lock that ends with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from backend.errors import ConflictError


class DirectoryLock:
    """Held from `take` until `release` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "server.lock"
        self._file: int | None = None

    def take(self) -> None:
        """Raises: ConflictError: another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 32).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise ConflictError(
                f"another backend (process {holder}) works on `{self.path.parent}`;"
                " stop it, or give this one another `DATA_DIR`"
            ) from error
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
