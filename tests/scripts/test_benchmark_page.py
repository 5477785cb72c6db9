"""What the benchmark computes from runs: ratios, slopes, the table, the plots, the page."""

from __future__ import annotations

import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmark import page
from scripts.benchmark.measures import MEASURES, growth, ppo_to_reward
from scripts.benchmark.measures.ppo_update import LORA
from scripts.benchmark.page import BEGIN, END, read_results, section, table_row, with_results
from scripts.benchmark.results import (
    BenchmarkError,
    Goal,
    Results,
    Row,
    Run,
    Spread,
    compare,
    require_equal_work,
)

OURS, PEER = LORA
MACHINE = "2 CPU cores"


def update_runs(ours: list[float], peer: list[float], figure: str = "seconds") -> list[Run]:
    sides = ((PEER, peer), (OURS, ours))
    return [Run("3.2M", side, seed, {figure: v}) for side, values in sides for seed, v in enumerate(values)]


def a_row(runs: list[Run], goal: Goal | None = None, **changes: Any) -> Row:
    arguments = {"what": "an update", "unit": "s", "ratio": "peer / ours", "goal": goal} | changes
    return compare(runs, "3.2M", LORA, "seconds", **arguments)


# What is computed from the runs


def test_ratio_is_of_medians_and_its_spread_of_pairs() -> None:
    row = a_row(update_runs(ours=[1.0, 2.0, 4.0], peer=[6.0, 6.0, 8.0]))
    # medians 2 and 6; pairs 6/1, 6/2, 8/4
    assert row.ratio == Spread(3.0, 2.0, 6.0)
    assert row.ours == Spread(2.0, 1.0, 4.0)
    turned = a_row(update_runs(ours=[1.0, 2.0, 4.0], peer=[6.0, 6.0, 8.0]), ratio="ours / peer")
    assert turned.ratio == Spread(2 / 6, 1 / 6, 0.5)


@pytest.mark.parametrize(
    ("goal", "reached"),
    [
        (Goal("at least", 3.0), True),
        (Goal("at least", 3.1), False),
        (Goal("at most", 2.9), False),
        (None, None),
    ],
)
def test_goal_is_held_against_the_ratio_of_medians(goal: Goal | None, reached: bool | None) -> None:
    assert a_row(update_runs([1.0, 2.0, 4.0], [6.0, 6.0, 8.0]), goal).reached is reached


def test_goal_without_a_peers_runs_is_neither_reached_nor_missed() -> None:
    row = a_row(update_runs([1.0], []), Goal("at least", 3.0))
    assert row.reached is None
    assert row.ratio is None


def test_sides_that_did_unequal_work_are_no_measurement() -> None:
    runs = update_runs([1536.0], [1530.0], "response_tokens")  # of which one ended early
    require_equal_work(runs, "3.2M", ["response_tokens", "optimizer_steps"])
    with pytest.raises(BenchmarkError, match=r"unequal work, `response_tokens` is .* PEFT 1500, ours 1536"):
        require_equal_work(update_runs([1536.0], [1500.0], "response_tokens"), "3.2M", ["response_tokens"])


def test_peers_best_step_size_counts_and_reaching_the_target_comes_first() -> None:
    def run(side: str, seconds: float, reached: float) -> Run:
        return Run(ppo_to_reward.CASE, side, 0, {"seconds": seconds, "reached": reached})

    slow, fast, cut_off = (ppo_to_reward.side_of(step) for step in ppo_to_reward.PEER_STEPS)
    runs = [run(slow, 30, 1), run(fast, 20, 1), run(cut_off, 5, 0), run("ours", 8, 1)]
    assert ppo_to_reward.best_peer(runs) == fast
    (row,) = MEASURES["ppo-to-reward"].rows(runs)
    assert row.ratio == Spread(2.5, 2.5, 2.5)
    assert row.reached
    (row,) = MEASURES["ppo-to-reward"].rows([*runs[:3], run("ours", 8, 0)])
    assert row.ratio is None
    assert "ours did not get there" in row.note


