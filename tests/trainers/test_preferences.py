from __future__ import annotations

import json
import random
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.errors import DataError, RecordError
from trainers.preferences import (
    derive_preferences,
    normalise_prompt,
    prompt_id,
    require_enough,
    split_of,
    split_preferences,
    to_llama_factory,
    to_trl,
    weight_by_round,
)
from trainers.records import Candidates, Message, Preference, Prompt, Ranking, Response, Split

HOSTILE = 'first line\nsecond\r\n"quoted"\u2028line\u2029\x85\t\\n 👍 水壶'


def candidates_of(prompt: Prompt, texts: dict[str, str]) -> Candidates:
    return Candidates(prompt, tuple(Response(id, prompt.id, text, "base") for id, text in texts.items()))


PROMPTS = [f"p{number}" for number in range(3)]
CANDIDATES = [candidates_of(Prompt(id, f"question {id}"), dict.fromkeys("abcd", "text")) for id in PROMPTS]


def ranking(order: str, annotator: str = "anna", prompt_id: str = "p0") -> Ranking:
    """`a bc` is a before the tied b and c."""
    groups = tuple(tuple(group) for group in order.split())
    return Ranking(f"{prompt_id}-{annotator}", prompt_id, annotator, groups)


def pairs(*rankings: Ranking) -> list[tuple[str, str, float, int]]:
    derived = derive_preferences(rankings, CANDIDATES)
    return [(p.chosen_id, p.rejected_id, round(p.weight, 6), p.votes) for p in derived]


# --- the prompt's text, id and split


def test_prompt_is_normalised_but_keeps_its_lines() -> None:
    assert normalise_prompt("\ufeff  How\u200b do\r\nI\x00 descale?  \r\n") == "How do\nI descale?"
    assert normalise_prompt("e\u0301") == "é"
    assert normalise_prompt("水壶怎么除垢？") == "水壶怎么除垢？"
    assert normalise_prompt("👨‍👩‍👧") == "👨‍👩‍👧"


@pytest.mark.parametrize("text", ["", " \n\t", "\ufeff\u200b", "\ud800"])
def test_empty_prompt_is_refused(text: str) -> None:
    with pytest.raises(RecordError, match="prompt is empty"):
        prompt_id(text)


@given(st.text(min_size=1))
def test_normalised_prompt_stays_as_it_is(text: str) -> None:
    try:
        once = normalise_prompt(text)
    except RecordError:
        return
    assert normalise_prompt(once) == once
    assert prompt_id(once) == prompt_id(text)
    assert split_of(once) == split_of(text)


def test_prompt_id_depends_on_all_that_the_model_is_asked() -> None:
    turns = (Message("user", "hi"), Message("assistant", "hello"))
    ids = [
        prompt_id("How?"),
        prompt_id("how?"),
        prompt_id("How?", "Be brief."),
        prompt_id("How? Be brief."),
        prompt_id("How?", history=turns),
        prompt_id("How?", history=turns[::-1]),
    ]
    assert len(set(ids)) == len(ids)
    assert all(len(id) == 13 and set(id[1:]) <= set(string.hexdigits) for id in ids)
    assert prompt_id("How\u200b  is\nit?", " ") == prompt_id("How is it?")


def test_prompt_id_never_changes() -> None:
    # printf How? | sha256sum; ids that are stored must stay valid
    assert prompt_id("How?") == "p0ea5977074d1"


def test_split_has_the_intended_shares() -> None:
    rng = random.Random(0)
    texts = {"".join(rng.choices(string.ascii_letters, k=12)) for _ in range(20_000)}
    shares = Counter(map(split_of, texts))
    assert shares["train"] / len(texts) == pytest.approx(0.60, abs=0.015)
    assert shares["verification"] / len(texts) == pytest.approx(0.12, abs=0.01)
    assert shares["unseen"] / len(texts) == pytest.approx(0.28, abs=0.015)


@pytest.mark.parametrize(
    ("text", "variant"),
    [
        ("How do I descale a kettle?", "how do I  descale a kettle"),
        ("水壶怎么除垢？", "水壶，怎么除垢"),
        ("ＡＢＣ１", "abc 1"),
    ],
)
def test_other_spelling_of_a_prompt_falls_on_the_same_side(text: str, variant: str) -> None:
    for number in range(30):  # many texts, for two of them may agree by chance
        assert split_of(f"{text} {number}") == split_of(f"{variant}{number}!")


def test_prompts_without_letters_are_split_too() -> None:
    assert len({split_of("?" * number) for number in range(1, 40)}) == 3


# --- rankings become preferences


