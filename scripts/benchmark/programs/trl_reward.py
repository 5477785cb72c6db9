"""A reward model up to a held-out accuracy, by TRL 1.16's `RewardTrainer` on all pairs of each ranking.

The same base, pairs, epochs, step size and prompts an optimiser step as ours. TRL's defaults of bf16 and
gradient checkpointing are off: on a CPU they would cost it many times its time.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from scripts.benchmark.programs import meter
from scripts.benchmark.programs.devices import Device
from scripts.benchmark.programs.held_out import HeldOut, RankedData
from scripts.benchmark.programs.our_reward import a_config
from scripts.make_base_model import WEIGHTS_DIR
from trainers.conversations import load_tokenizer
from trainers.model_files import load_config
from trainers.reward import choose_schedule


def measure(options: dict[str, Any]) -> dict[str, float]:
    """CPU seconds of training to the target; options as in `our_reward`."""
    Device()
    data = RankedData(Path(options["data"]))
    base = str(WEIGHTS_DIR)
    watch = HeldOut(data, base, options["look_every"], options["target"])
    pairs = list(data.train)
    prompts = len({pair.prompt_id for pair in pairs})
    schedule = choose_schedule(a_config(options), "full", prompts, load_config(base).hidden_size)
    rows = data.rows(base, pairs)
    random.Random(options["seed"]).shuffle(pairs)
    dataset = Dataset.from_dict(
        {
            "chosen_ids": [rows[p.chosen_id] for p in pairs],
            "rejected_ids": [rows[p.rejected_id] for p in pairs],
        }
    )
    torch.manual_seed(options["seed"])  # the score head starts at random
    with tempfile.TemporaryDirectory() as directory:
        settings = RewardConfig(
            output_dir=directory,
            learning_rate=schedule.learning_rate,
            num_train_epochs=schedule.epochs,
            per_device_train_batch_size=schedule.prompts_per_step * len(pairs) // prompts,
            warmup_steps=0.1,
            seed=options["seed"],
            max_length=None,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = RewardTrainer(
            model=AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32),
            args=settings,
            train_dataset=dataset,
            processing_class=load_tokenizer(base, "right"),
            callbacks=[watch],
        )
        trainer.train()
    return watch.figures()


if __name__ == "__main__":
    meter.main(measure)
