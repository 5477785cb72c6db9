"""CPU seconds that PPO takes to an equal height of a programmatic reward, on a small trained model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scripts.benchmark.measure import OURS, Input, Job, Measure, Scale
from scripts.benchmark.results import Goal, Row, Run, compare

PEER = "TRL 1.12 + PEFT"
PEER_STEPS: tuple[float, ...] = (4e-3, 2e-3, 1e-3)
"""TRL is run with each of these step sizes, ours with its default; TRL's best one counts."""
CASE = "0.5M"


def side_of(step: float) -> str:
    return f"{PEER}, step {step:g}"


def _jobs(scale: Scale) -> list[Job]:
    sizes = {"width": 128, "layers": 2, "vocabulary": 768, "steps": 500, "prompts": 64, "response_tokens": 96}
    gain, rollouts, most_updates, steps = math.log(2), 32, 40, PEER_STEPS
    if scale == "quick":
        sizes = {"width": 64, "layers": 1, "vocabulary": 512, "steps": 3, "prompts": 8, "response_tokens": 8}
        gain, rollouts, most_updates, steps = -1.0, 8, 4, PEER_STEPS[:1]
    options: dict[str, Any] = {
        "model": Input("trained", "trained_model", sizes),
        "response_tokens": sizes["response_tokens"],
        "gain": gain,
        "rollouts": rollouts,
        "rows_at_once": rollouts,
        "most_updates": most_updates,
        "minibatches": 2,
        "epochs": 2,
        "checkpointing": False,
        "lora_rank": 8,
        "trained_layers": sizes["layers"],
        "temperature": 1.0,
        "kl_coef": 0.05,
        "missing_eos_penalty": 1.0,
    }
    peers = [
        Job(CASE, side_of(step), "trl_ppo_to_reward", options | {"learning_rate": step}, "trl-1.12")
        for step in steps
    ]
    return [*peers, Job(CASE, OURS, "our_ppo_to_reward", options)]


def best_peer(runs: Sequence[Run]) -> str:
    """The peer's side that reached the target most often, and of these the one that took least."""
    own = {run.side: [r for r in runs if r.side == run.side] for run in runs if run.side != OURS}

    def rank(side: str) -> tuple[float, float]:
        reached = sum(run.figures["reached"] for run in own[side])
        return -reached, statistics.median(run.figures["seconds"] for run in own[side])

    return min(own, key=rank) if own else PEER


def _rows(runs: Sequence[Run]) -> list[Row]:
    peer = best_peer(runs)
    row = compare(
        runs, CASE, (OURS, peer), "seconds", what=f"PPO until answers are half as long, {CASE}", unit="CPU s",
        ratio="peer / ours", goal=Goal("at least", 2.5),
    )  # fmt: skip
    missed = {
        side: [r.seed for r in runs if r.side == side and not r.figures["reached"]] for side in (OURS, peer)
    }
    if missed[OURS]:
        return [replace(row, ratio=None, note=f"ours did not get there with seeds {missed[OURS]}")]
    if missed[peer]:
        return [replace(row, note=f"the peer did not get there with seeds {missed[peer]} and was cut off")]
    return [row]


PPO_TO_REWARD = Measure("ppo-to-reward", "CPU seconds of PPO to an equal reward", _jobs, _rows)
