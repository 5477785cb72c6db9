from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from trainers.config import RankingLoss
from trainers.ranking_batch import (
    RankedAnswers,
    bootstrap_weights,
    centring_loss,
    count_correct,
    judgements_of,
    ranking_loss,
    rows_of,
)

LONG, SHORT, MIDDLE = (5, 6, 7, 8, 9, 3), (5, 3), (5, 6, 7, 3)
RANKED = [
    RankedAnswers((LONG, SHORT, MIDDLE), ((0, 1, 1.0), (2, 0, 0.5)), ((1, 2, 0), (0, 1, -1)), (0.6, 0.4)),
    RankedAnswers(((9, 3), (9, 9, 9, 3)), ((1, 0, 1.0),), ((1, 0),)),
]


def test_judgements_point_at_their_answers() -> None:
    rows, found = rows_of(RANKED), judgements_of(RANKED)
    assert sorted(rows) == sorted([LONG, SHORT, MIDDLE, (9, 3), (9, 9, 9, 3)])
    pairs = [
        (rows[i], rows[j], w)
        for i, j, w in zip(found.chosen, found.rejected, found.pair_weights.squeeze(1).tolist(), strict=True)
    ]
    assert pairs == [(LONG, SHORT, 1.0), (MIDDLE, LONG, 0.5), ((9, 9, 9, 3), (9, 3), 1.0)]
    weights = found.ranking_weights.squeeze(1).tolist()
    ranked = [
        ({rows[row]: rank for row, rank in zip(answers, ranks, strict=True) if rank >= 0}, weight)
        for answers, ranks, weight in zip(found.answers.tolist(), found.ranks.tolist(), weights, strict=True)
    ]
    assert ranked == [
        ({LONG: 1, SHORT: 2, MIDDLE: 0}, pytest.approx(0.6)),
        ({LONG: 0, SHORT: 1}, pytest.approx(0.4)),
        ({(9, 3): 1, (9, 9, 9, 3): 0}, 1.0),
    ]


def loss_of(scores: torch.Tensor, ranked: Sequence[RankedAnswers], loss: RankingLoss) -> torch.Tensor:
    judgements = judgements_of(ranked)
    return ranking_loss(scores, judgements, loss, judgements.weights(loss).sum())


def test_loss_over_pairs_is_weighted() -> None:
    scores = torch.tensor([[1.0], [0.0], [3.0], [0.0], [0.5]])
    # margins 1, 2 (weight ½) and ½
    expected = (math.log1p(math.exp(-1)) + 0.5 * math.log1p(math.exp(-2)) + math.log1p(math.exp(-0.5))) / 2.5
    assert float(loss_of(scores, RANKED, "pairs")) == pytest.approx(expected)


def test_listwise_loss_is_a_mean_over_annotators_and_prompts() -> None:
    scores = torch.tensor([[1.0], [0.0], [3.0], [0.0], [0.5]])
    # the first annotator: the third of all three, then the first of two; the second ranked two answers only
    best = math.log(math.exp(1) + 1 + math.exp(3)) - 3
    second = math.log1p(math.exp(-1))
    other_prompt = math.log1p(math.exp(-0.5))
    expected = (0.6 * (best + second) / 2 + 0.4 * second + other_prompt) / 2
    assert float(loss_of(scores, RANKED, "listwise")) == pytest.approx(expected)


def test_both_losses_are_the_same_for_two_answers_and_one_annotator() -> None:
    ranked = [RANKED[1], RankedAnswers(((5, 3), (7, 3)), ((0, 1, 1.0),), ((0, 1),))]
    scores = torch.tensor([[0.3], [-0.2], [1.1], [0.4]])
    pairs = loss_of(scores, ranked, "pairs")
    torch.testing.assert_close(loss_of(scores, ranked, "listwise"), pairs)


@pytest.mark.parametrize("loss", ["pairs", "listwise"])
def test_heads_learn_by_their_own_weights(loss: RankingLoss) -> None:
    ranked = [
        RankedAnswers(((5, 3), (7, 3)), ((0, 1, 1.0),), ((0, 1),), head_weights=(3.0, 0.0)),
        RankedAnswers(((6, 3), (8, 3)), ((0, 1, 1.0),), ((0, 1),), head_weights=(1.0, 2.0)),
    ]
    scores = torch.tensor([[1.0, 9.0], [0.0, 0.0], [2.0, 0.5], [0.0, 0.0]], requires_grad=True)
    cost = loss_of(scores, ranked, loss)
    first, second = (3 * math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))), 2 * math.log1p(math.exp(-0.5))
    assert cost.item() == pytest.approx((first + second) / 6)
    cost.backward()
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0.0  # the second head does not see the first prompt
    assert scores.grad[2, 1] < 0.0


def test_centring_pulls_every_heads_pairs_towards_zero() -> None:
    ranked = [RankedAnswers(((5, 3), (7, 3)), ((0, 1, 1.0),), ((0, 1),))]
    scores = torch.tensor([[3.0, 1.0], [2.0, -1.0]])
    assert float(centring_loss(scores, judgements_of(ranked))) == (5**2 + 0**2) / 2


def test_every_head_has_its_own_sample_of_the_prompts() -> None:
    weights = [bootstrap_weights(f"p{number}", 2, seed=0) for number in range(2000)]
    assert weights[7] == bootstrap_weights("p7", 2, seed=0)
    assert weights[7] != bootstrap_weights("p7", 2, seed=1)
    for head in range(2):
        own = [each[head] for each in weights]
        assert sum(own) / len(own) == pytest.approx(1.0, abs=0.1)  # exponential: mean 1, deviation 1
        assert sum((weight - 1) ** 2 for weight in own) / len(own) == pytest.approx(1.0, abs=0.2)
    products = [(first - 1) * (second - 1) for first, second in weights]
    assert sum(products) / len(products) == pytest.approx(0.0, abs=0.1)  # the heads' weights are independent


def test_one_head_weighs_all_prompts_alike() -> None:
    assert bootstrap_weights("p7", 1, seed=0) == (1.0,)


def test_equal_scores_count_half() -> None:
    assert count_correct(torch.tensor([1.0, 0.0, -2.0])) == 1.5
