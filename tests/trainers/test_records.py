from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

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
    Record,
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


def refusal(path: Path, content: bytes, kind: type[Record] = Prompt) -> str:
    """What `read_jsonl` says of a file with this content."""
    path = path / "records.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        read_jsonl(path, kind)
    assert f"`{path}` line " in str(caught.value)
    return str(caught.value).removeprefix(f"`{path}` ")


def refusal_of(path: Path, kind: type[Record], **fields: Any) -> str:
    """What `read_jsonl` says of one record with these fields, after the name of its line."""
    said = refusal(path, json.dumps(fields).encode(), kind)
    return said.removeprefix(f"line 1 is no `{kind.__name__}`: ")


FINE = b'{"id": "p0", "text": "fine"}\n'
LINE = '{"id": "p1", "text": "Caf\u00e9?"}\n'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (FINE + LINE.encode("latin-1"), "line 2 is no UTF-8 text: found is the byte 0xe9"),
        (LINE.encode("utf-16"), "line 1 is no UTF-8 text: found is UTF-16"),
        (LINE.encode("utf-16-be"), "line 1 is no UTF-8 text: found is the byte"),
        (FINE.decode().encode("utf-16-le"), "line 1 is no UTF-8 text: found is the byte 0x00"),
        (gzip.compress(FINE), "line 1 is no UTF-8 text: found is gzip"),
        (FINE + b'{"id": "p1", "text": "\xed\xa0\x80"}\n', "line 2 is no UTF-8 text: found is the byte 0xed"),
    ],
    ids=["latin-1", "utf-16", "utf-16 without mark", "ascii in utf-16", "gzip", "raw surrogate"],
)
def test_file_in_another_encoding_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    said = refusal(tmp_path, content)
    assert said.startswith(found)
    assert "needed is UTF-8" in said


def test_half_a_surrogate_pair_is_refused_when_read(tmp_path: Path) -> None:
    said = refusal(tmp_path, FINE + b'{"id": "p1", "text": "cut \\ud83d off"}\n')
    assert said.startswith("line 2 is no `Prompt`: `text` holds half a character")
    assert "UTF-8" in said
    said = refusal_of(tmp_path, Response, id="a", prompt_id="p", text="", policy="b", flags=["\ud800"])
    assert said.startswith("item 1 of `flags` holds half a character")


def test_deeply_nested_line_is_named(tmp_path: Path) -> None:
    said = refusal(tmp_path, FINE + b'{"id": ' + b"[" * 200_000)
    assert said == "line 2 is no `Prompt`: it is nested too deep; needed is one JSON object a line"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'[{"id": "p1", "text": "x"}]', "it is a JSON list; needed is one JSON object a line, not an array"),
        (b'[\n{"id": "p1"}\n]\n', "it begins a JSON list; needed is one JSON object a line, not an array"),
        (b"null", "it is null; needed is one JSON object a line"),
        (b'"secret words"', "it is a text; needed is one JSON object a line"),
        (b'{\n  "id": "p1"\n}', "it is no JSON from column 2 on; needed is one JSON object a line"),
        (
            b'{"id": ' + b"1" * 5000 + b"}",
            "it holds a number that is too long; needed is one JSON object a line",
        ),
    ],
)
def test_line_that_is_no_object_is_told_what_is_needed(tmp_path: Path, content: bytes, fault: str) -> None:
    assert refusal(tmp_path, content) == f"line 1 is no `Prompt`: {fault}"


def test_directory_in_place_of_a_file_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(
        RecordError, match="is a directory; needed is a JSON Lines file with a `Prompt` a line"
    ):
        read_jsonl(tmp_path, Prompt)


ASKED: dict[str, Any] = {"id": "p1", "text": "How?"}
ANSWER: dict[str, Any] = {"id": "a1", "prompt_id": "p1", "text": "So.", "policy": "base"}
RANKED: dict[str, Any] = {"id": "r1", "prompt_id": "p1", "annotator": "lin", "order": [["a1"], ["a2"]]}
PLACES = 'needed is a list of response ids for each place, e.g. [["a1"], ["a2"]]'


