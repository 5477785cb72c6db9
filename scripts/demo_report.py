"""What `make demo` found: `report.json`, and the lines that it prints at the end.

Pure: a status in, a dictionary or text out. The fields are a contract: whoever measures the project reads
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from backend.status import RoundView, RunView, WorkspaceStatus
from trainers.leaderboard import Standing

REWARD = ("accuracy", "interval", "ceiling", "baseline_longer", "baseline_shorter", "outcome", "seconds")
PPO = ("updates", "stop_reason", "reward_before", "reward_after", "kl", "seconds", "resumed")
REVIEW = ("seen", "unseen", "win_rate", "interval", "p_value", "verdict")
WORDS = {
    "better": ("the trained model is better", "训练后的模型更好"),
    "worse": ("the trained model is worse", "训练后的模型更差"),
    "no_difference": ("no difference that matters", "没有明显差别"),
    "not_enough_evidence": ("not enough evidence", "证据不足"),
}


def build_report(
    status: WorkspaceStatus, leaderboard: Sequence[Standing], *, seconds_total: float, peak_rss_mb: float
) -> dict[str, Any]:
    """The report of the newest round, and under `rounds` of each; what it did not reach is `None`."""
    generated = [result for run in _succeeded(status, "generate") if (result := run.result)]
    return {
        "prompts": status.counts.prompts,
        "candidates": sum(result["candidates"] for result in generated),
        "candidates_regenerated": sum(result["regenerated"] for result in generated),
        "rankings": status.counts.rankings,
        "annotators": status.counts.annotators,
        **_findings(status, status.round),
        "rounds": [{"round": current.number, **_findings(status, current)} for current in status.rounds],
        "leaderboard": [asdict(standing) for standing in leaderboard],
        "models": [
            {"id": m.id, "kind": m.kind, "parent": m.parent, "state": m.state, "serving": m.serving}
            for m in status.models
        ],
        "advice": [advice.to_json() for advice in status.advice],
        "seconds_total": round(seconds_total, 1),
        "peak_rss_mb": peak_rss_mb,
    }


def _findings(status: WorkspaceStatus, current: RoundView | None) -> dict[str, Any]:
    """What a round found."""
    reward, ppo, compared = (_result_of(status, current, kind) for kind in ("reward", "ppo", "compare"))
    verdict = (current.verdict if current else None) or {}
    return {
        "agreement": reward.get("agreement"),
        "reward_model": {name: reward.get(name) for name in REWARD} if reward else None,
        "ppo": {name: ppo.get(name) for name in PPO} if ppo else None,
        "review": {name: verdict.get(name) for name in REVIEW} if verdict else None,
        "length_before": verdict.get("length_before", compared.get("length_before")),
        "length_after": verdict.get("length_after", compared.get("length_after")),
        "garbled_after": compared.get("garbled_after"),
    }


def describe(report: dict[str, Any]) -> list[str]:
    """The report in a few lines for the terminal."""
    lines = []
    for found in report["rounds"] or [report]:
        if len(report["rounds"]) > 1:
            lines.append(f"Round {found['round']} · 第 {found['round']} 轮")
        lines += _describe_round(found)
    lines += [f"  advice: {advice['en']}\n  建议：{advice['zh']}" for advice in report["advice"]]
    lines.append(
        f"  {report['seconds_total']:.0f} s in all, at most {report['peak_rss_mb']:.0f} MB of memory"
    )
    return lines


def _describe_round(found: dict[str, Any]) -> list[str]:
    lines = [_describe_reward(found["reward_model"])]
    review = found["review"]
    if not review:
        return [*lines, "Verdict · 结论: none, because no model was trained by PPO · 未进行 PPO"]
    english, chinese = WORDS.get(review["verdict"], (review["verdict"], ""))
    low, high = review["interval"]
    return [
        *lines,
        f"Verdict · 结论: [bold]{english} · {chinese}[/]",
        f"  blind review: seen {_counts(review['seen'])}, never seen {_counts(review['unseen'])}"
        f" (wins/ties/losses); win rate {review['win_rate']:.0%} ({low:.0%} to {high:.0%}),"
        f" p = {review['p_value']:.2g}",
        f"  mean answer length: {found['length_before']:.0f} → {found['length_after']:.0f} characters",
    ]


def _describe_reward(reward: dict[str, Any] | None) -> str:
    if not reward:
        return "Reward model · 奖励模型: none"
    accuracy = "unknown" if reward["accuracy"] is None else f"{reward['accuracy']:.1%}"
    return f"Reward model · 奖励模型: {reward['outcome']}, {accuracy} of the held-out pairs right"


def _counts(counts: dict[str, int]) -> str:
    return f"{counts['wins']}/{counts['ties']}/{counts['losses']}"


def _succeeded(status: WorkspaceStatus, kind: str) -> list[RunView]:
    return [run for run in status.runs if run.kind == kind and run.state == "succeeded"]


def _result_of(status: WorkspaceStatus, current: RoundView | None, kind: str) -> dict[str, Any]:
    """The newest result of a round's runs of a kind; empty if it has none."""
    round_id = current.id if current else None
    results = [run.result for run in _succeeded(status, kind) if run.round_id == round_id and run.result]
    return results[-1] if results else {}
