"""The example of docs/trainers.md, word for word but for its sizes: from JSON Lines to a comparison."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import tiny_model_dir
from trainers.conversations import encode_prompts, load_tokenizer
from trainers.records import Candidates, Comparison, Prompt, Ranking, Record, read_jsonl

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    page: (ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("trainers.md", "trainers.zh-CN.md")
}


def small() -> dict[str, str]:
    """What the page has, and what this test has in its place."""
    base = f'"base_model": "{tiny_model_dir()}", "max_prompt_tokens": 64, "max_response_tokens": 16'
    return {
        '"base_model": "scripts/base_model/weights"': f'{base}, "threads": 1',
        '"scripts/demo_prompts.csv"': f'"{ROOT}/scripts/demo_prompts.csv"',
        "texts[:120]": "texts[:24]",
        "updates=20": "updates=1, rollouts=4, minibatch_size=4",
    }


def blocks(page: str, *languages: str) -> list[tuple[str, str]]:
    found = re.findall(r"^```(\w+)\n(.*?)^```", PAGES[page], re.S | re.M)
    return [(language, text) for language, text in found if language in languages]


def example() -> list[tuple[str, str]]:
    return [block for block in blocks("trainers.md", "python", "bash") if "--help" not in block[1]]


def run_example(directory: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]) -> None:
    """From prompts to two models compared, in this directory, with these changes to the page's text."""
    monkeypatch.chdir(directory)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    session: dict[str, Any] = {}
    left = set(changes)
    for language, text in example():
        if language == "python":
            left -= {words for words in changes if words in text}
            for words, others in changes.items():
                text = text.replace(words, others)
            exec(text, session)  # noqa: S102  # the page's own code
            continue
        for line in text.splitlines():
            program, *words = shlex.split(line)
            assert program == ".venv/bin/python"
            done = subprocess.run(
                [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
    assert left == set()
    results = {
        path.parent.name: json.loads(path.read_text()) for path in Path("example").glob("*/result.json")
    }
    assert set(results) == {"generate", "reward", "ppo", "compare"}
    assert results["ppo"]["stop_reason"] == "updates"
    comparisons = read_jsonl(Path("example/compare/output/comparisons.jsonl"), Comparison)
    assert len(comparisons) == results["compare"]["comparisons"] > 0
    assert {comparison.after.policy for comparison in comparisons} == {"brief"}
    assert not any(comparison.seen for comparison in comparisons)


@pytest.mark.slow
def test_example_goes_from_prompts_to_two_models_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_example(tmp_path, monkeypatch, small())


def test_lines_of_the_page_are_records(tmp_path: Path) -> None:
    kinds: list[type[Record]] = [Prompt, Candidates, Ranking]
    records = []
    for kind, (_, line) in zip(kinds, blocks("trainers.md", "json"), strict=True):
        (tmp_path / "lines.jsonl").write_text(line, encoding="utf-8")
        records += read_jsonl(tmp_path / "lines.jsonl", kind)
    prompt = records[0]
    assert isinstance(prompt, Prompt)
    [ids] = encode_prompts(load_tokenizer(tiny_model_dir()), [prompt])
    text = load_tokenizer(tiny_model_dir()).decode(ids)
    said = ["You are a shop assistant.", "Which kettle for one person?", "The small one.", prompt.text]
    assert sorted(said, key=text.index) == said


def test_both_languages_show_the_same_code() -> None:
    assert blocks("trainers.md", "python", "bash", "json") == blocks(
        "trainers.zh-CN.md", "python", "bash", "json"
    )
