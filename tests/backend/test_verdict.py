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
    assert sum(found["interval_seen"]) == pytest.approx(1.0)  # as many wins as losses
    assert found["interval_unseen"] == pytest.approx([0.342, 1.0], abs=5e-4)  # Wilson: 1/(1 + 3.841/2)
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


def test_agreement_is_of_what_the_reviewers_saw() -> None:
    comparisons = [comparison(n) for n in range(8)]
    for row in comparisons[:4]:
        row.after_side = "right"
    found = judge_round(comparisons, [judged(n, "after", reviewer) for n in range(8) for reviewer in (1, 2)])
    expected = {"people": 2, "comparisons": 8, "share": 1.0, "krippendorff_alpha": 1.0}
    assert found["reviewers"] == expected
    opposed = [judged(n, "after", 1) for n in range(8)] + [judged(n, "before", 2) for n in range(8)]
    assert judge_round(comparisons, opposed)["reviewers"]["krippendorff_alpha"] < -0.8


def test_win_rate_at_equal_length_is_of_the_answers_lengths() -> None:
    comparisons = [comparison(n) for n in range(12)]
    briefer = judge_round(comparisons, [judged(n, "after") for n in range(12)])["length_controlled"]
    assert briefer["obstacle"] == "shorter_wins"
    for n, row in enumerate(comparisons):
        row.after = "y" * (50 if n % 2 else 200)  # half as long and twice as long as before
    votes = [judged(n, "before" if n in (2, 3) else "after") for n in range(12)]
    found = judge_round(comparisons, votes)["length_controlled"]
    assert found["win_rate"] == pytest.approx(5 / 6, abs=1e-4) and found["obstacle"] is None
    assert found["interval"][0] < 5 / 6 < found["interval"][1]
