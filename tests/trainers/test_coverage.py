from __future__ import annotations

import json
import math
import random
from collections import Counter

import numpy as np
import pytest

from trainers.coverage import Coverage, cluster, embed, measure_coverage, ngrams, tfidf
from trainers.records import Prompt, Split

TOPICS = {
    "parcel": (
        "When will my parcel arrive in {}?",
        "Track the parcel to {} please",
        "The parcel for {} is late",
    ),
    "soup": ("How much salt goes into {} soup?", "Cook a soup with {}", "Is {} soup healthy for dinner?"),
    "退款": ("{}的退款什么时候到账？", "申请{}退款要多久", "我想退款，{}不要了"),
}
WORDS = ("onion", "Berlin", "carrot", "Lisbon", "pepper", "Oslo", "beetroot", "Porto", "celery", "Vienna")
CHINESE = ("手机", "雨伞", "书包", "台灯", "毛巾", "水壶", "键盘", "耳机", "沙发", "手表")


def of_topic(topic: str, number: int, split: Split = "train") -> list[Prompt]:
    words = CHINESE if topic == "退款" else WORDS
    texts = [text.format(word) for word in words for text in TOPICS[topic]][:number]
    return [Prompt(f"{topic}-{split}-{n:02}", text, split=split) for n, text in enumerate(texts)]


def ranked(prompts: list[Prompt]) -> dict[str, int]:
    return {prompt.id: 1 for prompt in prompts}


def topics_of(coverage: Coverage) -> set[str]:
    return {scenario.prompt_id.split("-")[0] for scenario in coverage.scenarios}


# --- scenarios ---


def test_prompts_of_one_topic_are_one_scenario() -> None:
    prompts = [prompt for topic in TOPICS for prompt in of_topic(topic, 20)]
    coverage = measure_coverage(prompts, ranked(prompts))
    assert topics_of(coverage) == set(TOPICS)
    assert [(s.prompts, s.rankings, s.thin) for s in coverage.scenarios] == [(20, 20, False)] * 3


def test_the_scenario_with_the_fewest_rankings_comes_first_and_is_thin() -> None:
    prompts = [prompt for topic in TOPICS for prompt in of_topic(topic, 20)]
    made = ranked([prompt for prompt in prompts if not prompt.id.startswith("soup")])
    scenarios = measure_coverage(prompts, made | {"soup-train-00": 2, "soup-train-07": 2}).scenarios
    assert (scenarios[0].prompt_id[:4], scenarios[0].prompts, scenarios[0].rankings) == ("soup", 20, 4)
    assert [scenario.thin for scenario in scenarios] == [
        False
    ] * 3  # a quarter of the mean of 4, 20, 20 is 3.7
    scenarios = measure_coverage(prompts, made | {"soup-train-00": 3}).scenarios
    assert [scenario.thin for scenario in scenarios] == [True, False, False]  # of 3, 20, 20 it is 3.6


def test_only_rankings_to_learn_from_count() -> None:
    prompts = [*of_topic("parcel", 13), *of_topic("parcel", 13, "unseen"), *of_topic("soup", 14)]
    coverage = measure_coverage(prompts, ranked(prompts))
    parcel = next(s for s in coverage.scenarios if s.prompt_id.startswith("parcel"))
    assert (parcel.prompts, parcel.unseen, parcel.rankings) == (26, 13, 13)


def test_a_scenario_is_named_by_a_prompt_in_the_middle_of_it() -> None:
    usual = [Prompt(f"p{n}", f"cancel my order number {n}") for n in range(19)]
    odd = Prompt("odd", "cancel the subscription to newspapers")
    assert measure_coverage([*usual, odd], {}).scenarios[0].prompt_id != "odd"


# --- far prompts ---


def test_unseen_prompts_of_another_topic_are_far_and_few_of_a_known_one_are() -> None:
    known, more = [], []
    for topic in ("parcel", "soup"):
        known += (prompts := of_topic(topic, 30))[:25]
        more += [Prompt(f"more-{prompt.id}", prompt.text, split="unseen") for prompt in prompts[25:]]
    other = of_topic("退款", 8, "unseen")
    coverage = measure_coverage([*known, *more, *other], ranked(known))
    assert coverage.unseen == 18
    assert set(coverage.far_prompts[:8]) == {prompt.id for prompt in other}
    assert coverage.far <= 8 + 2