def test_ranking_of_three_yields_three_pairs() -> None:
    assert pairs(ranking("a c b")) == [("a", "b", 1, 1), ("a", "c", 1, 1), ("c", "b", 1, 1)]


def test_tied_ranking_yields_no_pair() -> None:
    assert pairs(ranking("abc")) == []
    assert pairs(ranking("a bc")) == [("a", "b", 1, 1), ("a", "c", 1, 1)]


def test_partial_ranking_says_nothing_of_the_rest() -> None:
    assert pairs(ranking("d b")) == [("d", "b", 1, 1)]
    assert pairs(ranking("a")) == []
    assert pairs(ranking("")) == []


def test_majority_wins_with_its_margin_as_weight() -> None:
    rankings = [ranking("a b", "anna"), ranking("a b", "ben"), ranking("b a", "cleo")]
    assert pairs(*rankings) == [("a", "b", round(1 / 3, 6), 3)]


def test_even_votes_yield_no_pair() -> None:
    assert pairs(ranking("a b", "anna"), ranking("b a", "ben")) == []


def test_tie_is_a_vote_for_neither() -> None:
    assert pairs(ranking("a b", "anna"), ranking("ab", "ben")) == [("a", "b", 0.5, 2)]


def test_votes_of_older_rounds_weigh_less() -> None:
    rankings = [
        replace(ranking("a b", "anna"), round=1),
        replace(ranking("b a", "ben"), round=2),
        replace(ranking("c d", prompt_id="p1"), round=1),
        replace(ranking("c d", prompt_id="p2"), round=4),
    ]
    assert weight_by_round(rankings, 0.5) == {1: 0.125, 2: 0.25, 4: 1.0}
    derived = derive_preferences(rankings, CANDIDATES, decay=0.5)
    assert [(p.prompt_id, p.chosen_id, p.weight, p.votes) for p in derived] == [
        ("p0", "b", (0.25 - 0.125) / 2, 2),
        ("p1", "c", 0.125, 1),
        ("p2", "c", 1.0, 1),
    ]
    assert [p.weight for p in derive_preferences(rankings, CANDIDATES)] == [1.0, 1.0]  # p0 is even then
    assert derive_preferences([], CANDIDATES, decay=0.5) == []


def test_even_vote_of_several_rounds_is_no_preference() -> None:
    old = [replace(ranking("a b", f"old{number}"), round=1) for number in range(5)]
    newer = [replace(ranking("b a", f"newer{number}"), round=2) for number in range(4)]
    newest = [replace(ranking("a b", "one"), round=3), replace(ranking("b a", "other"), round=3)]
    # 5 · 0.64 against 4 · 0.8
    assert derive_preferences([*old, *newer, *newest], CANDIDATES, decay=0.8) == []


def test_annotators_of_different_prompts_do_not_mix() -> None:
    derived = derive_preferences([ranking("a b"), ranking("b a", prompt_id="p1")], CANDIDATES)
    assert [(p.prompt_id, p.chosen_id) for p in derived] == [("p0", "a"), ("p1", "b")]


@pytest.mark.parametrize(
    ("rankings", "fault"),
    [
        ([ranking("a b", prompt_id="p9")], "`p9-anna` cannot be used: prompt `p9` has no candidates"),
        ([ranking("a x")], r"\['x'\] are no answers to prompt `p0`"),
        ([ranking("a b a")], "places an answer twice"),
        ([ranking("aa b")], "places an answer twice"),
        ([Ranking("r1", "p0", "anna", (("a",), (), ("b",)))], "`r1` cannot be used: it has a place without"),
        (
            [ranking("a b"), Ranking("r2", "p0", "anna", (("b",),))],
            "`r2` .* another ranking of the same prompt",
        ),
        ([ranking("a b"), ranking("a b")], "another ranking of the same prompt"),
        (
            [ranking("a b"), Ranking("p0-anna", "p1", "anna", (("a",), ("b",)))],
            "`p0-anna` cannot be used: another ranking has the same id",
        ),
    ],
)
def test_malformed_ranking_is_named(rankings: list[Ranking], fault: str) -> None:
    with pytest.raises(RecordError, match=fault):
        derive_preferences(rankings, CANDIDATES)


def test_prompt_with_candidates_twice_is_named() -> None:
    with pytest.raises(RecordError, match="prompt `p0` has candidates twice; needed is one line for each"):
        derive_preferences([ranking("a b")], [*CANDIDATES, CANDIDATES[0]])


