"""What a long program shows on the terminal: one line a stage, with a bar and the time while it runs.

On a terminal the line moves; in a file or a pipe each stage is one line at its start and one at its end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as TimeElapsed


class Stage:
    """The stage that runs now."""

    def __init__(self, bar: Progress, task: TaskID, title: str) -> None:
        self._bar = bar
        self._task = task
        self._title = title
        self.outcome = ""
        """What to show when it has ended."""

    def note(self, text: str) -> None:
        """Show what happens right now."""
        self._bar.update(self._task, note=escape(text))

    def count(self, done: int, total: int) -> None:
        """Show how far it is."""
        self._bar.update(self._task, completed=done, total=total or None)


class Display:
    """The terminal of one program."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def say(self, text: str = "") -> None:
        """A line that stays; rich's markup is understood."""
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Show a stage while it runs, and how it ended and how long it took when it is over."""
        began = time.monotonic()
        live = self.console.is_terminal
        if not live:
            self.say(f"… {escape(title)}")
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsed(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not live) as bar:
            stage = Stage(bar, bar.add_task(escape(title), total=None, note=""), title)
            try:
                yield stage
            except BaseException:
                self.say(f"[red]✗[/] {escape(title)}  [dim]{time.monotonic() - began:.0f} s[/]")
                raise
        seconds = f"[dim]{time.monotonic() - began:.0f} s[/]"
        self.say(f"[green]✓[/] {escape(title)}  {escape(stage.outcome)}  {seconds}")
