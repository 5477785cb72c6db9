from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny_models import tiny_model_dir
from trainers.config import RewardConfig
from trainers.models import pad
from trainers.ranking_trainer import Collator, RankedAnswers, _pad_id, _passes, heldout_loss
from trainers.reward_model import new_reward_model, score_rows

EXAMPLES = [
    {"rows": [[5, 6, 7, 8, 9, 3], [5, 3], [5, 6, 7, 3]], "pairs": [[0, 1, 1.0], [2, 0, 0.5]]},
    {"rows": [[9, 3], [9, 9, 9, 3]], "pairs": [[1, 0, 1.0]]},
]


def rows_of(batch: dict[str, list[tuple[Tensor, Tensor]]]) -> list[list[int]]:
    """The rows of all passes in their order, without padding."""
    return [ids[mask].tolist() for part in batch["passes"] for ids, mask in zip(*part, strict=True)]


def test_every_answer_is_forwarded_once() -> None:
    rows = rows_of(Collator(1, 32)(EXAMPLES))
    assert sorted(rows) == sorted(row for example in EXAMPLES for row in example["rows"])


def test_pairs_point_at_their_answers_after_sorting_by_length() -> None:
    batch = Collator(1, 2)(EXAMPLES)
    rows = rows_of(batch)
    pairs = [
        (rows[i], rows[j], w)
        for i, j, w in zip(batch["chosen"], batch["rejected"], batch["weights"], strict=True)
    ]
    assert pairs == [
        ([5, 6, 7, 8, 9, 3], [5, 3], 1.0),
        ([5, 6, 7, 3], [5, 6, 7, 8, 9, 3], 0.5),
        ([9, 9, 9, 3], [9, 3], 1.0),
    ]


def test_a_pass_holds_rows_of_similar_length_and_not_too_many() -> None:
    rows = [[0] * length for length in (10, 10, 12, 13, 14, 30, 31)]
    assert [[len(row) for row in part] for part in _passes(rows, 3)] == [[10, 10, 12], [13, 14], [30, 31]]


def test_held_out_loss_is_over_pairs_and_weighted() -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir())))
    torch.nn.init.normal_(reward.classifier.score.weight)
    ranked = [
        RankedAnswers(((5, 6, 3), (7, 3), (9, 3)), ((0, 1, 1.0), (2, 1, 0.5))),
        RankedAnswers(((8, 3), (6, 6, 3)), ((1, 0, 1.0),)),
    ]
    a, b, c, d, e = score_rows(reward, [row for answers in ranked for row in answers.rows], 2)
    margins = [a - b, c - b, e - d]
    losses = [-torch.sigmoid(torch.tensor(margin)).log().item() for margin in margins]
    loss, accuracy = heldout_loss(reward, ranked, 3)
    assert loss == pytest.approx((losses[0] + 0.5 * losses[1] + losses[2]) / 2.5, rel=1e-5)
    assert accuracy == pytest.approx(sum(margin > 0 for margin in margins) / 3)


def test_equal_scores_count_half() -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir())))
    assert heldout_loss(reward, [RankedAnswers(((5, 3), (7, 3)), ((0, 1, 1.0),))], 2)[1] == 0.5


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_training_scores_the_same_token_as_scoring_does(pad_is_eos: bool) -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir())))
    torch.nn.init.normal_(reward.classifier.score.weight)
    if pad_is_eos:
        reward.tokenizer.pad_token = reward.tokenizer.eos_token
    eos = reward.tokenizer.eos_token_id
    rows = [[5, 6, 7, 8, eos], [5, eos], [9, 9, eos]]
    reward.classifier.config.pad_token_id = _pad_id(reward)
    ids, mask = pad(rows, _pad_id(reward), "right")
    with torch.no_grad():
        training = reward.classifier(input_ids=ids, attention_mask=mask.long()).logits.squeeze(-1)
    torch.testing.assert_close(training, torch.tensor(score_rows(reward, rows, 2)), atol=1e-5, rtol=1e-5)
