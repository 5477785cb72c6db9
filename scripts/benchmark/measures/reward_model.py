"""CPU seconds that a reward model takes to an equal accuracy on held-out prompts, four answers each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scripts.benchmark.measure import OURS, Input, Job, Measure, Scale
from scripts.benchmark.results import Goal, Row, Run, compare

PEER = "TRL 1.16 RewardTrainer"
CASE = "K = 4"


def _jobs(scale: Scale) -> list[Job]:
    prompts, tokens, epochs, target = (160, 128, 4, 0.90) if scale == "full" else (12, 16, 2, 0.0)
    data = Input("ranked", "ranked_answers", {"prompts": prompts, "answers": 4, "response_tokens": tokens})
    options: dict[str, Any] = {"data": data, "epochs": epochs, "look_every": 1, "target": target}
    return [Job(CASE, PEER, "trl_reward", options), Job(CASE, OURS, "our_reward", options)]


def _rows(runs: Sequence[Run]) -> list[Row]:
    row = compare(
        runs, CASE, (OURS, PEER), "seconds", what=f"reward model to 90 % held-out accuracy, {CASE}",
        unit="CPU s", ratio="peer / ours", goal=Goal("at least", 2.5),
    )  # fmt: skip
    missed = [run.side for run in runs if not run.figures["reached"]]
    if OURS in missed:
        return [replace(row, ratio=None, note="ours did not get there with every seed")]
    return [replace(row, note=f"the peer did not get there in {len(missed)} runs")] if missed else [row]


REWARD_MODEL = Measure(
    "reward-model", "CPU seconds of a reward model to an equal held-out accuracy", _jobs, _rows
)
