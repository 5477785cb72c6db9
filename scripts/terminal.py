"""What `up` and `demo` say when a system is up, and how they stay until Ctrl-C."""

from __future__ import annotations

import signal
import time
from typing import NoReturn

from rich.panel import Panel
from rich.table import Table

from scripts.accounts import invitation
from scripts.credentials import FILE_NAME
from scripts.display import Display
from scripts.services import System


def stop_on_signals() -> None:
    """Let SIGTERM and a closed terminal end the program in the same order as Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGINT too: a shell's `&` ignores it
        signal.signal(number, signal.default_int_handler)


def show_addresses(system: System, display: Display, simulated: str = "") -> None:
    """Addresses and credentials.

    Args:
        simulated: what the simulated team likes; empty if the team is human.
    """
    known = system.credentials
    table = Table.grid(padding=(0, 2))
    table.add_row("Label Studio", f"[link]{system.label_studio_url}[/]")
    table.add_row("", f"{known.label_studio_username}   {known.label_studio_password}")
    table.add_row("Console · 控制台", f"[link]{system.backend_url}[/]")
    table.add_row("", f"{known.backend_username}   {known.backend_password}")
    if simulated:
        table.add_row("Annotators · 标注员", f"[bold yellow]simulated · 模拟[/] ({simulated})")
    table.add_row("[dim]Credentials · 账号[/]", f"[dim]{system.directory / FILE_NAME}[/]")
    display.console.print(Panel(table, expand=False))
    if not simulated:
        link = invitation(system.label_studio_url, known.label_studio_api_key)
        display.say(f"Invite your team · 邀请标注员: {link}")


def stay_up(system: System, display: Display) -> NoReturn:
    """Wait until Ctrl-C, or until a part ends.

    Raises: KeyboardInterrupt; ServiceError: a part has ended.
    """
    display.say("Running; Ctrl-C stops it. · 运行中，按 Ctrl-C 停止。")
    while True:
        system.check()
        time.sleep(1)
