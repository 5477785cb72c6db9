"""From judgements to a verdict."""

from __future__ import annotations

import pytest

from backend.tables import ComparisonRow, JudgementRow
from backend.verdict import judge_round, review_results


def comparison(number: int, *, seen: bool = True) -> ComparisonRow:
    return ComparisonRow(
        id=f"c{number}", workspace="team", round_id="team-r1", prompt_id=f"p{number}", prompt="?", seen=seen,
        before="x" * 100, after="y" * 40, after_side="left",
    )  # fmt: skip


def judged(number: int, verdict: str | None, reviewer: int = 1) -> JudgementRow:
    return JudgementRow(comparison_id=f"c{number}", verdict=verdict, reviewer=reviewer)


def test_seen_and_unseen_are_counted_apart() -> None:
    comparisons = [comparison(n, seen=n < 3) for n in range(6)]
    judgements = [judged(0, "after"), judged(1, "before"), judged(2, "tie")]
    judgements += [judged(3, "after"), judged(4, "after")]
    found = judge_round(comparisons, judgements)
    assert found["seen"] == {"wins": 1, "ties": 1, "losses": 1}
    assert found["unseen"] == {"wins": 2, "ties": 0, "losses": 0}
    assert (found["judged"], found["comparisons"]) == (5, 6)
    assert found["win_rate"] == pytest.approx(3.5 / 5)
    assert (found["length_before"], found["length_after"]) == (100, 40)


def test_twelve_wins_of_twelve_are_better() -> None:
    found = judge_round([comparison(n) for n in range(12)], [judged(n, "after") for n in range(12)])
    assert found["verdict"] == "better"
    assert found["p_value"] == pytest.approx(2 / 2**12)
    assert found["p_unseen"] == 1.0 and found["win_rate_unseen"] is None


def test_twelve_losses_are_worse() -> None:
    found = judge_round([comparison(n) for n in range(12)], [judged(n, "before") for n in range(12)])
    assert found["verdict"] == "worse"


def test_no_judgement_is_not_enough_evidence() -> None:
    found = judge_round([comparison(1)], [])
    assert (found["verdict"], found["win_rate"], found["p_value"]) == ("not_enough_evidence", None, 1.0)


def test_three_reviewers_of_one_comparison_give_one_result() -> None:
    judgements = [judged(1, "after", 1), judged(1, "after", 2), judged(1, "before", 3), judged(2, None)]
    assert review_results(judgements) == {"c1": "after"}


def test_review_that_was_ended_early_is_held_to_more() -> None:
    comparisons = [comparison(n) for n in range(40)]
    judgements = [judged(n, "after") for n in range(15)] + [judged(n, "before") for n in range(15, 20)]
    early = judge_round(comparisons, judgements, pending={f"c{n}" for n in range(20, 40)})
    assert (early["verdict"], early["pending"], early["judged"]) == ("not_enough_evidence", 20, 20)
    assert judge_round(comparisons, judgements)["verdict"] == "better"
