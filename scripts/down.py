"""Stops what `make demo` or `make up` left running: `python -m scripts.down [--directory DIR]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.services import ServiceError, stop_running


def main() -> int:
    """0 when nothing runs any more."""
    parser = argparse.ArgumentParser(description="Stop the running system.")
    parser.add_argument("--directory", type=Path, action="append", help="only the system of this directory")
    directories = parser.parse_args().directory or sorted(lock.parent for lock in Path("var").glob("*/lock"))
    try:
        stopped = [directory for directory in directories if stop_running(directory)]
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(f"stopped {directory}" for directory in stopped) or "nothing was running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
