"""One PPO update after another, by TRL 1.12's `PPOTrainer`; full, or with PEFT as its documentation has it.

Runs in the peer's virtual environment. Four models as TRL's own example: policy, reference (with PEFT the
policy without its adapter), reward and value model. TRL's default of bf16 on a CPU is
off: it would cost it many times its time.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

from scripts.benchmark.programs import meter
from scripts.benchmark.programs.devices import Device

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def measure(options: dict[str, Any]) -> dict[str, float]:
    """Seconds and memory of an update, and how much work it was; options as in `our_ppo`.

    Returns: the figures, or `out_of_memory` and what it then held, where that is more than the GPU has.
    """
    device = Device()
    try:
        return _measured(options, device)
    except torch.cuda.OutOfMemoryError:
        return {"out_of_memory": 1.0, **device.figures()}


def _measured(options: dict[str, Any], device: Device) -> dict[str, float]:
    model = Path(options["model"])
    tokenizer = AutoTokenizer.from_pretrained(model / "base", padding_side="left")
    prompts = read_prompts(model / "prompts.jsonl")
    reward, value = load_scorer(model), load_scorer(model)
    read = TokenCounter()
    steps: list[None] = []
    reward.base_model.register_forward_pre_hook(read, with_kwargs=True)
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(None))
    updates = meter.Updates(options["warm_up"], device.now)
    with tempfile.TemporaryDirectory() as directory:
        trainer = make_trainer(
            options, directory, model / "base", tokenizer, prompts, reward, value, _EachUpdate(updates)
        )
        trainer.train()
    hook.remove()
    found = updates.figures()
    of_prompts = sum(map(len, encoded(tokenizer, prompts))) * options["rollouts"] / len(prompts)
    tokens = read.total / options["updates"] - of_prompts
    return {
        **found,
        **device.figures(),
        "response_tokens": tokens,
        "tokens_per_second": tokens / found["seconds"],
        "optimizer_steps": len(steps) / options["updates"],
    }


def make_trainer(
    options: dict[str, Any],
    directory: str,
    base: Path,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    reward: torch.nn.Module,
    value: torch.nn.Module,
    callback: TrainerCallback,
) -> Any:
    """TRL's trainer with the settings of the options, everything else as it comes."""
    cuda = torch.cuda.is_available()
    micro_batch, accumulated = micro_batches(options)
    rows = encoded(tokenizer, prompts)
    if accumulated > 1:  # with the data's last batch accelerate stops adding up
        rows *= options["updates"] + 1
    settings = PPOConfig(
        output_dir=directory,
        seed=options["seed"],
        total_episodes=options["rollouts"] * options["updates"],
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulated,
        num_mini_batches=options["minibatches"],
        num_ppo_epochs=options["epochs"],
        local_rollout_forward_batch_size=min(options["rows_at_once"], options["rollouts"]),
        response_length=options["response_tokens"],
        temperature=options["temperature"],
        num_sample_generations=0,
        use_cpu=not cuda,
        bf16=cuda,
        gradient_checkpointing=options["checkpointing"],
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **options.get("trl", {}),
    )
    policy = AutoModelForCausalLM.from_pretrained(base, dtype=_dtype())
    lora = LoraConfig(
        r=options["lora_rank"], lora_alpha=2 * options["lora_rank"], lora_dropout=0.0,
        target_modules=LORA_TARGETS, task_type="CAUSAL_LM",
        layers_to_transform=list(range(policy.config.num_hidden_layers))[-options["trained_layers"] :],
    )  # fmt: skip
    return PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        peft_config=lora if options["tuning"] == "lora" else None,
        callbacks=[callback],
    )


def micro_batches(options: dict[str, Any]) -> tuple[int, int]:
    """(rows of a micro-batch, how many of them TRL adds up) for the optimiser steps that the options mean.

    TRL adds up gradients over that many micro-batches, whether or not a mini-batch ends in between; of a
    mini-batch that is smaller than a micro-batch it makes one step.
    """
    rows = options["rollouts"] // options["minibatches"]
    if options["micro_batch"] == rows:
        return options["rollouts"], 1
    if options["minibatches"] == 1:
        return options["micro_batch"], rows // options["micro_batch"]
    raise ValueError("TRL steps once a mini-batch only if this is one micro-batch, or the only mini-batch")


def load_scorer(model: Path) -> Any:
    """A sequence classifier: TRL's reward model, and its value model."""
    has_own_weights = (model / "reward" / "config.json").is_file()
    source = model / ("reward" if has_own_weights else "base")
    return AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=_dtype())


def read_prompts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def encoded(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    """Token ids of each prompt up to where the response begins."""
    turns = [[{"role": "user", "content": text}] for text in prompts]
    rows: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    return [list(row) for row in rows]


class TokenCounter:
    """Counts the real tokens that a model is given."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.total += int(kwargs["attention_mask"].sum())


class _EachUpdate(TrainerCallback):
    def __init__(self, updates: meter.Updates) -> None:
        self.updates = updates

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.updates.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.updates.end()


def _dtype() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


if __name__ == "__main__":
    meter.main(measure)
