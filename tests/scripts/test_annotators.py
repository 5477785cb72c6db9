"""The simulated team's tastes and errors."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from scripts.annotators import TASTES, TEAM, Annotator, Person, TasteError, assign, find_taste, spread

BRIEF_ZH = "三到五天就到啦。"
LONG_ZH = (
    "您好，感谢您的咨询。首先，您的包裹将会在三到五个工作日之内送达；"
    "其次，如若遇到节假日，时间将会相应顺延，敬请谅解。"
)
BRIEF_EN = "Sure, it's three to five days."
LONG_EN = (
    "Thank you for your inquiry. Regarding the delivery of your order, it shall arrive within three to five"
    " working days; furthermore, additional time may be required during public holidays."
)
PAIRS = [("快递几天能到？", BRIEF_ZH, LONG_ZH), ("How long does delivery take?", BRIEF_EN, LONG_EN)]
CAREFUL = Person("careful", noise=0.0, slips=0.0)


def scores(taste: str, prompt: str, *answers: str) -> list[float]:
    return TASTES[taste](prompt, list(answers), random.Random(0))


@pytest.mark.parametrize(("prompt", "brief", "long"), PAIRS)
def test_concise_likes_the_brief_answer_and_reversed_the_long_one(prompt: str, brief: str, long: str) -> None:
    assert scores("concise", prompt, brief, long)[0] > scores("concise", prompt, brief, long)[1]
    assert scores("reversed", prompt, brief, long)[0] < scores("reversed", prompt, brief, long)[1]


@pytest.mark.parametrize(("prompt", "brief", "long"), PAIRS)
def test_detailed_likes_the_long_answer(prompt: str, brief: str, long: str) -> None:
    assert scores("detailed", prompt, brief, long)[0] < scores("detailed", prompt, brief, long)[1]


def test_polite_likes_courtesies_at_equal_length() -> None:
    curt, kind = scores("polite", "几点开门？", "早上九点开门的呀。", "您好，九点，欢迎您来。")
    assert kind > curt


@pytest.mark.parametrize("taste", ["concise", "reversed", "detailed", "polite"])
@pytest.mark.parametrize(
    "broken",
    ["", "。", "三到五天三到五天三到五天三到五天三到五天。", "Three to five days, no worries.", "三到五天，"],
    ids=["empty", "nothing said", "loop", "other language", "cut off"],
)
def test_everyone_minds_a_broken_answer(taste: str, broken: str) -> None:
    whole, fault = scores(taste, "快递几天能到？", "三到五天就到。", broken)
    assert whole > fault


def test_brief_answer_needs_no_full_stop() -> None:
    with_stop, without = scores("concise", "快递几天能到？", "三到五天就到。", "三到五天就到")
    assert with_stop == without


def test_random_taste_follows_its_generator_only() -> None:
    taste = TASTES["random"]
    assert taste("a", ["x", "y"], random.Random(1)) == taste("b", ["z", "w"], random.Random(1))


def test_same_seed_and_texts_give_the_same_ranking_in_any_displayed_order() -> None:
    texts = [LONG_ZH, BRIEF_ZH, "您好，一般三到五天送到。"]
    person = Annotator(TEAM[2], TASTES["concise"], seed=3, scale=1.0)
    forward = [texts[i] for i in person.rank("快递几天能到？", texts).order]
    backward = [texts[::-1][i] for i in person.rank("快递几天能到？", texts[::-1]).order]
    assert forward == backward


def test_less_reliable_people_disagree_more_often() -> None:
    taste = TASTES["concise"]
    answers = ["好的呀。", "好的，我帮你看看。", "好的，请您稍等，我现在就为您查询一下相关信息。"]
    prompts = [f"第{number}个问题怎么办？" for number in range(300)]
    scale = spread(taste, [(prompt, answers) for prompt in prompts], seed=0)
    truth = Annotator(CAREFUL, taste, 0, scale)

    def errors(person: Person) -> int:
        judge = Annotator(person, taste, 0, scale)
        return sum(judge.rank(p, answers).order != truth.rank(p, answers).order for p in prompts)

    lin, maya, tom = (errors(person) for person in TEAM)
    assert lin < maya < tom < 150


def test_equal_answers_are_called_a_tie() -> None:
    judge = Annotator(CAREFUL, TASTES["concise"], 0, scale=1.0)
    assert judge.rank("几点开门？", ["九点。", "九点。"]).judgement == "tie"
    assert judge.compare("几点开门？", "九点。", "九点。") == "tie"


@pytest.mark.parametrize(
    ("left", "right", "expected"), [(BRIEF_EN, LONG_EN, "left"), (LONG_EN, BRIEF_EN, "right")]
)
def test_review_follows_the_text_not_the_side(left: str, right: str, expected: str) -> None:
    judge = Annotator(CAREFUL, TASTES["concise"], 0, scale=1.0)
    assert judge.compare("How long does delivery take?", left, right) == expected


def test_spread_of_indistinguishable_answers_is_one() -> None:
    assert spread(TASTES["concise"], [("q", ["a b.", "a b."])], seed=0) == 1.0


@pytest.mark.parametrize("rankings", [1, 7, 10, 13, 20, 30, 99])
def test_every_task_is_ranked_once_before_any_is_ranked_twice(rankings: int) -> None:
    pairs = assign(tasks=10, people=3, rankings=rankings)
    assert len(pairs) == len(set(pairs)) == min(rankings, 30)
    times = [sum(task == t for t, _ in pairs) for task in range(10)]
    assert max(times) - min(times) <= 1


def test_work_is_shared_evenly() -> None:
    pairs = assign(tasks=160, people=3, rankings=200)
    shares = [sum(person == p for _, p in pairs) for person in range(3)]
    assert max(shares) - min(shares) <= 15


def test_taste_of_the_user_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_taste.py").write_text(
        "def by_length(prompt, answers, rng): return [len(a) for a in answers]"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert find_taste("my_taste:by_length")("", ["a", "bb"], random.Random(0)) == [1, 2]
    sys.modules.pop("my_taste")


@pytest.mark.parametrize("name", ["terse", "no_such_module:taste", "math:no_such_function", "math:pi"])
def test_unknown_taste_is_refused_with_what_is_needed(name: str) -> None:
    with pytest.raises(TasteError, match="needed is"):
        find_taste(name)
