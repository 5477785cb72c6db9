from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny_models import tiny_model_dir
from trainers.compare import run
from trainers.config import CompareConfig
from trainers.conversations import load_tokenizer
from trainers.errors import ConfigError, DataError, ModelError
from trainers.records import Comparison, Prompt, read_jsonl, write_jsonl
from trainers.run_dir import RunDir

PROMPTS = [
    Prompt("p1", "How do I descale a kettle?", split="train"),
    Prompt("p2", "水壶怎么除垢？", split="unseen"),
    Prompt("p3", "Could we go for a walk in the park near the river?", split="verification"),
]


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with other weights."""
    directory = tmp_path_factory.mktemp("policy")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir())
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(directory)
    load_tokenizer(tiny_model_dir()).save_pretrained(str(directory))
    return str(directory)


def compare(
    path: Path, prompts: list[Prompt] | None = None, **changes: Any
) -> tuple[dict[str, Any], list[Comparison]]:
    run_dir = RunDir(path)
    write_jsonl(run_dir.input("prompts.jsonl"), PROMPTS if prompts is None else prompts)
    small = {"base_model": str(tiny_model_dir()), "max_response_tokens": 12, "after_id": "policy-team-1"}
    result = run(CompareConfig(**{**small, **changes}), run_dir)
    return result, read_jsonl(run_dir.output("comparisons.jsonl"), Comparison)


def test_each_prompt_has_both_answers(tmp_path: Path, other_model: str) -> None:
    result, comparisons = compare(tmp_path, after=other_model)
    assert [comparison.prompt for comparison in comparisons] == PROMPTS
    assert [(c.before.policy, c.after.policy) for c in comparisons] == [("base", "policy-team-1")] * 3
    assert all(c.before.prompt_id == c.after.prompt_id == c.prompt.id for c in comparisons)
    assert any(c.before.text != c.after.text for c in comparisons)
    assert result["comparisons"] == 3


def test_only_prompts_of_the_train_split_are_seen(tmp_path: Path) -> None:
    _, comparisons = compare(tmp_path)
    assert [comparison.seen for comparison in comparisons] == [True, False, False]


def test_response_that_leaves_no_room_for_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"leaves .* tokens of the model's context .* set it lower"):
        compare(tmp_path, max_response_tokens=100_000)


def test_the_same_model_gives_the_same_greedy_answer_in_any_company(tmp_path: Path) -> None:
    _, together = compare(tmp_path / "together")
    _, alone = compare(tmp_path / "alone", PROMPTS[1:2], batch_size=1, seed=7)
    assert [c.before.text for c in together] == [c.after.text for c in together]
    assert alone[0].before.text == together[1].before.text


def test_a_repeated_run_gives_the_same_comparison_ids(tmp_path: Path, other_model: str) -> None:
    _, first = compare(tmp_path / "first", after=other_model)
    _, second = compare(tmp_path / "second", after=other_model)
    _, later = compare(tmp_path / "later", after=other_model, after_id="policy-team-2")
    ids = [comparison.id for comparison in first]
    assert ids == [comparison.id for comparison in second]
    assert set(ids).isdisjoint(comparison.id for comparison in later)
    assert all(re.fullmatch(r"c[0-9a-f]{12}", comparison_id) for comparison_id in ids)


def test_result_holds_lengths_and_the_garbled_share(tmp_path: Path, other_model: str) -> None:
    result, comparisons = compare(tmp_path, after=other_model)
    assert result["length_before"] == round(sum(len(c.before.text) for c in comparisons) / 3, 1)
    assert result["length_after"] == round(sum(len(c.after.text) for c in comparisons) / 3, 1)
    unfinished = sum(not c.after.finished for c in comparisons)
    assert unfinished / 3 - 0.001 <= result["garbled_after"] <= 1


def test_no_prompts_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose some"):
        compare(tmp_path, [])


def test_a_missing_policy_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        compare(tmp_path, after=str(tmp_path / "nowhere"))
