"""One PPO update after another, by the project's trainer."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from scripts.benchmark.programs import meter
from scripts.benchmark.programs.devices import Device
from trainers.config import PPOConfig
from trainers.ppo import collect, learn
from trainers.ppo_run import Trainer, start
from trainers.ppo_state import TrainingState, prompts_of_update
from trainers.records import Prompt, read_jsonl
from trainers.run_dir import RunDir

NEVER = 1e9
"""Of a guard's limit: every epoch of every update is made, as the peer does."""


def measure(options: dict[str, Any]) -> dict[str, float]:
    """Seconds and memory of an update, and how much work it was.

    Args:
        options: `model`, `tuning`, `rollouts`, `rows_at_once` (in one forward pass of the rollout),
            `response_tokens`, `epochs`, `minibatches`, `micro_batch`, `checkpointing`, `updates`, `warm_up`,
            `lora_rank`, `trained_layers` (from the top), `temperature`, `seed`.
    """
    device = Device()
    model = Path(options["model"])
    prompts = read_jsonl(model / "prompts.jsonl", Prompt)
    steps: list[None] = []
    updates = meter.Updates(options["warm_up"], device.now)
    tokens = 0
    with tempfile.TemporaryDirectory() as directory:
        trainer, state = start(a_config(options, model), RunDir(Path(directory)), None)
        # of the policy alone: the value model, which has its own optimizer, makes steps too
        trainer.optimizer.register_step_post_hook(lambda *_: steps.append(None))
        with trainer.metrics:
            updates.begin()
            for _ in range(options["updates"]):
                tokens += one_update(trainer, state, prompts)
                updates.end()
    found = updates.figures()
    return {
        **found,
        **device.figures(),
        "response_tokens": tokens / options["updates"],
        "tokens_per_second": tokens / options["updates"] / found["seconds"],
        "optimizer_steps": len(steps) / options["updates"],
    }


def one_update(trainer: Trainer, state: TrainingState, prompts: list[Prompt]) -> int:
    """What `trainers.ppo.train_ppo` does in an update between two looks; the response tokens."""
    begun = time.monotonic()
    state.update += 1
    batch = prompts_of_update(prompts, trainer.config.seed, state.update, trainer.config.rollouts)
    experience = collect(trainer, state, batch)
    measured = learn(trainer, experience, state.update)
    times = {"time/update_s": time.monotonic() - begun}
    trainer.metrics.log(state.update, **experience.measured, **measured, **times)
    return int(experience.rollout.response_mask.sum())


def a_config(options: dict[str, Any], model: Path) -> PPOConfig:
    return PPOConfig(
        base_model=str(model / "base"),
        reward_model=str(model / options.get("reward", "reward")),
        tuning=options["tuning"],
        seed=options["seed"],
        threads=torch.get_num_threads(),
        batch_size=min(options["rows_at_once"], options["rollouts"]),
        updates=options["updates"] + 1,  # the step size falls to zero after the last
        rollouts=options["rollouts"],
        epochs=options["epochs"],
        minibatch_size=options["rollouts"] // options["minibatches"],
        micro_batch_size=options["micro_batch"],
        gradient_checkpointing=options["checkpointing"],
        max_response_tokens=options["response_tokens"],
        max_prompt_tokens=1024,
        lora_rank=options["lora_rank"],
        trained_layers=options["trained_layers"],
        temperature=options["temperature"],
        epoch_kl_stop=NEVER,
    )


if __name__ == "__main__":
    meter.main(measure)