ORDERS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=4, unique_by=lambda place: place[0]
).map(
    lambda places: tuple(
        tuple(id for id, p in places if p == group) for group in sorted({p for _, p in places})
    )
)
RANKINGS = st.dictionaries(st.tuples(st.sampled_from(PROMPTS), st.sampled_from("xyz")), ORDERS).map(
    lambda orders: [Ranking(f"{p}{a}", p, a, order) for (p, a), order in orders.items()]
)


@given(RANKINGS, st.randoms(use_true_random=False))
def test_order_of_the_rankings_does_not_matter(rankings: list[Ranking], rng: random.Random) -> None:
    shuffled = rng.sample(rankings, len(rankings))
    assert derive_preferences(shuffled, CANDIDATES[::-1]) == derive_preferences(rankings, CANDIDATES)


@given(RANKINGS)
def test_reversed_rankings_swap_chosen_and_rejected(rankings: list[Ranking]) -> None:
    reversed_ = [Ranking(r.id, r.prompt_id, r.annotator, r.order[::-1]) for r in rankings]
    swapped = [
        Preference(p.prompt_id, p.rejected_id, p.chosen_id, p.weight, p.votes)
        for p in derive_preferences(reversed_, CANDIDATES)
    ]
    assert set(swapped) == set(derive_preferences(rankings, CANDIDATES))


@given(RANKINGS)
def test_a_pair_has_one_preference_with_a_weight_of_at_most_one(rankings: list[Ranking]) -> None:
    derived = derive_preferences(rankings, CANDIDATES)
    assert len({(p.prompt_id, frozenset((p.chosen_id, p.rejected_id))) for p in derived}) == len(derived)
    assert all(0 < p.weight <= 1 and 1 <= p.votes <= 3 for p in derived)


# --- is there enough?

SPLITS: dict[str, Split] = {"p0": "train", "p1": "train", "p2": "unseen"}
ENOUGH = [ranking("a b", prompt_id=id) for id in PROMPTS]


def test_enough_data_is_counted() -> None:
    rankings = [*ENOUGH, ranking("a b c", "ben")]
    counts = require_enough(rankings, derive_preferences(rankings, CANDIDATES), SPLITS)
    assert (counts.rankings, counts.annotators) == (4, 2)
    assert (counts.prompts_train, counts.prompts_heldout) == (2, 1)
    assert (counts.pairs_train, counts.pairs_heldout) == (4, 1)


@pytest.mark.parametrize(
    ("rankings", "fault"),
    [
        ([], "there are no rankings"),
        ([ranking("abc"), ranking("ab", prompt_id="p1")], "the 2 rankings prefer no answer"),
        ([ranking("a b"), ranking("b a", "ben")], "the 2 rankings prefer no answer"),
        (
            ENOUGH[:1],
            "1 prompts with a preference are for training and 0 held out; needed are at least 2 and 1",
        ),
        (ENOUGH[:2], "2 prompts .* and 0 held out"),
        (ENOUGH[1:], "1 prompts .* and 1 held out"),
    ],
)
def test_too_little_data_says_what_to_do(rankings: list[Ranking], fault: str) -> None:
    with pytest.raises(DataError, match=f"{fault}.*rank"):
        require_enough(rankings, derive_preferences(rankings, CANDIDATES), SPLITS)


@pytest.mark.parametrize(
    ("count", "split", "fault"),
    [
        (3, "train", "3 .* and 0 held out.*: `split` of some prompts must be `verification` or `unseen`"),
        (3, "unseen", "0 prompts .* and 3 held out.*: `split` of some prompts must be `train`"),
    ],
)
def test_prompts_of_one_split_only_name_the_field(count: int, split: Split, fault: str) -> None:
    preferences = derive_preferences(ENOUGH[:count], CANDIDATES)
    with pytest.raises(DataError, match=fault) as caught:
        require_enough(ENOUGH[:count], preferences, dict.fromkeys(PROMPTS, split))
    assert "rank more" not in str(caught.value)


def test_too_few_prompts_of_one_split_need_both() -> None:
    preferences = derive_preferences(ENOUGH[:1], CANDIDATES)
    with pytest.raises(DataError, match=r"`split` of some prompts must be .*; rank more prompts"):
        require_enough(ENOUGH[:1], preferences, dict.fromkeys(PROMPTS, "train"))


def test_verification_and_unseen_are_held_out() -> None:
    preferences = [Preference(id, "a", "b") for id in PROMPTS]
    train, heldout = split_preferences(preferences, {"p0": "verification", "p1": "train", "p2": "unseen"})
    assert [p.prompt_id for p in train] == ["p1"]
    assert [p.prompt_id for p in heldout] == ["p0", "p2"]


# --- exports

