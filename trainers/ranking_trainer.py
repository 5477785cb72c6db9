"""TRL's `RewardTrainer`, taught to learn from rankings.

What differs from TRL's: every answer of a ranking goes through the model once and all its pairs share that
score (TRL forwards both halves of every pair: twice as much for three answers), and the answers share what
they have in common, their prompt; pairs are weighted by the annotators' votes, or whole rankings are learned;
checkpoints are written whole, with a manifest, and resumed; nothing is printed and nothing is sent anywhere.
Knows nothing of prompts or texts: what it learns from is a `trainers.ranking_batch.RankedAnswers`, and
`trainers.reward` keeps what comes out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import RewardConfig as TrlRewardConfig
from trl import RewardTrainer

from trainers.config import RankingLoss
from trainers.errors import DataError
from trainers.metrics import Metrics
from trainers.models import RewardModel
from trainers.ranking_batch import (
    RankedAnswers,
    centring_loss,
    count_correct,
    judgements_of,
    ranking_loss,
    rows_of,
)
from trainers.reward_model import head_scores, scores_with_gradient
from trainers.run_dir import RunDir
from trainers.stopping import Stopped, stop_requested

LOG_EVERY = 2
"""Optimiser steps between two points of the training curve."""
CHECKPOINT_SECONDS = 10.0
"""Seconds between two checkpoints."""
CENTRING_COEF = 0.01
"""Weight of `centring_loss`, for an ensemble only; the loss that is shown is without it."""
_WATCH_FILE = "watch.json"
_BEST_FILE = "best.safetensors"


@dataclass(frozen=True)
class Schedule:
    """What to learn by, how long and how fast."""

    loss: RankingLoss
    learning_rate: float
    epochs: int
    prompts_per_step: int
    patience: int
    """Looks at the verification prompts (one an epoch) without a lower loss after which training ends."""
    rows_per_pass: int
    """Answers in one forward pass at most."""
    seed: int


@dataclass
class Watch:
    """What the run has seen so far; part of every checkpoint."""

    best_loss: float = float("inf")
    best_step: int = 0
    looks_without_better: int = 0
    metrics_offset: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Of the training curve's next point: pairs, correct, loss, margin, steps."""


def train_on_rankings(
    reward: RewardModel,
    train: Sequence[RankedAnswers],
    verification: Sequence[RankedAnswers],
    schedule: Schedule,
    run_dir: RunDir,
) -> dict[str, Any]:
    """Train the model in place and leave it with the weights of the lowest verification loss.

    Goes on from the newest complete checkpoint of the run directory if there is one.

    Args:
        reward: from `trainers.reward_model.new_reward_model`.
        train: each with at least one pair.
        verification: empty: all epochs are trained and the last weights are kept.
    Returns:
        steps, steps_total, best_step (the weights kept) and whether the run was resumed.
    Raises:
        Stopped: the process was told to end; a checkpoint was saved.
        DataError: the step size was too large.
    """
    checkpoint = run_dir.latest_checkpoint()
    watch = Watch()
    if checkpoint is not None:
        watch = Watch(**json.loads((checkpoint / _WATCH_FILE).read_text(encoding="utf-8")))
    with run_dir.metrics(watch.metrics_offset) as metrics:
        trainer = RankingTrainer(reward, train, verification, schedule, run_dir, metrics, watch)
        if checkpoint is not None:
            trainer.load_best(checkpoint)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.stopped:
            raise Stopped
        trainer.restore_best()
    if not all(bool(parameter.isfinite().all()) for parameter in reward.parameters()):
        raise DataError(
            f"training diverged: with a step size of {schedule.learning_rate:g} some weights are no finite"
            " numbers any more; set `learning_rate` lower and begin a new run directory"
        )
    return {
        "steps": trainer.state.global_step,
        "steps_total": trainer.state.max_steps,
        "best_step": watch.best_step if verification else trainer.state.global_step,
        "resumed": checkpoint is not None,
    }


