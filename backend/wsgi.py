"""Serves the application with waitress, in threads of this process.

`python -m backend serve` calls `server` and runs it; `close()` may come from any thread.
"""

from __future__ import annotations

import threading

from flask import Flask
from waitress import wasyncore
from waitress.server import create_server

from backend.app import LARGEST_BODY, create_app
from backend.service import Service

_LOOK_S = 0.3
_CLOSE_S = 5.0


def server(service: Service, *, threads: int = 8) -> WebServer:
    """The web server of one service, listening but not answering yet.

    Raises: SettingsError: a secret is missing. OSError: the port is taken.
    """
    return WebServer(create_app(service), service.settings.host, service.settings.port, threads)


class WebServer:
    """waitress that can be told to end: its own `close` breaks the loop of the thread that runs it."""

    def __init__(self, application: Flask, host: str, port: int, threads: int) -> None:
        self._sockets: dict[int, object] = {}
        self._closing, self._running = threading.Event(), threading.Lock()
        try:
            self._waitress = create_server(
                application,
                map=self._sockets,
                host=host,
                port=port,
                threads=threads,
                ident="label-studio-rlhf",
                max_request_body_size=LARGEST_BODY,
                max_request_header_size=32 * 1024,
                channel_timeout=60,
                connection_limit=200,
            )
        except OSError:
            wasyncore.close_all(self._sockets)
            raise

    @property
    def effective_port(self) -> int:
        """The port that it got, where the settings said 0."""
        listening = getattr(self._waitress, "effective_listen", None)  # a name with several addresses
        return int(listening[0][1] if listening else self._waitress.effective_port)

    def run(self) -> None:
        """Answer until `close`; requests that were begun are finished."""
        with self._running:
            while not self._closing.is_set():
                wasyncore.loop(timeout=_LOOK_S, map=self._sockets, count=1)
            self._end()

    def close(self) -> None:
        """End `run`, and return when it has ended."""
        self._closing.set()
        if self._running.acquire(timeout=_CLOSE_S + 1):
            self._end()  # if it never ran
            self._running.release()

    def _end(self) -> None:
        self._waitress.task_dispatcher.shutdown(timeout=_CLOSE_S)
        wasyncore.close_all(self._sockets)
