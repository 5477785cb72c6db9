"""How near our PPO update comes to the floor: its necessary work at the machine's matrix product rate."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.benchmark.measure import OURS, Job, Measure, Scale
from scripts.benchmark.measures.ppo_update import random_model, update_options
from scripts.benchmark.results import Goal, Row, Run, Spread, by_case, figures


def _jobs(scale: Scale) -> list[Job]:
    if scale == "quick":
        model = random_model(64, 2, 200, prompts=8)
        options = update_options(model, 8, response_tokens=8, updates=2)
        return [Job("0.1M", OURS, "floor", options | {"tuning": "lora"})]
    shapes = {"3.2M": (256, 4, 32), "10.4M": (384, 6, 16)}
    return [
        Job(
            case,
            OURS,
            "floor",
            update_options(random_model(width, layers, 600, prompts=rollouts), rollouts) | {"tuning": "lora"},
        )
        for case, (width, layers, rollouts) in shapes.items()
    ]


def _rows(runs: Sequence[Run]) -> list[Row]:
    def row(case: str) -> Row:
        share, floor = (
            list(figures(runs, case, OURS, name).values()) for name in ("share_percent", "floor_seconds")
        )
        return Row(
            f"share of the floor, {case}",
            "%",
            Spread.of(share),
            goal=Goal("at least", 60),
            note=f"floor {Spread.of(floor).middle:.2f} CPU s",
        )

    return by_case(runs, row)


FLOOR = Measure("floor", "necessary work at the matrix product rate, against our update", _jobs, _rows)
