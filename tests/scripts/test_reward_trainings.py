"""What a training leaves behind for the choice of candidates: scores and features of every answer."""

from __future__ import annotations

from typing import Any

import pytest

from scripts import reward_trainings
from scripts.reward_trainings import MODELS
from tests.tiny_models import tiny_model_dir
from trainers import reward
from trainers.config import RewardConfig
from trainers.records import Candidates, Prompt, Ranking, Response, read_jsonl
from trainers.reward import Score
from trainers.run_dir import RunDir


def entry(number: int, answers: int) -> Candidates:
    split = "unseen" if number % 3 == 0 else "train"
    texts = ["Sure.", "Please do it now.", "I would kindly explain it at length.", "Okay, just ask again."]
    prompt = Prompt(f"p{number}", f"Question number {number}?", split=split)  # type: ignore[arg-type]
    responses = [Response(f"p{number}-{n}", prompt.id, texts[n], "base") for n in range(answers)]
    return Candidates(prompt, tuple(responses))


RANKED = [entry(number, 3) for number in range(9)]
WHOLE = [entry(number, 4) for number in range(12)]
RANKINGS = [
    Ranking(f"r{own.prompt.id}", own.prompt.id, "lin", tuple((response.id,) for response in own.responses))
    for own in RANKED
]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_answer_has_features_and_the_pairs_are_those_to_learn_from(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward_trainings, "WEIGHTS_DIR", tiny_model_dir())
    found = MODELS[name](WHOLE, 0)(RANKED, RANKINGS)
    assert found is not None
    ids = {response.id for own in WHOLE for response in own.responses}
    assert set(found.learnt.features) == set(found.scores) == ids
    pairs = [("0", "1"), ("0", "2"), ("1", "2")]
    assert set(found.learnt.pairs) == {
        (f"p{n}-{a}", f"p{n}-{b}") for n in (1, 2, 4, 5, 7, 8) for a, b in pairs
    }


def test_scores_are_those_of_the_reward_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, float] = {}

    def run(config: RewardConfig, run_dir: RunDir) -> dict[str, Any]:
        result = stage(config, run_dir)
        scores = read_jsonl(run_dir.output("scores.jsonl"), Score)
        written.update({score.response_id: score.score for score in scores})
        return result

    stage = reward.run
    monkeypatch.setattr(reward, "run", run)
    monkeypatch.setattr(reward_trainings, "WEIGHTS_DIR", tiny_model_dir())
    found = MODELS["stage"](WHOLE, 0)(RANKED, RANKINGS)
    assert found is not None
    assert len(written) == 27
    assert {key: found.scores[key] for key in written} == pytest.approx(written, abs=1e-5)


def test_too_few_rankings_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_trainings, "WEIGHTS_DIR", tiny_model_dir())
    for make in MODELS.values():
        assert make(WHOLE, 0)(RANKED[:1], RANKINGS[:1]) is None
