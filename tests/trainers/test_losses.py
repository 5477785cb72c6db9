"""Losses and divergence estimators against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainers.errors import ShapeError
from trainers.losses import bradley_terry_loss, kl_k1, kl_k3, plackett_luce_loss, policy_loss


def gradient_of_policy_loss(ratio: float, advantage: float) -> float:
    old = torch.tensor([-1.0])
    new = (old + math.log(ratio)).requires_grad_()
    policy_loss(new, old, torch.tensor([advantage]), clip_range=0.2).sum().backward()
    assert new.grad is not None
    return float(new.grad)


def test_policy_loss_at_ratio_one_is_minus_the_advantage() -> None:
    logprobs = torch.tensor([-0.3, -2.0])
    advantages = torch.tensor([1.5, -0.5])
    assert policy_loss(logprobs, logprobs, advantages, clip_range=0.2).tolist() == [-1.5, 0.5]


def test_policy_loss_clips_by_its_formula() -> None:
    old = torch.zeros(4)
    new = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5]))
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0])
    # min(1.5·2, 1.2·2) = 2.4; min(−3, −2.4) = −3; min(1, 1.6) = 1; min(−1, −1.6) = −1.6
    expected = [-2.4, 3.0, -1.0, 1.6]
    assert policy_loss(new, old, advantages, clip_range=0.2).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.3, 1.0), (0.7, -1.0)])
def test_policy_gradient_is_zero_outside_the_clip_on_the_improving_side(
    ratio: float, advantage: float
) -> None:
    assert gradient_of_policy_loss(ratio, advantage) == 0.0


@pytest.mark.parametrize(("ratio", "advantage"), [(0.7, 1.0), (1.3, -1.0), (1.1, 1.0), (0.9, -1.0)])
def test_policy_gradient_pulls_back_from_the_wrong_side_of_the_clip(ratio: float, advantage: float) -> None:
    assert gradient_of_policy_loss(ratio, advantage) == pytest.approx(-ratio * advantage)


def test_k1_and_k3_estimate_the_exact_kl() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    exact = 0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.5) + 0.2 * math.log(0.2 / 0.3)
    # the estimators' expectation under p, term by term
    assert float((p * kl_k1(p.log(), q.log())).sum()) == pytest.approx(exact, abs=1e-6)
    assert float((p * kl_k3(p.log(), q.log())).sum()) == pytest.approx(exact, abs=1e-6)


def test_k3_is_never_negative_while_k1_is() -> None:
    logprobs, ref_logprobs = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    assert float(kl_k3(logprobs, ref_logprobs).min()) >= 0.0
    assert float(kl_k1(logprobs, ref_logprobs).min()) < 0.0


def test_bradley_terry_at_equal_scores_is_ln_2() -> None:
    assert float(bradley_terry_loss(torch.zeros(1), torch.zeros(1))) == pytest.approx(math.log(2))


def test_bradley_terry_of_a_margin_of_two() -> None:
    # ln(1 + e⁻²) = 0.126928
    assert float(bradley_terry_loss(torch.tensor([3.0]), torch.tensor([1.0]))) == pytest.approx(
        0.126928, abs=1e-6
    )


def test_plackett_luce_of_two_answers_is_bradley_terry() -> None:
    scores = torch.tensor([0.2, 1.1])
    expected = math.log(1 + math.exp(1.1 - 0.2))  # the first was preferred
    assert float(plackett_luce_loss(scores, torch.tensor([0, 1]))) == pytest.approx(expected)


def test_plackett_luce_of_three_answers_by_hand() -> None:
    scores = torch.tensor([1.0, 2.0, 0.0])
    first = math.log(math.exp(1) + math.exp(2) + 1) - 1.0
    second = math.log(math.exp(2) + 1) - 2.0
    expected = (first + second) / 2
    assert float(plackett_luce_loss(scores, torch.tensor([0, 1, 2]))) == pytest.approx(expected)


def test_plackett_luce_does_not_order_tied_answers() -> None:
    ranks = torch.tensor([0, 0, 1])
    loss = plackett_luce_loss(torch.tensor([3.0, 1.0, 0.0]), ranks)
    # each of the two beats only the third: the mean of ln(1 + e⁻³) and ln(1 + e⁻¹)
    assert float(loss) == pytest.approx((math.log1p(math.exp(-3)) + math.log1p(math.exp(-1))) / 2)


def test_plackett_luce_of_one_tie_costs_nothing_and_keeps_the_graph() -> None:
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = plackett_luce_loss(scores, torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.0, 0.0]


def test_plackett_luce_ignores_padding() -> None:
    scores = torch.tensor([1.0, 2.0, 99.0], requires_grad=True)
    padded = plackett_luce_loss(scores, torch.tensor([0, 1, -1]))
    assert padded.item() == pytest.approx(math.log(1 + math.exp(1)))
    padded.backward()
    assert scores.grad is not None
    assert float(scores.grad[2]) == 0.0


def test_plackett_luce_of_several_rankings_is_that_of_each() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.0], [0.2, 1.1, -3.0], [4.0, 4.0, 4.0]])
    ranks = torch.tensor([[0, 1, 2], [0, 1, -1], [0, 0, 0]])
    each = [plackett_luce_loss(*pair) for pair in zip(scores, ranks, strict=True)]
    torch.testing.assert_close(plackett_luce_loss(scores, ranks), torch.stack(each))


def test_different_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match=r"`advantages` \(2,\)"):
        policy_loss(torch.zeros(3), torch.zeros(3), torch.zeros(2), clip_range=0.2)
