from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tiny_models import tiny_model_dir
from trainers.config import PPOConfig, RewardConfig
from trainers.errors import ConfigError
from trainers.models import encode_conversations
from trainers.records import Prompt
from trainers.reward_model import centre_heads, head_scores, new_reward_model, save_reward_model
from trainers.reward_source import load_reward

PROMPTS = [Prompt("p1", "How do I descale a kettle?"), Prompt("p2", "水壶怎么除垢？")]
RESPONSES = ["Pour in vinegar.", "倒入白醋。"]


def saved(directory: Path, ensemble: int) -> tuple[str, list[list[float]]]:
    """A reward model's directory, and each head's score of the responses."""
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir()), ensemble=ensemble))
    rows = encode_conversations(reward.tokenizer, PROMPTS, RESPONSES)
    centre_heads(reward, rows[:1], 1)
    save_reward_model(reward, directory)
    return str(directory), head_scores(reward, rows, 2).tolist()


def scores_with(reward_model: str, penalty: float) -> Sequence[float]:
    config = PPOConfig(
        base_model=str(tiny_model_dir()), reward_model=reward_model, disagreement_penalty=penalty
    )
    return load_reward(config)(PROMPTS, RESPONSES)


def test_what_the_heads_disagree_about_scores_lower_by_the_penalty(tmp_path: Path) -> None:
    directory, by_head = saved(tmp_path, 3)
    means = [sum(heads) / 3 for heads in by_head]
    # twice the root of Σ(head − mean)² / (3 − 1)
    deviations = [
        (sum((head - mean) ** 2 for head in heads) / 2) ** 0.5
        for heads, mean in zip(by_head, means, strict=True)
    ]
    expected = [mean - 2 * deviation for mean, deviation in zip(means, deviations, strict=True)]
    assert list(scores_with(directory, 2.0)) == pytest.approx(expected, abs=1e-5)
    assert list(scores_with(directory, 0.0)) == pytest.approx(means, abs=1e-5)


def test_penalty_without_an_ensemble_is_a_config_error(tmp_path: Path) -> None:
    directory, _ = saved(tmp_path, 1)
    with pytest.raises(ConfigError, match="`ensemble` of 2 or more"):
        scores_with(directory, 0.5)
    with pytest.raises(ConfigError, match="`ensemble` of 2 or more"):
        scores_with("tests.trainers.test_ppo:vowel_share", 0.5)