TURNS = (Message("user", "你好"), Message("assistant", "您好！"))
EXPORTED = [
    candidates_of(Prompt("p0", "How do I descale\na kettle?"), {"a": HOSTILE, "b": "lone \ud800 surrogate"}),
    candidates_of(
        Prompt("p1", "水壶怎么除垢？", "请简短回答。", TURNS), {"c": "白醋。", "d": "倒入白醋，等一小时。"}
    ),
]
PREFERENCES = [Preference("p0", "a", "b"), Preference("p1", "c", "d", 0.5, 2)]


def load(path: Path, cache: Path) -> list[dict[str, Any]]:
    datasets = pytest.importorskip("datasets")
    return list(datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache)))


def test_trl_export_loads_as_text(tmp_path: Path) -> None:
    to_trl(PREFERENCES, EXPORTED, tmp_path / "trl.jsonl")
    first, second = load(tmp_path / "trl.jsonl", tmp_path)
    assert first == {
        "prompt": "How do I descale\na kettle?\n\n",
        "chosen": HOSTILE,
        "rejected": "lone ? surrogate",
    }
    assert second["prompt"] == "请简短回答。\n\n你好\n\n您好！\n\n水壶怎么除垢？\n\n"
    assert (second["chosen"], second["rejected"]) == ("白醋。", "倒入白醋，等一小时。")


def test_trl_export_loads_as_conversation(tmp_path: Path) -> None:
    to_trl(PREFERENCES, EXPORTED, tmp_path / "trl.jsonl", conversational=True)
    first, second = load(tmp_path / "trl.jsonl", tmp_path)
    assert first["chosen"] == [{"role": "assistant", "content": HOSTILE}]
    assert [(turn["role"], turn["content"]) for turn in second["prompt"]] == [
        ("system", "请简短回答。"),
        ("user", "你好"),
        ("assistant", "您好！"),
        ("user", "水壶怎么除垢？"),
    ]


def test_export_is_one_object_a_line_for_every_kind_of_reader(tmp_path: Path) -> None:
    to_trl(PREFERENCES, EXPORTED, tmp_path / "trl.jsonl")
    lines = (
        (tmp_path / "trl.jsonl").read_text(encoding="utf-8").splitlines()
    )  # also splits at U+2028 and U+0085
    assert [json.loads(line)["chosen"] for line in lines] == [HOSTILE, "白醋。"]
    assert "白醋" in lines[1]  # readable for people


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize("conversational", [False, True], ids=["text", "conversational"])
def test_trl_trains_on_the_export(tmp_path: Path, conversational: bool) -> None:
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    from tests.tiny_models import tiny_model_dir

    to_trl(PREFERENCES, EXPORTED, tmp_path / "trl.jsonl", conversational=conversational)
    data = load_dataset(
        "json", data_files=str(tmp_path / "trl.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    directory = tiny_model_dir("llama")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1, dtype=torch.float32)
    settings = RewardConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, report_to=[], use_cpu=True, bf16=False,
        max_length=None, save_strategy="no", gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = RewardTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)
    prepared = [tokenizer.decode(row["chosen_ids"]) for row in trainer.train_dataset]
    assert "How do I descale" in prepared[0]
    assert prepared[1].index("请简短回答") < prepared[1].index("水壶怎么除垢") < prepared[1].index("白醋")
    assert trainer.train().global_step == 1


def test_llama_factory_export_says_where_everything_is(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    to_llama_factory(PREFERENCES, EXPORTED, directory, name="team")
    described = json.loads((directory / "dataset_info.json").read_bytes().decode("ascii"))["team"]
    assert (described["formatting"], described["ranking"]) == ("alpaca", True)
    first, second = load(directory / described["file_name"], tmp_path)
    columns = described["columns"]
    assert set(columns.values()) == set(first)
    assert first[columns["prompt"]] == "How do I descale\na kettle?"
    assert (first[columns["chosen"]], first[columns["rejected"]]) == (HOSTILE, "lone ? surrogate")
    assert (first[columns["history"]], first[columns["system"]], first[columns["query"]]) == ([], "", "")
    assert second[columns["history"]] == [["你好", "您好！"]]
    assert second[columns["system"]] == "请简短回答。"


def test_llama_factory_refuses_turns_out_of_order(tmp_path: Path) -> None:
    odd = candidates_of(Prompt("p0", "?", history=TURNS[:1]), {"a": "x", "b": "y"})
    with pytest.raises(RecordError, match=r"earlier turns of prompt `p0` are \['user'\]"):
        to_llama_factory(PREFERENCES[:1], [odd], tmp_path)
