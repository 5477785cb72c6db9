"""What starts when, and what the reasons say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.policy import (
    Conclude,
    RewardRun,
    StartGenerate,
    StartReward,
    Waiting,
    WorkspaceState,
    next_actions,
    rankings_threshold,
)

READY = WorkspaceState(prompts_published=100, rankings=50, rankings_new=50, train_after_rankings=50)


def generation(state: WorkspaceState) -> object:
    return next_actions(state)[0]


def reward(state: WorkspaceState) -> object:
    return next_actions(state)[1]


def review(state: WorkspaceState) -> object:
    return next_actions(state)[2]


def reason(action: object) -> str:
    assert isinstance(action, Waiting)
    return action.reason_en


def test_empty_workspace_waits_for_prompts() -> None:
    assert "Import prompts" in reason(generation(WorkspaceState()))


def test_new_prompts_start_generation() -> None:
    assert generation(WorkspaceState(prompts_new=1)) == StartGenerate()


def test_generation_under_way_is_not_started_twice() -> None:
    assert "being generated" in reason(generation(WorkspaceState(prompts_new=1, generating=True)))


def test_reward_starts_at_the_threshold_and_not_one_earlier() -> None:
    assert reward(READY) == StartReward()
    assert "after 1 more" in reason(reward(replace(READY, rankings=49, rankings_new=49)))


def test_too_few_tasks_for_the_threshold_ask_for_more_prompts() -> None:
    few = replace(READY, rankings=40, rankings_new=40, rankings_open=0)
    assert "import more prompts" in reason(reward(few))
    assert "start it now" in reason(reward(few))
    assert "start it now" not in reason(reward(replace(few, rankings_new=0)))
    assert "import" not in reason(reward(replace(few, rankings_open=10)))
    assert "import" not in reason(reward(replace(few, generating=True)))


def test_start_training_needs_no_threshold_but_a_ranking() -> None:
    assert reward(replace(READY, rankings=3, rankings_new=3, training_requested=True)) == StartReward()
    none = replace(READY, rankings=0, rankings_new=0, training_requested=True)
    assert "No rankings yet" in reason(reward(none))


@pytest.mark.parametrize("state", ["rewarding", "tuning", "comparing"])
def test_round_being_trained_holds_back_the_next_even_when_asked(state: str) -> None:
    busy = replace(READY, round_state=state, training_requested=True)  # type: ignore[arg-type]
    assert "new rankings count when it ends" in reason(reward(busy))


def test_open_review_holds_back_automatic_training_only() -> None:
    reviewing = replace(READY, round_state="reviewing", comparisons=40, comparisons_judged=3)
    assert "review comes first" in reason(reward(reviewing))
    assert reward(replace(reviewing, training_requested=True)) == StartReward()


def test_winner_that_nobody_promoted_yet_holds_back_automatic_training_only() -> None:
    won = replace(READY, round_state="decided", decision_open=True)
    assert "promote it first" in reason(reward(won))
    assert reward(replace(won, training_requested=True)) == StartReward()
    assert reward(replace(won, decision_open=False)) == StartReward()


@pytest.mark.parametrize(("needed", "threshold"), [(0, 20), (30, 30), (80, 50)])
@pytest.mark.parametrize("outcome", ["not_enough_evidence", "failed"])
def test_gate_that_did_not_pass_asks_for_twenty_to_fifty_more(
    needed: int, threshold: int, outcome: str
) -> None:
    run = RewardRun("succeeded", outcome, needed)  # type: ignore[arg-type]
    state = replace(READY, train_after_rankings=200, reward=run, round_state="gated")
    assert rankings_threshold(state) == threshold
    assert reward(replace(state, rankings_new=threshold)) == StartReward()
    assert "after 1 more" in reason(reward(replace(state, rankings_new=threshold - 1)))


def test_passed_gate_goes_back_to_the_usual_threshold() -> None:
    state = replace(READY, reward=RewardRun("succeeded", "passed"), round_state="decided")
    assert rankings_threshold(state) == 50


def test_threshold_of_zero_trains_only_when_asked() -> None:
    manual = replace(READY, train_after_rankings=0)
    assert "Start Training" in reason(reward(manual))
    assert reward(replace(manual, training_requested=True)) == StartReward()


def test_review_is_concluded_when_every_comparison_is_judged() -> None:
    state = replace(READY, round_state="reviewing", comparisons=40, comparisons_judged=39)
    assert reason(review(state)).startswith("1 comparisons")
    assert review(replace(state, comparisons_judged=40)) == Conclude()


def test_review_without_comparisons_is_never_concluded() -> None:
    assert isinstance(review(replace(READY, round_state="reviewing")), Waiting)


def test_every_reason_is_given_in_both_languages() -> None:
    for action in next_actions(WorkspaceState()):
        assert isinstance(action, Waiting)
        assert action.reason_en.isascii() and any("\u4e00" <= c <= "\u9fff" for c in action.reason_zh)
