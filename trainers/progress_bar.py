"""A progress bar for a person at a terminal, drawn from the run's metrics file while the stage writes it.

Knows rich and the lines of `trainers.metrics`, nothing of the stages. Where nobody looks it does nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_SHOWN = ("reward/loss", "reward/heldout_accuracy", "objective/score", "objective/kl", "objective/length")
_INTERVAL_S = 0.2


@contextmanager
def progress_bar(stage: str, metrics_path: Path, console: Console) -> Iterator[None]:
    """Draw what is appended to the file from now on, until the block ends."""
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TextColumn("[dim]{task.fields[values]}"), console=console)
    finished = threading.Event()
    start = metrics_path.stat().st_size if metrics_path.exists() else 0
    with progress:
        follower = threading.Thread(
            target=_follow, args=(stage, metrics_path, start, progress, finished), daemon=True
        )
        follower.start()
        try:
            yield
        finally:
            finished.set()
            follower.join()


def _follow(stage: str, path: Path, offset: int, progress: Progress, finished: threading.Event) -> None:
    bar = progress.add_task(stage, total=None, values="")
    last = False
    while not last:
        last = finished.wait(_INTERVAL_S)
        if not path.exists():
            continue
        offset = min(offset, path.stat().st_size)  # a resumed run cuts the file
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if line.endswith(b"\n"):
                    offset += len(line)
                    _show(json.loads(line), stage, progress, bar)


def _show(entry: dict[str, Any], stage: str, progress: Progress, bar: Any) -> None:
    if "progress" in entry:
        state = entry["progress"]
        progress.update(
            bar, completed=state["done"], total=state["total"], description=f"{stage} · {state['what']}"
        )
    elif "metrics" in entry:
        values = entry["metrics"]
        shown = [f"{name.split('/')[1]} {values[name]:.3g}" for name in _SHOWN if name in values]
        if shown:
            progress.update(bar, values=f"step {entry['step']}: " + ", ".join(shown))