class RankingTrainer(RewardTrainer):  # type: ignore[misc]  # TRL ships no types
    """Learns one score an answer from ranked answers. Use `train_on_rankings`."""

    def __init__(
        self,
        reward: RewardModel,
        train: Sequence[RankedAnswers],
        verification: Sequence[RankedAnswers],
        schedule: Schedule,
        run_dir: RunDir,
        metrics: Metrics,
        watch: Watch,
    ) -> None:
        heads = reward.heads
        reward.classifier.config.num_labels = 1  # type: ignore[union-attr]  # TRL takes no other
        super().__init__(
            model=reward.classifier,
            args=_arguments(schedule, run_dir),
            data_collator=lambda examples: {"ranked": [train[example["prompt"]] for example in examples]},
            train_dataset=Dataset.from_dict({"prompt": list(range(len(train)))}),
            processing_class=reward.tokenizer,
            callbacks=[_EveryStep(self)],
        )
        self.model.config.num_labels = heads
        self.model.config.pad_token_id = _pad_id(reward)
        reward.gradient_checkpointing = self.args.activation_checkpointing
        self.reward, self.verification, self.schedule = reward, verification, schedule
        self.run_dir, self.curve, self.watch = run_dir, metrics, watch
        self.weight_of_prompt = float(judgements_of(train).weights(schedule.loss).sum()) / len(train)
        self.best_weights: dict[str, Tensor] = {}
        self.stopped = False
        self.last_checkpoint_time = time.monotonic()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The batch's loss, from one forward pass over each answer."""
        ranked, args = inputs["ranked"], self.args
        # where all weights are trained they are in fp32
        is_full = args.bf16 and next(self.reward.parameters()).dtype == torch.float32
        with torch.autocast(args.device.type, torch.bfloat16, enabled=is_full):
            scores = scores_with_gradient(self.reward, rows_of(ranked), self.schedule.rows_per_pass)
        judgements = judgements_of(ranked).to(args.device)
        loss = ranking_loss(scores, judgements, self.schedule.loss, len(ranked) * self.weight_of_prompt)
        means = scores.mean(dim=1)
        margins = means[judgements.chosen] - means[judgements.rejected]  # (pairs,)
        self._remember(loss.detach(), margins.detach())
        if scores.shape[1] > 1:
            loss = loss + CENTRING_COEF * centring_loss(scores, judgements)
        return (loss, scores) if return_outputs else loss

    def look_at_verification(self) -> None:
        """Measure the verification prompts and keep the weights if they are the best so far."""
        self.model.eval()
        loss, accuracy = heldout_loss(self.reward, self.verification, self.schedule)
        self.model.train()
        step = self.state.global_step
        self.curve.log(step, **{"reward/heldout_loss": loss, "reward/heldout_accuracy": accuracy})
        if loss < self.watch.best_loss:
            self.watch.best_loss, self.watch.best_step, self.watch.looks_without_better = loss, step, 0
            self.best_weights = {name: p.detach().cpu().clone() for name, p in self._trained()}
        else:
            self.watch.looks_without_better += 1

    def log_training(self) -> None:
        """Write the next point of the training curve."""
        sums, self.watch.sums = self.watch.sums, {}
        values = {
            "reward/loss": sums["loss"] / sums["steps"],
            "reward/accuracy": sums["correct"] / sums["pairs"],
            "reward/margin": sums["margin"] / sums["pairs"],
        }
        self.curve.log(self.state.global_step, **values)
        self.curve.progress(
            self.state.global_step, self.state.max_steps, "steps", step=self.state.global_step
        )

    def load_best(self, checkpoint: Path) -> None:
        if (checkpoint / _BEST_FILE).is_file():
            self.best_weights = load_file(checkpoint / _BEST_FILE)

    def restore_best(self) -> None:
        """Put back the weights with the lowest verification loss."""
        with torch.no_grad():
            for name, parameter in self._trained():
                if name in self.best_weights:
                    parameter.copy_(self.best_weights[name])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's own log lines go nowhere: `log_training` writes the curves."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # token ids already

    def _send_telemetry(self) -> None:
        """TRL reports its use to its makers; this program reports nothing to anyone."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint that is complete or not there at all (transformers' own is written in place)."""
        self.watch.metrics_offset = self.curve.offset
        self.run_dir.save_checkpoint(self.state.global_step, self._write_checkpoint)
        self.last_checkpoint_time = time.monotonic()

    def _write_checkpoint(self, directory: Path) -> None:
        self.save_model(str(directory), _internal_call=True)
        (directory / "training_args.bin").unlink(missing_ok=True)  # a pickle, and nothing needs it
        (directory / "README.md").unlink(missing_ok=True)
        self._save_optimizer_and_scheduler(str(directory))
        self._save_rng_state(str(directory))
        self.state.save_to_json(str(directory / "trainer_state.json"))
        (directory / _WATCH_FILE).write_text(json.dumps(asdict(self.watch)), encoding="utf-8")
        if self.best_weights:
            save_file(self.best_weights, directory / _BEST_FILE)

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.reward.classifier.named_parameters() if p.requires_grad]

    def _remember(self, loss: Tensor, margins: Tensor) -> None:
        news = {"steps": 1.0, "pairs": float(len(margins)), "loss": float(loss)}
        news |= {"correct": count_correct(margins), "margin": float(margins.sum())}
        for name, value in news.items():
            self.watch.sums[name] = self.watch.sums.get(name, 0.0) + value


