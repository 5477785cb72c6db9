"""From blind judgements to a verdict on a round. Pure, but that it reads rows.

Several people may judge a comparison: their majority is its one result, so that a popular pair does not count
more. The statistics are those of `trainers.verdict`; the report, the console and the promotion use what comes
out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

from backend.tables import ComparisonRow, JudgementRow
from trainers.evaluation import sign_test
from trainers.verdict import Tally, Vote, judge_reviews, majority, reviews_to_settle, win_rate


def judge_round(
    comparisons: Iterable[ComparisonRow],
    judgements: Iterable[JudgementRow],
    *,
    pending: Collection[str] = (),
) -> dict[str, Any]:
    """The verdict as the round keeps it; docs/metrics.md lists what it holds.

    Args:
        comparisons: all of the round.
        judgements: the active ones.
        pending: ids of the comparisons that lack a judgement: the review was ended early.
    """
    rows = list(comparisons)
    results = review_results(judgements)
    seen = _tally(results, [row.id for row in rows if row.seen])
    unseen = _tally(results, [row.id for row in rows if not row.seen])
    judged = _tally(results, [row.id for row in rows])
    settled = _tally(results, [row.id for row in rows if row.id not in pending])
    found = judge_reviews(judged, settled=settled, pending=len(pending))
    return {
        "verdict": found.decision,
        "seen": asdict(seen),
        "unseen": asdict(unseen),
        "win_rate": found.win_rate.value,
        "interval": [found.win_rate.interval.low, found.win_rate.interval.high],
        "p_value": found.p_value,
        "anytime_p_value": found.anytime_p_value,
        "largest_difference": found.largest_difference,
        "p_seen": sign_test(seen.wins, seen.losses).p_value,
        "p_unseen": sign_test(unseen.wins, unseen.losses).p_value,
        "win_rate_seen": win_rate(seen).value,
        "win_rate_unseen": win_rate(unseen).value,
        "length_before": round(fmean(len(row.before) for row in rows), 1) if rows else None,
        "length_after": round(fmean(len(row.after) for row in rows), 1) if rows else None,
        "comparisons": len(rows),
        "judged": judged.reviews,
        "pending": len(pending),
        "reviews_needed": reviews_to_settle(judged) if found.decision == "not_enough_evidence" else 0,
    }


def review_results(judgements: Iterable[JudgementRow]) -> dict[str, Vote]:
    """Comparison → what the majority of its reviewers says."""
    votes: dict[str, list[Vote]] = defaultdict(list)
    for judgement in judgements:
        if judgement.verdict is not None:
            votes[judgement.comparison_id].append(judgement.verdict)
    return {comparison: majority(found) for comparison, found in votes.items()}


def _tally(results: Mapping[str, Vote], comparisons: Iterable[str]) -> Tally:
    found = [results[comparison] for comparison in comparisons if comparison in results]
    return Tally(found.count("after"), found.count("tie"), found.count("before"))
