"""`make up`: Label Studio and the backend with an empty workspace, for a human team.

Everything that the team makes stays in the directory; the next start goes on with it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from backend.errors import BackendError
from backend.settings import Settings
from scripts.accounts import AccountError
from scripts.display import Display
from scripts.services import ServiceError, System
from scripts.setup_project import set_up_workspace
from scripts.terminal import show_addresses, stay_up, stop_on_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make up", description="Start Label Studio and the backend.")
    parser.add_argument("--workspace", default="team", help="the team's short name: letters, digits, -")
    parser.add_argument("--directory", type=Path, default=Path("var/team"), help="where everything lives")
    options = parser.parse_args(arguments)
    display = Display()
    failed = "not started"
    stop_on_signals()
    try:
        with System(options.directory) as system:
            with display.stage("Label Studio and backend · 启动服务") as stage:
                system.start(stage.note)
                set_up_workspace(
                    Settings.from_environment(os.environ | system.environment()), options.workspace
                )
            show_addresses(system, display)
            display.say(
                "1. Import 100 to 200 prompts into the prompts project · 把 100 到 200 条题目导入“题目”项目"
            )
            display.say("2. Rank the answers in the ranking project · 在“排序”项目中排序")
            display.say("3. Follow the training in the console · 在控制台查看训练")
            failed = "stopped"
            stay_up(system, display)
    except (ServiceError, AccountError, BackendError) as error:
        display.console.print(f"\n{failed}: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        display.say("\nstopped; `make up` goes on from here · 已停止，再次 make up 即可继续")
        return 0


if __name__ == "__main__":
    sys.exit(main())