class _EveryStep(TrainerCallback):
    """Logs, looks at the verification prompts, saves and stops, in this order: a checkpoint holds all."""

    def __init__(self, trainer: RankingTrainer) -> None:
        self.trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        trainer = self.trainer
        steps_per_epoch = -(-state.max_steps // trainer.schedule.epochs)
        end_of_epoch = state.global_step % steps_per_epoch == 0
        if end_of_epoch or state.global_step % LOG_EVERY == 0:
            trainer.log_training()
        if end_of_epoch and trainer.verification:
            trainer.look_at_verification()
            if trainer.watch.looks_without_better >= trainer.schedule.patience:
                control.should_training_stop = True
                return control  # without a checkpoint: gone on from here it would not know that it ended
        if stop_requested():
            trainer.stopped = control.should_save = control.should_training_stop = True
        if time.monotonic() - trainer.last_checkpoint_time >= CHECKPOINT_SECONDS:
            control.should_save = True
        return control


def heldout_loss(
    reward: RewardModel, ranked: Sequence[RankedAnswers], schedule: Schedule
) -> tuple[float, float]:
    """(loss, accuracy over pairs) of all prompts together: no mean of batch means."""
    scores = head_scores(reward, rows_of(ranked), schedule.rows_per_pass).mean(dim=1)
    judgements = judgements_of(ranked)
    margins = scores[judgements.chosen] - scores[judgements.rejected]
    weight = judgements.weights(schedule.loss).sum()
    loss = ranking_loss(scores[:, None], judgements, schedule.loss, weight)
    return float(loss), count_correct(margins) / len(margins)


def _pad_id(reward: RewardModel) -> int:
    """A token that is not the end token: transformers scores the last token that is not this one."""
    pad_id, eos_id = reward.tokenizer.pad_token_id, reward.tokenizer.eos_token_id
    return int(pad_id) if pad_id != eos_id else int(eos_id == 0)


def _arguments(schedule: Schedule, run_dir: RunDir) -> TrlRewardConfig:
    cuda = torch.cuda.is_available()
    return TrlRewardConfig(
        output_dir=str(run_dir.checkpoints_dir),
        learning_rate=schedule.learning_rate,
        num_train_epochs=schedule.epochs,
        per_device_train_batch_size=schedule.prompts_per_step,
        lr_scheduler_type="linear",
        warmup_steps=0.1,  # a share of all steps
        weight_decay=0.01,
        max_grad_norm=1.0,
        seed=schedule.seed,
        use_cpu=not cuda,
        bf16=cuda,  # fifty times slower on a CPU
        activation_checkpointing=cuda,
        dataloader_num_workers=0,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        max_length=None,
        eval_strategy="no",
        save_strategy="no",  # `_EveryStep` says when
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
