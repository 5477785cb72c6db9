"""What a correct PPO holds, on tiny models: identities of one update, whole runs, stops and resumption."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.tiny_models import SENTENCES, tiny_model_dir
from trainers import ppo, rollout, stopping
from trainers.config import PPOConfig, RewardConfig
from trainers.errors import ConfigError, DataError, ModelError
from trainers.fused_layers import layers_of
from trainers.models import load_policy
from trainers.ppo import Experience, backward, collect, learn, train_ppo
from trainers.ppo_run import Trainer, start, trained_parameters
from trainers.ppo_state import TrainingState, generator_for, prompts_of_update
from trainers.records import Prompt
from trainers.reward_model import new_reward_model, save_reward_model
from trainers.reward_source import load_reward, score
from trainers.rollout import evaluate
from trainers.run_dir import RunDir, verify_manifest

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(SENTENCES)]


def vowel_share(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """A reward that a random model can climb: the share of the letter `e`."""
    return [response.count("e") / max(len(response), 1) for response in responses]


def a_config(**changes: Any) -> PPOConfig:
    values = {
        "base_model": str(tiny_model_dir()),
        "reward_model": "m:f",
        "tuning": "full",
        "updates": 4,
        "rollouts": 8,
        "minibatch_size": 4,
        "micro_batch_size": 4,
        "max_response_tokens": 12,
        "learning_rate": 1e-3,
        "max_garbled": 1.0,
        "verify_every": 2,
        "checkpoint_every": 2,
        "epoch_kl_stop": 1e3,
        "kl_stop": 1e3,
        "value_warm_up": 8,
    }
    return PPOConfig(**{**values, **changes})


Make = Callable[..., Trainer]


@pytest.fixture
def a_trainer(tmp_path: Path) -> Iterator[Make]:
    """Makes trainers, each with its own run directory."""
    with contextlib.ExitStack() as open_files:

        def make(**changes: Any) -> Trainer:
            made = start(a_config(**changes), RunDir(tmp_path / "trainer"), vowel_share)[0]
            open_files.enter_context(made.metrics)
            return made

        yield make


def an_experience(trainer: Trainer) -> Experience:
    count = trainer.config.rollouts
    state = TrainingState(kl_coef=0.1, update=1)
    return collect(trainer, state, list(itertools.islice(itertools.cycle(PROMPTS), count)))


def gradient(trainer: Trainer, experience: Experience, rows: list[int]) -> dict[str, Tensor]:
    trainer.optimizer.zero_grad()
    backward(trainer, experience, rows)
    named = trainer.policy.named_parameters()
    found = {name: p.grad.clone() for name, p in named if p.grad is not None}
    trainer.optimizer.zero_grad()
    return found


def metrics_of(run_dir: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["metrics"][name] for line in lines if name in line.get("metrics", {})]


# One update


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_first_minibatch_has_ratio_one(tuning: str, a_trainer: Make) -> None:
    trainer = a_trainer(tuning=tuning)
    rollout = an_experience(trainer).rollout
    with torch.no_grad():
        new = evaluate(trainer.policy, rollout, 1.0)
    ratio = (new.logprobs - rollout.logprobs[rollout.response_mask]).exp()
    assert float((ratio - 1).abs().max()) <= 1e-5


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_kl_is_zero_before_the_first_update_and_not_after(tuning: str, a_trainer: Make) -> None:
    trainer = a_trainer(tuning=tuning, learning_rate=1e-2)
    experience = an_experience(trainer)
    assert abs(experience.measured["objective/kl"]) < 1e-4
    for _ in range(3):
        learn(trainer, experience, 1)
    assert abs(an_experience(trainer).measured["objective/kl"]) > 1e-2


def test_temperature_is_the_same_in_policy_and_reference(a_trainer: Make) -> None:
    experience = an_experience(a_trainer(temperature=0.5))
    assert abs(experience.measured["objective/kl"]) < 1e-4


def test_a_truncated_response_pays_the_missing_eos_penalty(a_trainer: Make) -> None:
    trainer = a_trainer(missing_eos_penalty=5.0, standardise_scores=False, max_response_tokens=30)
    experience = an_experience(trainer)
    finished = experience.rollout.finished
    assert bool(finished.any())
    assert not bool(finished.all())
    # before training KL is 0, so the return at the last token is the score less the penalty
    last = experience.rollout.lengths - 1
    ends = experience.returns[torch.arange(len(last)), last]
    texts = [
        trainer.tokenizer.decode(row, skip_special_tokens=True) for row in experience.rollout.responses()
    ]
    scores = torch.tensor(vowel_share([], [text.strip() for text in texts]))
    assert ends.tolist() == pytest.approx((scores - 5.0 * (~finished).float()).tolist(), abs=1e-4)


@pytest.mark.parametrize("junk", [0, 3, 77])
def test_pad_content_changes_nothing(junk: int, a_trainer: Make) -> None:
    trainer = a_trainer(max_response_tokens=30)
    experience = an_experience(trainer)
    rollout = experience.rollout
    assert not bool(rollout.response_mask.all())
    dirty = dataclasses.replace(
        rollout, response_ids=torch.where(rollout.response_mask, rollout.response_ids, junk)
    )
    rows = list(range(len(rollout)))
    clean_gradient = gradient(trainer, experience, rows)
    dirty_gradient = gradient(trainer, dataclasses.replace(experience, rollout=dirty), rows)
    assert all(torch.equal(clean_gradient[name], dirty_gradient[name]) for name in clean_gradient)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_micro_batches_and_row_order_do_not_change_the_gradient(size: int, a_trainer: Make) -> None:
    trainer = a_trainer(micro_batch_size=8)
    experience = an_experience(trainer)
    whole = gradient(trainer, experience, list(range(8)))
    parts = dataclasses.replace(trainer, config=a_config(micro_batch_size=size))
    other = gradient(parts, experience, [5, 2, 7, 0, 1, 6, 3, 4])
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-3
    for name, expected in whole.items():
        assert torch.allclose(other[name], expected, atol=1e-6), name


@pytest.mark.parametrize("kind", ["fused", "as large models are"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_layers_are_made_once_for_the_micro_batches_of_a_step_and_anew_for_the_next(
    tuning: str, kind: str, a_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "fused":
        monkeypatch.setattr("trainers.fused_layers.COPY_PARAMETERS", 0)
    trainer = a_trainer(micro_batch_size=2, tuning=tuning)
    experience, rows = an_experience(trainer), list(range(8))
    made = mock.Mock(wraps=layers_of)
    monkeypatch.setattr("trainers.models.layers_of", made)
    for _ in range(2):
        apart = gradient(trainer, experience, rows)
        made.reset_mock()
        with trainer.policy.unchanged():
            together = gradient(trainer, experience, rows)
        assert made.call_count == 1
        assert all(torch.equal(together[name], apart[name]) for name in apart)
        with torch.no_grad():
            for tensor in trainer.policy.trainable_state().values():
                tensor += 0.05 * torch.randn(tensor.shape, generator=generator_for(0, 0, "noise"))


@pytest.mark.parametrize("layers", ["ours", "the library's"])
@pytest.mark.parametrize(("tuning", "trained_layers"), [("full", None), ("lora", 2), ("lora", 1)])
def test_layers_computed_again_give_the_same_gradient_from_less_memory(
    tuning: str, trained_layers: int | None, layers: str, a_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.fused_layers.COPY_PARAMETERS", 0)  # as large models are
    if layers == "the library's":
        monkeypatch.setattr(rollout, "is_llama", lambda _trunk: False)
    trainer = a_trainer(tuning=tuning, trained_layers=trained_layers)
    # they begin differently, as of what is shared there is little to be saved, and are longer than responses
    texts = [f"{number} " + 3 * PROMPTS[number % len(PROMPTS)].text for number in range(8)]
    different = [Prompt(f"p{number}", text) for number, text in enumerate(texts)]
    experience = collect(trainer, TrainingState(kl_coef=0.1, update=1), different)
    with torch.no_grad():
        for tensor in trainer.policy.trainable_state().values():
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator_for(0, 0, "noise"))

    def measured() -> tuple[dict[str, Tensor], int]:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found = gradient(trainer, experience, list(range(8)))
        return found, sum(kept.values())

    whole, most = measured()
    trainer.policy.checkpoint_layers()
    again, least = measured()
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert least < 0.7 * most
    # neither dropout nor decoding without a cache is left on
    assert not any(module.training for module in trainer.policy.modules())


def test_advantages_are_whitened_over_the_batch(a_trainer: Make) -> None:
    experience = an_experience(a_trainer())
    real = experience.advantages[experience.rollout.response_mask]
    assert float(real.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(real.std(unbiased=False)) == pytest.approx(1.0, abs=1e-3)


def test_gradients_are_clipped_to_the_norm(a_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = a_trainer(max_grad_norm=1e-3)
    seen: list[float] = []

    def step(closure: Callable[[], float] | None = None) -> None:
        grads = [p.grad for p in trained_parameters(trainer.policy) if p.grad is not None]
        seen.append(float(torch.stack([g.norm() for g in grads]).norm()))

    monkeypatch.setattr(trainer.optimizer, "step", step)
    measured = learn(trainer, an_experience(trainer), 1)
    assert measured["ppo/grad_norm"] > 1e-2
    assert seen == pytest.approx([1e-3] * 4, rel=1e-2)


def test_an_epoch_that_moved_too_far_ends_the_update(
    a_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = a_trainer(epochs=50, epoch_kl_stop=0.01, learning_rate=3e-2)
    calls: list[int] = []
    real = ppo.backward

    def counted(*arguments: Any) -> Tensor:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(ppo, "backward", counted)
    learn(trainer, an_experience(trainer), 4)
    assert 2 <= len(calls) < 20


def test_without_a_finite_gradient_nothing_is_learnt(a_trainer: Make) -> None:
    trainer = a_trainer()
    experience = an_experience(trainer)
    broken = dataclasses.replace(experience, advantages=torch.full_like(experience.advantages, float("nan")))
    before = {name: t.clone() for name, t in trainer.policy.trainable_state().items()}
    assert learn(trainer, broken, 1)["ppo/learning_rate"] == 0.0
    assert all(torch.equal(before[name], t) for name, t in trainer.policy.trainable_state().items())


# Whole runs


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_base_and_reference_are_bitwise_unchanged(tuning: str, a_trainer: Make) -> None:
    trainer = a_trainer(tuning=tuning, learning_rate=1e-2)
    experience = an_experience(trainer)
    reference = trainer.ref_logprobs(experience.rollout)
    frozen = {name: p.clone() for name, p in trainer.policy.named_parameters() if not p.requires_grad}
    learn(trainer, experience, 4)
    after = dict(trainer.policy.named_parameters())
    assert bool(frozen) == (tuning == "lora")
    assert all(torch.equal(frozen[name], after[name]) for name in frozen)
    assert torch.equal(trainer.ref_logprobs(experience.rollout), reference)
    assert not torch.allclose(trainer.logprobs(trainer.policy, experience.rollout), reference, atol=1e-3)


def test_the_reward_model_is_bitwise_unchanged(tmp_path: Path) -> None:
    reward_model, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir()), ensemble=2))
    (tmp_path / "reward").mkdir()
    save_reward_model(reward_model, tmp_path / "reward")
    files = {path.name: path.read_bytes() for path in (tmp_path / "reward").iterdir()}
    config = a_config(reward_model=str(tmp_path / "reward"), updates=2)
    reward = load_reward(config)
    before = reward(PROMPTS, SENTENCES)
    train_ppo(config, RunDir(tmp_path / "ppo"), PROMPTS, PROMPTS, reward)
    assert reward(PROMPTS, SENTENCES) == before
    assert {path.name: path.read_bytes() for path in (tmp_path / "reward").iterdir()} == files


def test_a_programmatic_reward_rises_and_a_shuffled_one_does_not(tmp_path: Path) -> None:
    changes = {
        "updates": 20,
        "rollouts": 32,
        "minibatch_size": 16,
        "micro_batch_size": 16,
        "learning_rate": 1e-2,
        "verify_every": 20,
        "value_warm_up": 64,
        "kl_coef": 0.02,
    }
    train_ppo(a_config(**changes), RunDir(tmp_path / "true"), PROMPTS, PROMPTS, vowel_share)
    true = metrics_of(tmp_path / "true", "objective/score")
    measured: list[float] = []
    calls = itertools.count()

    def shuffled(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        scores = vowel_share(prompts, responses)
        measured.append(sum(scores) / len(scores))
        order = torch.randperm(len(scores), generator=generator_for(0, next(calls), "shuffle"))
        return [scores[row] for row in order.tolist()]

    train_ppo(a_config(**changes), RunDir(tmp_path / "shuffled"), PROMPTS, PROMPTS, shuffled)
    assert sum(true[-5:]) / 5 > 2.0 * sum(true[:5]) / 5
    assert sum(measured[-6:-1]) / 5 < 1.5 * sum(measured[1:6]) / 5


def test_same_seed_same_run_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = a_config(seed=seed, updates=2, tuning="lora")
        train_ppo(config, RunDir(tmp_path / name), PROMPTS, PROMPTS[:2], vowel_share)
    a, b, c = ((tmp_path / name / "model" / "adapter_model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(tuning: str, tmp_path: Path) -> None:
    config = a_config(updates=6, tuning=tuning, kl_target=0.5)
    expected = train_ppo(config, RunDir(tmp_path / "whole"), PROMPTS, PROMPTS[:2], vowel_share)
    calls = itertools.count()

    def deadly(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        if next(calls) == 6:  # in the fourth update; the checkpoint is after the second
            raise Killed
        return vowel_share(prompts, responses)

    killed = RunDir(tmp_path / "killed")
    with pytest.raises(Killed):
        train_ppo(config, killed, PROMPTS, PROMPTS[:2], deadly)
    result = train_ppo(config, killed, PROMPTS, PROMPTS[:2], vowel_share)
    assert result["resumed"] == 1
    ignored = {"seconds", "resumed"}
    assert {k: v for k, v in result.items() if k not in ignored} == {
        k: v for k, v in expected.items() if k not in ignored
    }
    last = [RunDir(tmp_path / name).latest_checkpoint() for name in ("whole", "killed")]
    states = [torch.load(path / "state.pt", weights_only=True) for path in last if path is not None]
    assert [state["update"] for state in states] == [6, 6]
    for part in ("weights", "best_weights"):
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])
    for name in ("objective/score", "ppo/grad_norm", "verify/score", "objective/kl_coef"):
        assert metrics_of(tmp_path / "whole", name) == metrics_of(tmp_path / "killed", name)


def test_told_to_stop_it_saves_a_checkpoint_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = threading.Event()
    monkeypatch.setattr(stopping, "_requested", requested)
    calls = itertools.count()

    def signalled(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        if next(calls) == 2:  # in the first update, after the value model's responses and the first look
            requested.set()
        return vowel_share(prompts, responses)

    run_dir, config = RunDir(tmp_path), a_config()
    with pytest.raises(stopping.Stopped):
        train_ppo(config, run_dir, PROMPTS, PROMPTS, signalled)
    checkpoint = run_dir.latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-000001"
    requested.clear()
    assert train_ppo(config, run_dir, PROMPTS, PROMPTS, vowel_share)["updates"] == 4


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    train_ppo(a_config(updates=2), RunDir(tmp_path), PROMPTS, PROMPTS, vowel_share)
    with pytest.raises(ModelError, match="start a new run"):
        train_ppo(a_config(updates=2, tuning="lora"), RunDir(tmp_path), PROMPTS, PROMPTS, vowel_share)


def test_the_best_look_is_what_is_saved(tmp_path: Path) -> None:
    looks = itertools.count()
    planned = [0.0, 5.0, 1.0]  # at updates 0, 2, 4: the second look is the best

    def reward(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        is_look = len(responses) == 32
        level = planned[next(looks)] if is_look else 0.0
        return [level + 0.1 * share for share in vowel_share(prompts, responses)]

    config = a_config(kl_coef=0.0)
    result = train_ppo(config, RunDir(tmp_path / "long"), PROMPTS, PROMPTS[:4], reward)
    assert result["best_update"] == 2
    assert result["reward_after"] == pytest.approx(5.0, abs=0.1)
    checkpoint = torch.load(tmp_path / "long/checkpoints/checkpoint-000002/state.pt", weights_only=True)
    saved = load_policy(config.base_model, str(tmp_path / "long" / "model"))
    for name, parameter in saved.named_parameters():
        assert torch.equal(parameter, checkpoint["weights"][name]), name


def test_the_models_manifest_and_the_sample_answers_are_written(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    result = train_ppo(a_config(), run_dir, PROMPTS, PROMPTS, vowel_share)
    verify_manifest(run_dir.model_dir)
    samples = [json.loads(line) for line in run_dir.output("samples.jsonl").read_text().splitlines()]
    assert {sample["update"] for sample in samples} == {0, 2, 4}
    assert result["stop_reason"] == "updates"
    json.dumps(result, allow_nan=False)


def test_kl_above_the_stop_ends_the_run_and_keeps_the_best(tmp_path: Path) -> None:
    config = a_config(updates=20, learning_rate=5e-2, kl_stop=0.5, verify_every=20)
    result = train_ppo(config, RunDir(tmp_path), PROMPTS, PROMPTS, vowel_share)
    assert result["stop_reason"] == "kl"
    assert result["stop_measured"] == pytest.approx(metrics_of(tmp_path, "objective/kl")[-1])
    assert result["stop_measured"] > result["stop_limit"] == 0.5
    assert result["updates"] < 20
    assert result["best_update"] == 0


def test_one_prompt_and_no_verification_prompts_are_enough(tmp_path: Path) -> None:
    result = train_ppo(a_config(updates=1), RunDir(tmp_path), PROMPTS[:1], [], vowel_share)
    assert result["updates"] == 1


# What it is given


def test_no_prompt_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompt"):
        train_ppo(a_config(), RunDir(tmp_path), [], [], vowel_share)


@pytest.mark.parametrize(
    ("answer", "message"), [([float("nan")], "no finite"), ([1.0, 2.0], "2 scores for 1")]
)
def test_a_reward_that_is_no_number_is_a_data_error(answer: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(lambda _prompts, _responses: answer, PROMPTS[:1], ["x"])


def test_a_reward_function_is_found_by_its_name() -> None:
    config = a_config(reward_model="tests.trainers.test_ppo:vowel_share")
    assert list(load_reward(config)(PROMPTS[:1], ["eeaa"])) == [0.5]


@pytest.mark.parametrize(
    "name", ["nowhere.module:function", "trainers.text:nothing", "trainers.text:REPETITIVE"]
)
def test_a_reward_function_that_cannot_be_used_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="needed is"):
        load_reward(a_config(reward_model=name))


def test_a_response_limit_beyond_the_models_context_is_a_config_error(a_trainer: Make) -> None:
    with pytest.raises(ConfigError, match="max_response_tokens"):
        a_trainer(max_response_tokens=510)


def test_seed_update_and_purpose_have_random_numbers_of_their_own() -> None:
    drawn = {
        float(torch.rand(1, generator=generator_for(seed, update, purpose)))
        for seed in (0, 1)
        for update in (1, 2)
        for purpose in ("rollout", "minibatches")
    }
    assert len(drawn) == 8


def test_every_prompt_comes_once_before_any_comes_again() -> None:
    items = list(range(5))
    seen = [item for update in range(1, 6) for item in prompts_of_update(items, 0, update, 3)]
    for start_ in range(0, 15, 5):
        assert sorted(seen[start_ : start_ + 5]) == items
    assert seen[:5] != seen[5:10]
