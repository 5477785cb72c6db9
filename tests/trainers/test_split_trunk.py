"""What a model computes in two parts is what it computes as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.tiny_models import Architecture, tiny_model_dir
from tests.trainers.test_ppo import PROMPTS, a_config, vowel_share
from trainers.models import PolicyModel, load_policy
from trainers.ppo import Experience, backward, collect, learn
from trainers.ppo_run import Trainer, start
from trainers.ppo_state import TrainingState
from trainers.rollout import with_lower_hidden
from trainers.run_dir import RunDir
from trainers.split_trunk import split_below
from trainers.trainable_policy import save_policy


@pytest.fixture(params=["llama", "qwen2", "qwen3"])
def trainer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Trainer]:
    """Adapters on the last of two layers, moved away from zero."""
    base_model = str(tiny_model_dir(cast(Architecture, request.param)))
    config = a_config(base_model=base_model, tuning="lora", trained_layers=1, learning_rate=1e-2)
    made = start(config, RunDir(tmp_path / "run"), vowel_share)[0]
    with made.metrics:
        learn(made, an_experience(made), 1)
        yield made


def an_experience(trainer: Trainer) -> Experience:
    return collect(trainer, TrainingState(kl_coef=0.1, update=1), (PROMPTS * 8)[: trainer.config.rollouts])


def gradient(trainer: Trainer, experience: Experience) -> dict[str, Tensor]:
    trainer.optimizer.zero_grad()
    backward(trainer, experience, range(trainer.config.rollouts))
    named = trainer.policy.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def as_a_whole(experience: Experience) -> Experience:
    return dataclasses.replace(experience, rollout=dataclasses.replace(experience.rollout, lower_hidden=None))


def test_gradient_is_that_of_the_whole_model(trainer: Trainer) -> None:
    experience = an_experience(trainer)
    assert experience.rollout.lower_hidden is not None
    split, whole = gradient(trainer, experience), gradient(trainer, as_a_whole(experience))
    assert set(split) == set(whole)
    assert any(float(tensor.abs().max()) > 1e-4 for tensor in whole.values())
    for name, tensor in whole.items():
        torch.testing.assert_close(split[name], tensor, rtol=1e-4, atol=1e-6)


def test_states_kept_from_sampling_are_those_of_a_pass_over_the_sequences(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # many rows end early, and are dropped while others go on
    monkeypatch.setattr(PolicyModel, "eos_ids", set(range(0, 500, 7)))
    rollout, _ = trainer.respond(PROMPTS * 4, torch.Generator().manual_seed(0))
    assert len(set(rollout.lengths.tolist())) > 3
    assert rollout.lower_hidden is not None
    again = with_lower_hidden(trainer.policy, dataclasses.replace(rollout, lower_hidden=None), 3).lower_hidden
    assert again is not None
    for kept, computed in zip(rollout.lower_hidden, again, strict=True):
        torch.testing.assert_close(kept, computed, rtol=1e-4, atol=1e-5)


def test_reference_is_the_untrained_model(trainer: Trainer) -> None:
    rollout = an_experience(trainer).rollout
    split, whole = (
        trainer.ref_logprobs(found) for found in (rollout, dataclasses.replace(rollout, lower_hidden=None))
    )
    base = load_policy(trainer.config.base_model)
    untrained = trainer.logprobs(base, rollout)
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(split, untrained, rtol=1e-5, atol=1e-5)


def test_only_the_top_layers_have_adapters(trainer: Trainer) -> None:
    names = [name for name, p in trainer.policy.named_parameters() if p.requires_grad and "lora" in name]
    assert names
    assert all(".layers.1." in name for name in names)


def test_policy_that_goes_on_from_a_split_one_is_split_at_the_same_layer(
    trainer: Trainer, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    save_policy(trainer.policy, trainer.tokenizer, saved, merge=False)
    config = dataclasses.replace(trainer.config, start_policy=str(saved), trained_layers=None)
    second = start(config, RunDir(tmp_path / "second"), vowel_share)[0]
    with second.metrics:
        experience = an_experience(second)
        assert experience.rollout.lower_hidden is not None
        assert experience.measured["objective/kl"] == pytest.approx(0, abs=1e-5)


def test_model_of_another_type_runs_as_a_whole() -> None:
    trunk: Any = load_policy(str(tiny_model_dir())).trunk
    assert split_below(trunk, 0) is None
    assert split_below(trunk, 1) is not None
    trunk.config.model_type = "gemma"
    assert split_below(trunk, 1) is None
