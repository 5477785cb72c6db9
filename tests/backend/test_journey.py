"""The words of the five steps in every state of a round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backend.journey import five_steps, next_words
from backend.policy import RewardRun, WorkspaceState
from backend.status import AdviceView, Counts, RoundView, RunView, Step

EMPTY = Counts(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
RANKED = replace(EMPTY, prompts=100, prompts_published=100, rankings=60, annotators=3)
PASSED = {"outcome": "passed", "accuracy": 0.91}
FAILED = {"outcome": "failed", "accuracy": 0.6}


def run(
    kind: str, state: str = "succeeded", result: dict[str, Any] | None = None, error: str = ""
) -> RunView:
    return RunView(f"{kind}-1", kind, state, "team-r1", 1, 3, 10, "steps", result, error, 0.0, 0.0, None)


def round_in(state: str, **fields: Any) -> RoundView:
    view = RoundView("team-r1", 1, state, None, 40, 7, "", "", 0.0, None)
    return replace(view, **fields)


def steps(
    state: str | None,
    *runs: RunView,
    counts: Counts = RANKED,
    auto_ppo: bool = True,
    decision_open: bool = False,
    **fields: Any,
) -> dict[str, Step]:
    reward = next((r for r in runs if r.kind == "reward"), None)
    result = (reward.result or {}) if reward else {}
    newest = (
        RewardRun(reward.state, result.get("outcome"), result.get("rankings_needed", 0)) if reward else None
    )  # type: ignore[arg-type]
    facts = WorkspaceState(
        prompts_published=counts.prompts_published, rankings=counts.rankings,
        rankings_new=counts.rankings_new, round_state=state, reward=newest, comparisons=40,
        comparisons_judged=7, decision_open=decision_open,
    )  # type: ignore[arg-type]  # fmt: skip
    current = round_in(state, **fields) if state else None
    return {step.key: step for step in five_steps(facts, counts, current, runs, auto_ppo=auto_ppo)}


def test_empty_workspace_asks_for_prompts_and_waits_with_the_rest() -> None:
    found = steps(None, counts=EMPTY)
    assert [step.state for step in found.values()] == ["waiting"] * 5
    assert "Import prompts" in next_words(tuple(found.values()))[1]


def test_generation_shows_its_progress() -> None:
    found = steps("collecting", run("generate", "running"), counts=replace(EMPTY, prompts=100))
    step = found["candidates"]
    assert (step.state, step.done, step.total, step.run_id) == ("running", 3, 10, "generate-1")
    assert "3 / 10" in step.reason_en


def test_answers_on_their_way_to_label_studio_are_told() -> None:
    counts = replace(RANKED, prompts=100, prompts_published=40)
    step = steps("collecting", run("generate"), counts=counts)["candidates"]
    assert (step.state, step.done, step.total) == ("running", 40, 100)
    assert "being written to the ranking project" in step.reason_en


def test_failed_generation_says_why() -> None:
    found = steps("collecting", run("generate", "failed", error="no memory"))
    assert found["candidates"].state == "attention" and "no memory" in found["candidates"].reason_en


def test_nobody_ranks_while_the_lead_has_not_decided_on_a_winner() -> None:
    for decision_open, expected in ((True, "waiting"), (False, "people")):
        found = steps("decided", run("generate"), run("reward", result=PASSED), decision_open=decision_open)
        assert found["rankings"].state == expected


def test_flagged_prompts_are_told() -> None:
    counts = replace(RANKED, prompts_published=97, prompts_flagged=3)
    step = steps("collecting", run("generate"), counts=counts)["candidates"]
    assert step.state == "done" and "3 set aside" in step.reason_en


def test_rankings_are_the_peoples_turn_until_training_starts() -> None:
    step = steps("collecting", run("generate"), counts=replace(RANKED, rankings_new=20))["rankings"]
    assert (step.state, step.done, step.total) == ("people", 20, 50)
    assert steps("rewarding", run("reward", "running"))["rankings"].state == "done"


@pytest.mark.parametrize(
    ("state", "runs", "expected"),
    [
        ("rewarding", [run("reward", "running")], ("running", "waiting", "waiting")),
        ("gated", [run("reward", result=FAILED)], ("attention", "waiting", "waiting")),
        ("tuning", [run("reward", result=PASSED), run("ppo", "running")], ("done", "running", "waiting")),
        ("tuning", [run("reward", result=FAILED), run("ppo", "running")], ("done", "running", "waiting")),
        (
            "comparing",
            [run("reward", result=PASSED), run("ppo", result={"updates": 9}), run("compare", "running")],
            ("done", "done", "running"),
        ),
        (
            "reviewing",
            [run("reward", result=PASSED), run("ppo", result={}), run("compare", result={})],
            ("done", "done", "people"),
        ),
        (
            "decided",
            [run("reward", result=PASSED), run("ppo", result={}), run("compare", result={})],
            ("done", "done", "done"),
        ),
        ("failed", [run("reward", "failed", error="all tie")], ("attention", "waiting", "waiting")),
        ("failed", [run("reward", result=PASSED), run("ppo", "cancelled")], ("done", "attention", "waiting")),
        (
            "failed",
            [run("reward", result=PASSED), run("ppo", result={}), run("compare", "failed", error="x")],
            ("done", "done", "attention"),
        ),
    ],
)  # fmt: skip
def test_training_steps_follow_the_round(state: str, runs: list[RunView], expected: tuple[str, ...]) -> None:
    found = steps(state, *runs)
    assert tuple(found[key].state for key in ("reward", "ppo", "review")) == expected


def test_gate_that_did_not_pass_says_how_many_rankings_to_add() -> None:
    result = {"outcome": "not_enough_evidence", "accuracy": 0.83, "rankings_needed": 40}
    step = steps("gated", run("reward", result=result))["reward"]
    assert "83%" in step.reason_en and "40" in step.reason_en and "40" in step.reason_zh


def test_ranking_is_nobodys_turn_while_the_team_reviews() -> None:
    found = steps("reviewing", run("reward", result=PASSED), run("ppo", result={}), run("compare", result={}))
    assert (found["rankings"].state, found["review"].state) == ("done", "people")


def test_gate_that_did_not_pass_asks_for_prompts_if_no_tasks_are_left() -> None:
    result = {"outcome": "not_enough_evidence", "accuracy": 0.67, "rankings_needed": 20}
    runs = [run("reward", result=result)]
    reward = RewardRun("succeeded", "not_enough_evidence", 20)
    facts = WorkspaceState(prompts_published=40, rankings=40, rankings_open=5, reward=reward)
    step = five_steps(facts, RANKED, round_in("gated"), runs)[2]
    assert "import about 15 more prompts, then rank about 20" in step.reason_en
    assert "15 条新题目" in step.reason_zh


def test_passed_gate_without_auto_ppo_asks_for_a_decision() -> None:
    found = steps("gated", run("reward", result=PASSED), auto_ppo=False)
    assert (found["reward"].state, found["ppo"].state) == ("done", "attention")


def test_ppo_started_by_hand_does_not_call_the_gate_passed() -> None:
    step = steps("tuning", run("reward", result=FAILED), run("ppo", "running"))["reward"]
    assert step.reason_en.startswith("Not passed") and "by hand" in step.reason_en


def test_decision_comes_before_what_runs_and_that_before_what_people_do() -> None:
    broken = Step("reward", "attention", "z", "broken")
    running = Step("ppo", "running", "z", "running")
    people = Step("review", "people", "z", "people")
    assert next_words([people, running, broken])[1] == "broken"
    assert next_words([people, running])[1] == "running"
    assert next_words([people])[1] == "people"


def test_verdict_is_told_in_both_languages() -> None:
    runs = [run("reward", result=PASSED), run("ppo", result={}), run("compare", result={})]
    step = steps("decided", *runs, verdict={"verdict": "worse", "win_rate": 0.2})["review"]
    assert "新模型更差" in step.reason_zh and "worse (win rate 20%)" in step.reason_en


def test_after_a_verdict_its_advice_comes_before_new_rankings() -> None:
    people = Step("rankings", "people", "人", "people")
    promote = AdviceView("promote", "启用", "promote it", "promote")
    reviewed = Step("review", "done", "好", "done")
    open_review = Step("review", "waiting", "等", "wait")
    assert next_words([people, reviewed], [promote])[1] == "promote it"
    assert next_words([people, reviewed])[1] == "people"
    assert next_words([people, open_review], [promote])[1] == "people"
