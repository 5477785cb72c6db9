"""What learns from the rankings in `scripts.active_learning`: the real reward stage, or a linear stand-in.

Both are held against the same gate, and both leave what `scripts.candidate_choice` chooses by.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from scripts.candidate_choice import Learnt
from scripts.linear_reward import LinearReward
from scripts.make_base_model import WEIGHTS_DIR
from trainers import reward
from trainers.config import RewardConfig
from trainers.conversations import encode_conversations
from trainers.errors import DataError
from trainers.evaluation import Outcome, decide_gate, pair_accuracy
from trainers.models import load_reward_model, score_weight, unwrap
from trainers.preferences import derive_preferences, split_preferences
from trainers.records import Candidates, Preference, Ranking, write_jsonl
from trainers.reward_model import head_scores
from trainers.run_dir import RunDir


@dataclass(frozen=True)
class Found:
    """What a training leaves behind."""

    outcome: Outcome
    accuracy: float | None
    pairs: int
    learnt: Learnt

    @property
    def scores(self) -> Mapping[str, float]:
        return self.learnt.scores


Train = Callable[[Sequence[Candidates], Sequence[Ranking]], Found | None]
"""Ranked candidates and their rankings -> what a training on them leaves; `None` if they are too few."""


def stage(whole: Sequence[Candidates], seed: int) -> Train:
    """The real reward stage; the features are the states that its head scores."""
    config = RewardConfig(base_model=str(WEIGHTS_DIR), seed=seed, threads=1)
    asked = [(own.prompt, response) for own in whole for response in own.responses]

    def train(ranked: Sequence[Candidates], rankings: Sequence[Ranking]) -> Found | None:
        with tempfile.TemporaryDirectory(prefix="active-learning-") as directory:
            run_dir = RunDir(Path(directory, "run"))
            write_jsonl(run_dir.input("candidates.jsonl"), ranked)
            write_jsonl(run_dir.input("rankings.jsonl"), rankings)
            try:
                result = reward.run(config, run_dir)
            except DataError:
                return None
            model = load_reward_model(config.base_model, str(run_dir.model_dir))
            head = score_weight(run_dir.model_dir)[0].float()  # (width,)
        rows = encode_conversations(
            model.tokenizer, [prompt for prompt, _ in asked], [response.text for _, response in asked],
            config.max_prompt_tokens, config.max_response_tokens,
        )  # fmt: skip
        unwrap(model.classifier).score = torch.nn.Identity()
        unwrap(model.classifier).config.num_labels, model.head_zeros = len(head), torch.zeros_like(head)
        states = head_scores(model, rows, config.batch_size)  # (answers, width)
        ids = [response.id for _, response in asked]
        learnt = Learnt(
            scores=dict(zip(ids, (states @ head).tolist(), strict=True)),
            features=dict(zip(ids, states.double().numpy(), strict=True)),
            pairs=[(each.chosen_id, each.rejected_id) for each in _preferences(ranked, rankings)[0]],
        )
        return Found(result["outcome"], result["accuracy"], result["pairs"], learnt)

    return train


def linear(whole: Sequence[Candidates], _seed: int) -> Train:
    """The stand-in, held against the same gate."""
    model = LinearReward(whole)

    def train(ranked: Sequence[Candidates], rankings: Sequence[Ranking]) -> Found | None:
        learnt, heldout = _preferences(ranked, rankings)
        if not learnt or not heldout:
            return None
        scores = model.fit(learnt)
        gate = decide_gate(
            pair_accuracy(heldout, scores),
            gate_accuracy=RewardConfig.gate_accuracy,
            gate_margin=RewardConfig.gate_margin,
        )
        pairs = [(each.chosen_id, each.rejected_id) for each in learnt]
        return Found(
            gate.outcome, gate.accuracy.value, gate.accuracy.pairs, Learnt(scores, model.features, pairs)
        )

    return train


MODELS: dict[str, Callable[[Sequence[Candidates], int], Train]] = {"stage": stage, "linear": linear}
"""(every prompt with all its answers, seed) -> what trains."""


def _preferences(
    ranked: Sequence[Candidates], rankings: Sequence[Ranking]
) -> tuple[list[Preference], list[Preference]]:
    """(to learn from, held out)"""
    splits = {own.prompt.id: own.prompt.split for own in ranked}
    return split_preferences(derive_preferences(rankings, ranked), splits)
