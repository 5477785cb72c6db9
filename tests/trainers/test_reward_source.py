from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.tiny_models import tiny_model_dir
from tests.trainers.test_models import change
from tests.trainers.test_models import saved as saved_policy
from trainers.adapters import ADAPTER_FILE
from trainers.config import PPOConfig, RewardConfig
from trainers.errors import ConfigError, ModelError
from trainers.models import encode_conversations, load_tokenizer, pad
from trainers.records import Prompt
from trainers.reward_model import centre_heads, head_scores, new_reward_model, save_reward_model
from trainers.reward_source import load_reward
from trainers.trainable_policy import REWARD, load_trainable_policy

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


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_reward_model_of_another_family_reads_with_its_own_tokenizer(tuning: str, tmp_path: Path) -> None:
    other = str(tiny_model_dir("qwen2"))
    reward, _ = new_reward_model(RewardConfig(base_model=other, tuning=tuning, ensemble=2))  # type: ignore[arg-type]
    rows = encode_conversations(reward.tokenizer, PROMPTS, RESPONSES)
    assert rows != encode_conversations(load_tokenizer(tiny_model_dir()), PROMPTS, RESPONSES)
    expected = head_scores(reward, rows, 2).mean(dim=1).tolist()
    save_reward_model(reward, tmp_path)
    config = PPOConfig(
        base_model=str(tiny_model_dir()),
        reward_model=str(tmp_path),
        reward_base_model=other if tuning == "lora" else "",  # full weights need no base
    )
    assert list(load_reward(config)(PROMPTS, RESPONSES)) == pytest.approx(expected, abs=1e-5)
    assert max(abs(score) for score in expected) > 1e-2


@pytest.mark.parametrize("start", ["base", "adapter", "full weights"])
@pytest.mark.parametrize("ensemble", [1, 3])
def test_reward_adapter_scores_on_the_policys_base(start: str, ensemble: int, tmp_path: Path) -> None:
    """The same scores as on a base of its own, which is needed where the policy starts from full weights."""
    base = str(tiny_model_dir())
    reward, _ = new_reward_model(RewardConfig(base_model=base, tuning="lora", ensemble=ensemble))
    with torch.no_grad():
        for name, parameter in reward.named_parameters():
            if "lora_B" in name or "score" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    centre_heads(reward, encode_conversations(reward.tokenizer, PROMPTS[:1], RESPONSES[:1]), 1)
    save_reward_model(reward, tmp_path / "reward")
    config = PPOConfig(base_model=base, reward_model=str(tmp_path / "reward"), lora_rank=4)
    if start != "base":
        tuning: Any = "lora" if start == "adapter" else "full"
        first = load_trainable_policy(dataclasses.replace(config, tuning=tuning))
        change(first)
        config = dataclasses.replace(config, start_policy=str(saved_policy(first, tmp_path / "start")))
    policy = load_trainable_policy(config)
    change(policy)
    trained = policy.trainable_state().keys()
    ids, mask = pad([[5, 6, 7, 8]], 0, "left")
    before = policy.hidden(ids, mask).detach()

    expected = list(load_reward(config)(PROMPTS, RESPONSES))
    assert list(load_reward(config, policy)(PROMPTS, RESPONSES)) == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 0.1
    assert policy.has_adapter(REWARD) == (start != "full weights")
    assert torch.equal(policy.hidden(ids, mask), before)
    assert policy.trainable_state().keys() == trained
    assert not any("reward" in name for name in trained)


def test_reward_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir()), tuning="lora"))
    save_reward_model(reward, tmp_path)
    weights = load_file(tmp_path / ADAPTER_FILE)
    moved = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in weights.items()}
    save_file(moved, tmp_path / ADAPTER_FILE)
    config = PPOConfig(base_model=str(tiny_model_dir()), reward_model=str(tmp_path))
    with pytest.raises(ModelError, match="no adapter on this base model"):
        load_trainable_policy(config)


def test_reward_model_of_any_maker_needs_no_file_of_ours(tmp_path: Path) -> None:
    source = tiny_model_dir("qwen3")
    classifier = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1)
    torch.nn.init.normal_(classifier.score.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    classifier.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(tmp_path)
    conversations = [
        [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": response}]
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    expected = []
    for conversation in conversations:
        text = tokenizer.apply_chat_template(conversation, tokenize=False).removesuffix("\n")
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = classifier.model(input_ids=ids).last_hidden_state[0, -1]
            expected.append(float(classifier.score(hidden)))
    assert list(scores_with(str(tmp_path), 0.0)) == pytest.approx(expected, abs=1e-5)


def test_penalty_without_an_ensemble_is_a_config_error(tmp_path: Path) -> None:
    directory, _ = saved(tmp_path, 1)
    with pytest.raises(ConfigError, match="`ensemble` of 2 or more"):
        scores_with(directory, 0.5)
    with pytest.raises(ConfigError, match="`ensemble` of 2 or more"):
        scores_with("tests.trainers.test_ppo:vowel_share", 0.5)
