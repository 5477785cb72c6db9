"""Compare the project's trainers with the libraries that do the same.

Each run is a process of its own at one thread; what counts is its CPU time. Peer and ours run in turn, once a
seed. A peer's virtual environment is made when it is first needed. A full measurement takes about an hour and
wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from scripts.benchmark.measures import MEASURES
from scripts.benchmark.page import DIRECTORY, PAGE, rows_of, table_row, write_page
from scripts.benchmark.results import BenchmarkError, Results
from scripts.benchmark.runner import INPUTS, carry_out
from scripts.display import Display

QUICK = INPUTS / "quick"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all is measured, 1 when something failed, 2 on a wrong command line, 130 on Ctrl-C."""
    options = _parse(arguments)
    display = Display()
    try:
        if options.list:
            for measure in MEASURES.values():
                display.say(f"{measure.name:16} {measure.title}")
        elif options.page:
            for path in write_page():
                display.say(f"wrote {path}")
        else:
            _measure(options, display)
    except BenchmarkError as error:
        print(f"\nbenchmark stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbenchmark interrupted; what was finished is kept", file=sys.stderr)
        return 130
    return 0


def _measure(options: argparse.Namespace, display: Display) -> None:
    out = options.out or (QUICK if options.quick else DIRECTORY)
    for name in options.measures or MEASURES:
        measure = MEASURES[name]
        if not options.quick and (why := measure.missing()):
            display.say(f"[yellow]–[/] {name}: its figures are missing, because {why}")
            continue
        results = carry_out(
            measure,
            "quick" if options.quick else "full",
            range(options.seeds),
            display,
            with_peers=not options.without_peers,
        )
        path = results.write(out)
        _show(results, display)
        display.say(f"[dim]{path}[/]")
    if options.quick:
        display.say("These were quick runs: they try the programs out, and their figures say nothing.")
    elif out == DIRECTORY:
        display.say(
            f"`python -m scripts.benchmark --page` writes them into {PAGE.relative_to(PAGE.parents[1])}."
        )


def _show(results: Results, display: Display) -> None:
    table = Table("measure", "ours", "peer", "ratio", "goal", "reached")
    for row in rows_of(results):
        table.add_row(*(cell.strip(" *") for cell in table_row(row).strip("|\n ").split(" | ")))
    display.console.print(table)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="measures:\n" + "\n".join(f"  {m.name:16} {m.title}" for m in MEASURES.values()),
    )
    parser.add_argument(
        "measures", nargs="*", metavar="MEASURE", help="what to measure (default: everything)"
    )
    parser.add_argument("--list", action="store_true", help="list the measures and end")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, with seeds 0, 1, … (default: 3)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that the programs run")
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: docs/benchmarks)")
    parser.add_argument("--without-peers", action="store_true", help="run our side only")
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks.md from its JSON and end")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.measures if name not in MEASURES]:
        parser.error(f"there is no measure {unknown}; needed is one of {', '.join(MEASURES)}")
    if options.seeds < 1:
        parser.error(f"`--seeds` is {options.seeds}; needed is at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
