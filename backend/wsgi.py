"""Serves the application with waitress, in threads of this process.

`python -m backend serve` calls `server` and runs it; `close()` from a signal handler ends it.
"""

from __future__ import annotations

from typing import Any

from waitress.server import create_server

from backend.app import LARGEST_BODY, create_app
from backend.service import Service


def server(service: Service, *, threads: int = 8) -> Any:
    """A bound waitress server: `run()` serves until `close()`; `effective_port` is the port it got.

    Raises: SettingsError: a secret is missing. OSError: the port is taken.
    """
    return create_server(
        create_app(service),
        host=service.settings.host,
        port=service.settings.port,
        threads=threads,
        ident="label-studio-rlhf",
        max_request_body_size=LARGEST_BODY,
        max_request_header_size=32 * 1024,
        channel_timeout=60,
        connection_limit=200,
    )
