from __future__ import annotations

import random

import pytest

from trainers.agreement import accuracy_ceiling, measure_agreement, prompt_agreements, self_consistency
from trainers.records import Ranking


def ranking(annotator: str, text: str, prompt_id: str = "p1") -> Ranking:
    """`a bc` is a before the tied b and c."""
    order = tuple(tuple(group) for group in text.split())
    return Ranking(f"{prompt_id}-{annotator}", prompt_id, annotator, order)


TEAM = [
    ranking("anna", "a b c"),
    ranking("ben", "a c b"),
    ranking("cleo", "a bc"),
    ranking("dora", "x y", "p2"),
]


def test_agreement_counts_judgements_of_every_two_annotators() -> None:
    agreement = measure_agreement(TEAM)
    # anna-ben 2 of 3, anna-cleo 2 of 2, ben-cleo 2 of 2; dora shares no prompt
    assert agreement.judgements == 7
    assert agreement.rate == pytest.approx(6 / 7)
    assert (agreement.annotators, agreement.shared_prompts) == (4, 1)
    assert agreement.kendall_tau == pytest.approx((1 / 3 + 2 * 2 / 6**0.5) / 3)


def test_w_and_alpha_of_a_team() -> None:
    agreement = measure_agreement(TEAM)
    # rank sums 3, 7.5, 7.5 about 6: s = 13.5; 12 · 13.5 / (9 · 24 − 3 · 6)
    assert agreement.kendall_w == pytest.approx(162 / 198)
    # a: 1 1 1, b: 2 3 2.5, c: 3 2 2.5; n = 9 with 3, 2, 2, 2 of the values 1, 2, 2.5, 3
    # δ: 1–2 2.5, 1–2.5 4.5, 1–3 6.5, 2–2.5 2, 2–3 4, 2.5–3 2
    # observed 2 · (4² + 2² + 2²)/2 for each of b and c = 48
    # expected 2 · (6 · (2.5² + 4.5² + 6.5²) + 4 · (2² + 4² + 2²)) = 1017
    assert agreement.krippendorff_alpha == pytest.approx(1 - 8 * 48 / 1017)


@pytest.mark.parametrize("left_out", ["bc", "ac", "ab"])
def test_who_leaves_an_answer_out_is_compared_over_the_others(left_out: str) -> None:
    team = []
    for number in range(10):
        team.append(ranking("anna", "a b c", f"p{number}"))
        kept = " ".join(left_out) if number % 2 else "a b c"
        team.append(ranking("ben", kept, f"p{number}"))
    agreement = measure_agreement(team)
    assert (agreement.rate, agreement.kendall_w) == (1.0, 1.0)
    assert agreement.krippendorff_alpha == pytest.approx(1.0)


def test_mean_order_of_the_others_is_over_what_they_have_in_common() -> None:
    team = [ranking("anna", "b c"), ranking("ben", "b a c"), ranking("cleo", "c b")]
    anna = next(member for member in measure_agreement(team).members if member.annotator == "anna")
    assert anna.judgements == 0  # ben and cleo are even about b and c


def test_each_pair_of_annotators_has_its_shared_prompts() -> None:
    team = [*TEAM, ranking("anna", "x y", "p2"), ranking("anna", "a b", "p3"), ranking("ben", "ab", "p3")]
    pairs = {(pair.first, pair.second): pair for pair in measure_agreement(team).pairs}
    assert set(pairs) == {("anna", "ben"), ("anna", "cleo"), ("anna", "dora"), ("ben", "cleo")}
    anna_ben = pairs["anna", "ben"]
    assert (anna_ben.prompts, anna_ben.judgements) == (2, 3)  # on p3 ben has no preference
    assert anna_ben.rate == pytest.approx(2 / 3)
    assert anna_ben.kendall_tau == pytest.approx(1 / 3)
    assert pairs["anna", "dora"].kendall_tau == 1.0


def test_each_annotator_is_compared_with_the_mean_order_of_the_others() -> None:
    members = {member.annotator: member for member in measure_agreement(TEAM).members}
    # the others of anna: a 1+1, b 3+2.5, c 2+2.5 is a c b; those of cleo: a 1+1, b 2+3, c 3+2 is a bc
    assert (members["anna"].judgements, members["anna"].rate) == (3, pytest.approx(2 / 3))
    assert members["anna"].kendall_tau == pytest.approx(1 / 3)
    assert members["cleo"].kendall_tau == pytest.approx(1.0)
    assert (members["dora"].rankings, members["dora"].prompts, members["dora"].rate) == (1, 0, None)


def test_one_who_ranks_the_other_way_round_stands_out() -> None:
    team = [
        ranking(name, "c b a" if name == "dora" else "a b c", f"p{number}")
        for name in ("anna", "ben", "cleo", "dora")
        for number in range(5)
    ]
    rates = {member.annotator: member.rate for member in measure_agreement(team).members}
    assert rates == {"anna": 1.0, "ben": 1.0, "cleo": 1.0, "dora": 0.0}


