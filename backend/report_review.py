"""The part of a report that tells of the blind review: verdict, bars, figures, leaderboard. Pure.

Takes the verdict as `backend.verdict.judge_round` gives it; `backend.report` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from backend.markup import heading, number, percent, scrolling, share, style
from trainers.evaluation import Interval
from trainers.leaderboard import Standing

VERDICTS: Mapping[str, tuple[str, str, str]] = {
    "better": ("新模型更好", "The new model is better", "#15803d"),
    "worse": ("新模型更差", "The new model is worse", "#b91c1c"),
    "no_difference": ("没有明显差别", "No difference that matters", "#475569"),
    "not_enough_evidence": ("证据不足", "Not enough evidence", "#b45309"),
}
OBSTACLES: Mapping[str, str] = {
    "shorter_wins": "无法区分：胜者总是较短的回答 cannot be told: the winner is always the shorter answer",
    "longer_wins": "无法区分：胜者总是较长的回答 cannot be told: the winner is always the longer answer",
    "one_sided": "无法估计：胜者总是同一个模型 cannot be told: one model wins every time",
    "separated": "无法区分：仅凭长度差就能分出胜负 cannot be told: the lengths alone tell who wins",
    "no_spread": "无法估计：长度之比处处相同 cannot be told: the lengths differ alike everywhere",
    "no_reviews": "—",
}
_WIN, _TIE, _LOSS, _EMPTY = "#16a34a", "#94a3b8", "#dc2626", "#e2e8f0"


def verdict_words(verdict: Mapping[str, Any]) -> tuple[str, str, str]:
    """The verdict in Chinese and in English, and its colour."""
    if not verdict:
        return "还没有结论", "No verdict yet", _TIE
    zh, en, colour = VERDICTS[str(verdict["verdict"])]
    if verdict["verdict"] == "no_difference" and "largest_difference" in verdict:
        points = f"{100 * verdict['largest_difference']:.0f}"
        return f"没有超过 {points} 个百分点的差别", f"No difference larger than {points} points", colour
    return zh, en, colour


def review_section(verdict: Mapping[str, Any]) -> str:
    """Wins, ties and losses as bars; nothing before the verdict."""
    if not verdict:
        return ""
    rows = [
        _bar_row("训练过的题目 · seen in training", "seen", verdict),
        _bar_row("没见过的题目 · never seen", "unseen", verdict),
    ]
    legend = "".join(
        f'<span style="{style(color=colour, margin_right="1em")}">■ {words}</span>'
        for colour, words in ((_WIN, "胜 wins"), (_TIE, "平 ties"), (_LOSS, "负 losses"))
    )
    return f"{heading('盲评结果', 'Blind review')}\n<p>{legend}</p>\n{''.join(rows)}"


def review_lines(verdict: Mapping[str, Any]) -> list[str]:
    """The same as text."""
    if not verdict:
        return []
    lines = []
    for name, key in (("训练过的题目 · seen", "seen"), ("没见过的题目 · never seen", "unseen")):
        c = verdict[key]
        counts = f"{c['wins']} 胜 wins, {c['ties']} 平 ties, {c['losses']} 负 losses"
        lines.append(f"  {name}: {counts}, {_group_rate(key, verdict)}")
    return lines


def review_numbers(verdict: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(Chinese name, English name, value) of every figure of the review; none before the verdict."""
    if not verdict:
        return []
    found = [
        ("胜率", "win rate", share(verdict.get("win_rate"), verdict.get("interval"))),
        ("显著性", "sign test", f"p = {verdict['p_value']:.3g}"),
        ("已评对比", "comparisons judged", f"{verdict['judged']} / {verdict['comparisons']}"),
    ]
    if verdict.get("pending"):
        shown = (
            f"{verdict['pending']} 组未评完 not fully judged;"
            f" 可随时查看的检验 any-time test p = {verdict['anytime_p_value']:.3g}"
        )
        found.append(("盲评提前结束", "review ended early", shown))
    if "largest_difference" in verdict:
        shown = f"至多 {100 * verdict['largest_difference']:.0f} 个百分点 points at most"
        found.append(("胜率与 50% 的距离", "distance of the win rate from 50 %", shown))
    if verdict.get("reviews_needed"):
        found.append(("要下结论还需盲评", "reviews that would settle it", f"+{verdict['reviews_needed']}"))
    found += _length_numbers(verdict)
    reviewers = verdict.get("reviewers") or {}
    if reviewers.get("share") is not None:
        shown = (
            f"{percent(reviewers['share'])}, α = {number(reviewers['krippendorff_alpha'], 2)}"
            f" ({reviewers['people']} 人 people, {reviewers['comparisons']} 组 comparisons)"
        )
        found.append(("评审者之间的一致", "agreement of the reviewers", shown))
    return found


