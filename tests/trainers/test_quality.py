from __future__ import annotations

import pytest

from trainers.quality import FAULTS, Draw, choose, faults_of
from trainers.records import Prompt

PROMPT = Prompt("p1", "How do I descale a kettle?")
GOOD = "Pour in vinegar, wait an hour and rinse it well."
OTHER = "Use lemon juice instead, it smells nicer."


def draw(text: str, place: int = 0, attempt: int = 0, *, finished: bool = True) -> Draw:
    return Draw("p1", place, attempt, "base", "default", 1.0, text, finished)


@pytest.mark.parametrize(
    ("text", "finished", "faults"),
    [
        (GOOD, True, ()),
        (" \n", True, ("empty",)),
        ("Pour in vinegar, wait an", False, ("truncated",)),
        ("倒入白醋，等一小时，再冲洗干净。", True, ("language",)),
        ("Rinse it well now. " * 6, True, ("repetitive", "garbled")),
        ("Pour in \ufffd\ufffd vinegar", True, ("garbled",)),
        ("😀", True, ()),
    ],
)
def test_faults_of_an_answer(text: str, finished: bool, faults: tuple[str, ...]) -> None:
    assert faults_of(PROMPT, draw(text, finished=finished)) == faults
    assert set(faults) <= set(FAULTS)


def test_english_answer_to_a_chinese_prompt_is_in_the_wrong_language() -> None:
    assert faults_of(Prompt("p1", "水壶怎么除垢？"), draw(GOOD)) == ("language",)


def test_first_good_draw_of_a_place_is_kept_for_good() -> None:
    kept = choose(PROMPT, [draw(GOOD), draw(OTHER, attempt=1)], 0.85)
    assert kept[0].draw.text == GOOD
    assert kept[0].faults == ()


def test_later_attempt_replaces_a_faulty_draw() -> None:
    kept = choose(PROMPT, [draw(""), draw(GOOD, attempt=1)], 0.85)
    assert (kept[0].draw.text, kept[0].faults) == (GOOD, ())


def test_near_duplicate_is_the_later_place_and_the_earlier_one_stays() -> None:
    kept = choose(PROMPT, [draw(GOOD), draw(GOOD.upper(), place=1)], 0.85)
    assert kept[0].faults == ()
    assert kept[1].faults == ("near_duplicate",)


def test_near_duplicate_is_measured_against_what_was_kept_not_against_rejected_draws() -> None:
    draws = [draw(GOOD, finished=False), draw(GOOD, place=1), draw(OTHER, attempt=1)]
    kept = choose(PROMPT, draws, 0.85)
    assert {place: choice.faults for place, choice in kept.items()} == {0: (), 1: ()}


def test_without_a_good_draw_the_least_faulty_is_kept_with_its_faults() -> None:
    draws = [draw(""), draw("Pour in vinegar, wait", attempt=1, finished=False), draw("\ufffd", attempt=2)]
    kept = choose(PROMPT, draws, 0.85)
    assert (kept[0].draw.attempt, kept[0].faults) == (1, ("truncated",))


def test_result_does_not_depend_on_the_order_of_the_draws() -> None:
    draws = [draw(GOOD), draw(GOOD, place=1), draw(OTHER, place=1, attempt=1), draw("", place=2)]
    assert choose(PROMPT, draws, 0.85) == choose(PROMPT, draws[::-1], 0.85)
