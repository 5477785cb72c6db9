"""What the trainers compute without padding, with fused weights or not, is what the library computes."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests.tiny_models import Architecture, tiny_model_dir
from tests.trainers.test_rollout import a_rollout
from trainers import fused_layers
from trainers import models as models_module
from trainers import rollout as rollout_module
from trainers.config import PPOConfig, RewardConfig
from trainers.fused_layers import FusedLayer, layers_of
from trainers.llama_layers import AdaptedLinears
from trainers.models import PolicyModel, pad
from trainers.reward_model import new_reward_model
from trainers.rollout import TokenOutputs, evaluate, with_lower_hidden
from trainers.trainable_policy import TrainablePolicy, load_trainable_policy

ARCHITECTURES: list[Architecture] = ["llama", "qwen2", "qwen3"]


@pytest.fixture(params=["fused", "own weights", "own weights in parts"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which layers compute; `in parts` they keep their inputs only."""
    if request.param != "fused":
        monkeypatch.setattr(fused_layers, "COPY_PARAMETERS", 0)
    return str(request.param)


def a_policy(
    architecture: Architecture, tuning: Literal["full", "lora"] = "lora", trained_layers: int = 0
) -> TrainablePolicy:
    """With adapters, biases and norms away from where they start."""
    config = PPOConfig(
        base_model=str(tiny_model_dir(architecture)), reward_model="m:f", tuning=tuning, lora_rank=4,
        trained_layers=trained_layers,
    )  # fmt: skip
    policy, generator = load_trainable_policy(config), torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        if parameter.requires_grad or parameter.dim() == 1:
            with torch.no_grad():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return policy


def outputs_and_gradients(policy: TrainablePolicy) -> tuple[TokenOutputs, dict[str, Tensor]]:
    policy.zero_grad()
    rollout = with_lower_hidden(policy, a_rollout(), 8)
    found = evaluate(policy, rollout, 0.7, features_after=1)
    torch.autograd.backward((found.logprobs * torch.arange(8)).sum())
    return found, {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("tuning", "trained_layers"), [("lora", 0), ("lora", 1), ("full", 0)])
def test_outputs_and_gradients_are_the_librarys(
    architecture: Architecture,
    tuning: Literal["full", "lora"],
    trained_layers: int,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = a_policy(architecture, tuning, trained_layers)
    if kind == "own weights in parts":
        policy.checkpoint_layers()
    ours, our_gradients = outputs_and_gradients(policy)
    monkeypatch.setattr(rollout_module, "is_llama", lambda _: False)
    theirs, their_gradients = outputs_and_gradients(policy)
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.features, theirs.features, rtol=1e-4, atol=1e-5)
    assert our_gradients.keys() == their_gradients.keys()
    assert our_gradients.keys() == {n for n, p in policy.named_parameters() if p.requires_grad}
    for name, gradient in their_gradients.items():
        largest = float(gradient.abs().max())
        assert largest > 1e-4, name
        assert float((our_gradients[name] - gradient).abs().max()) < 1e-4 * largest, name


def test_reference_is_computed_without_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, rollout = a_policy("llama"), a_rollout()
    with policy.as_reference() as reference:
        ours = evaluate(reference, rollout, 1.0).logprobs
        monkeypatch.setattr(rollout_module, "is_llama", lambda _: False)
        torch.testing.assert_close(ours, evaluate(reference, rollout, 1.0).logprobs, rtol=1e-4, atol=1e-5)
    adapted = evaluate(policy, rollout, 1.0).logprobs.detach()
    assert float((ours - adapted).abs().max()) > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.usefixtures("kind")
@torch.no_grad()
def test_scores_are_the_librarys(side: Literal["left", "right"], monkeypatch: pytest.MonkeyPatch) -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir("qwen3")), tuning="full"))
    nn.init.normal_(cast(Any, reward.classifier).score.weight, generator=torch.Generator().manual_seed(0))
    ids, mask = pad([[5, 6, 7], [8], [9, 10, 11, 12, 13]], 0, side)
    ours = reward.score(ids, mask)
    monkeypatch.setattr(models_module, "is_llama", lambda _: False)
    torch.testing.assert_close(ours, reward.score(ids, mask), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_adapter_too_small_to_be_added_to_bf16_weights_is_not_lost() -> None:
    signs = torch.tensor([1.0, -1.0]).repeat(32)
    linear = nn.Sequential(nn.Linear(64, 2, bias=False, dtype=torch.bfloat16))
    nn.init.ones_(linear[0].weight)  # the signs add up to nothing, but what the adapter adds is 64 of them
    adapted = cast(Any, get_peft_model(linear, LoraConfig(r=1, lora_alpha=1, target_modules=["0"])))  # type: ignore[arg-type]
    layer = adapted.base_model.model[0]
    layer.lora_A["default"].weight.copy_(signs[None])
    nn.init.constant_(layer.lora_B["default"].weight, 1e-3)
    assert torch.equal(linear[0].weight + torch.tensor(1e-3, dtype=torch.bfloat16), linear[0].weight)
    [out] = AdaptedLinears(layer)(signs[None].bfloat16())
    assert out.flatten().tolist() == pytest.approx([0.064, 0.064], rel=1e-2)
    trunk = a_policy("llama").trunk
    assert isinstance(layers_of(trunk)[0], FusedLayer)
    assert not isinstance(layers_of(trunk.bfloat16())[0], FusedLayer)


def test_no_product_is_spent_on_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(
        _trunk: nn.Module, _layers: object, states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, None]:
        sizes.append(len(states))
        return states[:8], None

    monkeypatch.setattr(rollout_module, "wanted_states", counted)
    evaluate(a_policy("llama"), a_rollout(), 1.0)
    assert sizes == [3 + 4 + 9 + 1 + 2 + 3 - 3]  # prompts and responses, less the last token of each


def test_layers_of_large_models_keep_neither_norms_nor_gated_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_layers, "COPY_PARAMETERS", 0)
    policy, kept = a_policy("llama"), dict[int, Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = evaluate(policy, a_rollout(), 1.0)
    parts: Any = policy.causal_model.config
    tokens = [t for t in kept.values() if t.dim() == 2 and len(t) in (8, 19)]  # of the last layer, of others
    by_width = Counter(tensor.shape[1] for tensor in tokens)
    assert states.logprobs.requires_grad  # whose graph holds them
    assert by_width[parts.intermediate_size] == 2 * parts.num_hidden_layers, by_width  # gate, up
    # before each of the two norms, and what attention gives; before the last norm, and a gradient a logprob
    assert by_width[parts.hidden_size] == 3 * parts.num_hidden_layers + 2, by_width


@torch.no_grad()
def test_no_rows_no_outputs() -> None:
    model: PolicyModel = a_policy("llama")
    assert evaluate(model, a_rollout().select([]), 1.0).logprobs.shape == (0,)