@pytest.mark.parametrize(
    ("rankings", "annotators"),
    [([], 0), ([ranking("anna", "a b c")], 1), ([ranking("anna", "ab"), ranking("ben", "ab")], 2)],
    ids=["all skipped", "one annotator", "all ties"],
)
def test_agreement_without_two_preferences_is_unknown(rankings: list[Ranking], annotators: int) -> None:
    agreement = measure_agreement(rankings)
    assert (agreement.annotators, agreement.judgements, agreement.contested_prompts) == (annotators, 0, 0)
    assert agreement.rate is agreement.kendall_tau is agreement.kendall_w is agreement.ceiling is None
    assert agreement.krippendorff_alpha is None
    assert prompt_agreements(rankings) == []


def test_a_team_that_contradicts_itself_is_worse_than_chance() -> None:
    team = [
        ranking(name, text, f"p{number}")
        for number in range(20)
        for name, text in (("anna", "a b c"), ("ben", "c b a"))
    ]
    agreement = measure_agreement(team)
    assert (agreement.rate, agreement.kendall_tau, agreement.kendall_w) == (0.0, -1.0, 0.0)
    assert agreement.krippendorff_alpha is not None
    assert agreement.krippendorff_alpha < 0
    assert agreement.contested_prompts == 20


def test_a_team_that_guesses_is_at_chance() -> None:
    rng = random.Random(0)
    team = [
        ranking(name, " ".join(rng.sample("abc", 3)), f"p{number}")
        for number in range(1000)
        for name in ("anna", "ben", "cleo")
    ]
    agreement = measure_agreement(team)
    assert agreement.rate == pytest.approx(0.5, abs=0.02)
    assert agreement.kendall_tau == pytest.approx(0.0, abs=0.04)
    assert agreement.krippendorff_alpha == pytest.approx(0.0, abs=0.04)
    assert agreement.kendall_w == pytest.approx(1 / 3, abs=0.02)


def test_prompts_come_with_the_most_divisive_first() -> None:
    team = [
        ranking("anna", "a b c", "agreed"), ranking("ben", "a b c", "agreed"),
        ranking("anna", "a b c", "opposed"), ranking("ben", "c b a", "opposed"),
        ranking("anna", "a b c", "close"), ranking("ben", "a c b", "close"),
        ranking("anna", "a b c", "tied"), ranking("ben", "abc", "tied"),
        ranking("anna", "a b c", "alone"),
    ]  # fmt: skip
    found = prompt_agreements(team)
    assert [(prompt.prompt_id, prompt.contested) for prompt in found] == [
        ("opposed", True), ("close", False), ("agreed", False),
    ]  # fmt: skip


def test_of_equally_divided_prompts_the_less_concordant_comes_first() -> None:
    orders = {"cycle": ("a b c", "b c a", "c a b"), "apart": ("a b c", "a b c", "c b a")}
    team = [
        ranking(name, text, prompt_id)
        for prompt_id, texts in orders.items()
        for name, text in zip(("anna", "ben", "cleo"), texts, strict=True)
    ]
    found = prompt_agreements(team)
    assert [prompt.rate for prompt in found] == [pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert [prompt.prompt_id for prompt in found] == ["cycle", "apart"]  # W is 0 and 1/9


def test_people_are_compared_with_themselves_on_what_they_ranked_twice() -> None:
    again = [
        ranking("anna", "a c b"),  # 2 of 3 judgements, τ ⅓
        ranking("ben", "a c b"),  # all
        ranking("cleo", "abc"),  # no preference the second time
        ranking("dora", "a b", "p1"),  # did not rank p1 the first time
        ranking("emil", "x y", "p2"),  # nor has he ranked at all
    ]
    found = self_consistency(TEAM, again)
    assert (found.prompts, found.judgements) == (3, 6)
    assert found.rate == pytest.approx(5 / 6)
    assert found.kendall_tau == pytest.approx((1 / 3 + 1) / 2)
    rates = {own.annotator: own.rate for own in found.annotators}
    assert rates == {"anna": pytest.approx(2 / 3), "ben": 1.0, "cleo": None}


def test_nothing_ranked_twice_says_nothing_about_consistency() -> None:
    found = self_consistency(TEAM, [])
    assert (found.prompts, found.judgements, found.rate, found.annotators) == (0, 0, None, ())


def test_the_order_of_the_rankings_changes_nothing() -> None:
    rng = random.Random(1)
    team = [
        ranking(name, " ".join(rng.sample("abc", 3)), f"p{number}")
        for number in range(30)
        for name in ("anna", "ben", "cleo")
    ]
    shuffled = rng.sample(team, len(team))
    assert measure_agreement(shuffled) == measure_agreement(team)
    assert prompt_agreements(shuffled) == prompt_agreements(team)


@pytest.mark.parametrize(
    ("rate", "ceiling"),  # the published figures
    [(0.63, 0.755), (0.726, 0.836), (0.773, 0.869), (1.0, 1.0), (0.5, 0.5), (0.3, 0.5), (0.745, 0.85)],
)
def test_ceiling_of_known_agreement(rate: float, ceiling: float) -> None:
    assert accuracy_ceiling(rate) == pytest.approx(ceiling, abs=0.0006)
