"""Two processes under torchrun against one: the same gradient, the same run, the same end.

The processes are real. torchrun starts this module itself as a program (`work`), and the command with it.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from tests.tiny_models import SENTENCES, tiny_model_dir
from trainers import stopping
from trainers.adapters import ADAPTER_FILE
from trainers.config import PPOConfig, RewardConfig
from trainers.distributed import ALONE, joined
from trainers.errors import ConfigError, DataError, ModelError, RunError, TrainerError
from trainers.ppo import backward, collect, train_ppo
from trainers.ppo_run import start
from trainers.ppo_state import TrainingState
from trainers.records import Prompt, write_jsonl
from trainers.reward_model import new_reward_model, save_reward_model
from trainers.run_dir import RunDir
from trainers.trainable_policy import load_trainable_policy

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(SENTENCES)]
BATCHES = [8, 7, 1]
"""Even, odd, and a batch in which the second process has no row."""
pytestmark = pytest.mark.slow
NOISE = {"time/rollout_s", "time/update_s"}


def a_config(base_model: str | Path, **changes: Any) -> PPOConfig:
    values = {
        "base_model": str(base_model),
        "reward_model": "tests.trainers.test_distributed:vowel_share",
        "tuning": "lora",
        "seed": 2,  # none of its random numbers lies so close to the next token's that rounding decides
        "threads": 1,
        "updates": 4,
        "rollouts": 7,
        "minibatch_size": 3,
        "micro_batch_size": 2,
        "batch_size": 3,
        "max_response_tokens": 24,
        "learning_rate": 1e-3,
        "kl_target": 0.5,
        "max_garbled": 1.0,
        "verify_every": 2,
        "checkpoint_every": 2,
        "epoch_kl_stop": 1e3,
        "kl_stop": 1e3,
    }
    return PPOConfig(**{**values, **changes})


def vowel_share(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    return [response.count("e") / max(len(response), 1) for response in responses]


def at_call(number: int, act: Callable[[], None]) -> Callable[..., list[float]]:
    """`vowel_share`, which does something else first when it is called for the `number`th time."""
    calls = itertools.count(1)

    def reward(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        if next(calls) == number:
            act()
        return vowel_share(prompts, responses)

    return reward


killing = at_call(6, lambda: os.kill(os.getpid(), signal.SIGKILL) if os.environ.get("RANK") == "1" else None)
"""Kills the second process in the third update; looks at the start and after two updates ask as well."""


def gradient_of(directory: Path, base_model: str, rollouts: int) -> dict[str, Any]:
    """One update's experience and the gradient of its only mini-batch."""
    config = a_config(base_model, rollouts=rollouts, minibatch_size=rollouts, tuning="full")
    trainer, _ = start(config, RunDir(directory), vowel_share)
    with trainer.metrics:
        state = TrainingState(kl_coef=0.1, update=1)
        experience = collect(trainer, state, (PROMPTS * 2)[:rollouts])
        sums = backward(trainer, experience, list(range(rollouts)))
    named = trainer.policy.named_parameters()
    return {
        "gradient": {name: p.grad for name, p in named if p.requires_grad},
        "means": sums / sums[-1],
        "advantages": experience.advantages,
        "returns": experience.returns,
        "tokens": experience.rollout.response_ids,
        "moments": (state.moments.count, state.moments.mean, state.moments.squares),
    }


# What torchrun starts


def work(out: Path, base_model: str) -> None:
    """Everything that needs two processes, in one start of them; what each has seen goes to `out`.

    Each has run directories of its own, so that what it writes is known.
    """
    stopping.install()
    with joined() as group:
        own = out / f"rank{group.rank}"
        seen: dict[str, Any] = {f"batch{n}": gradient_of(own / "gradient", base_model, n) for n in BATCHES}
        seen["whole"] = train(a_config(base_model, tuning="full"), own / "whole", vowel_share)
        killed = out / "killed" if group.is_main else own / "killed"
        seen["resumed"] = train(a_config(base_model), killed, vowel_share)
        sharded = a_config(base_model, shard_base=True, updates=2, reward_model=str(out / "reward"))
        seen["sharded"] = train(sharded, own / "sharded", None)
        seen["base"] = sharded_base(own / "base", base_model)
        failing = {"error": DataError("from one process"), "bug": ZeroDivisionError("from one process")}
        for name, error in failing.items():
            reward = at_call(3, lambda error=error: fail(error)) if group.rank == 1 else vowel_share
            seen[name] = end_of_training(a_config(base_model), own / name, reward)
        told = at_call(3, lambda: os.kill(os.getpid(), signal.SIGTERM)) if group.rank == 1 else vowel_share
        seen["stopped"] = end_of_training(a_config(base_model), own / "stopped", told)
    torch.save(seen, out / f"rank{group.rank}.pt")


