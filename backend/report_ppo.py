"""The part of a report that tells of PPO: what it gained, how far it went and why it ended. Pure.

Takes the result of the PPO stage (docs/metrics.md); `backend.report` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.markup import number

STOPS = {
    "converged": "已收敛 converged",
    "updates": "达到更新上限 reached the most updates",
    "kl": "KL 过大 KL grew too large",
    "diverged": "训练发散 the numbers diverged",
    "length_collapse": "回答变得过短 answers became too short",
    "length_explosion": "回答停不下来 answers did not end any more",
    "garbled": "出现乱码 answers became garbled",
    "entropy_collapse": "回答千篇一律 it says the same all the time",
    "over_optimisation": "过度优化 over-optimisation",
}
_NO_GUARD = ("converged", "updates")


def ppo_numbers(ppo: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(Chinese name, English name, value) of every figure; none before PPO has run."""
    if not ppo:
        return []
    reward = f"{number(ppo.get('reward_before'), 2)} → {number(ppo.get('reward_after'), 2)}"
    updates = f"{ppo.get('updates', '—')} (采用 kept: {ppo.get('best_update', '—')})"
    return [
        ("奖励", "reward", reward),
        ("与起点的 KL（nats）", "KL from the start (nats)", number(ppo.get("kl"), 2)),
        ("PPO 更新", "PPO updates", updates),
        ("PPO 结束原因", "PPO ended because", stop_words(ppo)),
    ]


def stop_words(ppo: Mapping[str, Any]) -> str:
    """Why PPO ended; of a guard with its number and limit."""
    reason = str(ppo.get("stop_reason"))
    words = STOPS.get(reason, reason)
    if ppo.get("stop_measured") is None or reason in _NO_GUARD:
        return words
    return f"{words}: {ppo['stop_measured']:.3g}, 界限 limit {ppo['stop_limit']:.3g}"
