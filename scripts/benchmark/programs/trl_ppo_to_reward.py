"""PPO until answers have become brief enough, by TRL 1.12's `PPOTrainer` with PEFT.

Runs in the peer's virtual environment. TRL takes a reward model only; here one whose backbone reads the text
and whose head hands on the score.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from scripts.benchmark.programs import meter
from scripts.benchmark.programs.devices import Device
from scripts.benchmark.programs.target import Ended, Target
from scripts.benchmark.programs.trl_ppo import make_trainer, read_prompts

TURN = "<|im_start|>"
HEADER = "<|im_start|>assistant\n"
"""What a prompt ends with; its second turn."""


def measure(options: dict[str, Any]) -> dict[str, float]:
    """CPU seconds to the target; options as in `our_ppo_to_reward`, and `learning_rate`."""
    Device()
    model = Path(options["model"])
    tokenizer = AutoTokenizer.from_pretrained(model / "base", padding_side="left")
    start = json.loads((model / "start.json").read_text(encoding="utf-8"))["reward"]
    target = Target(start + options["gain"], options["most_updates"])
    settings = {
        "learning_rate": options["learning_rate"],
        "kl_coef": options["kl_coef"],
        "stop_token": "eos",
        "missing_eos_penalty": options["missing_eos_penalty"],
    }
    torch.manual_seed(options["seed"])  # the value head starts at random
    value = AutoModelForSequenceClassification.from_pretrained(
        model / "base", num_labels=1, dtype=torch.float32
    )
    more = {
        "updates": options["most_updates"] + 1,
        "micro_batch": options["rollouts"] // options["minibatches"],
        "tuning": "lora",
        "trl": settings,
    }
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(Ended):
        trainer = make_trainer(
            options | more, directory, model / "base", tokenizer, read_prompts(model / "prompts.jsonl"),
            TextReward(tokenizer, target), value, _Begin(target),
        )  # fmt: skip
        trainer.train()
    return target.figures()


class TextReward(nn.Module):
    """A reward model to TRL, a function of the answers' texts to us."""

    base_model_prefix = "backbone"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, target: Target) -> None:
        super().__init__()
        self.backbone = _ReadsTexts(tokenizer, target)

    def score(self, hidden: Tensor) -> Tensor:
        return hidden


class _ReadsTexts(nn.Module):
    def __init__(self, tokenizer: PreTrainedTokenizerBase, target: Target) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.target = target
        self.turn: Any = tokenizer.convert_tokens_to_ids(TURN)
        self.header = len(tokenizer(HEADER, add_special_tokens=False)["input_ids"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        """Each answer's score at every position. -> hidden_states[-1] (B, T, 1)"""
        answers = [
            self._answer(ids[mask.bool()].tolist())
            for ids, mask in zip(input_ids, attention_mask, strict=True)
        ]
        scores = torch.tensor(self.target.scores(answers))[:, None, None]
        return SimpleNamespace(hidden_states=[scores.expand(*input_ids.shape, 1)])

    def _answer(self, ids: list[int]) -> str:
        second = ids.index(self.turn, ids.index(self.turn) + 1)
        return str(self.tokenizer.decode(ids[second + self.header :], skip_special_tokens=True)).strip()


class _Begin(TrainerCallback):
    def __init__(self, target: Target) -> None:
        self.target = target

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.target.begin()


if __name__ == "__main__":
    meter.main(measure)