def sharded_base(directory: Path, base_model: str) -> dict[str, Any]:
    """How many base weights there are, and a process holds: at rest, and while the last layer computes."""
    trainer, _ = start(a_config(base_model, shard_base=True), RunDir(directory), vowel_share)
    layers: Any = trainer.policy.trunk.get_submodule("layers")
    base = [parameter for name, parameter in layers.named_parameters() if "lora_" not in name]
    seen = {"whole": sum(p.numel() for p in base), "kept": sum(p.to_local().numel() for p in base)}

    def held(*_: Any) -> None:
        weights = [p for name, p in layers.named_parameters() if "lora_" not in name]
        seen["held"] = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in weights)

    with trainer.metrics:
        layers[-1].mlp.register_forward_hook(held)
        experience = collect(trainer, TrainingState(kl_coef=0.1, update=1), PROMPTS)
        backward(trainer, experience, list(range(len(PROMPTS))))
    return seen


def train(config: PPOConfig, directory: Path, reward: Any) -> dict[str, Any]:
    return train_ppo(config, RunDir(directory), PROMPTS, PROMPTS[:2], reward)


def end_of_training(config: PPOConfig, directory: Path, reward: Any) -> dict[str, Any]:
    try:
        return train(config, directory, reward)
    except (TrainerError, ZeroDivisionError, stopping.Stopped) as error:
        return {"raised": type(error).__name__, "message": str(error)}


def fail(error: Exception) -> None:
    raise error


# What is expected of them


