"""From blind judgements to a verdict on a round. Pure, but that it reads rows.

Several people may judge a comparison: their majority is its one result, so that a popular pair does not count
more. The statistics are those of `trainers.verdict`; the report, the console and the promotion use what comes
out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from backend.tables import ComparisonRow, JudgementRow, Side
from trainers.evaluation import Interval, sign_test
from trainers.length_control import Outcome, length_controlled
from trainers.verdict import (
    Shown,
    Tally,
    Vote,
    judge_reviews,
    majority,
    reviewer_agreement,
    reviews_to_settle,
    win_rate,
)


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
    rows, votes = list(comparisons), list(judgements)
    results = review_results(votes)
    seen = tally_of(results, [row for row in rows if row.seen])
    unseen = tally_of(results, [row for row in rows if not row.seen])
    judged = tally_of(results, rows)
    settled = tally_of(results, [row for row in rows if row.id not in pending])
    found = judge_reviews(judged, settled=settled, pending=len(pending))
    return {
        "verdict": found.decision,
        "seen": asdict(seen),
        "unseen": asdict(unseen),
        "win_rate": found.win_rate.value,
        "interval": _pair(found.win_rate.interval),
        "p_value": found.p_value,
        "anytime_p_value": found.anytime_p_value,
        "largest_difference": found.largest_difference,
        "length_controlled": _length_controlled(rows, results),
        "reviewers": _reviewers(rows, votes),
        "p_seen": sign_test(seen.wins, seen.losses).p_value,
        "p_unseen": sign_test(unseen.wins, unseen.losses).p_value,
        "win_rate_seen": win_rate(seen).value,
        "interval_seen": _pair(win_rate(seen).interval),
        "win_rate_unseen": win_rate(unseen).value,
        "interval_unseen": _pair(win_rate(unseen).interval),
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


def tally_of(results: Mapping[str, Vote], comparisons: Iterable[ComparisonRow]) -> Tally:
    """Wins, ties and losses of those comparisons that have a result."""
    found = [results[row.id] for row in comparisons if row.id in results]
    return Tally(found.count("after"), found.count("tie"), found.count("before"))


def _pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _length_controlled(rows: Sequence[ComparisonRow], results: Mapping[str, Vote]) -> dict[str, Any]:
    found = length_controlled(
        [Outcome(results[row.id], len(row.before), len(row.after)) for row in rows if row.id in results]
    )
    interval = found.interval
    return {
        "win_rate": found.win_rate,
        "interval": _pair(interval) if interval else None,
        "obstacle": found.obstacle,
        "extrapolated": found.extrapolated,
    }


def _reviewers(rows: Iterable[ComparisonRow], judgements: Iterable[JudgementRow]) -> dict[str, Any]:
    by_comparison: dict[str, list[JudgementRow]] = defaultdict(list)
    for judgement in judgements:
        if judgement.verdict is not None:
            by_comparison[judgement.comparison_id].append(judgement)
    people = {judgement.reviewer for found in by_comparison.values() for judgement in found}
    agreement = reviewer_agreement(
        [_shown(judgement, row.after_side) for judgement in by_comparison[row.id]] for row in rows
    )
    return {"people": len(people), **asdict(agreement)}


def _shown(judgement: JudgementRow, after_side: Side) -> Shown:
    """What the reviewer chose of what was on the screen."""
    if judgement.verdict == "tie":
        return "tie"
    return after_side if judgement.verdict == "after" else ("right" if after_side == "left" else "left")