def test_prompts_that_nobody_ranked_make_nothing_near() -> None:
    known = [*of_topic("parcel", 25), *of_topic("退款", 25)]
    unseen = [Prompt(f"u{n}", p.text, split="unseen") for n, p in enumerate(known[25:])]
    assert measure_coverage([*known, *unseen], ranked(known)).far == 0
    assert measure_coverage([*known, *unseen], ranked(known[:25])).far == 25


def test_of_many_far_prompts_the_farthest_are_named() -> None:
    known, unseen = of_topic("parcel", 25), of_topic("soup", 30, "unseen")
    coverage = measure_coverage([*known, *unseen], ranked(known))
    assert coverage.far > len(coverage.far_prompts) == 20


def test_with_few_prompts_learned_from_far_is_not_told() -> None:
    prompts = [*of_topic("parcel", 19), *of_topic("soup", 10, "unseen")]
    coverage = measure_coverage(prompts, ranked(prompts))
    assert (coverage.unseen, coverage.far, coverage.far_prompts) == (0, 0, ())


# --- hostile input ---


@pytest.mark.parametrize(
    "texts",
    [[], ["hello"], ["hello", "你好"], [""] * 45, ["same"] * 45, ["😀" * n for n in range(45)],
     [f"{n} unlike" * 500 for n in range(41)]],
    ids=["none", "one", "two", "empty", "equal", "no words", "long"],
)  # fmt: skip
def test_hostile_prompts_have_scenarios_that_sum_up(texts: list[str]) -> None:
    prompts = [Prompt(f"p{n}", text, split="unseen" if n % 2 else "train") for n, text in enumerate(texts)]
    coverage = measure_coverage(prompts, ranked(prompts))
    assert sum(scenario.prompts for scenario in coverage.scenarios) == len(texts)
    assert coverage.far <= len(texts) // 2
    assert json.loads(json.dumps(coverage.to_json(), allow_nan=False)) == coverage.to_json()


def test_the_order_of_the_prompts_changes_nothing() -> None:
    prompts = [prompt for topic in TOPICS for prompt in (*of_topic(topic, 20), *of_topic(topic, 9, "unseen"))]
    shuffled = random.Random(0).sample(prompts, len(prompts))
    assert measure_coverage(shuffled, ranked(prompts)) == measure_coverage(prompts, ranked(prompts))


# --- its parts ---


def test_ngrams_are_of_characters_in_chinese_and_within_words_elsewhere() -> None:
    assert ngrams("退货，退款") == Counter({"退": 2, "货": 1, "款": 1, "退货": 1, "退款": 1})
    assert ngrams("No go") == Counter([" no", "no ", " no ", " go", "go ", " go "])
    assert ngrams("Ａ！") == Counter([" a "])


def test_tfidf_of_hand_computed_texts() -> None:
    # of three texts a and c are in two, b in all, d in one, which says nothing about any other
    weights = tfidf([Counter("aab"), Counter("bc"), Counter("abcd")]).toarray()
    twice, rare = 1 + math.log(2), 1 + math.log(4 / 3)
    long, short = math.hypot(twice * rare, 1), math.hypot(rare, 1)
    assert weights[0] == pytest.approx([twice * rare / long, 1 / long, 0])
    assert weights[1] == pytest.approx([0, 1 / short, rare / short])
    assert np.linalg.norm(weights, axis=1) == pytest.approx(1.0)


def test_equal_texts_have_equal_vectors_of_length_1() -> None:
    vectors = embed([prompt.text for topic in TOPICS for prompt in of_topic(topic, 20)] * 2)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    assert vectors[:60] == pytest.approx(vectors[60:], abs=1e-9)


def test_clusters_are_the_groups_of_well_separated_vectors() -> None:
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(4), 30))
    vectors = np.eye(4)[truth] + rng.normal(0, 0.05, (120, 4))
    labels = cluster(vectors, 4, seed=3)
    assert len({(int(a), int(b)) for a, b in zip(truth, labels, strict=True)}) == 4


def test_no_more_clusters_than_distinct_vectors() -> None:
    labels = cluster(np.repeat(np.eye(3), 20, axis=0), 8)
    assert len(set(labels.tolist())) == 3
