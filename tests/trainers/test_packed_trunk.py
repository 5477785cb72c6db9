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
from trainers.packed_trunk import pack
from trainers.reward_model import new_reward_model
from trainers.rollout import Rollout, TokenOutputs, evaluate, with_lower_hidden
from trainers.trainable_policy import TrainablePolicy, load_trainable_policy

ARCHITECTURES: list[Architecture] = ["llama", "qwen2", "qwen3"]


@pytest.fixture(params=["fused", "own weights", "own weights in parts"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which layers compute; `in parts` they keep their inputs only."""
    if request.param != "fused":
        monkeypatch.setattr(fused_layers, "COPY_PARAMETERS", 0)
    return str(request.param)


def a_policy(
    architecture: Architecture, tuning: Literal["full", "lora"] = "lora", trained_layers: int | None = 2
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


def beginning_alike() -> Rollout:
    """Two responses to one prompt that part after a token, a third that one of them begins with, the prompt's
    own beginning as another prompt, and the first row once more."""
    prompts = ((5, 6, 7), (5, 6, 7), (5, 6, 7), (5, 6), (5, 6, 7))
    responses = [[20, 21, 22], [20, 30], [20], [7, 40], [20, 21, 22]]
    ids, mask = pad(responses, 0, "right")
    return Rollout(prompts, ids, mask, torch.ones(5, dtype=torch.bool), torch.zeros(ids.shape))


def outputs_and_gradients(
    policy: TrainablePolicy, rollout: Rollout
) -> tuple[TokenOutputs, dict[str, Tensor]]:
    policy.zero_grad()
    found = evaluate(policy, with_lower_hidden(policy, rollout, 8), 0.7, features_after=1)
    torch.autograd.backward((found.logprobs * torch.arange(len(found.logprobs))).sum())
    return found, {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("architecture", "rollout"),
    [*((name, a_rollout()) for name in ARCHITECTURES), ("llama", beginning_alike())],
    ids=[*ARCHITECTURES, "beginning alike"],
)
@pytest.mark.parametrize(("tuning", "trained_layers"), [("lora", 2), ("lora", 1), ("full", None)])
def test_outputs_and_gradients_are_the_librarys(
    architecture: Architecture,
    rollout: Rollout,
    tuning: Literal["full", "lora"],
    trained_layers: int | None,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = a_policy(architecture, tuning, trained_layers)
    if kind == "own weights in parts":
        policy.checkpoint_layers()
    ours, our_gradients = outputs_and_gradients(policy, rollout)
    monkeypatch.setattr(rollout_module, "is_llama", lambda _: False)
    theirs, their_gradients = outputs_and_gradients(policy, rollout)
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


@pytest.mark.parametrize(
    ("tuning", "precision"),
    [("full", torch.float32), ("lora", torch.float32), ("lora", torch.bfloat16)],
)
def test_gradients_of_scores_are_the_librarys(
    tuning: Literal["full", "lora"], precision: torch.dtype, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.reward_model.device_and_dtype", lambda: (torch.device("cpu"), precision))
    config = RewardConfig(base_model=str(tiny_model_dir("qwen3")), tuning=tuning)
    reward, generator = new_reward_model(config)[0], torch.Generator().manual_seed(0)
    reward.gradient_checkpointing = kind == "own weights in parts"
    with torch.no_grad():
        for parameter in reward.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)

    def scores_and_gradients() -> tuple[Tensor, dict[str, Tensor]]:
        reward.zero_grad()
        scores = reward.head_scores([[5, 6, 7, 8], [8], [5, 6, 7, 12, 13], [5, 6]]).squeeze(1)
        torch.autograd.backward((scores * torch.tensor([1.0, -1.0, 2.0, -2.0])).sum())
        return scores.detach(), {
            n: p.grad.clone() for n, p in reward.named_parameters() if p.grad is not None
        }

    ours, our_gradients = scores_and_gradients()
    monkeypatch.setattr(models_module, "is_llama", lambda _: False)
    theirs, their_gradients = scores_and_gradients()
    off = 1e-4 if precision == torch.float32 else 0.1
    assert float((ours - theirs).abs().max()) < off * float(theirs.abs().max())
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        assert float((our_gradients[name] - gradient).norm()) <= off * float(gradient.norm()), name


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


def test_what_sequences_begin_with_stands_once() -> None:
    packed = pack([[5, 6, 7, 8], [9], [5, 6], [5, 6, 8], [5, 6, 7, 8]])
    tokens = packed.tokens.tolist()
    assert sorted(packed.ids.tolist()) == [5, 6, 7, 8, 8, 9]
    assert tokens[0] == tokens[4]
    assert tokens[2][:2] == tokens[3][:2] == tokens[0][:2]
    assert tokens[3][2] != tokens[0][3]  # the same token after another one
    real = [0, 1, 2, 3, 4, 8, 9, 12, 13, 14, 16, 17, 18, 19]
    assert sorted([*packed.places.tolist(), *packed.repeats.tolist()]) == real
    assert packed.tokens.flatten()[packed.places].tolist() == list(range(6))


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