def leaderboard_section(standings: Sequence[Standing], model: str) -> str:
    """All versions as a table with their intervals drawn; nothing before the second round."""
    if len(standings) < 3:
        return ""
    cell = style(padding="4px 12px 4px 0")
    names = ("名次 · Place", "版本 · Version", f"对 {_anchor(standings)} 的胜率 · Win rate against it")
    head = "".join(f'<th style="{cell}; text-align: left">{escape(name)}</th>' for name in names)
    head += f'<th></th><th style="{cell}; text-align: left">胜 / 平 / 负 · Wins / ties / losses</th>'
    rows = []
    for standing in standings:
        name = escape(standing.version)
        cells = (
            _place(standing),
            f"<b>{name}</b>" if standing.version == model else name,
            escape(_rate(standing, standings)),
            _interval_bar(standing),
            _counts(standing),
        )
        rows.append("<tr>" + "".join(f'<td style="{cell}">{shown}</td>' for shown in cells) + "</tr>")
    title = heading("所有版本", "All versions")
    table = scrolling(f"<table><tr>{head}</tr>{''.join(rows)}</table>")
    return f"{title}\n{table}"


def leaderboard_lines(standings: Sequence[Standing]) -> list[str]:
    """The same as text."""
    if len(standings) < 3:
        return []
    lines = [f"  所有版本，对 {_anchor(standings)} 的胜率 · All versions, win rate against it:"]
    for found in standings:
        lines.append(f"    {_place(found):>5}  {found.version}  {_rate(found, standings)}  {_counts(found)}")
    return lines


def _length_numbers(verdict: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    before, after = number(verdict.get("length_before")), number(verdict.get("length_after"))
    found = [("平均长度（字符）", "mean length (characters)", f"{before} → {after}")]
    if controlled := verdict.get("length_controlled"):
        shown = share(controlled["win_rate"], controlled["interval"])
        if controlled["obstacle"]:
            shown = OBSTACLES[controlled["obstacle"]]
        elif controlled["extrapolated"]:
            shown += " (推算：没有长度相同的对比 extrapolated: no pair is equally long)"
        found.append(("长度相同时的胜率", "win rate at equal length", shown))
    return found


def _bar_row(name: str, group: str, verdict: Mapping[str, Any]) -> str:
    counts = verdict[group]
    words = (
        f"{name} · {counts['wins']} / {counts['ties']} / {counts['losses']} · {_group_rate(group, verdict)}"
    )
    return f'<p style="{style(margin="8px 0")}">{words}<br/>{_bar(counts)}</p>'


def _group_rate(group: str, verdict: Mapping[str, Any]) -> str:
    """Win rate of one group of prompts with its interval, and how likely that is by chance."""
    if verdict.get(f"win_rate_{group}") is None:
        return "—"
    shown = share(verdict[f"win_rate_{group}"], verdict.get(f"interval_{group}"))
    return f"{shown}, p = {verdict[f'p_{group}']:.3g}"


def _bar(counts: Mapping[str, int], width: int = 320, height: int = 18) -> str:
    """Wins, ties and losses as one bar of inline SVG."""
    total = sum(counts[name] for name in ("wins", "ties", "losses"))
    parts, x = [_rect(0.0, width, height, _EMPTY)], 0.0
    for name, colour in (("wins", _WIN), ("ties", _TIE), ("losses", _LOSS)):
        share_px = width * counts[name] / total if total else 0.0
        if share_px:
            parts.append(_rect(x, share_px, height, colour))
        x += share_px
    return f'<svg width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'


def _interval_bar(standing: Standing, width: int = 200, height: int = 14) -> str:
    """A win rate from 0 to 1 with its interval, and where ½ is."""
    if standing.win_rate is None or standing.interval is None:
        return ""
    low, high = standing.interval.low, standing.interval.high
    parts = [
        _rect(0.0, width, height, _EMPTY),
        _rect(width * low, max(1.0, width * (high - low)), height, "#93c5fd"),
        _rect(width / 2, 1, height, "#475569"),
        _rect(width * standing.win_rate - 1.5, 3, height, "#1d4ed8"),
    ]
    return f'<svg width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'


def _rect(x: float, width: float, height: int, colour: str) -> str:
    shown = f"{width}" if isinstance(width, int) else f"{width:.1f}"
    return f'<rect x="{x:.1f}" y="0" width="{shown}" height="{height}" fill="{colour}"/>'


def _anchor(standings: Sequence[Standing]) -> str:
    """The version that all win rates are against: the one whose own is ½ for certain."""
    certain = Interval(0.5, 0.5)
    return next((standing.version for standing in standings if standing.interval == certain), "—")


def _place(standing: Standing) -> str:
    if standing.best_place is None:
        return "—"
    best, worst = standing.best_place, standing.worst_place
    return str(best) if best == worst else f"{best}–{worst}"


def _rate(standing: Standing, standings: Sequence[Standing]) -> str:
    if standing.win_rate is None or standing.interval is None:
        return "无对比相连 not connected"
    if standing.version == _anchor(standings):
        return "起点 where it began"
    return share(standing.win_rate, (standing.interval.low, standing.interval.high))


def _counts(standing: Standing) -> str:
    tally = standing.tally
    return f"{tally.wins} / {tally.ties} / {tally.losses}"
