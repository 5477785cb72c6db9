"""Logprobs, entropy and their gradients, whatever is computed at once and whatever is trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from tests.tiny_models import tiny_model_dir
from trainers import token_logprobs as module
from trainers.models import PolicyModel, load_policy
from trainers.token_logprobs import token_logprobs

TOKENS = 7


@pytest.fixture(params=["frozen", "trained"])
def model(request: pytest.FixtureRequest) -> PolicyModel:
    """Its output layer is one or the other."""
    loaded = load_policy(str(tiny_model_dir()))
    loaded.output_layer.requires_grad_(request.param == "trained")
    return loaded


@pytest.fixture(params=["at once", "in parts"])
def _parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, model: PolicyModel) -> None:
    if request.param == "in parts":
        few = 3 * model.causal_model.config.vocab_size
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", {"cpu": few})
        monkeypatch.setattr(module, "LOGITS_KEPT", few)


def states_and_targets(model: PolicyModel) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    config = model.causal_model.config
    states = 5 * torch.randn(TOKENS, config.hidden_size, generator=generator)
    return states.requires_grad_(), torch.randint(config.vocab_size, (TOKENS,), generator=generator)


def plainly(model: PolicyModel, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    distribution = torch.distributions.Categorical(logits=model.logits(states) / 0.7)
    return distribution.log_prob(targets), distribution.entropy()


@pytest.mark.usefixtures("_parts")
def test_values_and_gradients_are_those_of_all_logits_at_once(model: PolicyModel) -> None:
    states, targets = states_and_targets(model)
    wanted = [states, *(p for p in model.output_layer.parameters() if p.requires_grad)]
    weights = torch.arange(1.0, TOKENS + 1)

    def gradients(logprobs: Tensor, entropy: Tensor | None) -> Tensor:
        assert entropy is not None
        loss = (weights * logprobs + weights.flip(0) * entropy).sum()
        return parameters_to_vector(torch.autograd.grad(loss, wanted))

    expected = plainly(model, states, targets)
    found = token_logprobs(model, states, targets, 0.7, with_entropy=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(*found), gradients(*expected), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_parts")
def test_without_gradients_the_values_are_the_same(model: PolicyModel) -> None:
    states, targets = states_and_targets(model)
    with torch.no_grad():
        logprobs, entropy = token_logprobs(model, states, targets, 0.7)
    assert entropy is None
    assert not logprobs.requires_grad
    torch.testing.assert_close(logprobs, plainly(model, states, targets)[0].detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["frozen"], indirect=True)
def test_nothing_as_wide_as_the_vocabulary_is_kept_of_a_frozen_layer(model: PolicyModel) -> None:
    states, targets = states_and_targets(model)
    logprobs, _ = token_logprobs(model, states, targets, 0.7, with_entropy=True)
    kept = logprobs.grad_fn.saved_tensors  # type: ignore[union-attr]
    assert [tuple(tensor.shape) for tensor in kept] == [tuple(states.shape)] * 2


def test_no_token_is_no_logprob(model: PolicyModel) -> None:
    states, targets = states_and_targets(model)
    logprobs, _ = token_logprobs(model, states[:0], targets[:0], 0.7)
    assert logprobs.shape == (0,)
    [gradient] = torch.autograd.grad(logprobs.sum(), states)
    assert not gradient.any()


@pytest.mark.parametrize("model", ["frozen"], indirect=True)
def test_gradients_in_bf16_are_those_of_fp32_to_rounding(model: PolicyModel) -> None:
    model.bfloat16()
    states, targets = (tensor.detach() for tensor in states_and_targets(model))
    weights = torch.arange(1.0, TOKENS + 1)
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        model.to(dtype)
        rounded = states.bfloat16().to(dtype).requires_grad_()
        logprobs, _ = token_logprobs(model, rounded, targets, 0.7)
        assert logprobs.dtype == torch.float32
        gradients += torch.autograd.grad((weights * logprobs).sum(), rounded)
    assert gradients[0].dtype == torch.bfloat16
    difference = (gradients[0].float() - gradients[1]).abs().max()
    assert float(difference) < 0.02 * float(gradients[1].abs().max())