def test_slope_of_growth_is_the_exponent() -> None:
    assert growth.slope([(1, 3.0), (4, 12.0), (16, 48.0)]) == pytest.approx(1)
    assert growth.slope([(1, 5.0), (4, 80.0), (16, 1280.0)]) == pytest.approx(2)
    # 1, 4 and 4: halves of ln 16 on both sides of the middle, (ln 4 - 0) / (2 ln 4)
    assert growth.slope([(1, 1.0), (4, 4.0), (16, 4.0)]) == pytest.approx(0.5)


# The page


@pytest.fixture
def results() -> list[Results]:
    runs = [*update_runs([1.0, 2.0, 4.0], [6.0, 6.0, 8.0])]
    runs = [replace(run, figures={**run.figures, "memory_growth_mib": 100.0 + run.seed}) for run in runs]
    floor = {"share_percent": 50.0, "floor_seconds": 1.0}
    floor |= {"share_of_rows_percent": 60.0, "floor_of_rows_seconds": 1.2}
    runs = [replace(run, figures=run.figures | floor) if run.side == OURS else run for run in runs]
    grown = [
        Run(growth.case_of(axis, factor), "ours", seed, {"seconds": factor, "memory_growth_mib": factor**0.5})
        for axis in growth.AXES
        for factor in growth.FACTORS
        for seed in range(2)
    ]
    return [
        Results("ppo-update", False, MACHINE, tuple(runs)),
        Results("growth", False, MACHINE, tuple(grown)),
    ]


def test_page_is_what_the_results_say() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    results = read_results(page.DIRECTORY)
    assert text == with_results(text, results), "run `python -m scripts.benchmark --page`"
    for name, picture in page._plots(results).items():
        if picture:
            assert (page.DIRECTORY / name).read_text(encoding="utf-8") == picture


def test_table_holds_ratio_spread_goal_and_whether_it_is_reached() -> None:
    row = a_row(update_runs([1.0, 2.0, 4.0], [6.0, 6.0, 8.0]), Goal("at least", 3.5))
    said = table_row(row)
    assert said == f"| an update | 2.00 s | {PEER}: 6.00 s | 3.00 (2.00 to 6.00) | ≥ 3.5 | **no** |\n"


def test_page_is_written_between_its_marks(tmp_path: Path, results: list[Results]) -> None:
    directory, file = tmp_path / "benchmarks", tmp_path / "benchmarks.md"
    for found in results:
        found.write(directory)
    file.write_text(f"Before\n{BEGIN}old\n{END}After\n", encoding="utf-8")
    written = page.write_page(file, directory)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("Before\n")
    assert text.endswith("After\n")
    assert "old" not in text
    assert "| one PPO update, 3.2M | 2.00 CPU s |" in text
    assert "| share of the floor, 3.2M (floor 1.00 CPU s) | 50.0 % |" in text
    assert "| share, sampling at its rows' rate, 3.2M (floor 1.20 CPU s) | 60.0 % |" in text
    assert "| growth of memory with prompts | 0.500 slope |" in text
    assert "`gpu` is not measured: no machine with a GPU was at hand" in text
    assert "Measured on 2 CPU cores; 3 seeds: `ppo-update`." in text
    assert "2 seeds: `growth`." in text
    assert written == [file, directory / "ratios.svg", directory / "growth.svg"]


def test_plots_are_svg_with_every_label(results: list[Results]) -> None:
    drawn = page._plots(results)
    for text in drawn.values():
        xml.etree.ElementTree.fromstring(text)  # noqa: S314 - our own
    assert "one PPO update, 3.2M" in drawn["ratios.svg"]
    assert all(axis in drawn["growth.svg"] for axis in growth.AXES)
    assert drawn["growth.svg"].count("<polyline") == 2 * (1 + len(growth.AXES))


def test_quick_runs_never_reach_the_page(tmp_path: Path, results: list[Results]) -> None:
    replace(results[0], quick=True).write(tmp_path)
    with pytest.raises(BenchmarkError, match=r"holds quick runs of \['ppo-update'\]"):
        read_results(tmp_path)


def test_results_without_a_run_say_which_command_fills_the_place() -> None:
    assert "`python -m scripts.benchmark --page` fills this place" in section([])


def test_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "growth.json").write_text("{")
    with pytest.raises(BenchmarkError, match=r"growth\.json` cannot be read as a result"):
        read_results(tmp_path)
