from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from trainers.config import RewardConfig
from trainers.evaluation import wilson_interval
from trainers.preferences import derive_preferences, require_enough
from trainers.records import Candidates, Prompt, Ranking, Response
from trainers.reward_gate import judge, length_correlation

CONFIG = RewardConfig(base_model="base")


def a_team(prompts: int, seed: int = 0) -> tuple[list[Candidates], list[Ranking], dict[str, float]]:
    """Prompts of which two in five are held out, a ranking of each, and the quality behind the rankings."""
    rng = random.Random(seed)
    candidates, rankings, quality = [], [], {}
    for number in range(prompts):
        split = "unseen" if number % 5 < 2 else "train"
        prompt = Prompt(f"p{number}", f"question {number}", split=split)  # type: ignore[arg-type]
        lengths = rng.sample(range(1, 60), 3)
        responses = [Response(f"p{number}-{n}", prompt.id, "x" * n, "base") for n in lengths]
        quality |= {response.id: rng.gauss(0, 1) for response in responses}
        order = sorted(responses, key=lambda response: -quality[response.id])
        candidates.append(Candidates(prompt, tuple(responses)))
        rankings.append(Ranking(f"r{number}", prompt.id, "ann", tuple((r.id,) for r in order)))
    return candidates, rankings, quality


def judged(
    candidates: list[Candidates], rankings: list[Ranking], scores: Mapping[str, float]
) -> dict[str, Any]:
    preferences = derive_preferences(rankings, candidates)
    counts = require_enough(rankings, preferences, {c.prompt.id: c.prompt.split for c in candidates})
    return judge(CONFIG, counts, candidates, rankings, preferences, scores)


def test_scores_of_what_people_prefer_pass_and_beat_the_baselines() -> None:
    candidates, rankings, quality = a_team(100)
    result = judged(candidates, rankings, quality)
    assert (result["accuracy"], result["pairs"], result["outcome"]) == (1.0, 120, "passed")
    assert result["beats_baselines"] is True
    assert result["beats_baselines_p"] < 1e-6
    assert result["clustered_interval"] is None  # all right: drawing prompts shows nothing
    assert result["calibration"]["error"] > result["calibration"]["noise"]  # too modest: margins of about one


def test_scores_that_are_the_length_do_not_beat_the_baselines() -> None:
    candidates, _, _ = a_team(100)
    shortness = {r.id: -float(len(r.text)) for c in candidates for r in c.responses}
    ranked = [
        Ranking(f"r{c.prompt.id}", c.prompt.id, "ann",
                tuple((r.id,) for r in sorted(c.responses, key=lambda r: len(r.text))))
        for c in candidates
    ]  # fmt: skip
    result = judged(candidates, ranked, shortness)
    assert (result["outcome"], result["best_baseline"]) == ("passed", "shorter")
    assert (result["beats_baselines"], result["beats_baselines_p"]) == (False, 1.0)
    interval = wilson_interval(120, 120)
    assert result["baseline_shorter_interval"] == [interval.low, interval.high]


def test_scores_worse_than_a_baseline_are_never_better() -> None:
    candidates, rankings, quality = a_team(100)
    result = judged(candidates, rankings, {key: -value for key, value in quality.items()})
    assert result["beats_baselines"] is False
    assert result["beats_baselines_p"] < 0.05


def test_noisy_scores_have_an_interval_by_prompts_and_kinds_that_sum_up() -> None:
    candidates, rankings, quality = a_team(100)
    rng = random.Random(3)
    result = judged(candidates, rankings, {key: value + rng.gauss(0, 0.7) for key, value in quality.items()})
    low, high = result["clustered_interval"]
    assert low < result["accuracy"] < high
    for kinds in result["accuracy_by_kind"].values():
        assert sum(figures["pairs"] for figures in kinds.values()) == result["pairs"]
        right = sum(figures["accuracy"] * figures["pairs"] for figures in kinds.values())
        assert right == pytest.approx(result["accuracy"] * result["pairs"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (
        sum(scenario["rankings"] for scenario in result["coverage"]["scenarios"]) == result["prompts_train"]
    )


def test_model_that_lacks_only_evidence_asks_for_fewer_rankings_while_heldout_prompts_are_left() -> None:
    candidates, rankings, quality = a_team(200)
    # of 16 ranked prompts 7 are held out, with 3 pairs each; of one of them all three pairs are wrong
    few = [ranking for ranking in rankings if ranking.prompt_id in {f"p{n}" for n in range(16)}]
    (best,), _, (worst,) = few[0].order
    scores = {**quality, best: quality[worst], worst: quality[best]}
    result = judged(candidates, few, scores)
    assert (result["outcome"], result["pairs"]) == ("not_enough_evidence", 21)
    assert result["accuracy"] == pytest.approx(18 / 21)
    # 70 pairs decide at 6/7: the 49 that are missing take 17 held-out prompts
    assert result["rankings_needed"] == 20
    # where every prompt was ranked, new ones come at 21 pairs in 16 rankings: 38
    assert judged(candidates[:16], few, scores)["rankings_needed"] == 40


def test_length_correlation_is_relative_to_the_prompt() -> None:
    def candidates(prompt: str, *lengths: int) -> Candidates:
        responses = (Response(f"{prompt}{length}", prompt, "x" * length, "base") for length in lengths)
        return Candidates(Prompt(prompt, prompt), tuple(responses))

    # within each prompt longer is better, though the prompt with the longer answers has the lower scores
    pair = [candidates("p", 1, 3), candidates("q", 101, 103)]
    assert length_correlation(pair, {"p1": 5.0, "p3": 6.0, "q101": -6.0, "q103": -5.0}) == pytest.approx(1.0)
    assert length_correlation(pair, {"p1": 6.0, "p3": 5.0, "q101": -5.0, "q103": -6.0}) == pytest.approx(-1.0)
    assert length_correlation(pair, dict.fromkeys(("p1", "p3", "q101", "q103"), 1.0)) is None
