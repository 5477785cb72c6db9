"""Accuracy on held-out pairs while a reward model learns, and the moment at which it is high enough.

Both sides are classifiers trained by a descendant of transformers' `Trainer`, so one callback watches both;
what it takes does not count.
"""

from __future__ import annotations

import statistics
from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from scripts.benchmark.programs.meter import CpuClock
from trainers.conversations import encode_conversations, load_tokenizer
from trainers.models import pad
from trainers.preferences import derive_preferences, split_preferences
from trainers.records import Candidates, Preference, Ranking, read_jsonl

LOOKS = 3
"""The mean accuracy of this many looks decides."""
ROWS_AT_ONCE = 32
_PAD_ID = 0


class RankedData:
    """The answers and preferences of a `ranked_answers` directory."""

    def __init__(self, directory: Path) -> None:
        self.candidates = read_jsonl(directory / "candidates.jsonl", Candidates)
        self.rankings = read_jsonl(directory / "rankings.jsonl", Ranking)
        self.preferences = derive_preferences(self.rankings, self.candidates)
        splits = {own.prompt.id: own.prompt.split for own in self.candidates}
        self.train, self.held_out = split_preferences(self.preferences, splits)

    def rows(self, base_model: str, preferences: list[Preference]) -> dict[str, list[int]]:
        """Response id -> prompt, answer and end as token ids, of the answers in these preferences."""
        wanted = {key for p in preferences for key in (p.chosen_id, p.rejected_id)}
        asked = [(own.prompt, r) for own in self.candidates for r in own.responses if r.id in wanted]
        texts = [response.text for _, response in asked]
        rows = encode_conversations(load_tokenizer(base_model), [prompt for prompt, _ in asked], texts)
        return {response.id: row for (_, response), row in zip(asked, rows, strict=True)}


class HeldOut(TrainerCallback):
    """Looks at held-out pairs every few steps and ends the training at the target."""

    def __init__(self, data: RankedData, base_model: str, every: int, target: float) -> None:
        preferences = list(data.held_out)
        rows = data.rows(base_model, preferences)
        self._order = sorted(rows, key=lambda key: len(rows[key]))
        place = {key: index for index, key in enumerate(self._order)}
        self._passes = [
            pad([rows[key] for key in self._order[start : start + ROWS_AT_ONCE]], _PAD_ID, "right")
            for start in range(0, len(self._order), ROWS_AT_ONCE)
        ]
        self._chosen = torch.tensor([place[p.chosen_id] for p in preferences])
        self._rejected = torch.tensor([place[p.rejected_id] for p in preferences])
        self._every, self._target = every, target
        self._looks: deque[float] = deque(maxlen=LOOKS)
        self._steps = 0
        self._clock = CpuClock()
        self._seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._clock = CpuClock()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        self._steps = state.global_step
        self._seconds = self._clock.seconds()
        if state.global_step % self._every == 0:
            with self._clock.paused():
                self._looks.append(self._accuracy(model))
            control.should_training_stop = control.should_training_stop or self._is_reached()

    def figures(self) -> dict[str, float]:
        return {
            "seconds": self._seconds,
            "optimizer_steps": float(self._steps),
            "reached": float(self._is_reached()),
            "accuracy": statistics.fmean(self._looks),
        }

    def _is_reached(self) -> bool:
        return len(self._looks) == LOOKS and statistics.fmean(self._looks) >= self._target

    @torch.no_grad()
    def _accuracy(self, model: Any) -> float:
        """Over all pairs; equal scores count half."""
        was_training = model.training
        model.eval()
        parts = [model(input_ids=ids, attention_mask=mask.long()).logits for ids, mask in self._passes]
        model.train(was_training)
        scores: Tensor = torch.cat(parts).mean(dim=1)
        margins = scores[self._chosen] - scores[self._rejected]
        return float((margins > 0).float().mean() + 0.5 * (margins == 0).float().mean())