class Killed(BaseException):
    """Stands for kill -9."""


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*program, "-m", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind, one of their runs begun and killed here."""
    directory = tmp_path_factory.mktemp("distributed")
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir()), tuning="lora"))
    torch.nn.init.normal_(cast(Any, reward.classifier).score.weight, std=0.3)
    save_reward_model(reward, directory / "reward")
    with pytest.raises(Killed):
        config = a_config(tiny_model_dir())
        reward = at_call(6, lambda: fail(Killed()))  # in the third update
        train(config, directory / "killed", reward)
    ended = torchrun("tests.trainers.test_distributed", str(directory), str(tiny_model_dir()))
    assert ended.returncode == 0, ended.stderr
    return directory


@pytest.fixture(scope="module")
def seen(out: Path) -> list[dict[str, Any]]:
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def alone(directory: Path, **changes: Any) -> dict[str, Any]:
    return train(a_config(tiny_model_dir(), **changes), directory, vowel_share)


def assert_same_run(run_dir: Path, result: dict[str, Any], other_dir: Path, other: dict[str, Any]) -> None:
    for name in ("updates", "stop_reason", "best_update"):
        assert result[name] == other[name]
    assert len(result["looks"]) == len(other["looks"]) >= 2
    for look, expected in zip(result["looks"], other["looks"], strict=True):
        numbers = {name: value for name, value in expected.items() if value is not None}
        assert {name: look[name] for name in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-5)
    lines, others = (measurements(directory) for directory in (run_dir, other_dir))
    assert len(lines) == len(others) == result["updates"] + len(result["looks"])
    for line, expected in zip(lines, others, strict=True):
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-5)


def measurements(run_dir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    found = [line["metrics"] for line in lines if "metrics" in line]
    return [{name: value for name, value in line.items() if name not in NOISE} for line in found]


@pytest.mark.parametrize("rollouts", BATCHES)
def test_gradient_and_whole_batch_numbers_are_those_of_one_process(
    rollouts: int, seen: list[dict[str, Any]], tmp_path: Path
) -> None:
    expected = gradient_of(tmp_path, str(tiny_model_dir()), rollouts)
    assert max(float(g.abs().max()) for g in expected["gradient"].values()) > 1e-3
    for rank in (0, 1):
        found = seen[rank][f"batch{rollouts}"]
        assert torch.equal(found["tokens"], expected["tokens"])
        for name in ("means", "advantages", "returns"):
            assert torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-6), name
        assert found["moments"] == pytest.approx(expected["moments"])
        for name, gradient in expected["gradient"].items():
            difference = (found["gradient"][name] - gradient).abs().max()
            assert difference <= 1e-5 * gradient.abs().max(), name


def test_gradients_of_all_processes_are_bitwise_equal(seen: list[dict[str, Any]]) -> None:
    for rollouts in BATCHES:
        first, second = (ranks[f"batch{rollouts}"]["gradient"] for ranks in seen)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_whole_run_is_that_of_one_process(out: Path, seen: list[dict[str, Any]], tmp_path: Path) -> None:
    result = alone(tmp_path, tuning="full")
    assert_same_run(out / "rank0" / "whole", seen[0]["whole"], tmp_path, result)
    assert seen[1]["whole"] == seen[0]["whole"]


def test_killed_run_goes_on_in_two_processes(out: Path, seen: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [ranks["resumed"]["resumed"] for ranks in seen] == [1, 1]
    assert_same_run(out / "killed", seen[0]["resumed"], tmp_path, alone(tmp_path))


def test_run_on_a_sharded_base_is_that_of_one_process(
    out: Path, seen: list[dict[str, Any]], tmp_path: Path
) -> None:
    config = a_config(tiny_model_dir(), updates=2, reward_model=str(out / "reward"))
    result = train(config, tmp_path, None)
    assert_same_run(out / "rank0" / "sharded", seen[0]["sharded"], tmp_path, result)
    models = [load_file(path / "model" / ADAPTER_FILE) for path in (out / "rank0" / "sharded", tmp_path)]
    assert models[0].keys() == models[1].keys()
    assert all(torch.allclose(models[0][name], models[1][name], atol=1e-5) for name in models[1])


def test_each_process_keeps_its_part_of_a_sharded_base_and_puts_one_layer_together(
    seen: list[dict[str, Any]],
) -> None:
    for base in (ranks["base"] for ranks in seen):
        assert base["kept"] == base["whole"] // 2
        assert base["held"] == base["whole"] // 2 + base["whole"] // 4  # the model has two layers


def test_full_weights_are_not_sharded() -> None:
    with pytest.raises(ConfigError, match="`lora` with `shard_base`"):
        a_config(tiny_model_dir(), shard_base=True, tuning="full")
    config = a_config(tiny_model_dir(), shard_base=True, start_policy=str(tiny_model_dir()))
    with pytest.raises(ModelError, match="name it as `base_model`"):
        load_trainable_policy(config, shards=2)


def test_only_the_main_process_writes(out: Path) -> None:
    assert (out / "rank0" / "whole" / "model" / "manifest.json").is_file()
    assert [path for path in (out / "rank1").rglob("*") if path.is_file()] == []


def test_error_of_one_process_ends_all(seen: list[dict[str, Any]]) -> None:
    told = {"raised": "DataError", "message": "from one process"}
    assert [ranks["error"] for ranks in seen] == [told, told]
    assert seen[1]["bug"] == {"raised": "ZeroDivisionError", "message": "from one process"}
    assert seen[0]["bug"]["raised"] == "RunError"
    assert "process 1 of 2 failed: ZeroDivisionError" in seen[0]["bug"]["message"]


def test_stop_of_one_process_ends_all_after_the_same_update(out: Path, seen: list[dict[str, Any]]) -> None:
    assert [ranks["stopped"]["raised"] for ranks in seen] == ["Stopped", "Stopped"]
    checkpoint = RunDir(out / "rank0" / "stopped").latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-000001"


def test_command_ends_with_a_killed_process_and_goes_on_in_one(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "ppo-1")
    write_jsonl(run_dir.input("prompts.jsonl"), PROMPTS)
    write_jsonl(run_dir.input("verification.jsonl"), PROMPTS[:2])
    config = a_config(tiny_model_dir(), reward_model="tests.trainers.test_distributed:killing")
    run_dir.config_path.write_text(json.dumps(config.to_json()))
    ended = torchrun("trainers", "ppo", "--run-dir", str(run_dir.path))
    assert ended.returncode != 0
    error = json.loads(run_dir.error_path.read_text())
    assert error["type"] == "RunError"
    assert "another process of this run has ended" in error["message"]
    checkpoint = run_dir.latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-000002"
    assert_same_run(run_dir.path, alone(run_dir.path), tmp_path, alone(tmp_path))


def test_one_process_alone_does_nothing_special() -> None:
    with joined() as group:
        assert group is ALONE
        assert group.share([1, 2, 3]) == [1, 2, 3]
        with pytest.raises(RunError, match="as it is"):
            group.on_main(lambda: fail(RunError("as it is")))


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
