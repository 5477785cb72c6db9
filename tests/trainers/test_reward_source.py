from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.tiny_models import tiny_model_dir
from tests.trainers.test_models import change
from tests.trainers.test_models import saved as saved_policy
from trainers import stopping
from trainers.__main__ import EXIT_USER, main
from trainers.adapters import ADAPTER_FILE
from trainers.config import PPOConfig, RewardConfig
from trainers.conversations import encode_conversations, load_tokenizer
from trainers.errors import ConfigError, ModelError, RecordError, ScorerError
from trainers.models import pad
from trainers.records import Prompt, write_jsonl
from trainers.reward_model import centre_heads, head_scores, new_reward_model, save_reward_model
from trainers.reward_source import load_reward, score
from trainers.run_dir import RunDir
from trainers.trainable_policy import REWARD, load_trainable_policy

PROMPTS = [Prompt("p1", "How do I descale a kettle?"), Prompt("p2", "水壶怎么除垢？")]
RESPONSES = ["Pour in vinegar.", "倒入白醋。"]


def saved(directory: Path, ensemble: int) -> tuple[str, list[list[float]]]:
    """A reward model's directory, and each head's score of the responses."""
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir()), ensemble=ensemble))
    rows = encode_conversations(reward.tokenizer, PROMPTS, RESPONSES)
    centre_heads(reward, rows[:1], 1)
    save_reward_model(reward, directory)
    return str(directory), head_scores(reward, rows, 2).tolist()


def scores_with(reward_model: str, penalty: float) -> Sequence[float]:
    config = PPOConfig(
        base_model=str(tiny_model_dir()), reward_model=reward_model, disagreement_penalty=penalty
    )
    return load_reward(config)(PROMPTS, RESPONSES)


def test_what_the_heads_disagree_about_scores_lower_by_the_penalty(tmp_path: Path) -> None:
    directory, by_head = saved(tmp_path, 3)
    means = [sum(heads) / 3 for heads in by_head]
    # twice the root of Σ(head − mean)² / (3 − 1)
    deviations = [
        (sum((head - mean) ** 2 for head in heads) / 2) ** 0.5
        for heads, mean in zip(by_head, means, strict=True)
    ]
    expected = [mean - 2 * deviation for mean, deviation in zip(means, deviations, strict=True)]
    assert list(scores_with(directory, 2.0)) == pytest.approx(expected, abs=1e-5)
    assert list(scores_with(directory, 0.0)) == pytest.approx(means, abs=1e-5)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_reward_model_of_another_family_reads_with_its_own_tokenizer(tuning: str, tmp_path: Path) -> None:
    other = str(tiny_model_dir("qwen2"))
    reward, _ = new_reward_model(RewardConfig(base_model=other, tuning=tuning, ensemble=2))  # type: ignore[arg-type]
    rows = encode_conversations(reward.tokenizer, PROMPTS, RESPONSES)
    assert rows != encode_conversations(load_tokenizer(tiny_model_dir()), PROMPTS, RESPONSES)
    expected = head_scores(reward, rows, 2).mean(dim=1).tolist()
    save_reward_model(reward, tmp_path)
    config = PPOConfig(
        base_model=str(tiny_model_dir()),
        reward_model=str(tmp_path),
        reward_base_model=other if tuning == "lora" else "",  # full weights need no base
    )
    assert list(load_reward(config)(PROMPTS, RESPONSES)) == pytest.approx(expected, abs=1e-5)
    assert max(abs(score) for score in expected) > 1e-2


def test_reward_model_with_a_tokenizer_of_its_own_reads_answers_to_their_end(tmp_path: Path) -> None:
    """Its tokens are other ones, and the policy's limits are no limits of them."""
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir("qwen2")), ensemble=2))
    save_reward_model(reward, tmp_path)
    config = PPOConfig(base_model=str(tiny_model_dir()), reward_model=str(tmp_path), max_response_tokens=4)
    kind, rude = load_reward(config)([PROMPTS[1]] * 2, ["我们随时为您服务，谢谢", "我们随时为您服务，滚开"])
    assert abs(kind - rude) > 1e-3


