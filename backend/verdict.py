"""From blind judgements to a verdict on a round. Pure, but that it reads rows.

Several people may judge a comparison: their majority is its one result, so that a popular pair does not count
more. The statistics are `trainers.evaluation`'s; the report, the console and the promotion use the result.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from backend.tables import ComparisonRow, JudgementRow
from trainers.evaluation import judge_reviews, sign_test, win_rate


def judge_round(comparisons: Iterable[ComparisonRow], judgements: Iterable[JudgementRow]) -> dict[str, Any]:
    """The verdict as the round keeps it.

    Args:
        comparisons: all of the round.
        judgements: the active ones.
    Returns:
        verdict (better, worse, no_difference, not_enough_evidence), seen and unseen (wins, ties, losses),
        win_rate, interval, p_value, of all comparisons and of each group; lengths in characters; how many
        comparisons were judged, and how many more would settle it.
    """
    rows = list(comparisons)
    results = majority(judgements)
    groups = {True: Counter[str](), False: Counter[str]()}
    for row in rows:
        if row.id in results:
            groups[row.seen][results[row.id]] += 1
    seen, unseen = _counts(groups[True]), _counts(groups[False])
    total = {name: seen[name] + unseen[name] for name in seen}
    overall = judge_reviews(**total)
    return {
        "verdict": overall.decision,
        "seen": seen,
        "unseen": unseen,
        "win_rate": overall.win_rate.value,
        "interval": [overall.win_rate.interval.low, overall.win_rate.interval.high],
        "p_value": overall.p_value,
        "p_seen": sign_test(seen["wins"], seen["losses"]).p_value,
        "p_unseen": sign_test(unseen["wins"], unseen["losses"]).p_value,
        "win_rate_seen": win_rate(**seen).value,
        "win_rate_unseen": win_rate(**unseen).value,
        "length_before": round(fmean(len(row.before) for row in rows), 1) if rows else None,
        "length_after": round(fmean(len(row.after) for row in rows), 1) if rows else None,
        "comparisons": len(rows),
        "judged": sum(total.values()),
        "reviews_needed": overall.reviews_needed,
    }


def majority(judgements: Iterable[JudgementRow]) -> dict[str, str]:
    """Comparison → `after`, `before` or `tie`, whichever more people chose; evenly split is a tie."""
    points: dict[str, int] = defaultdict(int)
    for judgement in judgements:
        if judgement.verdict is not None:
            points[judgement.comparison_id] += {"after": 1, "before": -1, "tie": 0}[judgement.verdict]
    return {
        comparison: "after" if sum_ > 0 else "before" if sum_ < 0 else "tie"
        for comparison, sum_ in points.items()
    }


def _counts(results: Mapping[str, int]) -> dict[str, int]:
    return {
        "wins": results.get("after", 0),
        "ties": results.get("tie", 0),
        "losses": results.get("before", 0),
    }
