"""The value model: what it reads, what it learns, and that a checkpoint holds all of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.trainers.test_ppo import PROMPTS, a_config, vowel_share
from trainers.advantages import explained_variance
from trainers.errors import ModelError, ShapeError
from trainers.ppo import collect, learn, train_ppo
from trainers.ppo_run import VALUE_MODEL_FILE, load_value_model, start
from trainers.ppo_state import TrainingState
from trainers.run_dir import RunDir
from trainers.value_model import REMEMBERED, ValueModel, value_layer


def some_states(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of which one, far from zero, decides the return."""
    features = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return features + 50.0, features[:, 2]


def foreseen(model: ValueModel, features: Tensor, returns: Tensor) -> float:
    mask = torch.ones(1, len(returns), dtype=torch.bool)
    return explained_variance(model.values(features)[None], returns[None], mask)


def test_before_it_learns_every_state_is_worth_nothing() -> None:
    assert ValueModel(6, seed=0).values(some_states(5, 0)[0]).tolist() == [0.0] * 5


def test_it_foresees_the_returns_of_states_that_it_has_not_seen() -> None:
    model = ValueModel(6, seed=0)
    first = model.learn(*some_states(1000, 1))
    for seed in range(2, 6):
        last = model.learn(*some_states(1000, seed))
    assert foreseen(model, *some_states(1000, 99)) > 0.9
    assert last < first / 4


def test_it_learns_from_the_last_updates_and_from_no_older_one() -> None:
    model = ValueModel(6, seed=0)
    features, returns = some_states(200, 1)
    model.learn(features, -returns)
    for seed in range(2, 2 + REMEMBERED):
        model.learn(*some_states(200, seed))
    remembered = torch.cat(model.state()["returns"])
    assert len(remembered) == 200 * REMEMBERED
    assert foreseen(model, features, returns) > 0.5


def test_the_same_seed_gives_the_same_model_whatever_was_drawn_between() -> None:
    def learnt() -> Tensor:
        torch.rand(1)
        model = ValueModel(6, seed=3)
        model.learn(*some_states(300, 1))
        return model.values(some_states(4, 2)[0])

    assert torch.equal(learnt(), learnt())


def test_one_taken_back_from_its_state_learns_on_bit_for_bit() -> None:
    model, other = ValueModel(6, seed=0), ValueModel(6, seed=0)
    model.learn(*some_states(300, 1))
    other.load_state(model.state())
    for each in (model, other):
        each.learn(*some_states(300, 2))
    assert torch.equal(model.values(some_states(4, 3)[0]), other.values(some_states(4, 3)[0]))


def test_features_that_did_not_vary_at_first_do_no_harm_later() -> None:
    model = ValueModel(6, seed=0)
    features, _ = some_states(1, 0)
    model.learn(features.expand(4, 6), torch.ones(4))
    for seed in range(1, 6):
        error = model.learn(*some_states(1000, seed))
    assert error < 1.0
    assert foreseen(model, *some_states(1000, 99)) > 0.5


def test_features_larger_than_half_precision_holds_are_learnt_from() -> None:
    model = ValueModel(6, seed=0)
    for seed in range(1, 6):
        features, returns = some_states(1000, seed)
        model.learn(features * 1e5, returns)
    features, returns = some_states(1000, 99)
    assert foreseen(model, features * 1e5, returns) > 0.9


def test_states_without_returns_are_refused() -> None:
    with pytest.raises(ShapeError, match="2 states and 3 returns"):
        ValueModel(6, seed=0).learn(torch.zeros(2, 6), torch.zeros(3))


@pytest.mark.parametrize(
    ("layers", "lowest", "expected"), [(4, 0, 3), (2, 0, 2), (24, 0, 18), (24, 20, 20), (1, 0, 1)]
)
def test_it_reads_three_quarters_up_or_where_the_trained_layers_begin(
    layers: int, lowest: int, expected: int
) -> None:
    assert value_layer(layers, lowest) == expected


@pytest.mark.parametrize(
    "changes", [{"tuning": "full"}, {"tuning": "lora", "trained_layers": 2}, {"tuning": "lora"}]
)
def test_what_it_reads_does_not_change_when_the_policy_learns(
    changes: dict[str, object], tmp_path: Path
) -> None:
    trainer = start(a_config(learning_rate=1e-2, **changes), RunDir(tmp_path), vowel_share)[0]
    prompts = list(itertools.islice(itertools.cycle(PROMPTS), trainer.config.rollouts))
    with trainer.metrics:
        experience = collect(trainer, TrainingState(kl_coef=0.1, update=1), prompts)
        before = trainer.reference(experience.rollout)[1]
        learn(trainer, experience, 4)
    assert before.shape == (int(experience.rollout.lengths.sum()), 32)
    assert float(before.std()) > 0.01
    assert torch.equal(trainer.reference(experience.rollout)[1], before)


def test_features_are_those_of_each_token_whatever_the_batches(tmp_path: Path) -> None:
    trainer = start(a_config(tuning="lora"), RunDir(tmp_path), vowel_share)[0]
    with trainer.metrics:
        rollout = collect(trainer, TrainingState(kl_coef=0.1, update=1), PROMPTS[:4] * 2).rollout
    together = trainer.reference(rollout)[1]
    alone = torch.cat([trainer.reference(rollout.select([row]))[1] for row in range(len(rollout))])
    assert torch.allclose(together, alone, atol=1e-5)


def test_it_is_saved_with_the_policy_and_the_next_run_goes_on_with_it(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "first")
    train_ppo(a_config(tuning="lora", updates=2), run_dir, PROMPTS, PROMPTS, vowel_share)
    assert (run_dir.model_dir / VALUE_MODEL_FILE).is_file()
    config = a_config(tuning="lora", updates=1, start_policy=str(run_dir.model_dir))
    loaded, new = load_value_model(config, 32), load_value_model(a_config(), 32)
    features = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    assert float(loaded.values(features).abs().min()) > 0.0
    assert float(new.values(features).abs().max()) == 0.0
    train_ppo(config, RunDir(tmp_path / "second"), PROMPTS, PROMPTS, vowel_share)


@pytest.mark.parametrize("fault", ["truncated", "misshapen", "of other names"])
def test_a_damaged_one_is_refused(fault: str, tmp_path: Path) -> None:
    path = tmp_path / VALUE_MODEL_FILE
    save_file(ValueModel(16 if fault == "misshapen" else 32, seed=0).state_dict(), path)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif fault == "of other names":
        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"value_model\.safetensors` .*`start_policy`"):
        load_value_model(a_config(start_policy=str(tmp_path)), 32)
