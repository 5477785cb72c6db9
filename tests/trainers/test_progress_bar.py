from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from trainers.metrics import Metrics
from trainers.progress_bar import progress_bar


def draw(path: Path, *, terminal: bool) -> str:
    screen = io.StringIO()
    with Metrics(path) as metrics:
        metrics.progress(1, 9, "old")
        with progress_bar("generate", path, Console(file=screen, force_terminal=terminal, width=160)):
            metrics.progress(12, 200, "candidates")
            metrics.log(4, **{"objective/score": 1.25, "ppo/ratio": 1.0})
    return screen.getvalue()


def test_bar_shows_progress_and_the_main_values(tmp_path: Path) -> None:
    shown = draw(tmp_path / "metrics.jsonl", terminal=True)
    assert "generate · candidates" in shown
    assert "12/200" in shown
    assert "step 4: score 1.25" in shown
    assert "old" not in shown


def test_bar_is_silent_where_nobody_looks(tmp_path: Path) -> None:
    assert draw(tmp_path / "metrics.jsonl", terminal=False) == ""


def test_bar_without_measurements_ends_with_its_block(tmp_path: Path) -> None:
    with progress_bar("reward", tmp_path / "metrics.jsonl", Console(file=io.StringIO(), force_terminal=True)):
        pass
