from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.errors import RecordError
from trainers.records import (
    Candidates,
    Comparison,
    Message,
    Prompt,
    Ranking,
    Response,
    read_jsonl,
    write_jsonl,
)

PROMPT = Prompt(
    "p1",
    "水壶怎么除垢？",
    "请简短回答。",
    (Message("user", "你好"), Message("assistant", "你好！")),
    "unseen",
)
BEFORE = Response("a1", "p1", "倒入白醋。", "base", flags=("near_duplicate",))
AFTER = Response("a2", "p1", "line one\nline two\u2028line three", "policy-team-1", finished=False)


@pytest.mark.parametrize(
    "record",
    [
        PROMPT,
        Candidates(PROMPT, (BEFORE, AFTER)),
        Ranking("r1", "p1", "anna", (("a1",), ("a2", "a3")), close=True),
        Comparison("c1", PROMPT, True, BEFORE, AFTER),
    ],
    ids=lambda record: type(record).__name__,
)
def test_record_survives_the_file(record: Prompt, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_jsonl(path, [record, record])
    assert read_jsonl(path, type(record)) == [record, record]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("text") / "prompts.jsonl"
    write_jsonl(path, [Prompt("p1", text)])
    assert read_jsonl(path, Prompt)[0].text == text


def test_half_a_surrogate_pair_does_not_stop_the_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", [Prompt("p1", "cut \ud83d off")])
    assert read_jsonl(tmp_path / "prompts.jsonl", Prompt)[0].text == "cut ? off"


def test_missing_file_names_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="JSON Lines file with a `Ranking` a line"):
        read_jsonl(tmp_path / "rankings.jsonl", Ranking)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "null",
        '{"id": "p1"}',
        '{"id": "p1", "text": "x", "extra": 1}',
        '{"id":"p1","text":"x","history":[1]}',
        '{"id":"p1","text":"x","history":[{"role":"system","content":"y"}]}',
        '{"id":"p1","text":7}',
        '{"id":"p1","text":null}',
    ],
)
def test_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "p0", "text": "fine"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(RecordError, match="line 3 is no `Prompt`"):
        read_jsonl(path, Prompt)


def test_byte_order_mark_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "p1", "text": "x"}\n\n   \n')
    assert read_jsonl(path, Prompt) == [Prompt("p1", "x")]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    write_jsonl(path, [PROMPT])
    with pytest.raises(AttributeError):
        write_jsonl(path, [PROMPT, None])  # type: ignore[list-item]
    assert read_jsonl(path, Prompt) == [PROMPT]


def test_a_misspelt_split_is_named_with_what_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "p1", "text": "x", "split": "trian"}\n', encoding="utf-8")
    with pytest.raises(RecordError, match="`split` is `trian`; needed is one of train, verification, unseen"):
        read_jsonl(path, Prompt)
