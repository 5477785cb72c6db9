from __future__ import annotations

import math

import pytest

from trainers.passes import by_beginning, by_length, common_beginning


def test_a_pass_by_length_holds_rows_of_similar_length_and_not_too_many() -> None:
    rows = [[0] * length for length in (30, 10, 14, 10, 12, 31, 13)]
    assert [[len(rows[n]) for n in numbers] for numbers in by_length(rows, 3)] == [
        [10, 10, 12],
        [13, 14],
        [30, 31],
    ]


def test_without_a_bound_on_the_spread_equally_many_rows_make_equally_many_passes() -> None:
    even, uneven = [[0] * 10] * 7, [[0] * length for length in (1, 2, 4, 8, 16, 32, 64)]
    for rows in (even, uneven):
        assert [len(numbers) for numbers in by_length(rows, 3, math.inf)] == [3, 3, 1]
    assert len(by_length(uneven, 3)) == 7


def test_answers_to_one_prompt_go_together_and_short_prompts_first() -> None:
    rows = [[1, 1, 1, 1, 7, 7, 7], [2, 2, 8], [1, 1, 1, 1, 9], [2, 2, 9, 9], [1, 1, 1, 1, 8]]
    assert by_beginning(rows, 3) == [[1, 3], [0, 4, 2]]
    assert by_beginning(rows, 5) == [[1, 3, 0, 4, 2]]


def test_a_group_larger_than_a_pass_is_split() -> None:
    rows = [[1, 1, number] for number in range(5)]
    assert by_beginning(rows, 2) == [[0, 1], [2, 3], [4]]


def test_no_rows_no_passes() -> None:
    assert by_beginning([], 4) == by_length([], 4) == []


@pytest.mark.parametrize(
    ("one", "other", "both"), [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2], [1, 3], 1)]
)
def test_common_beginning(one: list[int], other: list[int], both: int) -> None:
    assert common_beginning(one, other) == common_beginning(other, one) == both
