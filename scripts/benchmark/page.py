"""Writes what was measured into docs/benchmarks.md, between its marks, with the plots beside it.

Standard library only. Everything is computed from the JSON of the runs, so the page cannot say anything else;
a test holds it to that.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from scripts.benchmark import plots
from scripts.benchmark.measure import OURS
from scripts.benchmark.measures import MEASURES, growth
from scripts.benchmark.results import BenchmarkError, Results, Row, Spread, figures
from scripts.setup_environment import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
DIRECTORY = ROOT / "docs" / "benchmarks"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
_HEAD = "| measure | ours | peer | ratio | goal | reached |\n|---|---|---|---|---|---|\n"
_WORDS = {True: "yes", False: "**no**", None: "–"}


def read_results(directory: Path) -> list[Results]:
    """What was measured so far, in the order of the table.

    Raises: BenchmarkError: a file is no result, or one of a quick run, which says nothing.
    """
    paths = [directory / f"{name}.json" for name in MEASURES]
    found = [Results.read(path) for path in paths if path.is_file()]
    if quick := [results.measure for results in found if results.quick]:
        raise BenchmarkError(
            f"`{directory}` holds quick runs of {quick}, whose figures say nothing; "
            "measure them again without `--quick`"
        )
    return found


def write_page(page: Path = PAGE, directory: Path = DIRECTORY) -> list[Path]:
    """Write the plots and the part of the page that shows results. Returns the files.

    Raises: BenchmarkError: as `read_results`.
    """
    results = read_results(directory)
    pictures = {name: text for name, text in _plots(results).items() if text}
    for name, text in pictures.items():
        (directory / name).write_text(text, encoding="utf-8")
    page.write_text(with_results(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    return [page, *(directory / name for name in pictures)]


def with_results(page: str, results: list[Results]) -> str:
    """The page with these results between its marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + section(results) + END + rest.split(END)[1]


def section(results: list[Results]) -> str:
    """Table, machines and plots in Markdown."""
    if not results:
        return (
            "Nothing is measured yet: `python -m scripts.benchmark` measures, "
            "`python -m scripts.benchmark --page` fills this place.\n"
        )
    parts = [_HEAD + "".join(table_row(row) for found in results for row in rows_of(found)) + "\n"]
    parts += [f"{_machines(results)}\n\n"]
    parts += [f"![{name[:-4]}](benchmarks/{name})\n\n" for name, text in _plots(results).items() if text]
    missing = [name for name in MEASURES if name not in {found.measure for found in results}]
    parts += [f"`{name}` is not measured: {_why(name)}.\n\n" for name in missing]
    return "".join(parts).rstrip("\n") + "\n"


def rows_of(results: Results) -> list[Row]:
    return MEASURES[results.measure].rows(results.runs)


def table_row(row: Row) -> str:
    peer = f"{row.against}: {_number(row.peer.middle)} {row.unit}" if row.peer else row.against
    goal = str(row.goal) if row.goal else ""
    what = f"{row.what} ({row.note})" if row.note else row.what
    ours = _spread(row.ours) if not row.against else _number(row.ours.middle)
    ratio = _spread(row.ratio) if row.ratio else ""
    return f"| {what} | {ours} {row.unit} | {peer} | {ratio} | {goal} | {_WORDS[row.reached]} |\n"


def _spread(value: Spread) -> str:
    if value.low == value.high:
        return _number(value.middle)
    return f"{_number(value.middle)} ({_number(value.low)} to {_number(value.high)})"


def _number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def _machines(results: list[Results]) -> str:
    by_machine: dict[str, list[str]] = {}
    for found in results:
        seeds = len({run.seed for run in found.runs})
        by_machine.setdefault(f"{found.machine}; {seeds} seed{'s' * (seeds > 1)}", []).append(
            f"`{found.measure}`"
        )
    return "\n".join(f"Measured on {machine}: {', '.join(names)}." for machine, names in by_machine.items())


def _why(name: str) -> str:
    if name == "gpu":
        return "no machine with a GPU was at hand; `python -m scripts.benchmark gpu` measures it on one"
    return f"`python -m scripts.benchmark {name}` does it"


def _plots(results: list[Results]) -> dict[str, str]:
    """File name -> SVG; empty where there is nothing to show."""
    bars = [bar for found in results for row in rows_of(found) if (bar := _bar(row))]
    panels = [panel for found in results if found.measure == "growth" for panel in _panels(found)]
    return {
        "ratios.svg": plots.ratios(bars) if bars else "",
        "growth.svg": plots.growth(panels) if panels else "",
    }


def _bar(row: Row) -> plots.Bar | None:
    """A row with a peer and a goal as how many times better ours is: of a share, the inverse."""
    if row.ratio is None or row.goal is None:
        return None
    ratio, goal = row.ratio, row.goal
    if goal.direction == "at most":
        return plots.Bar(row.what, Spread(1 / ratio.middle, 1 / ratio.high, 1 / ratio.low), 1 / goal.value)
    return plots.Bar(row.what, ratio, goal.value)


def _panels(results: Results) -> list[tuple[str, list[plots.Curve]]]:
    panels = []
    for figure, name in growth.NAMES.items():
        curves = []
        for axis in growth.AXES:
            found = {
                factor: figures(results.runs, growth.case_of(axis, factor), OURS, figure)
                for factor in growth.FACTORS
            }
            medians = {factor: statistics.median(own.values()) for factor, own in found.items() if own}
            curves.append(plots.Curve(axis, [(x, y / medians[1]) for x, y in medians.items()]))
        panels.append((name, curves))
    return panels
