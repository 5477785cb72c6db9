from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from trainers.agreement import Order, accuracy_ceiling, kendall_tau, measure_agreement
from trainers.records import Ranking


def order(text: str) -> Order:
    """`a bc` is a before the tied b and c."""
    return tuple(tuple(group) for group in text.split())


def ranking(annotator: str, text: str, prompt_id: str = "p1") -> Ranking:
    return Ranking(f"{prompt_id}-{annotator}", prompt_id, annotator, order(text))


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ("a b c", "a b c", 1.0),
        ("a b c", "c b a", -1.0),
        ("a b c", "a c b", 1 / 3),  # 2 concordant, 1 discordant of 3
        ("a b c", "a bc", 2 / 6**0.5),  # C=2, D=0, one pair tied in the second only: 2/√(2·3)
        ("ab c", "a bc", 1 / 2),  # C=1 (a,c), a tie on each side: 1/√(2·2)
        ("a b", "a b x", 1.0),  # x is in one order only
    ],
)
def test_kendall_tau_of_hand_computed_orders(first: str, second: str, tau: float) -> None:
    assert kendall_tau(order(first), order(second)) == pytest.approx(tau)


@pytest.mark.parametrize(("first", "second"), [("abc", "a b c"), ("a b", "c d"), ("a", "a"), ("", "")])
def test_kendall_tau_without_a_preference_is_none(first: str, second: str) -> None:
    assert kendall_tau(order(first), order(second)) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6))
def test_kendall_tau_is_scipys(places: list[tuple[int, int]]) -> None:
    def order_of(side: int) -> Order:
        groups = sorted({pair[side] for pair in places})
        return tuple(
            tuple(str(i) for i, pair in enumerate(places) if pair[side] == group) for group in groups
        )

    ours = kendall_tau(order_of(0), order_of(1))
    if ours is None:
        assert len({pair[0] for pair in places}) == 1 or len({pair[1] for pair in places}) == 1
    else:
        expected = kendalltau(*zip(*places, strict=True)).statistic
        assert ours == pytest.approx(expected)


def test_agreement_counts_judgements_of_every_two_annotators() -> None:
    agreement = measure_agreement(
        [
            ranking("anna", "a b c"),
            ranking("ben", "a c b"),
            ranking("cleo", "a bc"),
            ranking("dora", "x y", "p2"),
        ]
    )
    # anna-ben 2 of 3, anna-cleo 2 of 2, ben-cleo 2 of 2; dora shares no prompt
    assert agreement.judgements == 7
    assert agreement.rate == pytest.approx(6 / 7)
    assert agreement.annotators == 4
    assert agreement.kendall_tau == pytest.approx((1 / 3 + 2 * 2 / 6**0.5) / 3)


@pytest.mark.parametrize(
    "rankings", [[], [ranking("anna", "a b c")], [ranking("anna", "ab"), ranking("ben", "ab")]]
)
def test_agreement_without_two_preferences_is_unknown(rankings: list[Ranking]) -> None:
    agreement = measure_agreement(rankings)
    assert (agreement.rate, agreement.judgements, agreement.kendall_tau, agreement.ceiling) == (
        None,
        0,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("rate", "ceiling"),  # the published figures
    [(0.63, 0.755), (0.726, 0.836), (0.773, 0.869), (1.0, 1.0), (0.5, 0.5), (0.3, 0.5), (0.745, 0.85)],
)
def test_ceiling_of_known_agreement(rate: float, ceiling: float) -> None:
    assert accuracy_ceiling(rate) == pytest.approx(ceiling, abs=0.0006)
