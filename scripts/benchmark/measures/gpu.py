"""One PPO update of real models' shapes on a GPU; `quick` is tiny and runs on a CPU as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scripts.benchmark.measure import OURS, Input, Job, Measure, Scale
from scripts.benchmark.measures.ppo_update import LORA, WORK, update_options
from scripts.benchmark.results import (
    Goal,
    RatioOf,
    Row,
    Run,
    Spread,
    by_case,
    compare,
    figures,
    require_equal_work,
)
from scripts.benchmark.runner import has_cuda

PEER = LORA[1]
# as Llamas, whose tokenizer may be any: transformers reads the tokenizer of a `qwen2` in its own way
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": {
        "width": 896, "layers": 24, "heads": 14, "kv_heads": 2, "intermediate": 4864,
        "vocabulary": 151_936, "tied": True,
    },
    "Llama-3-8B": {
        "width": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "intermediate": 14_336,
        "vocabulary": 128_256, "tied": False,
    },
}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    case: {
        **shape,
        "width": 64,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "intermediate": 128,
        "vocabulary": 300,
    }
    for case, shape in SHAPES.items()
}
MICRO_BATCHES = {"Qwen2.5-0.5B": (16, 16), "Llama-3-8B": (8, 4)}
"""(ours, the peer's): at 8B the peer fills a GPU of 140 GiB with 4 rows."""
MEMORY_GOALS = {"Llama-3-8B": Goal("at most", 0.25)}


def _jobs(scale: Scale) -> list[Job]:
    prompts, tokens, updates = (64, 256, 3) if scale == "full" else (8, 8, 2)
    jobs = []
    for case, shape in (SHAPES if scale == "full" else TINY).items():
        # the reward model is an adapter, as the project's reward stage makes it of models of this size
        inputs = {"dtype": "bfloat16" if scale == "full" else "float32", "reward_tuning": "lora",
                  "prompts": prompts, "prompt_tokens": (tokens, tokens)}  # fmt: skip
        options = update_options(
            Input(f"random-{case}", "random_model", {**shape, **inputs}), prompts, shape["layers"],
            tuning="lora", rows_at_once=prompts, response_tokens=tokens, minibatches=1, updates=updates,
        )  # fmt: skip
        ours, peers = ({"micro_batch": rows} for rows in (MICRO_BATCHES[case] if scale == "full" else (4, 4)))
        jobs += [
            Job(case, PEER, "trl_ppo", options | peers, "trl-1.12"),
            Job(case, OURS, "floor", options | ours),
        ]
    return jobs


def _rows(runs: Sequence[Run]) -> list[Row]:
    for case in dict.fromkeys(run.case for run in runs):
        require_equal_work(runs, case, WORK)
    on_gpu = any("gpu_peak_gib" in run.figures for run in runs)
    memory, unit = ("gpu_peak_gib", "GiB") if on_gpu else ("memory_growth_mib", "MiB")
    return [
        *by_case(
            runs,
            lambda case: _compared(
                runs, case, "seconds", f"one PPO update, {case}'s shape", "s", Goal("at least", 3.0)
            ),
        ),
        *by_case(
            runs,
            lambda case: _compared(
                runs, case, "tokens_per_second", f"response tokens, {case}'s shape", "a s"
            ),
        ),
        *by_case(
            runs,
            lambda case: _compared(
                runs, case, memory, f"peak memory, {case}'s shape", unit, MEMORY_GOALS.get(case)
            ),
        ),
        *by_case(
            runs,
            lambda case: Row(
                f"share of the matrix product rate, {case}'s shape",
                "%",
                Spread.of(list(figures(runs, case, OURS, "share_percent").values())),
            ),
        ),
    ]


def _compared(
    runs: Sequence[Run], case: str, figure: str, what: str, unit: str, goal: Goal | None = None
) -> Row:
    ratio: RatioOf = "peer / ours" if figure == "seconds" else "ours / peer"
    row = compare(runs, case, (OURS, PEER), figure, what=what, unit=unit, ratio=ratio, goal=goal)
    return (
        replace(row, note="the peer ran out of memory") if figures(runs, case, PEER, "out_of_memory") else row
    )


def _missing() -> str:
    return "" if has_cuda() else "torch finds no CUDA device on this machine"


GPU = Measure("gpu", "one PPO update of Qwen2.5-0.5B's and Llama-3-8B's shapes", _jobs, _rows, _missing)
