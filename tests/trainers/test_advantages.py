"""Rewards and advantages against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainers.advantages import (
    ScoreMoments,
    adapt_kl_coef,
    adapt_step_scale,
    explained_variance,
    gae,
    masked_mean,
    rewards_to_go,
    token_rewards,
    whiten,
)
from trainers.errors import ShapeError

MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_score_lands_on_the_last_real_token() -> None:
    rewards = token_rewards(torch.tensor([5.0, 7.0]), torch.zeros(2, 3), MASK, kl_coef=0.1)
    assert rewards.tolist() == [[0, 0, 5], [0, 7, 0]]


def test_kl_is_charged_on_real_tokens_only() -> None:
    kl = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 99.0]])
    rewards = token_rewards(torch.zeros(2), kl, MASK, kl_coef=0.5)
    assert rewards.tolist() == [[-0.5, -1.0, -1.5], [-0.5, -1.0, 0.0]]


def test_gae_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 2.0]])
    values = torch.tensor([[0.5, 1.0, 0.0]])
    advantages = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=0.9, gae_lambda=0.5)
    # δ₂ = 2 − 0 = 2; δ₁ = 0 + 0.9·0 − 1 = −1; δ₀ = 1 + 0.9·1 − 0.5 = 1.4
    # Â₂ = 2; Â₁ = −1 + 0.45·2 = −0.1; Â₀ = 1.4 + 0.45·(−0.1) = 1.355
    assert advantages[0].tolist() == pytest.approx([1.355, -0.1, 2.0])


def test_rewards_to_go_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 2.0], [4.0, 5.0, float("nan")]])
    # 2; 0 + 0.5·2 = 1; 1 + 0.5·1 = 1.5   and, ending one token earlier, 5; 4 + 0.5·5 = 6.5
    assert rewards_to_go(rewards, MASK, gamma=0.5).tolist() == [[1.5, 1.0, 2.0], [6.5, 5.0, 0.0]]


def test_gae_with_lambda_one_is_reward_to_go_minus_value() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]])
    values = torch.tensor([[0.5, 0.25, 0.125], [1.0, 2.0, 0.0]])
    advantages = gae(rewards, values, MASK, gamma=1.0, gae_lambda=1.0)
    # to go are 6, 5, 3 and 9, 5
    assert advantages.tolist() == [[5.5, 4.75, 2.875], [8.0, 3.0, 0.0]]


def test_gae_with_lambda_zero_is_the_td_error() -> None:
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    advantages = gae(rewards, values, torch.ones(1, 2, dtype=torch.bool), gamma=1.0, gae_lambda=0.0)
    assert advantages.tolist() == [[1.0 + 3.0 - 0.5, 2.0 - 3.0]]


@pytest.mark.parametrize("junk", [0.0, 1e6, float("nan")])
def test_nothing_passes_the_end_of_a_response(junk: float) -> None:
    rewards = torch.tensor([[1.0, 2.0, junk]])
    values = torch.tensor([[0.5, 0.25, junk]])
    mask = torch.tensor([[True, True, False]])
    advantages = gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
    # δ₁ = 2 − 0.25 = 1.75; δ₀ = 1 + 0.25 − 0.5 = 0.75; Â₀ = 0.75 + 0.95·1.75
    assert advantages[0].tolist() == pytest.approx([2.4125, 1.75, 0.0])


def test_a_response_without_tokens_is_refused() -> None:
    empty = torch.zeros(1, 2, dtype=torch.bool)
    with pytest.raises(ShapeError, match="no real token"):
        gae(torch.zeros(1, 2), torch.zeros(1, 2), empty, gamma=1.0, gae_lambda=0.95)


def padded_and_flat() -> tuple[Tensor, Tensor]:
    flat = torch.tensor([1.0, 2.0, 6.0, -3.0, 4.0])
    padded = torch.tensor([[1.0, 2.0, 6.0], [-3.0, 4.0, 1e9]])
    return padded, flat


def test_masked_mean_is_the_mean_without_padding() -> None:
    padded, flat = padded_and_flat()
    assert float(masked_mean(padded, MASK)) == pytest.approx(float(flat.mean()))


def test_masked_mean_of_nothing_is_zero() -> None:
    assert float(masked_mean(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool))) == 0.0


def test_whitening_ignores_padding() -> None:
    padded, flat = padded_and_flat()
    expected = (flat - 2.0) / (46 / 5) ** 0.5  # deviations −1 0 4 −5 2: squares sum to 46
    assert whiten(padded, MASK)[MASK].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert float(whiten(padded, MASK)[1, 2]) == 0.0


def test_whitening_one_token_is_safe() -> None:
    assert whiten(torch.tensor([[3.0, 8.0]]), torch.tensor([[True, False]])).tolist() == [[0.0, 0.0]]


def test_adaptive_coefficient_by_its_formula() -> None:
    # e = 6/5 − 1 = 0.2 → 0.1·(1 + 0.2·32/1000)
    assert adapt_kl_coef(0.1, 6.0, target=5.0, horizon=1000, responses=32) == pytest.approx(0.10064)
    # far above and far below, e is clipped to ±0.2
    assert adapt_kl_coef(0.1, 600.0, target=5.0, horizon=1000, responses=100) == pytest.approx(0.102)
    assert adapt_kl_coef(0.1, 0.0, target=5.0, horizon=1000, responses=100) == pytest.approx(0.098)
    # many responses to a short horizon
    assert adapt_kl_coef(0.1, 0.0, target=5.0, horizon=64, responses=512) == pytest.approx(0.05)
    assert adapt_kl_coef(0.1, 600.0, target=5.0, horizon=64, responses=512) == pytest.approx(0.2)


def test_moments_in_batches_are_those_of_all_scores() -> None:
    scores = torch.tensor([1.0, 5.0, -2.0, 0.5, 9.0])
    moments = ScoreMoments().with_scores(scores[:2]).with_scores(scores[2:]).with_scores(scores[:0])
    assert moments.count == 5
    assert moments.mean == pytest.approx(2.7)
    assert moments.deviation == pytest.approx(float(scores.std(unbiased=False)))


def test_equal_scores_standardise_to_zero() -> None:
    scores = torch.full((4,), 3.0)
    assert ScoreMoments().with_scores(scores).standardise(scores).tolist() == [0, 0, 0, 0]


def test_explained_variance_of_perfect_and_of_constant_values() -> None:
    returns, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert explained_variance(returns, returns, mask) == pytest.approx(1.0)
    assert explained_variance(torch.full((1, 3), 7.0), returns, mask) == pytest.approx(0.0, abs=1e-6)


def test_the_step_shrinks_after_large_changes_and_grows_back_to_one() -> None:
    assert adapt_step_scale(1.0, 0.03, kl_stop=0.1) == pytest.approx(1 / 1.5)
    assert adapt_step_scale(0.5, 0.01, kl_stop=0.1) == 0.5
    assert adapt_step_scale(0.5, 0.001, kl_stop=0.1) == pytest.approx(0.6)
    assert adapt_step_scale(0.95, 0.001, kl_stop=0.1) == 1.0
    assert adapt_step_scale(0.11, 9.0, kl_stop=0.1) == 0.1
