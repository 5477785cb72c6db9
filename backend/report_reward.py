"""The part of a report that tells of the reward model: its accuracy, what bounds it, what it must beat. Pure.

Takes the result of the reward stage (docs/metrics.md); `backend.report` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.markup import number, percent, share

BASELINES = {"longer": "越长越好 longer wins", "shorter": "越短越好 shorter wins"}
OUTCOMES = {
    "passed": "通过 passed",
    "not_enough_evidence": "证据不足 not enough evidence",
    "failed": "未通过 failed",
}
KINDS = {
    "rank": (
        "按名次", "by rank",
        {"adjacent": "相邻 adjacent", "between": "居中 between", "first_last": "首尾 first against last"},
    ),
    "style": ("按风格", "by style", {"same": "相同 same", "different": "不同 different"}),
    "length": (
        "按长度", "by length",
        {"longer": "较长者胜 longer preferred", "shorter": "较短者胜 shorter preferred",
         "about_equal": "长度相近 about equal"},
    ),
    "language": ("按语言", "by language", {"zh": "中文 Chinese", "en": "英文 English"}),
}  # fmt: skip


def reward_numbers(reward: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(Chinese name, English name, value) of every figure; none before a reward model was trained."""
    if not reward:
        return []
    return [
        *_accuracy_numbers(reward),
        *_baseline_numbers(reward),
        *_calibration_numbers(reward),
        *_kind_numbers(reward),
    ]


def _accuracy_numbers(reward: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    shown = share(reward.get("accuracy"), reward.get("interval"))
    if clustered := reward.get("clustered_interval"):
        shown += f"; 按题目抽样 by prompts {clustered[0]:.0%} – {clustered[1]:.0%}"
    if reward.get("pairs"):
        shown += f"; {reward['pairs']} 对 pairs"
    found = [("奖励模型准确率（未见题目）", "reward model, held-out accuracy", shown)]
    if outcome := OUTCOMES.get(str(reward.get("outcome"))):
        needed = reward.get("rankings_needed")
        more = f"; 还需约 {needed} 个排序 about {needed} more rankings" if needed else ""
        found.append(("门槛", "gate", outcome + more))
    if reward.get("ceiling") is not None:
        shown = f"{percent(reward['ceiling'])} (两人一致 two people agree {percent(reward.get('agreement'))})"
        found.append(("团队一致性允许的最高准确率", "ceiling set by the team's agreement", shown))
    return found


def _baseline_numbers(reward: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    best = reward.get("best_baseline")
    if not best:
        return []
    beaten = "模型明显更好 clearly beaten" if reward["beats_baselines"] else "未明显超过 not clearly beaten"
    shown = f"{BASELINES[best]}: {_rule(reward, best)}, {beaten}"
    found = [("最好的简单规则", "best simple rule", shown)]
    for other in BASELINES.keys() - {best}:
        if reward.get(f"baseline_{other}") is not None:
            found.append(("另一条简单规则", "the other rule", f"{BASELINES[other]}: {_rule(reward, other)}"))
    if reward.get("length_correlation") is not None:
        shown = f"{number(reward['length_correlation'], 2)} (−1 … 1)"
        found.append(("得分与长度的相关", "correlation of score and length", shown))
    return found


def _calibration_numbers(reward: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    calibration = reward.get("calibration") or {}
    if calibration.get("error") is None:
        return []
    shown = f"{calibration['error']:.1%} (仅因偶然 by chance alone: {calibration['noise']:.1%})"
    return [("概率偏差", "calibration error", shown)]


def _kind_numbers(reward: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found = []
    for name, kinds in (reward.get("accuracy_by_kind") or {}).items():
        zh, en, words = KINDS[name]
        shown = ", ".join(
            f"{words[kind]} {percent(figures['accuracy'])} ({figures['pairs']})"
            for kind, figures in kinds.items()
        )
        found.append((f"准确率{zh}（对数）", f"accuracy {en} (pairs)", shown))
    return found


def _rule(reward: Mapping[str, Any], name: str) -> str:
    return share(reward.get(f"baseline_{name}"), reward.get(f"baseline_{name}_interval"))