@pytest.mark.parametrize(
    ("kind", "record", "fault"),
    [
        (Prompt, {"text": "x"}, "`id` is missing; a `Prompt` needs id, text"),
        (Candidates, {"prompt": ASKED}, "`responses` is missing; a `Candidates` needs prompt, responses"),
        (Ranking, {}, "`id` is missing; a `Ranking` needs id, prompt_id, annotator, order"),
        (
            Prompt,
            {**ASKED, "foo": 1},
            "`Prompt` has no field `foo`; it has id, text, system, history, split",
        ),
        (
            Candidates,
            {"prompt": ASKED, "responses": [ANSWER], "note": 1},
            "`Candidates` has no field `note`; it has prompt, responses",
        ),
        (
            Candidates,
            {"prompt": ASKED, "responses": [ANSWER], "Pour in vinegar.": 1},
            "`Candidates` has no field of a name that is no word; it has prompt, responses",
        ),
        (Prompt, {**ASKED, "text": 7}, "`text` is a number; needed is a text"),
        (Prompt, {**ASKED, "id": ""}, "`id` is empty; needed is at least one visible character"),
        (
            Response,
            {**ANSWER, "prompt_id": " "},
            "`prompt_id` is empty; needed is at least one visible character",
        ),
        (Prompt, {**ASKED, "history": "x y"}, "`history` is a text; needed is a list, each item an object"),
        (Prompt, {**ASKED, "history": [1]}, "item 1 of `history` is a number; needed is an object"),
        (
            Prompt,
            {**ASKED, "history": [{"role": "user"}]},
            "item 1 of `history`: `content` is missing; a `Message` needs role, content",
        ),
        (Prompt, {**ASKED, "split": []}, "`split` is a list; needed is one of train, verification, unseen"),
        (Response, {**ANSWER, "temperature": "hot"}, "`temperature` is `hot`; needed is a finite number"),
        (Response, {**ANSWER, "temperature": True}, "`temperature` is true; needed is a finite number"),
        (
            Response,
            {**ANSWER, "temperature": float("nan")},
            "`temperature` is no finite number; needed is a finite number",
        ),
        (Response, {**ANSWER, "finished": "no"}, "`finished` is `no`; needed is true or false"),
        (Response, {**ANSWER, "finished": 1}, "`finished` is a number; needed is true or false"),
        (Response, {**ANSWER, "flags": "empty"}, "`flags` is `empty`; needed is a list, each item a text"),
        (Response, {**ANSWER, "flags": ["empty", None]}, "item 2 of `flags` is null; needed is a text"),
        (Ranking, {**RANKED, "close": "no"}, "`close` is `no`; needed is true or false"),
        (Ranking, {**RANKED, "round": "2"}, "`round` is a text; needed is a whole number"),
        (Ranking, {**RANKED, "round": None}, "`round` is null; needed is a whole number"),
        (Ranking, {**RANKED, "round": 1.5}, "`round` is a number; needed is a whole number"),
        (Ranking, {**RANKED, "round": True}, "`round` is true; needed is a whole number"),
        (Ranking, {**RANKED, "round": 10**400}, "`round` is too large a number; needed is a whole number"),
        (Ranking, {**RANKED, "order": "a1"}, f"`order` is `a1`; {PLACES}"),
        (Ranking, {**RANKED, "order": ["a1", "a2"]}, f"item 1 of `order` is `a1`; {PLACES}"),
        (
            Ranking,
            {**RANKED, "order": [["a1"], [["a2"]]]},
            f"item 1 of item 2 of `order` is a list; {PLACES}",
        ),
        (
            Comparison,
            {"id": "c1", "prompt": ASKED, "seen": True, "before": ANSWER, "after": None},
            "`after` is null; needed is an object",
        ),
        (
            Comparison,
            {"id": "c1", "prompt": ASKED, "seen": "yes", "before": ANSWER, "after": ANSWER},
            "`seen` is `yes`; needed is true or false",
        ),
    ],
)
def test_fault_of_a_field_is_named_with_what_is_needed(
    tmp_path: Path, kind: type[Record], record: dict[str, Any], fault: str
) -> None:
    assert refusal_of(tmp_path, kind, **record) == fault


@pytest.mark.parametrize("words", ["Pour in vinegar.", "vinegar_" * 3, "倒入白醋", "42", ""])
def test_words_in_the_wrong_field_are_not_repeated(tmp_path: Path, words: str) -> None:
    said = refusal_of(tmp_path, Prompt, **ASKED, history=[{"role": words, "content": "x"}])
    found = "a text" if words else "empty"
    assert said == f"item 1 of `history`: `role` is {found}; needed is one of user, assistant"


def test_responses_stand_with_the_prompt_that_they_answer(tmp_path: Path) -> None:
    other = {**ANSWER, "id": "a2", "prompt_id": "p2"}
    said = refusal_of(tmp_path, Candidates, prompt=ASKED, responses=[ANSWER, other])
    assert said == "response `a2` is to prompt `p2`, but stands with prompt `p1`; needed is the same id"
    said = refusal_of(tmp_path, Candidates, prompt=ASKED, responses=[ANSWER, ANSWER])
    assert said == "response `a1` is there twice; needed is each id once"


def test_an_answer_may_be_empty_and_a_number_whole(tmp_path: Path) -> None:
    answer = {**ANSWER, "text": "", "temperature": 1}
    (tmp_path / "responses.jsonl").write_text(json.dumps(answer), encoding="utf-8")
    assert read_jsonl(tmp_path / "responses.jsonl", Response) == [Response("a1", "p1", "", "base")]


def test_what_a_record_wrote_it_reads() -> None:
    candidates = Candidates(PROMPT, (BEFORE, AFTER))
    assert Candidates.from_json(candidates.to_json()) == candidates
