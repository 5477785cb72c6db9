"""How the demo shares prompts and rankings out over its rounds."""

from __future__ import annotations

import pytest

from scripts import demo


@pytest.mark.parametrize("prompts", [48, 160, 161, 7])
@pytest.mark.parametrize("rounds", [1, 2, 3, 9])
def test_every_round_has_tasks_for_the_rankings_that_start_its_training(prompts: int, rounds: int) -> None:
    rankings = demo._rankings_per_round(prompts, rounds)
    parts = demo._split([str(number) for number in range(prompts)], rounds)
    assert sum(map(len, parts)) == prompts
    assert all(rankings <= max(1, len(part) * demo.RANKINGS_PER_PROMPT) for part in parts)
