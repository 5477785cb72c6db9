"""The backend as `python -m backend serve` runs it, web part included, but with stages that learn nothing.

For the crash tests, which kill it. Settings come from the environment; so does what holds a stage up.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

from backend.launcher import Launcher
from backend.service import Service
from backend.settings import Settings
from backend.store import Store
from backend.wsgi import server

PROGRAM = (sys.executable, str(Path(__file__).resolve().parents[1] / "backend" / "fast_stages.py"))


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings.from_environment()
    launcher = Launcher(Store(settings.store_url), settings.runs_dir, program=PROGRAM, poll_s=0.05)
    service = Service(settings, launcher=launcher)
    web = server(service)
    service.start()
    threading.Thread(target=web.run, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