@pytest.mark.parametrize("start", ["base", "adapter", "full weights"])
@pytest.mark.parametrize("ensemble", [1, 3])
def test_reward_adapter_scores_on_the_policys_base(start: str, ensemble: int, tmp_path: Path) -> None:
    """The same scores as on a base of its own, which is needed where the policy starts from full weights."""
    base = str(tiny_model_dir())
    reward, _ = new_reward_model(RewardConfig(base_model=base, tuning="lora", ensemble=ensemble))
    with torch.no_grad():
        for name, parameter in reward.named_parameters():
            if "lora_B" in name or "score" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    centre_heads(reward, encode_conversations(reward.tokenizer, PROMPTS[:1], RESPONSES[:1]), 1)
    save_reward_model(reward, tmp_path / "reward")
    config = PPOConfig(base_model=base, reward_model=str(tmp_path / "reward"), lora_rank=4)
    if start != "base":
        tuning: Any = "lora" if start == "adapter" else "full"
        first = load_trainable_policy(dataclasses.replace(config, tuning=tuning))
        change(first)
        config = dataclasses.replace(config, start_policy=str(saved_policy(first, tmp_path / "start")))
    policy = load_trainable_policy(config)
    change(policy)
    trained = policy.trainable_state().keys()
    ids, mask = pad([[5, 6, 7, 8]], 0, "left")
    before = policy.hidden(ids, mask).detach()

    expected = list(load_reward(config)(PROMPTS, RESPONSES))
    assert list(load_reward(config, policy)(PROMPTS, RESPONSES)) == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 0.1
    assert policy.has_adapter(REWARD) == (start != "full weights")
    assert torch.equal(policy.hidden(ids, mask), before)
    assert policy.trainable_state().keys() == trained
    assert not any("reward" in name for name in trained)


def test_reward_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir()), tuning="lora"))
    save_reward_model(reward, tmp_path)
    weights = load_file(tmp_path / ADAPTER_FILE)
    moved = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in weights.items()}
    save_file(moved, tmp_path / ADAPTER_FILE)
    config = PPOConfig(base_model=str(tiny_model_dir()), reward_model=str(tmp_path))
    with pytest.raises(ModelError, match="no adapter on this base model"):
        load_trainable_policy(config)


