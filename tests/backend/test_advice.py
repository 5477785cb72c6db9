"""Each rule fires at its number, stays silent beside it, and shows the number in both languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from backend.advice import Advice, Measurements, Removed, advise

STOPPED = {"stop_reason": "kl", "stop_measured": 31.5, "stop_limit": 30.0}
VERDICT = {"win_rate": 0.9, "p_value": 0.001, "judged": 40, "win_rate_seen": 0.9, "win_rate_unseen": 0.9}


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
        "reward_low",
        {"reward": {"outcome": "failed", "accuracy": 0.61, "rankings_needed": 50}},
        {"reward": {"outcome": "passed", "accuracy": 0.9}},
        "61%",
    ),
    ("agreement_low", {"reward": {"agreement": 0.69}}, {"reward": {"agreement": 0.70}}, "69%"),
    (
        "length_bias",
        {"reward": {"length_correlation": -0.8}},
        {"reward": {"length_correlation": 0.79}},
        "0.80",
    ),
    (
        "clip_lower",
        {"ppo": STOPPED},
        {"ppo": STOPPED, "clip_range": 0.15},
        "31.5",
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
        {"generate": {"spread": {"prompts": 100, "alike_prompts": 21}}},
        {"generate": {"spread": {"prompts": 100, "alike_prompts": 20}}},
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
        {"compare": {"comparisons": 12}, "comparisons_wanted": 40},
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
        assert find("clip_lower", {"ppo": {**STOPPED, "stop_reason": reason}}) is None


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
