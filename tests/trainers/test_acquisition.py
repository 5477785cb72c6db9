from __future__ import annotations

import math

import pytest

from trainers.acquisition import Unranked, aim_of, places, sureness
from trainers.records import Split


def unranked(key: str, split: Split, gap: float) -> Unranked:
    return Unranked(key, split, (0.0, gap, gap + 5.0))


def test_sureness_is_that_of_the_closest_neighbours() -> None:
    # neighbours 0.5, 2 and 3.5 differ by 1.5 each, 3.5 and 4.5 by 1: 2 σ(1) − 1 = tanh(½) = 0.46212
    assert sureness([4.5, 0.5, 3.5, 2.0]) == pytest.approx(0.46212, abs=1e-5)
    assert sureness([1.0, 7.0, 1.0]) == 0.0
    assert sureness([-50.0, 50.0]) == pytest.approx(1.0)
    with pytest.raises(ValueError):
        sureness([1.0])


@pytest.mark.parametrize(
    ("outcome", "accuracy", "aim"),
    [
        ("passed", 0.95, "both"),
        ("failed", 0.60, "learn"),
        ("not_enough_evidence", 0.85, "measure"),  # good enough as far as anyone can tell
        ("not_enough_evidence", 0.84, "both"),
        ("not_enough_evidence", None, "both"),
    ],
)
def test_aim_is_what_the_model_lacks(outcome: str, accuracy: float | None, aim: str) -> None:
    assert aim_of(outcome, accuracy, 0.85) == aim  # type: ignore[arg-type]


def test_prompts_to_learn_from_come_by_sureness() -> None:
    found = places(
        [unranked("a", "train", 3.0), unranked("b", "train", 0.1), unranked("c", "train", 1.0)], "both"
    )
    assert list(found.items()) == [
        ("b", pytest.approx(1 / 6)),
        ("c", pytest.approx(3 / 6)),
        ("a", pytest.approx(5 / 6)),
    ]


def test_heldout_prompts_come_in_an_order_that_the_scores_do_not_change() -> None:
    keys = [f"p{number}" for number in range(40)]
    ascending = places([unranked(key, "unseen", 0.1 * n) for n, key in enumerate(keys)], "both")
    descending = places([unranked(key, "unseen", 4 - 0.1 * n) for n, key in enumerate(keys)], "both")
    assert ascending == descending
    assert list(ascending) not in (keys, keys[::-1])
    fewer = places([unranked(key, "unseen", 1.0) for key in keys[::2]], "both")
    assert list(fewer) == [key for key in ascending if key in fewer]  # also when others were ranked meanwhile


def test_both_kinds_mix_in_their_proportion() -> None:
    prompts = [unranked(f"t{n}", "train", 0.1 * n) for n in range(60)]
    prompts += [unranked(f"v{n}", "verification", 1.0) for n in range(20)]
    prompts += [unranked(f"u{n}", "unseen", 1.0) for n in range(20)]
    queue = list(places(prompts, "both"))
    for start in range(0, 100, 20):
        learned = sum(key.startswith("t") for key in queue[start : start + 20])
        assert math.isclose(learned, 12, abs_tol=1)


@pytest.mark.parametrize(("aim", "first"), [("learn", "t"), ("measure", "u")])
def test_what_the_model_lacks_comes_first(aim: str, first: str) -> None:
    prompts = [unranked(f"t{n}", "train", 0.1 * n) for n in range(6)]
    prompts += [unranked(f"u{n}", "unseen", 0.1 * n) for n in range(4)]
    found = places(prompts, aim)  # type: ignore[arg-type]
    number = 6 if aim == "learn" else 4
    assert {key[0] for key in list(found)[:number]} == {first}
    assert {key[0] for key in list(found)[number:]} == {"t", "u"} - {first}
    assert list(found.values()) == sorted(found.values())
    assert all(0 < place < 1 for place in found.values())


def test_nothing_unranked_has_no_queue() -> None:
    assert places([], "both") == {}
