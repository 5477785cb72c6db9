"""What programs show, and what they measure of themselves."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import pytest
from rich.console import Console

from scripts.display import Display
from scripts.memory import PeakMemory


def display(*, terminal: bool = False) -> tuple[Display, io.StringIO]:
    output = io.StringIO()
    return Display(
        Console(file=output, force_terminal=terminal, width=120, color_system=None, highlight=False)
    ), output


@pytest.mark.parametrize("terminal", [False, True])
def test_stage_ends_with_its_outcome(terminal: bool) -> None:
    shown, output = display(terminal=terminal)
    with shown.stage("Reward model") as stage:
        stage.note("epoch 2 [of 3]")
        stage.count(2, 3)
        stage.outcome = "passed [91 %]"
    assert "✓" in output.getvalue()
    assert "Reward model  passed [91 %]" in output.getvalue()


def test_without_a_terminal_there_is_one_line_at_each_end() -> None:
    shown, output = display()
    with shown.stage("PPO") as stage:
        for step in range(50):
            stage.count(step, 50)
    assert len(output.getvalue().splitlines()) == 2


def test_failed_stage_is_marked_and_the_error_goes_on() -> None:
    shown, output = display()
    with pytest.raises(ValueError, match="broken"), shown.stage("PPO"):
        raise ValueError("broken")
    assert "✗ PPO" in output.getvalue()


def test_peak_memory_holds_what_a_child_used_and_gave_back() -> None:
    with PeakMemory(interval_s=0.02) as memory:
        before = memory.peak_mb
        code = "import time; block = b'x' * 200_000_000; time.sleep(0.3)"
        subprocess.run([sys.executable, "-c", code], check=True)
        time.sleep(0.1)
    assert memory.peak_mb > before + 180
