"""A reward model up to a held-out accuracy, by the project's trainer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import transformers.trainer

from scripts.benchmark.programs import meter
from scripts.benchmark.programs.devices import Device
from scripts.benchmark.programs.held_out import HeldOut, RankedData
from scripts.make_base_model import WEIGHTS_DIR
from trainers.config import RewardConfig
from trainers.reward import train
from trainers.run_dir import RunDir


def measure(options: dict[str, Any]) -> dict[str, float]:
    """CPU seconds of training to the target.

    Args:
        options: `data` (of `ranked_answers`), `epochs`, `look_every` (steps), `target`, `seed`.
    """
    Device()
    data = RankedData(Path(options["data"]))
    watch = HeldOut(data, str(WEIGHTS_DIR), options["look_every"], options["target"])
    every_trainers: list[Any] = transformers.trainer.DEFAULT_CALLBACKS
    every_trainers.append(watch)  # ours makes its trainer itself
    try:
        with tempfile.TemporaryDirectory() as directory:
            train(
                a_config(options), RunDir(Path(directory)), data.candidates, data.rankings, data.preferences
            )
    finally:
        every_trainers.remove(watch)
    return watch.figures()


def a_config(options: dict[str, Any]) -> RewardConfig:
    return RewardConfig(
        base_model=str(WEIGHTS_DIR), tuning="full", epochs=options["epochs"], threads=1, seed=options["seed"]
    )


if __name__ == "__main__":
    meter.main(measure)
