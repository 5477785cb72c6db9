from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, kendalltau, rankdata

from trainers.concordance import Order, kendall_tau, kendall_w, krippendorff_alpha, mid_ranks


def order(text: str) -> Order:
    """`a bc` is a before the tied b and c."""
    return tuple(tuple(group) for group in text.split())


def by_rank(ranks: list[float]) -> Order:
    """The order of the objects 0, 1, 2, … that were given these ranks."""
    return tuple(
        tuple(str(i) for i, rank in enumerate(ranks) if rank == place) for place in sorted(set(ranks))
    )


# --- Kendall's tau ---


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
    first, second = (by_rank([pair[side] for pair in places]) for side in (0, 1))
    ours = kendall_tau(first, second)
    if ours is None:
        assert len(first) == 1 or len(second) == 1
    else:
        assert ours == pytest.approx(kendalltau(*zip(*places, strict=True)).statistic)


# --- Kendall's W ---


def test_kendall_w_of_siegels_three_interviewers() -> None:
    # Siegel 1956, Nonparametric Statistics for the Behavioral Sciences, table 9.7: six applicants, W = .16
    interviewers = [[1, 6, 3, 2, 5, 4], [1, 5, 6, 4, 2, 3], [6, 3, 2, 5, 4, 1]]
    # rank sums 8, 14, 11, 11, 11, 8 about 10.5: s = 25.5; 12 · 25.5 / (9 · 210) = 306 / 1890
    assert kendall_w([by_rank(ranks) for ranks in interviewers]) == pytest.approx(306 / 1890)


def test_kendall_w_of_siegels_tied_example() -> None:
    # Siegel 1956, p. 234: ten objects, three orders with ties, W = .828 (.796 uncorrected)
    orders = [
        [1, 4.5, 2, 4.5, 3, 7.5, 6, 9, 7.5, 10],
        [2.5, 1, 2.5, 4.5, 4.5, 8, 9, 6.5, 10, 6.5],
        [2, 1, 4.5, 4.5, 4.5, 4.5, 8, 8, 8, 10],
    ]
    # s = 591, Σ (t³ − t)/12 = 1 + 1.5 + 7 = 9.5: 591 / (742.5 − 3 · 9.5)
    assert kendall_w([by_rank(ranks) for ranks in orders]) == pytest.approx(0.828, abs=0.0005)


def test_kendall_w_of_two_is_spearmans_rho_moved_to_0_1() -> None:
    # ρ of a b c against b a c is ½: W = (1 + ρ)/2
    assert kendall_w([order("a b c"), order("b a c")]) == pytest.approx(0.75)
    assert kendall_w([order("a b c"), order("c b a")]) == 0.0
    assert kendall_w([order("a bc"), order("a bc")]) == pytest.approx(1.0)


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=3, max_size=5))
def test_kendall_w_is_friedmans_statistic_over_m_times_n_less_1(ranks: list[list[int]]) -> None:
    ours = kendall_w([by_rank(own) for own in ranks])
    if ours is None:
        assert all(len(set(own)) == 1 for own in ranks)
    elif all(len(set(own)) > 1 for own in ranks):
        statistic = friedmanchisquare(*zip(*ranks, strict=True)).statistic
        assert ours == pytest.approx(statistic / (len(ranks) * 3), abs=1e-9)


@pytest.mark.parametrize("orders", [[], ["a b c"], ["abc", "abc"], ["a b", "c d"], ["a b", "b c"]])
def test_kendall_w_without_two_orders_of_two_answers_is_none(orders: list[str]) -> None:
    assert kendall_w([order(own) for own in orders]) is None


def test_kendall_w_ranks_again_among_the_common_answers() -> None:
    assert kendall_w([order("x a b"), order("a b y")]) == 1.0


# --- Krippendorff's alpha ---

KRIPPENDORFF = """
    A  1 2 3 3 2 1 4 1 2 . . .
    B  1 2 3 3 2 2 4 1 2 5 . 3
    C  . 3 3 3 2 3 4 2 2 5 1 .
    D  1 2 3 3 2 4 4 1 2 5 1 .
"""


def units_of(table: str) -> list[list[float]]:
    """One list of values a unit, from one line an observer; `.` is missing."""
    rows = [line.split()[1:] for line in table.strip().splitlines()]
    return [[float(value) for value in column if value != "."] for column in zip(*rows, strict=True)]


def test_alpha_of_krippendorffs_example_with_missing_data() -> None:
    # Krippendorff 2011, section E: four observers, twelve units, ordinal α = .815 (nominal is .743)
    assert krippendorff_alpha(units_of(KRIPPENDORFF)) == pytest.approx(0.815, abs=0.0005)


def test_alpha_depends_on_the_order_of_the_values_only() -> None:
    units = units_of(KRIPPENDORFF)
    stretched = [[value**3 - 7 for value in unit] for unit in units]
    assert krippendorff_alpha(stretched) == pytest.approx(krippendorff_alpha(units))


def test_alpha_of_two_observers_and_two_values() -> None:
    # 1 1 / 1 2 / 2 2: n = 6, n₁ = n₂ = 3, δ = 3; observed 2 · 9, expected 2 · 3 · 3 · 9: 1 − 5 · 18/162
    assert krippendorff_alpha([[1, 1], [1, 2], [2, 2]]) == pytest.approx(4 / 9)


def test_alpha_is_1_in_agreement_0_by_chance_and_negative_in_contradiction() -> None:
    rng = random.Random(0)
    assert krippendorff_alpha([[1, 1], [2, 2, 2]]) == 1.0
    noise = [[rng.randint(1, 3) for _ in range(3)] for _ in range(3000)]
    assert krippendorff_alpha(noise) == pytest.approx(0.0, abs=0.03)
    assert (krippendorff_alpha([[1, 3], [3, 1]]) or 0) < 0


@pytest.mark.parametrize("units", [[], [[1], [2]], [[2, 2], [2, 2], [1]]])
def test_alpha_without_two_values_to_compare_is_none(units: list[list[float]]) -> None:
    assert krippendorff_alpha(units) is None


# --- ranks ---


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_mid_ranks_are_scipys(ranks: list[int]) -> None:
    ours = mid_ranks(by_rank([float(rank) for rank in ranks]))
    assert [ours[str(i)] for i in range(len(ranks))] == list(rankdata(ranks))