def test_reward_model_of_any_maker_needs_no_file_of_ours(tmp_path: Path) -> None:
    source = tiny_model_dir("qwen3")
    classifier = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1)
    torch.nn.init.normal_(classifier.score.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    classifier.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(tmp_path)
    conversations = [
        [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": response}]
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    expected = []
    for conversation in conversations:
        text = tokenizer.apply_chat_template(conversation, tokenize=False).removesuffix("\n")
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = classifier.model(input_ids=ids).last_hidden_state[0, -1]
            expected.append(float(classifier.score(hidden)))
    assert list(scores_with(str(tmp_path), 0.0)) == pytest.approx(expected, abs=1e-5)


def test_penalty_without_an_ensemble_is_a_config_error(tmp_path: Path) -> None:
    directory, _ = saved(tmp_path, 1)
    with pytest.raises(ConfigError, match="`ensemble` of 2 or more"):
        scores_with(directory, 0.5)
    with pytest.raises(ConfigError, match="`ensemble` of 2 or more"):
        scores_with("tests.trainers.test_ppo:vowel_share", 0.5)


# A Python function

Write = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module onto the import path and gives the name of its function `f`."""

    def write(source: str) -> str:
        (tmp_path / "reward_in_a_test.py").write_text(source, encoding="utf-8")
        return "reward_in_a_test:f"

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "reward_in_a_test", raising=False)
    yield write
    sys.modules.pop("reward_in_a_test", None)


def scored_by(name: str) -> list[float]:
    config = PPOConfig(base_model=str(tiny_model_dir()), reward_model=name)
    return score(load_reward(config), PROMPTS, RESPONSES).tolist()


@pytest.mark.parametrize(
    "given",
    [
        "[1, 0.5]",
        "(1, 0.5)",
        "torch.tensor([1, 0.5], requires_grad=True).detach()",
        "torch.tensor([[1], [0.5]])",
        "torch.tensor([1, 0.5]).numpy()",
        "(x / 2 for x in (2, 1))",
        "[True, 0.5]",
    ],
)
def test_scores_of_a_function_are_any_numbers(given: str, module: Write) -> None:
    assert scored_by(module(f"import torch\ndef f(prompts, responses):\n    return {given}")) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("None", "gave a `NoneType`; needed is a list of 2 numbers"),
        ("0.5", "gave a `float`"),
        ("torch.tensor(0.5)", "gave a `Tensor`"),
        ("'12'", "gave a `str`"),
        ("dict(zip((1, 2), responses))", "gave a `dict`"),
        ("{1.0, 2.0}", "gave a `set`"),
        ("list(responses)", "gave a `str` as a score"),
        ("['0.5', 1]", "gave a `str` as a score"),
        ("[None, 1]", "gave a `NoneType` as a score"),
        ("torch.zeros(2, 2)", "gave a `Tensor` as a score"),
        ("[1]", "1 scores for 2 responses"),
        ("[1e39, 0]", "1 of 2 scores that are no finite number"),
        ("[0, -1e39]", "1 of 2 scores that are no finite number"),
        ("[1e308, 10**400]", "2 of 2 scores that are no finite number"),
        ("[-10**5000, float('inf')]", "2 of 2 scores that are no finite number"),
    ],
)
def test_what_a_function_gives_instead_of_scores_is_told(given: str, found: str, module: Write) -> None:
    name = module(f"import torch\ndef f(prompts, responses):\n    return {given}")
    with pytest.raises(ScorerError, match=found) as caught:
        scored_by(name)
    assert RESPONSES[0] not in str(caught.value)


def test_the_greatest_float32_is_a_score(module: Write) -> None:
    greatest = torch.finfo(torch.float32).max
    assert scored_by(module(f"def f(p, r): return [{greatest}, {-greatest}]")) == [greatest, -greatest]


def test_a_function_that_raises_is_told_by_type_and_place_alone(module: Write) -> None:
    name = module("def f(prompts, responses):\n    return g(responses)\ndef g(r): raise KeyError(r[0])")
    with pytest.raises(ScorerError) as caught:
        scored_by(name)
    assert "`reward_in_a_test:f` raised `KeyError` at `" in str(caught.value)
    assert "reward_in_a_test.py`, line 3;" in str(caught.value)
    assert RESPONSES[0] not in "".join(traceback.format_exception(caught.value))


def test_a_generator_that_raises_is_told_too(module: Write) -> None:
    name = module("def f(prompts, responses):\n    for r in responses:\n        yield float(r)")
    with pytest.raises(ScorerError, match=r"`ValueError` at `.*reward_in_a_test.py`, line 3;") as caught:
        scored_by(name)
    assert RESPONSES[0] not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "arguments",
    ["responses", "prompts, responses, more", "prompts, responses, *, more", "*, prompts, responses"],
)
def test_a_function_of_other_arguments_is_a_config_error(arguments: str, module: Write) -> None:
    with pytest.raises(ConfigError, match=r"takes other arguments; needed is `\(prompts, responses\)"):
        scored_by(module(f"def f({arguments}): return [1, 2]"))


@pytest.mark.parametrize("arguments", ["*both", "p, r, more=1", "prompts, responses, **rest"])
def test_a_function_may_take_more_than_it_is_given(arguments: str, module: Write) -> None:
    assert scored_by(module(f"def f({arguments}): return [1, 2]")) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("source", "fault", "line"),
    [
        ("x = 1\ndef f(: SECRET", "SyntaxError", 2),
        ("x = 1\n\nSECRET", "NameError", 3),
        ("def f(p, r): return [1, 2]\nraise RuntimeError('SECRET')", "RuntimeError", 2),
        ("import os\nos.environ['SECRET']", "KeyError", 2),  # raised in a module of Python itself
        ("\nimport no_such_SECRET", "ModuleNotFoundError", 2),
        ("from os import no_such_SECRET", "ImportError", 1),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_by_type_and_place_alone(
    source: str, fault: str, line: int, module: Write
) -> None:
    with pytest.raises(
        ConfigError, match=f"`{fault}` at `.*reward_in_a_test.py`, line {line}; needed is"
    ) as caught:
        scored_by(module(source))
    assert "SECRET" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_module_and_a_function_that_are_not_there_are_told(module: Write) -> None:
    with pytest.raises(ConfigError, match=r"no module `no_such\.module` on the import path; needed is"):
        scored_by("no_such.module:f")
    with pytest.raises(ConfigError, match="`reward_in_a_test` holds no function `f`; needed is"):
        scored_by(module("f = 1"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, stopping.Stopped, RecordError])
def test_an_end_and_an_error_of_ours_go_through(error: type[BaseException], module: Write) -> None:
    raising = f"from {error.__module__} import {error.__name__} as E\n"
    with pytest.raises(error):
        scored_by(module(raising + "raise E"))
    with pytest.raises(error):
        scored_by(module(raising + "def f(p, r): raise E"))


def test_a_fault_of_our_own_scoring_is_not_taken_for_the_scorers() -> None:
    with pytest.raises(KeyError):
        score(lambda _prompts, _responses: {}["ours"], PROMPTS, RESPONSES)


@pytest.mark.parametrize(
    "source",
    ["def f(p, r): raise ValueError(r[0], 'SECRET')", "raise ValueError('SECRET')", "f = lambda p, r: None"],
)
def test_a_run_ends_with_one_line_and_without_what_the_function_saw(
    source: str,
    module: Write,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopping, "install", lambda: None)  # leave the test process's signals alone
    config = {"base_model": str(tiny_model_dir()), "reward_model": module(source), "updates": 1}
    run_dir = RunDir(tmp_path / "run")
    write_jsonl(run_dir.input("prompts.jsonl"), PROMPTS)
    write_jsonl(run_dir.input("verification.jsonl"), PROMPTS)
    run_dir.config_path.write_text(json.dumps(config), encoding="utf-8")
    assert main(["ppo", "--run-dir", str(run_dir.path)]) == EXIT_USER
    told = capfd.readouterr().err + run_dir.error_path.read_text(encoding="utf-8")
    assert "SECRET" not in told
    assert "Traceback" not in told
    assert "needed is" in told
