"""The cost of one PPO update: CPU seconds and growth of memory, and what a wide vocabulary does to both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.benchmark.measure import OURS, Input, Job, Measure, Scale
from scripts.benchmark.results import (
    Goal,
    Row,
    Run,
    Spread,
    by_case,
    compare,
    figures,
    require_equal_work,
)
from trainers.config import upper_half

LORA = (OURS, "TRL 1.12 + PEFT")
ALL = (f"{OURS}, all layers", "TRL 1.12 + PEFT, all layers")
FULL = (f"{OURS}, full", "TRL 1.12 full")
"""(our side, the peer's) with an adapter on the upper half of the layers, which is our default, with one on
all layers, with all weights trained."""
PROMPT_TOKENS = (19, 37)
"""Shortest and longest of scripts/demo_prompts.csv as the embedded base model reads them."""
WORK = ("response_tokens", "optimizer_steps")
TIME_GOAL, MEMORY_GOAL = Goal("at least", 3.0), Goal("at most", 0.4)


def random_model(width: int, layers: int, vocabulary: int, prompts: int) -> Input:
    """A small Llama with random weights, and prompts."""
    head = 64 if width % 64 == 0 else 32
    shape = {
        "width": width,
        "layers": layers,
        "heads": width // head,
        "kv_heads": width // head,
        "intermediate": 5 * width // 2,
        "vocabulary": vocabulary,
        "tied": True,
        "dtype": "float32",
        "reward_tuning": "full",
        "prompts": prompts,
        "prompt_tokens": PROMPT_TOKENS,
    }
    return Input(f"random-{width}x{layers}-{vocabulary}", "random_model", shape)


def update_options(model: Input, rollouts: int, trained_layers: int, **changes: Any) -> dict[str, Any]:
    """What both sides' programs are told, but for `tuning` and the seed."""
    options = {
        "model": model,
        "rollouts": rollouts,
        "rows_at_once": 32,
        "response_tokens": 48,
        "epochs": 4,
        "minibatches": 2,
        "micro_batch": rollouts // 2,
        "checkpointing": False,
        "updates": 2,
        "warm_up": 1,
        "lora_rank": 8,
        "trained_layers": trained_layers,
        "temperature": 1.0,
    }
    return options | changes


def peer_and_ours(case: str, options: dict[str, Any], sides: tuple[str, str] = LORA) -> list[Job]:
    ours, peer = sides
    options = options | {"tuning": "full" if sides == FULL else "lora"}
    program = "our_ppo" if sides == FULL else "floor"
    return [Job(case, peer, "trl_ppo", options, "trl-1.12"), Job(case, ours, program, options)]


def _jobs(scale: Scale, sides: tuple[str, str] = LORA) -> list[Job]:
    shapes = {"3.2M": (256, 4, 600, 32), "10.4M": (384, 6, 600, 16)}
    sizes: dict[str, Any] = {"updates": 4}  # the machine's speed goes up and down
    if scale == "quick":
        shapes = {"0.1M": (64, 2, 200, 8)}
        sizes = {"response_tokens": 8, "updates": 2}
    jobs = []
    for case, (width, layers, vocabulary, rollouts) in shapes.items():
        # as many prompts as rollouts: both sides answer the same ones in every update
        model = random_model(width, layers, vocabulary, prompts=rollouts)
        trained = upper_half(layers) if sides == LORA else layers
        jobs += peer_and_ours(case, update_options(model, rollouts, trained, **sizes), sides)
    return jobs


def _rows(runs: Sequence[Run]) -> list[Row]:
    _require_equal_work(runs)
    return [
        *_seconds(runs, LORA, "one PPO update, {}", TIME_GOAL),
        *_memory(runs, LORA, MEMORY_GOAL),
        *_shares_of_floor(runs, LORA, Goal("at least", 60)),
    ]


def _full_rows(runs: Sequence[Run]) -> list[Row]:
    _require_equal_work(runs)
    return [*_seconds(runs, FULL, "one PPO update, {}, all weights", None), *_memory(runs, FULL, None)]


def _all_rows(runs: Sequence[Run]) -> list[Row]:
    _require_equal_work(runs)
    what = "one PPO update, {}, adapters on all layers"
    return [*_seconds(runs, ALL, what, None), *_memory(runs, ALL, None), *_shares_of_floor(runs, ALL, None)]


def _require_equal_work(runs: Sequence[Run]) -> None:
    for case in dict.fromkeys(run.case for run in runs):
        require_equal_work(runs, case, WORK)


def _shares_of_floor(runs: Sequence[Run], sides: tuple[str, str], goal: Goal | None) -> list[Row]:
    """With one rate of products for all, and with that of so few rows for sampling."""

    def rows(what: str, share: str, floor: str, goal: Goal | None) -> list[Row]:
        def row(case: str) -> Row:
            found, seconds = (
                Spread.of(list(figures(runs, case, sides[0], name).values())) for name in (share, floor)
            )
            note = f"floor {seconds.middle:.2f} CPU s"
            return Row(f"{what}, {case}{_SUFFIXES[sides]}", "%", found, goal=goal, note=note)

        return by_case(runs, row)

    of_rows = ("share_of_rows_percent", "floor_of_rows_seconds")
    return [
        *rows("share of the floor", "share_percent", "floor_seconds", goal),
        *rows("share, sampling at its rows' rate", *of_rows, None),
    ]


_SUFFIXES = {LORA: "", ALL: ", all layers", FULL: ", all weights"}


def _seconds(runs: Sequence[Run], sides: tuple[str, str], what: str, goal: Goal | None) -> list[Row]:
    return by_case(
        runs,
        lambda case: compare(
            runs, case, sides, "seconds", what=what.format(case), unit="CPU s", ratio="peer / ours", goal=goal
        ),
    )


def _memory(runs: Sequence[Run], sides: tuple[str, str], goal: Goal | None) -> list[Row]:
    return by_case(
        runs,
        lambda case: compare(
            runs,
            case,
            sides,
            "memory_growth_mib",
            what=f"growth of peak memory in it, {case}{_SUFFIXES[sides]}",
            unit="MiB",
            ratio="ours / peer",
            goal=goal,
        ),
    )


def _vocabulary_jobs(scale: Scale) -> list[Job]:
    width, vocabulary, rollouts = (128, 32_000, 32) if scale == "full" else (64, 2_000, 8)
    sizes = {"epochs": 1} if scale == "full" else {"epochs": 1, "response_tokens": 8, "updates": 2}
    model = random_model(width, 2, vocabulary, prompts=rollouts)
    return peer_and_ours(f"{vocabulary} tokens", update_options(model, rollouts, upper_half(2), **sizes))


def _vocabulary_rows(runs: Sequence[Run]) -> list[Row]:
    _require_equal_work(runs)
    what = "one PPO update of 1 epoch, 0.5M and a vocabulary of {}"
    return [*_seconds(runs, LORA, what, Goal("at least", 1.8)), *_memory(runs, LORA, None)]


PPO_UPDATE = Measure(
    "ppo-update", "CPU seconds and memory of one PPO update, and how near it is to the floor", _jobs, _rows
)
PPO_FULL = Measure(
    "ppo-full", "the same with all weights trained", lambda scale: _jobs(scale, FULL), _full_rows
)
PPO_ALL_LAYERS = Measure(
    "ppo-all-layers", "the same with adapters on all layers", lambda scale: _jobs(scale, ALL), _all_rows
)
PPO_VOCABULARY = Measure(
    "ppo-vocabulary", "the same with a vocabulary of 32,000 tokens", _vocabulary_jobs, _vocabulary_rows
)
