from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny_models import tiny_model_dir
from trainers.config import RankingLoss, RewardConfig
from trainers.errors import DataError
from trainers.models import pad
from trainers.ranking_batch import RankedAnswers
from trainers.ranking_trainer import (
    RankingTrainer,
    Schedule,
    Watch,
    _pad_id,
    heldout_loss,
    train_on_rankings,
)
from trainers.reward_model import new_reward_model, score_rows
from trainers.run_dir import RunDir

SCHEDULE = Schedule(
    loss="pairs", learning_rate=1e-3, epochs=1, prompts_per_step=2, patience=1, rows_per_pass=3, seed=0
)


def test_held_out_loss_is_over_pairs_and_weighted() -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir())))
    torch.nn.init.normal_(reward.classifier.score.weight)
    ranked = [
        RankedAnswers(((5, 6, 3), (7, 3), (9, 3)), ((0, 1, 1.0), (2, 1, 0.5)), ((0, 1, 0),)),
        RankedAnswers(((8, 3), (6, 6, 3)), ((1, 0, 1.0),), ((1, 0),)),
    ]
    a, b, c, d, e = score_rows(reward, [row for answers in ranked for row in answers.rows], 2)
    margins = [a - b, c - b, e - d]
    losses = [-torch.sigmoid(torch.tensor(margin)).log().item() for margin in margins]
    loss, accuracy = heldout_loss(reward, ranked, SCHEDULE)
    assert loss == pytest.approx((losses[0] + 0.5 * losses[1] + losses[2]) / 2.5, rel=1e-5)
    assert accuracy == pytest.approx(sum(margin > 0 for margin in margins) / 3)


@pytest.mark.parametrize("loss", ["pairs", "listwise"])
def test_old_ranking_counts_little_also_in_a_batch_of_its_own(loss: RankingLoss, tmp_path: Path) -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir())))
    new = RankedAnswers(((5, 6, 3), (7, 3)), ((0, 1, 1.0),), ((0, 1),), ranking_weights=(1.0,))
    old = replace(new, pairs=((0, 1, 0.1),), ranking_weights=(0.1,))
    run_dir = RunDir(tmp_path)
    with run_dir.metrics() as metrics:
        schedule = replace(SCHEDULE, loss=loss)
        trainer = RankingTrainer(reward, [new, old], [], schedule, run_dir, metrics, Watch())
        costs = [trainer.compute_loss(trainer.model, {"ranked": [own]}).item() for own in (old, new)]
        both = trainer.compute_loss(trainer.model, {"ranked": [old, new]}).item()
    assert costs[0] == pytest.approx(0.1 * costs[1])
    assert both == pytest.approx(sum(costs) / 2)


def test_diverged_training_says_so_and_leaves_no_model(tmp_path: Path) -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir())))
    ranked = RankedAnswers(((5, 6, 3), (7, 3)), ((0, 1, 1.0),), ((0, 1),))
    schedule = replace(SCHEDULE, learning_rate=1e30, epochs=4)
    with pytest.raises(DataError, match=r"training diverged.* set `learning_rate` lower"):
        train_on_rankings(reward, [ranked] * 4, [], schedule, RunDir(tmp_path))


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
