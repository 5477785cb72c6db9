"""PPO until answers have become brief enough, by the project's trainer as a user starts it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark.programs import meter
from scripts.benchmark.programs.devices import Device
from scripts.benchmark.programs.target import Ended, Target, brevity
from trainers.config import PPOConfig
from trainers.ppo import train_ppo
from trainers.records import Prompt, read_jsonl
from trainers.run_dir import RunDir


def measure(options: dict[str, Any]) -> dict[str, float]:
    """CPU seconds from the start of training to the target.

    Args:
        options: `model` (of `trained_model`), `gain`, `most_updates`, `rollouts`, `minibatches`, `epochs`,
            `response_tokens`, `lora_rank`, `trained_layers` (from the top), `temperature`, `kl_coef`,
            `missing_eos_penalty`, `seed`.
    """
    Device()
    model = Path(options["model"])
    prompts = read_jsonl(model / "prompts.jsonl", Prompt)
    start = json.loads((model / "start.json").read_text(encoding="utf-8"))["reward"]
    target = Target(start + options["gain"], options["most_updates"])
    has_looked = False

    def reward(_prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        nonlocal has_looked
        if not has_looked:  # once, before the first update: at answers that nothing is learnt from
            has_looked = True
            return [brevity(answer) for answer in answers]
        return target.scores(answers)

    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(Ended):
        target.begin()
        train_ppo(_config(options, model), RunDir(Path(directory)), prompts, prompts, reward)
    return target.figures()


def _config(options: dict[str, Any], model: Path) -> PPOConfig:
    most = options["most_updates"] + 1
    return PPOConfig(
        base_model=str(model / "base"),
        reward_model="the:function",
        tuning="lora",
        seed=options["seed"],
        threads=1,
        updates=most,
        rollouts=options["rollouts"],
        minibatch_size=options["rollouts"] // options["minibatches"],
        micro_batch_size=options["rollouts"] // options["minibatches"],
        epochs=options["epochs"],
        trained_layers=options["trained_layers"],
        max_response_tokens=options["response_tokens"],
        lora_rank=options["lora_rank"],
        temperature=options["temperature"],
        kl_coef=options["kl_coef"],
        missing_eos_penalty=options["missing_eos_penalty"],
        verify_every=most,  # TRL looks at no held-out prompts
        checkpoint_every=most,
        kl_stop=1e9,
    )


if __name__ == "__main__":
    meter.main(measure)
