from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from trainers.records import Candidates, Prompt, Response
from trainers.spread import measure_spread


def answers(
    prompt: str, *texts: str, styles: tuple[str, ...] = (), flags: dict[int, str] | None = None
) -> Candidates:
    responses = tuple(
        Response(
            f"{prompt}-{n}", prompt, text, "base", style=styles[n] if styles else f"style {n}",
            flags=((flags or {})[n],) if n in (flags or {}) else (),
        )
        for n, text in enumerate(texts)
    )  # fmt: skip
    return Candidates(Prompt(prompt, prompt), responses)


def test_answers_without_anything_in_common_are_not_alike() -> None:
    spread = measure_spread([answers("how?", "turn it off", "wash hands")])
    assert (spread.prompts, spread.answers, spread.similarity, spread.alike_prompts) == (1, 2, 0.0, 0)


def test_similarity_is_the_mean_of_every_two_answers_of_a_prompt() -> None:
    # of three answers one pair is the same, two have nothing in common: 1/3; and a prompt of equal answers
    spread = measure_spread([answers("a?", "abc def", "abc def", "xyz"), answers("b?", "hello", "hello!")])
    assert spread.similarity == pytest.approx((1 / 3 + 1) / 2)
    assert spread.alike_prompts == 1


def test_who_wrote_the_answers_is_counted_without_those_that_nobody_ranks() -> None:
    def written_by(prompt: str, *policies: str) -> Candidates:
        entry = answers(prompt, *("text" for _ in policies), flags={3: "empty"})
        responses = zip(entry.responses, policies, strict=True)
        return replace(entry, responses=tuple(replace(own, policy=name) for own, name in responses))

    spread = measure_spread(
        [written_by("a?", "base", "base", "base", "new"), written_by("b?", "base", "new")]
    )
    assert spread.policies == {"base": 4, "new": 1}
    assert (spread.mixed_prompts, spread.prompts) == (1, 2)


def test_a_prompt_of_one_style_is_counted() -> None:
    spread = measure_spread(
        [
            answers("a?", "one", "two", styles=("brief", "brief")),
            answers("b?", "one", "two", styles=("brief", "verbose")),
        ]
    )
    assert (spread.one_style_prompts, spread.prompts) == (1, 2)


def test_flagged_answers_do_not_count_because_nobody_ranks_them() -> None:
    same = ("just the same", "just the same", "something else")
    assert (measure_spread([answers("a?", *same)]).similarity or 0) > 0.3
    spread = measure_spread([answers("a?", *same, flags={1: "near_duplicate"})])
    assert spread.answers == 2
    assert (spread.similarity or 0) < 0.2
    assert measure_spread([answers("a?", "one", "two", flags={0: "garbled"})]).prompts == 0


def test_lengths_by_language_and_style_and_between_the_answers_of_a_prompt() -> None:
    spread = measure_spread(
        [
            answers("怎么办？", "好" * 10, "好" * 40, styles=("brief", "verbose")),
            answers("how?", "x" * 20, "y" * 40, styles=("brief", "verbose")),
            answers("why?", "x" * 30, "y" * 180, styles=("brief", "verbose")),
        ]
    )
    assert spread.style_lengths == {"brief": 20, "verbose": 40}
    assert (spread.lengths["zh"].answers, spread.lengths["zh"].median) == (2, 25)
    english = spread.lengths["en"]  # 20, 30, 40, 180: a tenth of the way is 0.3 of the first step
    assert (english.answers, english.median) == (4, 35)
    assert (english.tenth, english.ninetieth) == (pytest.approx(23), pytest.approx(138))
    assert spread.length_ratio == 4  # of 4, 2, 6


def test_answers_in_another_language_are_counted() -> None:
    spread = measure_spread([answers("怎么办？", "你好", "再见", "hello"), answers("how?", "fine", "well")])
    assert spread.other_language == 1


def test_nothing_to_rank_has_no_spread() -> None:
    spread = measure_spread([answers("a?"), answers("b?", "one")])
    assert (spread.prompts, spread.similarity, spread.length_ratio, spread.lengths) == (0, None, None, {})


def test_empty_answers_do_not_break_it() -> None:
    spread = measure_spread([answers("a?", "", "four")])
    assert spread.length_ratio == 4


def test_spread_goes_to_json_and_back() -> None:
    found = measure_spread([answers("a?", "one", "two"), answers("b?", "一", "二")]).to_json()
    assert json.loads(json.dumps(found)) == found


def test_likeness_that_is_known_is_taken_as_it_is() -> None:
    entries = [answers("a?", "hello", "hello!"), answers("b?", "turn it off", "wash hands")]
    spread = measure_spread(entries, {"a?": 0.25})
    assert (spread.similarity, spread.alike_prompts) == (0.125, 0)
    assert measure_spread(entries).similarity == 0.5


def test_every_figure_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = page.split("\n## What the generate stage finds")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(measure_spread([]).to_json())
