"""The demo's report: its fields are a contract."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from backend.status import AdviceView, Counts, ModelView, RoundView, RunView, WorkspaceStatus
from scripts.demo_report import build_report, describe
from trainers.leaderboard import Match, rank_versions
from trainers.verdict import Tally

FIELDS = {
    "prompts", "candidates", "candidates_regenerated", "rankings", "annotators", "agreement", "reward_model",
    "ppo", "review", "length_before", "length_after", "garbled_after", "rounds", "leaderboard", "models",
    "advice", "seconds_total", "peak_rss_mb",
}  # fmt: skip
REWARD = {
    "accuracy": 0.91, "interval": [0.86, 0.95], "ceiling": 0.94, "agreement": 0.88, "baseline_longer": 0.1,
    "baseline_shorter": 0.9, "outcome": "passed", "seconds": 31.0, "pairs": 120, "rankings_needed": 0,
}  # fmt: skip
PPO = {
    "updates": 18, "stop_reason": "converged", "best_update": 15, "reward_before": -0.4, "reward_after": 1.2,
    "kl": 9.1, "length_before": 60.0, "length_after": 20.0, "seconds": 80.0, "resumed": False,
}  # fmt: skip
VERDICT = {
    "seen": {"wins": 12, "ties": 2, "losses": 1}, "unseen": {"wins": 20, "ties": 3, "losses": 2},
    "win_rate": 0.89, "interval": [0.78, 0.95], "p_value": 0.0001, "p_seen": 0.003, "p_unseen": 0.0002,
    "verdict": "better", "length_before": 110.0, "length_after": 31.0,
}  # fmt: skip
COMPARE = {
    "comparisons": 40,
    "length_before": 111.0,
    "length_after": 30.0,
    "garbled_after": 0.01,
    "seconds": 5.0,
}


def run(
    kind: str, result: dict[str, Any] | None, round_id: str | None = "demo-r1", state: str = "succeeded"
) -> RunView:
    return RunView(f"{kind}-1", kind, state, round_id, 1, 0, 0, "", result, "", 0.0, 0.0, 1.0)


def status(*runs: RunView, verdict: dict[str, Any] | None = None, state: str = "decided") -> WorkspaceStatus:
    counts = Counts(
        prompts=160, prompts_published=158, prompts_flagged=2, responses=474, rankings=200, rankings_new=0,
        rankings_needed=0, annotators=3, malformed=0, comparisons=40, judgements=40,
    )  # fmt: skip
    current = RoundView("demo-r1", 1, state, verdict, 40, 40, "", "", 0.0, 1.0)
    model = ModelView("policy-demo-1", "policy", "demo-r1", "ppo-1", "base", "published", False, {}, 0.0)
    advice = AdviceView("promote", "可以上线。", "Promote it.", "promote")
    return WorkspaceStatus(
        "demo", "Demo", 1, 2, 3, "base", counts, (), "", "", current, (current,), runs, (model,), (advice,)
    )


GENERATED = [
    run(
        "generate", {"prompts": 100, "candidates": 300, "regenerated": 7, "flagged": {}, "seconds": 9.0}, None
    ),
    run(
        "generate", {"prompts": 60, "candidates": 180, "regenerated": 3, "flagged": {}, "seconds": 5.0}, None
    ),
]
WHOLE = status(*GENERATED, run("reward", REWARD), run("ppo", PPO), run("compare", COMPARE), verdict=VERDICT)
GATED = status(*GENERATED, run("reward", REWARD | {"outcome": "failed", "accuracy": 0.5}), state="gated")


@pytest.mark.parametrize("case", [WHOLE, GATED, status()], ids=["whole", "gated", "nothing done"])
def test_report_always_has_exactly_its_fields(case: WorkspaceStatus) -> None:
    assert build_report(case, (), seconds_total=300.0, peak_rss_mb=2000.0).keys() == FIELDS


def test_whole_journey_is_reported() -> None:
    report = build_report(WHOLE, (), seconds_total=312.34, peak_rss_mb=2000.5)
    assert (report["candidates"], report["candidates_regenerated"]) == (480, 10)
    assert report["agreement"] == 0.88
    assert report["reward_model"].keys() == {
        "accuracy", "interval", "ceiling", "baseline_longer", "baseline_shorter", "outcome", "seconds",
    }  # fmt: skip
    assert report["ppo"].keys() == {
        "updates", "stop_reason", "reward_before", "reward_after", "kl", "seconds", "resumed",
    }  # fmt: skip
    assert report["review"].keys() == {"seen", "unseen", "win_rate", "interval", "p_value", "verdict"}
    assert (report["length_before"], report["length_after"], report["garbled_after"]) == (110.0, 31.0, 0.01)
    assert report["models"] == [
        {"id": "policy-demo-1", "kind": "policy", "parent": "base", "state": "published", "serving": False}
    ]
    assert report["seconds_total"] == 312.3


def test_what_was_not_reached_is_none() -> None:
    report = build_report(GATED, (), seconds_total=1.0, peak_rss_mb=1.0)
    assert (report["ppo"], report["review"], report["length_after"]) == (None, None, None)
    assert report["reward_model"]["outcome"] == "failed"


def test_runs_of_earlier_rounds_and_failed_runs_do_not_count() -> None:
    earlier = run("ppo", PPO | {"updates": 99}, "demo-r0")
    failed = run("reward", REWARD, state="failed")
    report = build_report(status(earlier, failed), (), seconds_total=1.0, peak_rss_mb=1.0)
    assert (report["ppo"], report["reward_model"]) == (None, None)


def test_every_round_is_reported_and_the_newest_again_at_the_top() -> None:
    first = RoundView("demo-r1", 1, "decided", VERDICT, 40, 40, "", "", 0.0, 1.0)
    second = RoundView(
        "demo-r2",
        2,
        "decided",
        VERDICT | {"verdict": "no_difference", "win_rate": 0.52},
        40,
        40,
        "",
        "",
        2.0,
        3.0,
    )
    both = dataclasses.replace(
        status(run("ppo", PPO), run("ppo", PPO | {"updates": 5}, "demo-r2")),
        round=second,
        rounds=(first, second),
    )
    standings = rank_versions(
        [
            Match("base", "policy-demo-1", Tally(30, 2, 8)),
            Match("policy-demo-1", "policy-demo-2", Tally(20, 3, 17)),
        ]
    )
    report = build_report(both, standings, seconds_total=1.0, peak_rss_mb=1.0)
    assert json.loads(json.dumps(report)) == report
    assert [(r["round"], r["ppo"]["updates"], r["review"]["verdict"]) for r in report["rounds"]] == [
        (1, 18, "better"), (2, 5, "no_difference"),
    ]  # fmt: skip
    assert report["review"] == report["rounds"][1]["review"] and report["ppo"]["updates"] == 5
    assert [found["version"] for found in report["leaderboard"]] == ["policy-demo-2", "policy-demo-1", "base"]
    said = "\n".join(describe(report))
    assert (
        said.index("Round 1") < said.index("model is better") < said.index("Round 2") < said.index("no diff")
    )


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (WHOLE, "trained model is better"),
        (GATED, "none, because no model"),
        (status(), "Reward model · 奖励模型: none"),
    ],
    ids=["whole", "gated", "nothing done"],
)
def test_summary_says_how_it_ended(case: WorkspaceStatus, said: str) -> None:
    assert said in "\n".join(describe(build_report(case, (), seconds_total=1.0, peak_rss_mb=1.0)))
