from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from trainers.config import CompareConfig, GenerationConfig, PPOConfig, RewardConfig, StageConfig
from trainers.errors import ConfigError

VALID: dict[type[StageConfig], dict[str, Any]] = {
    GenerationConfig: {"base_model": "base", "policies": ("dir",), "policy_ids": ("policy-team-1",)},
    RewardConfig: {"base_model": "base"},
    PPOConfig: {"base_model": "base", "reward_model": "rm"},
    CompareConfig: {"base_model": "base", "after": "dir", "after_id": "policy-team-1"},
}


@pytest.mark.parametrize("kind", VALID, ids=lambda kind: kind.__name__)
def test_config_survives_json(kind: type[StageConfig]) -> None:
    config = kind(**VALID[kind])
    assert kind.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("kind", VALID, ids=lambda kind: kind.__name__)
def test_config_cannot_be_changed(kind: type[StageConfig]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind(**VALID[kind]).seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (GenerationConfig, {"candidates_per_prompt": 1}),
        (GenerationConfig, {"candidates_per_prompt": 5}),
        (GenerationConfig, {"policy_ids": ()}),
        (GenerationConfig, {"temperatures": ()}),
        (GenerationConfig, {"temperatures": (0.0,)}),
        (GenerationConfig, {"max_similarity": 0.0}),
        (GenerationConfig, {"max_attempts": 0}),
        (RewardConfig, {"base_model": ""}),
        (RewardConfig, {"batch_size": 0}),
        (RewardConfig, {"max_prompt_tokens": 4}),
        (RewardConfig, {"threads": -1}),
        (RewardConfig, {"tuning": "half"}),
        (RewardConfig, {"loss": "triples"}),
        (RewardConfig, {"gate_accuracy": 1.2}),
        (RewardConfig, {"gate_margin": -0.1}),
        (RewardConfig, {"learning_rate": 0.0}),
        (RewardConfig, {"epochs": 0}),
        (RewardConfig, {"ensemble": 0}),
        (PPOConfig, {"reward_model": ""}),
        (PPOConfig, {"clip_range": 0.0}),
        (PPOConfig, {"gamma": 1.1}),
        (PPOConfig, {"kl_coef": -1.0}),
        (PPOConfig, {"disagreement_penalty": -0.5}),
        (PPOConfig, {"minibatch_size": 33}),
        (PPOConfig, {"updates": 0}),
        (PPOConfig, {"min_entropy_share": 1.5}),
        (PPOConfig, {"base_bits": 3}),
        (PPOConfig, {"base_bits": 8, "tuning": "full"}),
        (PPOConfig, {"base_bits": 4, "shard_base": True}),
        (PPOConfig, {"reward_timeout_s": 0.0}),
        (PPOConfig, {"learning_rate": -1.0}),
        (PPOConfig, {"kl_target": 0.0}),
        (PPOConfig, {"kl_coef": 0.0, "kl_target": 5.0}),
        (PPOConfig, {"entropy_coef": -0.1}),
        (PPOConfig, {"missing_eos_penalty": -0.1}),
        (PPOConfig, {"max_garbled": -0.1}),
        (CompareConfig, {"temperature": -1.0}),
        (CompareConfig, {"max_response_tokens": 10**9}),
        (RewardConfig, {"threads": 10**6}),
        (RewardConfig, {"seed": -1}),
        (RewardConfig, {"seed": 2**32}),
    ],
)
def test_value_out_of_range_names_the_field(kind: type[StageConfig], fault: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fault))}` is .*; needed is "):
        kind(**{**VALID[kind], **fault})


@pytest.mark.parametrize(
    ("kind", "fault", "needed"),
    [
        (GenerationConfig, {"batch_size": 2.5}, "a whole number"),
        (GenerationConfig, {"batch_size": "32"}, "a whole number"),
        (GenerationConfig, {"temperatures": 0.7}, "a list, each item a finite number"),
        (GenerationConfig, {"policies": [5], "policy_ids": ["a"]}, "a list, each item a text"),
        (RewardConfig, {"base_model": 5}, "a text"),
        (RewardConfig, {"base_model": None}, "a text"),
        (RewardConfig, {"epochs": True}, "a whole number or null"),
        (RewardConfig, {"gate_accuracy": "0.9"}, "a finite number"),
        (PPOConfig, {"learning_rate": True}, "a finite number or null"),
        (PPOConfig, {"learning_rate": float("inf")}, "a finite number or null"),
        (PPOConfig, {"kl_coef": float("nan")}, "a finite number"),
        (PPOConfig, {"standardise_scores": "false"}, "true or false"),
        (PPOConfig, {"gradient_checkpointing": 0}, "true or false or null"),
        (PPOConfig, {"reward_model": ["rm"]}, "a text"),
        (PPOConfig, {"tuning": 3}, "one of auto, full, lora"),
        (CompareConfig, {"after_id": None}, "a text"),
    ],
)
def test_value_of_another_type_names_the_field_and_the_type(
    kind: type[StageConfig], fault: dict[str, Any], needed: str
) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fault))}` is .*; needed is {needed}$"):
        kind.from_json({**VALID[kind], **fault})


def test_whole_numbers_are_numbers() -> None:
    assert PPOConfig.from_json({**VALID[PPOConfig], "kl_coef": 1}).kl_coef == 1


def test_unknown_field_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no field \['gate'\]; it has .*gate_accuracy"):
        RewardConfig.from_json({"base_model": "base", "gate": 0.9})


def test_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match="base_model"):
        RewardConfig.from_json({})


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"3", b'"text"', b"\xff\xfe"])
def test_unreadable_file_is_a_config_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="JSON object"):
        RewardConfig.read(path)


@pytest.mark.parametrize("fault", [{"batch_size": "many"}, {"seed": None}, {"threads": [1]}])
def test_value_of_another_type_is_a_config_error(fault: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RewardConfig.from_json({"base_model": "base", **fault})
