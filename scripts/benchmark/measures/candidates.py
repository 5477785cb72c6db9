"""Candidate answers a CPU second, of the embedded base model, against transformers' `generate()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.benchmark.measure import OURS, Job, Measure, Scale
from scripts.benchmark.results import Goal, Row, Run, compare

EVERY = 5
"""One call a prompt is made for every fifth prompt: its rate doesn't depend on how many follow."""
ONE_BY_ONE, BATCHED = "generate(), prompt by prompt", "generate(), batched"


def _jobs(scale: Scale) -> list[Job]:
    prompts, tokens = (200, 128) if scale == "full" else (4, 8)
    options: dict[str, Any] = {"prompts": prompts, "candidates": 3, "response_tokens": tokens}
    ways: dict[str, dict[str, Any]] = {
        ONE_BY_ONE: {"way": "one prompt", "every": EVERY if scale == "full" else 1},
        OURS: {"way": "ours"},
        BATCHED: {"way": "batched"},
    }
    case = f"{prompts} prompts × 3"
    return [Job(case, side, "candidates", options | way) for side, way in ways.items()]


def _rows(runs: Sequence[Run]) -> list[Row]:
    case = runs[0].case
    goals = {ONE_BY_ONE: ("one call a prompt", 6.0), BATCHED: ("batched", 1.2)}
    return [
        compare(
            runs, case, (OURS, peer), "candidates_per_second", what=f"candidates, {case}, against {way}",
            unit="a CPU s", ratio="ours / peer", goal=Goal("at least", goal),
        )
        for peer, (way, goal) in goals.items()
    ]  # fmt: skip


CANDIDATES = Measure("candidates", "candidate answers a CPU second", _jobs, _rows)
