"""How time and memory of our PPO update grow with prompts, response length and model size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from scripts.benchmark.measure import OURS, Job, Measure, Scale
from scripts.benchmark.measures.ppo_update import random_model, update_options
from scripts.benchmark.results import Goal, Row, Run, Spread, figures
from trainers.config import upper_half

FACTORS = (1, 4, 16)
AXES = ("prompts", "response length", "model size")
NAMES = {"seconds": "time", "memory_growth_mib": "memory"}
"""Figure -> what it is."""
LINEAR = Goal("at most", 1.0)


def case_of(axis: str, factor: int) -> str:
    """All axes begin with the same case."""
    return f"{axis} ×{factor}" if factor > 1 else "×1"


def _jobs(scale: Scale) -> list[Job]:
    larger = FACTORS[1:] if scale == "full" else FACTORS[1:2]
    cases = [(AXES[0], 1), *itertools.product(AXES, larger)]
    return [_job(axis, factor, scale) for axis, factor in cases]


def _job(axis: str, factor: int, scale: Scale) -> Job:
    prompts, tokens, width, layers = (16, 32, 128, 4) if scale == "full" else (8, 4, 64, 1)
    at = {name: factor if name == axis else 1 for name in AXES}
    rollouts = prompts * at["prompts"]
    # weights beside the embedding grow with the square of the width
    model = random_model(width * math.isqrt(at["model size"]), layers, 600, rollouts)
    options = update_options(
        model, rollouts, upper_half(layers), response_tokens=tokens * at["response length"], epochs=2,
        minibatches=rollouts // 8, micro_batch=8, tuning="lora",
    )  # fmt: skip
    return Job(case_of(axis, factor), OURS, "our_ppo", options)


def slopes(runs: Sequence[Run], axis: str, figure: str) -> list[float]:
    """Each seed's slope on logarithmic scales, 1 is linear growth; of seeds at which anything grew."""
    by_factor = {factor: figures(runs, case_of(axis, factor), OURS, figure) for factor in FACTORS}
    by_factor = {factor: found for factor, found in by_factor.items() if found}
    if not by_factor:
        return []
    seeds = sorted(set.intersection(*(set(found) for found in by_factor.values())))
    grown = [seed for seed in seeds if all(found[seed] > 0 for found in by_factor.values())]
    return [slope([(factor, found[seed]) for factor, found in by_factor.items()]) for seed in grown]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares through the logarithms."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    above = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    return float(above / sum((x - mean_x) ** 2 for x, _ in logs))


def _rows(runs: Sequence[Run]) -> list[Row]:
    rows = []
    for figure, name in NAMES.items():
        for axis in AXES:
            if found := slopes(runs, axis, figure):
                rows.append(Row(f"growth of {name} with {axis}", "slope", Spread.of(found), goal=LINEAR))
    return rows


GROWTH = Measure("growth", "time and memory at 1, 4 and 16 times the work", _jobs, _rows)
