"""Each rule fires at its number, stays silent beside it, and shows the number in both languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from backend.advice import Advice, advise
from backend.advice_rules import RULES
from backend.measurements import Measurements, Removed
from backend.settings import Settings

VERDICT = {"win_rate": 0.9, "p_value": 0.001, "judged": 40, "win_rate_seen": 0.9, "win_rate_unseen": 0.9}
FAILED = {"outcome": "failed", "accuracy": 0.61, "interval": [0.5, 0.7]}
LENGTH_ALONE = {
    "outcome": "passed", "accuracy": 0.91, "beats_baselines": False, "best_baseline": "shorter",
    "baseline_shorter": 0.93, "length_correlation": -0.9,
}  # fmt: skip
VARIANTS = {"compared": 100, "variants": 21}


def scores(*values: float) -> list[dict[str, float]]:
    """Looks at the verification prompts with these scores."""
    return [{"score": value, "kl": 31.5, "length": 2.0} for value in values]


PPO: dict[str, Any] = {
    "stop_reason": "converged", "updates": 40, "best_update": 24, "reward_before": -1.0, "reward_after": 1.8,
    "length_before": 61.0, "looks": scores(-1.0, 1.8), "learning_rate": 0.001, "stop_measured": 31.5,
    "stop_limit": 30.0,
}  # fmt: skip


def team_of(*rates: float, judgements: int = 50) -> dict[str, Any]:
    members = [
        {"annotator": str(number), "rate": rate, "judgements": judgements}
        for number, rate in enumerate(rates)
    ]
    return {"team": {"members": members}}


CASES: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("promote", {"verdict": {**VERDICT, "verdict": "better"}}, {"promoted": True}, "90%"),
    (
        "review_more",
        {"verdict": {**VERDICT, "verdict": "not_enough_evidence", "p_value": 0.21, "reviews_needed": 30}},
        {"verdict": {**VERDICT, "verdict": "no_difference", "reviews_needed": 0}},
        "30",
    ),
    (
        "rank_more",
        {"reward": {"outcome": "not_enough_evidence", "accuracy": 0.8, "rankings_needed": 40}},
        {"reward": {"outcome": "passed", "accuracy": 0.9, "rankings_needed": 0}},
        "40",
    ),
    (
        "rank_more",
        {"reward": {**FAILED, "rankings_needed": 50}, "rankings": 199, "rank_next": ("p1", "p2")},
        {"rankings": 200},
        "“p1”, “p2”",
    ),
    (
        "reward_low",
        {"reward": {**FAILED, "rankings_needed": 50}, "rankings": 200},
        {"reward": {"outcome": "passed", "accuracy": 0.9}},
        "61%",
    ),
    (
        "guideline",
        {"reward": {**FAILED, "agreement": 0.69}, "contested": ("p7",)},
        {"reward": {**FAILED, "agreement": 0.70}},
        "“p7”",
    ),
    (
        "baseline_alone",
        {"reward": LENGTH_ALONE},
        {"reward": {**LENGTH_ALONE, "beats_baselines": True}},
        "93%",
    ),
    ("agreement_low", {"reward": {"agreement": 0.69}}, {"reward": {"agreement": 0.70}}, "69%"),
    (
        "length_bias",
        {"reward": {"length_correlation": -0.8}},
        {"reward": {"length_correlation": 0.79}},
        "0.80",
    ),
    ("kl_stop", {"ppo": PPO | {"stop_reason": "kl"}}, {"ppo": PPO}, "31.5"),
    ("kl_stop", {"ppo": PPO | {"stop_reason": "kl"}}, {"verdict": {**VERDICT, "verdict": "better"}}, "31.5"),
    (
        "length_collapse",
        {"ppo": PPO | {"stop_reason": "length_collapse", "stop_measured": 2.4}},
        {"ppo": PPO},
        "2.4",
    ),
    (
        "length_explosion",
        {"ppo": PPO | {"stop_reason": "length_explosion", "stop_measured": 0.31}},
        {"ppo": PPO},
        "31%",
    ),
    ("over_optimised", {"ppo": PPO | {"stop_reason": "over_optimisation"}}, {"ppo": PPO}, "1.80"),
    (
        "over_optimised",
        {"ppo": PPO, "verdict": {**VERDICT, "verdict": "worse"}},
        {"verdict": {**VERDICT, "verdict": "no_difference"}},
        "24",
    ),
    (
        "style_unstable",
        {"ppo": PPO | {"looks": scores(-1.0, 1.8, 0.3)}},  # 1.5 of 2.8 were lost again
        {"ppo": PPO | {"looks": scores(-1.0, 1.8, 0.5)}},
        "54%",
    ),
    *(
        (
            "style_unstable",
            {"ppo": PPO | {"stop_reason": reason, "stop_measured": 0.31, "stop_limit": 0.1}},
            {"settings": Settings(clip_range=0.15)},
            "0.31",
        )
        for reason in ("garbled", "entropy_collapse", "diverged")
    ),
    (
        "unstable_again",
        {"ppo": PPO | {"stop_reason": "diverged"}, "settings": Settings(clip_range=0.15)},
        {"settings": Settings()},
        "0.15",
    ),
    (
        "reward_flat",
        {"ppo": PPO | {"best_update": 0, "looks": scores(-1.0, -1.2)}, **VARIANTS},
        {**VARIANTS, "variants": 5},
        "21%",
    ),
    (
        "unseen_worse",
        {"verdict": {**VERDICT, "verdict": "no_difference", "win_rate_unseen": 0.6}},
        {"verdict": {**VERDICT, "verdict": "no_difference", "win_rate_unseen": 0.75}},
        "60%",
    ),
    (
        "candidates_alike",
        {"generate": {"candidates": 300, "flagged": {"near_duplicate": 30}}},
        {"generate": {"candidates": 300, "flagged": {"near_duplicate": 15}}},
        "10%",
    ),
    (
        "candidates_variants",
        VARIANTS,
        {**VARIANTS, "variants": 20},
        "21%",
    ),
    ("annotator_apart", {"reward": team_of(0.9, 0.8, 0.5)}, {"reward": team_of(0.9, 0.8, 0.7)}, "50%"),
    (
        "self_inconsistent",
        {"consistency": {"judgements": 50, "prompts": 17, "rate": 0.79}},
        {"consistency": {"judgements": 50, "prompts": 17, "rate": 0.80}},
        "79%",
    ),
    (
        "adjudicate",
        {"reward": {"team": {"contested_prompts": 3, "shared_prompts": 40}}},
        {"reward": {"team": {"contested_prompts": 2, "shared_prompts": 40}}},
        "40",
    ),
    (
        "scenario_thin",
        {"reward": {"coverage": {"scenarios": [{"prompt_id": "p1", "rankings": 2, "thin": True}]}}},
        {"reward": {"coverage": {"scenarios": [{"prompt_id": "p1", "rankings": 2, "thin": False}]}}},
        "“p1”",
    ),
    (
        "unseen_far",
        {"reward": {"coverage": {"unseen": 20, "far": 4, "far_prompts": ["p4", "p5", "p6", "p7"]}}},
        {"reward": {"coverage": {"unseen": 20, "far": 3, "far_prompts": ["p4", "p5", "p6"]}}},
        "“p4”, “p5”, “p6”",
    ),
    (
        "review_few",
        {"compare": {"comparisons": 12}},
        {"compare": {"comparisons": 40}},
        "12",
    ),
    (
        "garbled",
        {"compare": {"garbled_after": 0.05, "comparisons": 40}},
        {"compare": {"garbled_after": 0.02, "comparisons": 100}},
        "5.0%",
    ),
    (
        "garbled",
        {"compare": {"garbled_after": 0.05, "comparisons": 40}},
        {"compare": {"garbled_after": 0.025, "comparisons": 40}},
        "5.0%",
    ),
    ("suspicious", {"rankings": 10, "suspicious": 3}, {"rankings": 10, "suspicious": 2}, "3"),
    (
        "retrain",
        {"removed": Removed(reward=1, of_reward=134)},
        {"removed": Removed(reward=0, of_reward=134, serving=1, of_serving=134)},
        "134",
    ),
    (
        "retrain_from",
        {"removed": Removed(serving=21, of_serving=400, clean="policy-team-1")},
        {"removed": Removed(serving=20, of_serving=400, clean="policy-team-1")},
        "--from policy-team-1",
    ),
    ("few_prompts", {"prompts": 59}, {"prompts": 60}, "59"),
    ("prompts_flagged", {"prompts": 90, "flagged": 4}, {"flagged": 0}, "4"),
]


def find(wanted: str, fields: Mapping[str, Any]) -> Advice | None:
    return next((advice for advice in advise(Measurements(**fields)) if advice.id == wanted), None)


@pytest.mark.parametrize(("wanted", "fires", "silent", "number"), CASES, ids=[case[0] for case in CASES])
def test_rule_fires_at_its_number_and_shows_it(
    wanted: str, fires: dict[str, Any], silent: dict[str, Any], number: str
) -> None:
    advice = find(wanted, fires)
    assert advice is not None
    assert number in advice.zh and number in advice.en
    assert find(wanted, {**fires, **silent}) is None


def test_winner_with_broken_answers_is_not_to_be_promoted() -> None:
    won = {"verdict": {"verdict": "better", "win_rate": 0.8, "p_value": 0.001}}
    assert find("promote", won) is not None
    assert find("promote", {**won, "compare": {"garbled_after": 0.05, "comparisons": 40}}) is None


def test_nothing_measured_gives_no_advice() -> None:
    assert advise(Measurements()) == []


def test_ordinary_ends_of_ppo_give_no_advice() -> None:
    for reason in ("converged", "updates"):
        assert advise(Measurements(ppo=PPO | {"stop_reason": reason})) == []


@pytest.mark.parametrize(
    ("wanted", "fields", "changes", "words"),
    [
        ("kl_stop", {"ppo": PPO | {"stop_reason": "kl"}}, {"ppo_learning_rate": 0.0005}, "→ 0.0005"),
        ("length_collapse", {"ppo": PPO | {"stop_reason": "length_collapse"}}, {"kl_coef": 1.0}, "0.5 → 1"),
        (
            "style_unstable",
            {"ppo": PPO | {"stop_reason": "garbled"}},
            {"clip_range": 0.15, "ppo_updates": 60},
            "0.2 → 0.15",
        ),
        (
            "over_optimised",
            {"ppo": PPO | {"stop_reason": "over_optimisation"}},
            {"ppo_updates": 12},
            "40 → 12",
        ),
        (
            "length_explosion",
            {"ppo": PPO | {"stop_reason": "length_explosion"}},
            {"missing_eos_penalty": 2.0},
            "1 → 2",
        ),
        (
            "candidates_variants",
            {**VARIANTS, "unranked": 9},
            {"max_similarity": 0.6},
            "0.85 → 0.6",
        ),
        (
            "review_more",
            {"verdict": {**VERDICT, "verdict": "not_enough_evidence", "reviews_needed": 30}},
            {"review_unseen": 55},
            "25 → 55",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_action_says_what_it_changes(
    wanted: str, fields: dict[str, Any], changes: dict[str, float], words: str
) -> None:
    advice = find(wanted, fields)
    assert advice is not None and advice.applies
    assert advice.changes == changes
    assert words in advice.does_zh and words in advice.does_en


def test_spread_is_asked_for_again_until_hardly_a_pair_would_be_left() -> None:
    asked, similarity = [], 0.85
    for _ in range(6):
        fields = {**VARIANTS, "unranked": 9, "settings": Settings(max_similarity=similarity)}
        advice = find("candidates_variants", fields)
        assert advice is not None
        similarity = advice.changes["max_similarity"]
        asked.append(similarity)
    assert asked == [0.6, 0.5, 0.4, 0.3, 0.3, 0.3]


def test_ranked_prompts_leave_nothing_to_generate_again() -> None:
    advice = find("candidates_variants", {**VARIANTS, "unranked": 0})
    assert advice is not None and not advice.applies


def test_peoples_work_is_not_the_backends() -> None:
    advice = find("few_prompts", {"prompts": 59})
    assert advice is not None and advice.action == "import_prompts" and not advice.applies


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"rank_next": ("p1",), "rank_aim": "learn"}, "whose answers the model can hardly order first"),
        ({"rank_next": ("p1",), "rank_aim": "measure"}, "those that measure it first, such as “p1”"),
        ({"rank_next": ()}, "import more prompts first"),
        ({}, "rank 50 more tasks."),
    ],
    ids=["learn", "measure", "none left", "nobody looked"],
)
def test_tasks_to_rank_are_those_that_label_studio_serves_first(found: dict[str, Any], words: str) -> None:
    for rankings, wanted in ((199, "rank_more"), (200, "reward_low")):
        fields = {"reward": {**FAILED, "rankings_needed": 50}, "rankings": rankings, **found}
        advice = find(wanted, fields)
        assert advice is not None and words in advice.en


def test_training_again_is_one_press() -> None:
    advice = find("retrain", {"removed": Removed(reward=1, of_reward=134)})
    assert advice is not None and advice.applies and not advice.changes


def test_length_is_spoken_of_once() -> None:
    assert [found.id for found in advise(Measurements(reward=LENGTH_ALONE))] == ["baseline_alone"]


def test_every_rule_has_a_case_here_and_an_id_of_its_own() -> None:
    ids = [rule.id for rule in RULES]
    assert len(ids) == len(set(ids))
    assert {case[0] for case in CASES} == set(ids)


@pytest.mark.parametrize(
    "team", [team_of(0.9, 0.5), team_of(0.9, 0.8, 0.5, judgements=49)], ids=["of two", "hardly compared"]
)
def test_nobody_stands_apart_without_enough_to_compare(team: dict[str, Any]) -> None:
    assert find("annotator_apart", {"reward": team}) is None


def test_two_far_prompts_are_no_pattern() -> None:
    assert (
        find("unseen_far", {"reward": {"coverage": {"unseen": 4, "far": 2, "far_prompts": ["a", "b"]}}})
        is None
    )


def test_scenarios_are_shown_by_what_people_asked() -> None:
    fields: dict[str, Any] = {
        "verdict": {**VERDICT, "verdict": "no_difference", "win_rate_unseen": 0.6},
        "reward": {"coverage": {"unseen": 40, "far": 1, "far_prompts": ["p4"]}},
        "prompts_named": {"p4": "How do I dye wool?"},
    }
    advice = find("unseen_worse", fields)
    assert advice is not None
    assert "“How do I dye wool?”" in advice.zh and "“How do I dye wool?”" in advice.en


def test_tiny_p_value_is_said_as_people_say_it() -> None:
    (advice,) = advise(Measurements(verdict={**VERDICT, "verdict": "better", "p_value": 3.6e-12}))
    assert "p < 0.001" in advice.en and "p < 0.001" in advice.zh
