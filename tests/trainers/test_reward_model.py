from __future__ import annotations

import pytest
import torch

from tests.tiny_models import tiny_model_dir
from trainers.config import RewardConfig
from trainers.reward_model import centre_heads, disagreement, head_scores, new_reward_model, score_rows

ROWS = [[5, 6, 7, 8, 9, 3], [5, 3], [9, 9, 3]]


def config(ensemble: int, seed: int = 0) -> RewardConfig:
    return RewardConfig(base_model=str(tiny_model_dir()), ensemble=ensemble, seed=seed)


def test_a_single_head_starts_without_an_opinion() -> None:
    reward, _ = new_reward_model(config(1))
    assert reward.heads == 1
    assert score_rows(reward, ROWS, 2) == [0.0, 0.0, 0.0]


def test_heads_of_an_ensemble_start_with_opinions_of_their_own() -> None:
    reward, _ = new_reward_model(config(3))
    scores = head_scores(reward, ROWS, 2)
    assert scores.shape == (3, 3)
    assert float(disagreement(scores).min()) > 0.05
    again = head_scores(new_reward_model(config(3))[0], ROWS, 2)
    torch.testing.assert_close(again, scores, rtol=0, atol=0)
    other_seed = head_scores(new_reward_model(config(3, seed=1))[0], ROWS, 2)
    assert not torch.allclose(other_seed, scores)


def test_score_is_the_mean_of_the_heads() -> None:
    reward, _ = new_reward_model(config(3))
    assert score_rows(reward, ROWS, 2) == pytest.approx(head_scores(reward, ROWS, 3).mean(dim=1).tolist())


def test_disagreement_is_the_standard_deviation_of_the_heads() -> None:
    # of 1, 2 and 6: mean 3, squares 4 + 1 + 9 over n − 1
    scores = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    assert disagreement(scores).tolist() == [pytest.approx(7**0.5), 0.0]


def test_centred_heads_have_one_zero_and_keep_their_differences() -> None:
    reward, _ = new_reward_model(config(3))
    before = head_scores(reward, ROWS, 2)
    centre_heads(reward, ROWS, 2)
    after = head_scores(reward, ROWS, 2)
    torch.testing.assert_close(after.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(after[0] - after[1], before[0] - before[1], atol=1e-5, rtol=1e-5)
    centre_heads(reward, ROWS, 2)  # again: nothing changes
    torch.testing.assert_close(head_scores(reward, ROWS, 2), after, atol=1e-5, rtol=1e-5)
