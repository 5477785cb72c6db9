"""The rollout record, its masks, and evaluating it again."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_models import Architecture, tiny_model_dir
from trainers.distributed import ALONE
from trainers.errors import ShapeError
from trainers.models import PolicyModel, load_policy, pad
from trainers.rollout import Rollout, evaluate, response_mask, scatter

EOS = 3


def a_rollout() -> Rollout:
    lengths = [4, 1, 3]
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    ids = torch.randint(10, 200, (3, 4), generator=torch.Generator().manual_seed(1)) * mask
    return Rollout(
        prompt_ids=((5, 6, 7), (8,) * 9, (11, 12)),
        response_ids=ids,
        response_mask=mask,
        finished=torch.tensor([False, True, True]),
        logprobs=torch.arange(12.0).view(3, 4) * mask,
    )


def test_mask_ends_with_the_first_end_token() -> None:
    ids = torch.tensor([[7, EOS, 7, EOS], [7, 7, 7, 7], [EOS, EOS, EOS, EOS]])
    mask, finished = response_mask(ids, [EOS])
    assert mask.tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]
    assert finished.tolist() == [True, False, True]


def test_mask_knows_several_end_tokens() -> None:
    mask, _ = response_mask(torch.tensor([[7, 9, EOS]]), [EOS, 9])
    assert mask.tolist() == [[True, True, False]]


def test_selecting_rows_trims_to_the_longest() -> None:
    part = a_rollout().select([2, 1])
    assert part.prompt_ids == ((11, 12), (8,) * 9)
    assert part.response_ids.shape == (2, 3)
    assert part.lengths.tolist() == [3, 1]
    assert part.logprobs.tolist() == [[8.0, 9.0, 10.0], [4.0, 0.0, 0.0]]


def test_groups_hold_rows_of_like_length_once_each() -> None:
    order = a_rollout().shortest_first([0, 1, 2])  # totals 7, 10, 5
    assert ALONE.batches(order, 2) == [[2, 0], [1]]


def test_a_response_without_tokens_is_refused() -> None:
    with pytest.raises(ShapeError, match="no token"):
        Rollout(
            ((1,),),
            torch.zeros(1, 2).long(),
            torch.zeros(1, 2).bool(),
            torch.tensor([True]),
            torch.zeros(1, 2),
        )


def test_scatter_puts_values_back_in_their_places() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    assert scatter(torch.tensor([1.0, 2.0, 3.0]), mask).tolist() == [[1.0, 0.0], [2.0, 3.0]]


def logprobs_one_by_one(model: PolicyModel, rollout: Rollout, temperature: float) -> torch.Tensor:
    """Each response alone, unpadded, through the library's own forward pass with all logits."""
    out = []
    for prompt, response in zip(rollout.prompt_ids, rollout.responses(), strict=True):
        logits = model.causal_model(torch.tensor([[*prompt, *response]])).logits[0] / temperature
        logprobs = torch.log_softmax(logits, dim=-1)
        out += [logprobs[len(prompt) + i - 1, token] for i, token in enumerate(response)]
    return torch.stack(out)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_logprobs_equal_those_of_each_response_alone(architecture: Architecture) -> None:
    model, rollout = load_policy(str(tiny_model_dir(architecture))), a_rollout()
    outputs = evaluate(model, rollout, 0.7)
    assert torch.allclose(outputs.logprobs, logprobs_one_by_one(model, rollout, 0.7), atol=1e-5)


@torch.no_grad()
def test_entropy_is_that_of_the_whole_distribution() -> None:
    model, rollout = load_policy(str(tiny_model_dir())), a_rollout().select([1])
    outputs = evaluate(model, rollout, 1.0, with_entropy=True)
    ids, _ = pad([[*rollout.prompt_ids[0], *rollout.responses()[0]]], 0, "right")
    probabilities = torch.softmax(model.causal_model(ids).logits[0, -2], dim=-1)
    expected = -(probabilities * probabilities.log()).sum()
    assert outputs.entropy is not None
    assert float(outputs.entropy) == pytest.approx(float(expected), abs=1e-5)
