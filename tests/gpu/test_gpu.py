"""In bf16 on a GPU: what the library computes in fp32, and every stage. Run by `make test-gpu` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny_models import Architecture, tiny_model_dir
from tests.trainers.test_plain_files import run_example, small
from tests.trainers.test_rollout import a_rollout
from trainers import models, rollout
from trainers.config import PPOConfig, RewardConfig
from trainers.decoder import Decoder, GenericDecoder, GraphDecoder, decoder_for
from trainers.models import load_policy
from trainers.reward_model import new_reward_model
from trainers.rollout import evaluate
from trainers.trainable_policy import load_trainable_policy

ARCHITECTURES: list[Architecture] = ["llama", "qwen2", "qwen3"]


def assert_near(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> None:
    """To what bf16 rounds away in a few layers."""
    assert found.keys() == exact.keys()
    for name, truth in exact.items():
        assert 0 < float((found[name].float() - truth).norm() / truth.norm()) < 0.06, name


def by_the_library_in_fp32(
    model: torch.nn.Module,
    module: object,
    run: Callable[[], dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Tensor]:
    """What it makes of the same weights, which fp32 holds unchanged."""
    monkeypatch.setattr(module, "is_llama", lambda _: False)
    model.float()
    return run()


def gradients(model: torch.nn.Module, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward(value)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def disturb(model: torch.nn.Module) -> None:
    """Adapters and heads away from where they start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)


@pytest.mark.parametrize("parts", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logprobs_and_gradients(
    architecture: Architecture, parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_trainable_policy(
        PPOConfig(
            base_model=str(tiny_model_dir(architecture)), reward_model="m:f", tuning="lora", trained_layers=2
        )
    )
    assert (policy.device.type, policy.dtype) == ("cuda", torch.bfloat16)
    disturb(policy)
    if parts:
        policy.checkpoint_layers()

    def run() -> dict[str, Tensor]:
        found = evaluate(policy, a_rollout(), 0.7, with_entropy=True, features_after=1)
        assert found.entropy is not None
        assert found.features is not None
        return {
            "logprobs": found.logprobs.detach(),
            "entropy": found.entropy.detach(),
            "features": found.features.detach(),
            **gradients(policy, found.logprobs.sum()),
        }

    assert_near(run(), by_the_library_in_fp32(policy, rollout, run, monkeypatch))


@pytest.mark.parametrize("parts", [False, True], ids=["kept", "computed again"])
def test_scores_and_gradients(parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir("qwen3")), tuning="lora"))
    reward.gradient_checkpointing = parts
    disturb(reward)

    def run() -> dict[str, Tensor]:
        scores = reward.head_scores([[5, 6, 7, 8], [8], [5, 6, 7, 12, 13], [5, 6]])
        return {"scores": scores.detach(), **gradients(reward, scores[0] - 2 * scores[1:].sum())}

    assert_near(run(), by_the_library_in_fp32(reward, models, run, monkeypatch))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_recorded_steps_give_the_hidden_states_of_the_forward_pass(architecture: Architecture) -> None:
    """Through a step as it is, a recorded and a replayed one, and once more after a row has ended."""
    model = load_policy(str(tiny_model_dir(architecture)))
    prompts, kept = [[5, 6, 7, 8, 9], [5, 6], [12, 13, 14]], torch.tensor([0, 2], device="cuda")
    more = torch.randint(10, 200, (3, 8), generator=torch.Generator().manual_seed(0)).cuda()

    def states(decoder: Decoder) -> dict[str, Tensor]:
        found = [decoder.start(prompts, 8), *(decoder.step(more[:, step]).clone() for step in range(4))]
        decoder.keep(kept)
        found += [decoder.step(more[kept, step]).clone() for step in range(4, 8)]
        return {f"step {step}": hidden for step, hidden in enumerate(found)}

    decoder = decoder_for(model)
    assert isinstance(decoder, GraphDecoder)
    assert_near(states(decoder), states(GenericDecoder(model.float())))


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_every_stage_ends(tuning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, ppo, reward = small(), "updates=20", 'stage("reward")'
    changes[ppo] += f', tuning="{tuning}"'
    changes[reward] = f'stage("reward", tuning="{tuning}")'
    run_example(tmp_path, monkeypatch, changes)
