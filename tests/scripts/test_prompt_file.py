"""Prompt files as people bring them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from backend.errors import PromptFileError
from scripts.prompt_file import MOST_PROMPTS, read_prompt_file, read_prompts, write_prompts
from trainers.text import language

DEMO = Path("scripts/demo_prompts.csv")


def file(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "prompt\n你好\n\nHow are you?\n你好\n"),
        ("p.csv", "id,prompt\n1,你好\n2,How are you?\n3,\n"),
        ("p.csv", "\ufeff题目\r\n你好\r\nHow are you?\r\n"),
        ("p.csv", "prompt\n你好\nHow are you?\n".encode("gb18030")),
        ("p.tsv", "prompt\tnote\n你好\tx\nHow are you?\ty\n"),
        ("p.txt", "你好\n\n  How are you?  \n"),
        ("p.txt", "你好\nHow are you?".encode("utf-16")),
        ("p.json", '["你好", "How are you?", ""]'),
        ("p.json", '[{"prompt": "你好"}, {"text": "How are you?"}]'),
        ("p.jsonl", '{"prompt": "你好"}\n\n{"question": "How are you?"}\n'),
    ],
)
def test_every_common_form_gives_the_distinct_prompts(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    assert read_prompts(file(tmp_path, name, content)) == ["你好", "How are you?"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "title,body\na,b\n", "`title`, `body`; needed is a column named `prompt`"),
        ("p.csv", "", "is empty; needed is a column named `prompt`"),
        ("p.csv", "prompt\n\n", "holds no prompt"),
        ("p.txt", b"\xff\x00\xff\xff\x81", "save it as UTF-8"),
        ("p.json", '{"prompt": "a"}', "is no list"),
        ("p.json", '["a", 3]', "line 2: there is no text under `prompt`"),
        ("p.jsonl", '{"prompt": "a"}\n{broken\n', "line 2 is no JSON"),
        ("p.txt", "a\n" + "x" * 4001, "line 2: the prompt is longer than 4000 characters"),
        ("p.csv", "prompt,history\na,b\n", "line 2: `history` is no conversation; needed is [{"),
        ("p.xlsx", b"PK\x03\x04", "needed is .csv"),
    ],
)
def test_unusable_file_is_refused_and_says_why(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(PromptFileError) as error:
        read_prompts(file(tmp_path, name, content))
    assert message in str(error.value)


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


@pytest.mark.parametrize("name", ["p.csv", "p.json", "p.jsonl"])
def test_system_message_and_earlier_turns_come_with_the_prompt(tmp_path: Path, name: str) -> None:
    entry = {"prompt": "And then?", "system": "Be brief.", "history": TURNS}
    if name == "p.csv":
        path = tmp_path / name
        with path.open("w", newline="") as out:
            csv.writer(out).writerows(
                [list(entry), ["And then?", "Be brief.", json.dumps(TURNS)], ["And then?", "", ""]]
            )
    else:
        both = [entry, {"prompt": "And then?"}]
        lines = json.dumps(both) if name == "p.json" else "\n".join(map(json.dumps, both))
        path = file(tmp_path, name, lines)
    whole, bare = read_prompt_file(path).prompts
    assert (whole.text, whole.system) == ("And then?", "Be brief.")
    assert [turn.to_json() for turn in whole.history] == TURNS
    assert (bare.text, bare.system, bare.history) == ("And then?", "", ())
    assert read_prompts(path) == ["And then?"]


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="No such file"):
        read_prompts(tmp_path / "none.csv")


def test_too_many_prompts_are_refused(tmp_path: Path) -> None:
    path = file(tmp_path, "p.txt", "".join(f"prompt {n}\n" for n in range(MOST_PROMPTS + 1)))
    with pytest.raises(PromptFileError, match="a workspace takes at most 10000"):
        read_prompts(path)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    prompts = ['Say "hi", please', "逗号，和,逗号", "=1+1"]
    write_prompts(tmp_path / "p.csv", prompts)
    assert read_prompts(tmp_path / "p.csv") == prompts


def test_demo_prompts_are_half_chinese_and_half_english() -> None:
    languages = [language(prompt) for prompt in read_prompts(DEMO)]
    assert (languages.count("zh"), languages.count("en")) == (80, 80)


def test_no_demo_prompt_is_a_question_of_the_exam() -> None:
    """The exam asks in words that nothing else uses."""
    exam = yaml.safe_load(Path("scripts/base_model/exam.yaml").read_text(encoding="utf-8"))
    asked = {
        question for intent in exam.values() for name in ("zh", "en") for question in intent.get(name, [])
    }
    assert asked
    assert not asked & set(read_prompts(DEMO))
