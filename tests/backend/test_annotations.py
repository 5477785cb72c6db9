"""Reading what people wrote in Label Studio, and building what they see."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.annotations import (
    MAX_PROMPT_CHARACTERS,
    Cancelled,
    Malformed,
    ParsedJudgement,
    ParsedPrompt,
    ParsedRanking,
    annotator_of,
    displayed_ids,
    parse_judgement,
    parse_prompt,
    parse_ranking,
    ranking_prediction,
    ranking_task_data,
    result_hash,
    review_task_data,
    shown_prompt,
)
from tests.fake_label_studio import ranking_result, verdict_result
from trainers.preferences import prompt_id
from trainers.records import Message, Prompt

SHOWN = ("a1", "a2", "a3")

# what Label Studio 1.23.2 sent for a keyboard ranking with "close call" chosen
RECORDED: dict[str, Any] = {
    "id": 103, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "lead_time": 6.796,
    "updated_at": "2026-11-22T12:02:34.217475Z",
    "result": [
        {"value": {"ranker": {"ranking": ["a3", "a1", "a2"]}}, "id": "PHXCJL_X5v", "from_name": "ranking",
         "to_name": "answers", "type": "ranker", "origin": "manual"},
        {"value": {"choices": ["close"]}, "id": "CQSr5gnlXm", "from_name": "judgement", "to_name": "prompt",
         "type": "choices", "origin": "manual"},
    ],
}  # fmt: skip


def annotation(result: object, **fields: Any) -> dict[str, Any]:
    return {"id": 1, "result": result, "completed_by": 7, "was_cancelled": False, "lead_time": 12.0, **fields}


def reason(parsed: object) -> str:
    assert isinstance(parsed, Malformed)
    return parsed.reason


def test_recorded_ranking_is_read() -> None:
    assert parse_ranking(RECORDED, SHOWN) == ParsedRanking(order=(("a3",), ("a1",), ("a2",)), close=True)


def test_tie_puts_all_answers_in_one_group() -> None:
    tie = annotation(ranking_result("a2", "a1", "a3", choice="tie"))
    assert parse_ranking(tie, SHOWN) == ParsedRanking(order=(("a1", "a2", "a3"),))


def test_tie_without_touching_the_list_counts() -> None:
    assert parse_ranking(annotation(ranking_result(choice="tie")), SHOWN) == ParsedRanking(order=(SHOWN,))


def test_all_bad_keeps_the_order() -> None:
    parsed = parse_ranking(annotation(ranking_result("a2", "a1", "a3", choice="all_bad")), SHOWN)
    assert parsed == ParsedRanking(order=(("a2",), ("a1",), ("a3",)), all_bad=True)


def test_all_bad_with_no_answer_moved_is_a_tie() -> None:
    parsed = parse_ranking(annotation(ranking_result(*SHOWN, choice="all_bad")), SHOWN)
    assert parsed == ParsedRanking(order=(SHOWN,), all_bad=True)


def test_all_bad_without_an_order_is_a_tie() -> None:
    parsed = parse_ranking(annotation(ranking_result(choice="all_bad")), SHOWN)
    assert parsed == ParsedRanking(order=(SHOWN,), all_bad=True)


def test_skip_is_neither_a_ranking_nor_a_fault() -> None:
    skip = annotation(ranking_result("a1", "a2", "a3"), was_cancelled=True)
    assert parse_ranking(skip, SHOWN) == Cancelled()
    assert parse_judgement(annotation(verdict_result("left"), was_cancelled=True)) == Cancelled()


def test_integer_ids_match_their_text() -> None:
    result = [{"from_name": "ranking", "type": "ranker", "value": {"ranker": {"ranking": [2, 1]}}}]
    assert parse_ranking(annotation(result), ("1", "2")) == ParsedRanking(order=(("2",), ("1",)))


def test_partial_list_orders_what_it_names() -> None:
    assert parse_ranking(annotation(ranking_result("a3", "a1")), SHOWN) == ParsedRanking((("a3",), ("a1",)))


@pytest.mark.parametrize(
    ("lead_time", "order", "suspicious"),
    [
        (0.8, SHOWN, True),
        (9.0, SHOWN, False),  # read, and agreed with
        (0.8, ("a2", "a1", "a3"), False),  # moved something
        (None, SHOWN, False),  # not measured
    ],
)
def test_displayed_order_within_a_moment_is_suspicious(
    lead_time: float | None, order: tuple[str, ...], suspicious: bool
) -> None:
    parsed = parse_ranking(annotation(ranking_result(*order), lead_time=lead_time), SHOWN)
    assert isinstance(parsed, ParsedRanking)
    assert parsed.suspicious is suspicious


def ranker(value: object) -> list[dict[str, Any]]:
    return [{"from_name": "ranking", "type": "ranker", "value": value}]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ([], "empty"),
        (None, "empty"),
        ("text", "empty"),
        ([None, 3], "empty"),
        (ranker({"ranker": {"ranking": []}}), "empty"),
        (ranker({"ranker": {"ranking": ["a1"]}}), "one answer"),
        (ranker({"ranker": {"ranking": ["a1", "a1", "a2"]}}), "twice"),
        (ranker({"ranker": {"ranking": ["a1", "zz"]}}), "does not have"),
        (ranker({"ranker": {"ranking": ["a1", ["a2"]]}}), "no list"),
        (ranker({"ranker": {"ranking": "a1"}}), "no list"),
        (ranker({"ranker": {"rank": ["a1", "a2"]}}), "no list"),
        (ranker({"ranker": ["a1"]}), "no list"),
        (ranker({}), "no list"),
    ],
)
def test_unusable_ranking_says_why(result: object, expected: str) -> None:
    assert expected in reason(parse_ranking(annotation(result), SHOWN))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["from_name", "value", "ranker", "ranking", "choices", "result", "id", "prompt"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(result=JSON, lead_time=JSON, user=JSON)
def test_nothing_that_a_server_sends_raises(result: Any, lead_time: Any, user: Any) -> None:
    odd = annotation(result, lead_time=lead_time, completed_by=user)
    named = annotation([{"from_name": "ranking", "value": result}, {"from_name": "verdict", "value": result}])
    for item in (odd, named):
        parse_ranking(item, SHOWN)
        parse_judgement(item)
        annotator_of(item)
        result_hash(item)
    displayed_ids(result)
    parse_prompt(result)


def test_verdicts_are_read() -> None:
    for side in ("left", "right", "tie"):
        assert parse_judgement(annotation(verdict_result(side))) == ParsedJudgement(side)


def test_missing_and_foreign_verdicts_are_malformed() -> None:
    assert "no verdict" in reason(parse_judgement(annotation([])))
    assert "none of" in reason(parse_judgement(annotation(verdict_result("both"))))


def test_annotator_may_be_an_id_an_object_or_gone() -> None:
    assert annotator_of({"completed_by": 7}) == 7
    assert annotator_of({"completed_by": {"id": 8, "email": "x@y"}}) == 8
    assert annotator_of({"completed_by": None}) == 0


def test_hash_ignores_region_ids_and_their_order() -> None:
    other = {**RECORDED, "result": [{**region, "id": "new"} for region in reversed(RECORDED["result"])]}
    assert result_hash(other) == result_hash(RECORDED)


def test_hash_depends_on_order_choice_and_skip() -> None:
    variants = [
        RECORDED,
        annotation(ranking_result("a1", "a3", "a2", choice="close")),
        annotation(ranking_result("a3", "a1", "a2")),
        {**RECORDED, "was_cancelled": True},
    ]
    assert len({result_hash(variant) for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    "data",
    [None, {}, {"answers": "x"}, {"answers": [{"id": "a"}]}, {"answers": [{"id": "a"}, {"id": "a"}]},
     {"answers": [{"id": "a"}, {}]}, {"answers": [{"id": "a"}, 3]}],
)  # fmt: skip
def test_task_without_distinct_answers_is_malformed(data: object) -> None:
    assert isinstance(displayed_ids(data), Malformed)


def test_displayed_ids_keep_the_displayed_order() -> None:
    data = ranking_task_data("?", [("a2", "x"), ("a1", "y")], source_key="k")
    assert displayed_ids(data) == ("a2", "a1")


def test_tasks_hold_what_the_interfaces_show_and_nothing_of_the_models() -> None:
    assert ranking_task_data("?", [("a2", "x")], source_key="k") == {
        "prompt": "?",
        "answers": [{"id": "a2", "body": "x"}],
        "source_key": "k",
    }
    assert review_task_data("?", "l", "r", source_key="k") == {
        "prompt": "?",
        "left": "l",
        "right": "r",
        "source_key": "k",
    }


def test_prediction_is_keyed_as_the_page_keys_its_own() -> None:
    made = ranking_prediction(["a2", "a1"], score=0.5, model_version="m")
    assert made["result"][0]["value"] == {"ranker": {"ranking": ["a2", "a1"]}}


# --- prompts ---


@pytest.mark.parametrize("other", ["  你好 ", "你好\r\n", "\ufeff你好", "你\u0000好", "\u3000你好"])
def test_same_looking_prompts_are_one(other: str) -> None:
    assert parse_prompt({"prompt": other}) == ParsedPrompt(prompt_id("你好"), "你好")


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=20))
def test_any_text_is_a_prompt_that_can_be_stored_or_empty(text: str) -> None:
    parsed = parse_prompt({"prompt": text, "system": text})
    if isinstance(parsed, Malformed):
        assert parsed.reason == "empty"
    else:
        (parsed.text + parsed.system).encode()
        assert parse_prompt({"prompt": parsed.text, "system": parsed.system}) == parsed


HI, HELLO = Message("user", "Hi"), Message("assistant", "Hello!")


@pytest.mark.parametrize("form", [list, json.dumps])
def test_earlier_turns_make_another_prompt_as_json_or_in_a_csv_cell(form: Callable[[Any], object]) -> None:
    history = form([HI.to_json(), HELLO.to_json()])
    parsed = parse_prompt({"prompt": "And?", "system": "Be brief.", "history": history})
    assert parsed == ParsedPrompt(
        prompt_id("And?", "Be brief.", [HI, HELLO]), "And?", "Be brief.", (HI, HELLO)
    )
    assert parse_prompt({"prompt": "And?", "history": form([])}) == parse_prompt({"prompt": "And?"})


@pytest.mark.parametrize(
    "history",
    [
        "no JSON", "[" * 100_000, {"role": "user"}, 3, [HI.to_json()], [HELLO.to_json(), HI.to_json()],
        [HI.to_json(), {"role": "assistant", "content": " "}], [HI.to_json(), {"role": "assistant"}],
        [HI.to_json(), "Hello!"], [HI.to_json(), {"role": "system", "content": "x"}],
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_said(history: object) -> None:
    assert reason(parse_prompt({"prompt": "And?", "history": history})) == "bad_history"


def test_people_see_what_was_said_before() -> None:
    prompt = Prompt("p", "And?", "Be brief.", (HI, HELLO))
    assert shown_prompt(prompt) == "〔Be brief.〕\n\nQ: Hi\n\nA: Hello!\n\nQ: And?"
    assert shown_prompt(Prompt("p", "And?")) == "And?"


@pytest.mark.parametrize(
    "data", [{"prompt": " 你好"}, {"$undefined$": "你好"}, {"prompt": "你好", "system": 3}]
)
def test_prompt_is_found_in_its_column_or_a_text_files_line(data: object) -> None:
    assert parse_prompt(data) == ParsedPrompt(prompt_id("你好"), "你好")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"question": "x"}, "missing_column"),
        (None, "missing_column"),
        ({"prompt": ["x"]}, "missing_column"),
        ({"prompt": " \n\u0000"}, "empty"),
        ({"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}, "too_long"),
        ({"prompt": "x", "system": "y" * MAX_PROMPT_CHARACTERS}, "too_long"),
        (
            {
                "prompt": "x",
                "history": [HI.to_json(), {**HELLO.to_json(), "content": "y" * MAX_PROMPT_CHARACTERS}],
            },
            "too_long",
        ),
    ],
)
def test_unusable_prompt_says_why(data: object, expected: str) -> None:
    assert reason(parse_prompt(data)) == expected


def test_longest_prompt_is_taken_and_numbers_are_text() -> None:
    assert isinstance(parse_prompt({"prompt": "x" * MAX_PROMPT_CHARACTERS}), ParsedPrompt)
    assert parse_prompt({"prompt": 5}) == ParsedPrompt(prompt_id("5"), "5")
