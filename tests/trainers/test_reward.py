from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.tiny_models import tiny_model_dir
from trainers import ranking_trainer, reward
from trainers.config import RewardConfig
from trainers.errors import DataError, RecordError
from trainers.manifest import verify_manifest
from trainers.preferences import derive_preferences, prompt_id
from trainers.records import Candidates, Prompt, Ranking, Response, Split, read_jsonl, write_jsonl
from trainers.reward import (
    FULL_LEARNING_RATE,
    LORA_LEARNING_RATE,
    MIN_VERIFICATION_PAIRS,
    RECIPES,
    REFERENCE_WIDTH,
    Score,
    choose_schedule,
    run,
    score_candidates,
)
from trainers.reward_model import new_reward_model
from trainers.run_dir import RunDir

SHORT, LONG = "Sure.", "Please answer formally and in detail. Thank you."
SPLITS: tuple[Split, ...] = ("train", "train", "train", "verification", "unseen")


def some_candidates(count: int = 30, splits: Sequence[Split] = SPLITS) -> list[Candidates]:
    """Prompts with a short, a middling and a long answer each."""
    rng = random.Random(0)
    made = []
    for number in range(count):
        prompt = Prompt(
            prompt_id(f"question {number}"), f"question {number}", split=splits[number % len(splits)]
        )
        texts = [SHORT, "Pour in vinegar" + "!" * (number % 3), LONG]
        rng.shuffle(texts)
        made.append(
            Candidates(
                prompt,
                tuple(Response(f"a{number:02}{i}", prompt.id, text, "base") for i, text in enumerate(texts)),
            )
        )
    return made


def shorter_first(candidates: Candidates) -> tuple[tuple[str, ...], ...]:
    return tuple((r.id,) for r in sorted(candidates.responses, key=lambda r: len(r.text)))


def all_tied(candidates: Candidates) -> tuple[tuple[str, ...], ...]:
    return (tuple(r.id for r in candidates.responses),)


def a_run(
    path: Path,
    candidates: Sequence[Candidates] | None = None,
    order: Callable[[Candidates], tuple[tuple[str, ...], ...]] = shorter_first,
    annotators: Sequence[str] = ("ann",),
) -> RunDir:
    run_dir = RunDir(path)
    candidates = some_candidates() if candidates is None else candidates
    rankings = [
        Ranking(f"r-{c.prompt.id}-{name}", c.prompt.id, name, order(c))
        for c in candidates
        for name in annotators
    ]
    write_jsonl(run_dir.input("candidates.jsonl"), candidates)
    write_jsonl(run_dir.input("rankings.jsonl"), rankings)
    return run_dir


def config(**changes: Any) -> RewardConfig:
    return RewardConfig(
        **{"base_model": str(tiny_model_dir()), "learning_rate": 3e-3, "epochs": 4, **changes}
    )


def scores_in(run_dir: RunDir) -> dict[str, float]:
    return {score.response_id: score.score for score in read_jsonl(run_dir.output("scores.jsonl"), Score)}


def metrics_in(run_dir: RunDir) -> list[tuple[int, Any]]:
    lines = [json.loads(line) for line in run_dir.metrics_path.read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line.get("metrics", line.get("progress"))) for line in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[str, Any]]:
    run_dir = a_run(tmp_path_factory.mktemp("reward"))
    return run_dir, run(config(), run_dir)


def test_learns_what_the_annotators_prefer(trained: tuple[RunDir, dict[str, Any]]) -> None:
    _, result = trained
    assert result["accuracy"] >= 0.9
    assert result["pairs"] == 12 * 3
    assert (result["prompts_train"], result["prompts_heldout"]) == (18, 12)
    assert result["outcome"] == "passed"
    assert result["rankings_needed"] == 0
    assert (result["baseline_shorter"], result["baseline_longer"]) == (1.0, 0.0)
    assert result["length_correlation"] < -0.5
    low, high = result["interval"]
    assert low < result["accuracy"] <= high


def test_newer_rankings_outweigh_more_older_ones(tmp_path: Path) -> None:
    candidates = some_candidates()
    run_dir = a_run(tmp_path, candidates)
    rankings = [
        Ranking(f"r-{c.prompt.id}", c.prompt.id, "ann", order, round=number)
        for index, c in enumerate(candidates)
        for number, order in [(1, shorter_first(c)) if index % 3 < 2 else (4, shorter_first(c)[::-1])]
    ]
    write_jsonl(run_dir.input("rankings.jsonl"), rankings)
    result = run(config(ranking_decay=0.2), run_dir)
    assert result["length_correlation"] > 0.5
    assert result["chosen"]["rounds"] == [
        {"round": 1, "rankings": 20, "weight": pytest.approx(0.008)},
        {"round": 4, "rankings": 10, "weight": 1.0},
    ]


def test_result_is_one_json_object(trained: tuple[RunDir, dict[str, Any]]) -> None:
    _, result = trained
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["chosen"]["tuning"] == "full"
    assert result["chosen"]["rounds"] == [{"round": 1, "rankings": 30, "weight": 1.0}]
    assert result["chosen"]["learning_rate"] == 3e-3
    assert result["chosen"]["steps"] <= result["chosen"]["steps_total"]


def test_every_figure_of_the_result_is_documented(trained: tuple[RunDir, dict[str, Any]]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = page.split("\n## What the reward stage finds")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(trained[1])


def test_every_candidate_has_a_score_and_a_reloaded_model_gives_the_same(
    trained: tuple[RunDir, dict[str, Any]],
) -> None:
    run_dir, _ = trained
    candidates = some_candidates()
    scores = scores_in(run_dir)
    assert set(scores) == {response.id for c in candidates for response in c.responses}
    again = score_candidates(config(), run_dir.model_dir, candidates)
    assert {score.response_id: score.score for score in again} == scores


def test_model_is_complete_and_says_where_it_comes_from(trained: tuple[RunDir, dict[str, Any]]) -> None:
    run_dir, result = trained
    lineage = verify_manifest(run_dir.model_dir)["lineage"]
    assert lineage["chosen"] == result["chosen"]
    assert len(lineage["rankings"]) == 30


def test_curves_show_training_and_held_out_loss(trained: tuple[RunDir, dict[str, Any]]) -> None:
    run_dir, result = trained
    points = metrics_in(run_dir)
    losses = [values["reward/loss"] for _, values in points if "reward/loss" in values]
    heldout = [values["reward/heldout_loss"] for _, values in points if "reward/heldout_loss" in values]
    assert losses[0] == pytest.approx(math.log(2), abs=0.02)  # the head starts at zero: every pair is even
    assert losses[-1] < 0.3
    assert len(heldout) == 4
    best = min(range(4), key=heldout.__getitem__) + 1
    assert result["chosen"]["best_step"] == best * result["chosen"]["steps_total"] // 4


def test_order_of_the_files_does_not_change_the_model(
    tmp_path: Path, trained: tuple[RunDir, dict[str, Any]]
) -> None:
    turned = a_run(tmp_path, some_candidates()[::-1])
    run(config(), turned)
    assert scores_in(turned) == scores_in(trained[0])


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(step: int, run_dir: RunDir, settings: RewardConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the process "dies" in the middle of this step, with a checkpoint after each step before."""
    with monkeypatch.context() as patch:
        patch.setattr(ranking_trainer, "CHECKPOINT_SECONDS", 0.0)
        original = ranking_trainer.RankingTrainer.compute_loss

        def die(self: Any, *args: Any, **rest: Any) -> Any:
            if self.state.global_step == step:
                raise Killed
            return original(self, *args, **rest)

        patch.setattr(ranking_trainer.RankingTrainer, "compute_loss", die)
        with pytest.raises(Killed):
            run(settings, run_dir)
    assert run_dir.latest_checkpoint() is not None


@pytest.mark.parametrize("step", [1, 3, 10])  # in the first epoch, at its end, and later
def test_killed_run_goes_on_to_the_same_result(
    tmp_path: Path, trained: tuple[RunDir, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    run_dir = a_run(tmp_path)
    killed_at(step, run_dir, config(), monkeypatch)
    result = run(config(), run_dir)
    assert result["chosen"] == {**trained[1]["chosen"], "resumed": True}
    assert scores_in(run_dir) == scores_in(trained[0])
    assert metrics_in(run_dir) == metrics_in(trained[0])


def test_killed_ensemble_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    settings = config(ensemble=2, epochs=1, loss="listwise")
    whole, killed = a_run(tmp_path / "whole"), a_run(tmp_path / "killed")
    run(settings, whole)
    killed_at(3, killed, settings, monkeypatch)
    run(settings, killed)
    assert scores_in(killed) == scores_in(whole)


def test_damaged_checkpoint_is_skipped_for_the_one_before(
    tmp_path: Path, trained: tuple[RunDir, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = a_run(tmp_path)
    killed_at(4, run_dir, config(), monkeypatch)
    newest = run_dir.latest_checkpoint()
    assert newest is not None
    (newest / "optimizer.pt").write_bytes(b"half")
    run(config(), run_dir)
    assert scores_in(run_dir) == scores_in(trained[0])


def test_told_to_stop_it_saves_and_goes_on_when_started_again(
    tmp_path: Path, trained: tuple[RunDir, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = a_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ranking_trainer, "stop_requested", lambda: True)
        with pytest.raises(ranking_trainer.Stopped):
            run(config(), run_dir)
    checkpoint = run_dir.latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-000001"
    run(config(), run_dir)
    assert scores_in(run_dir) == scores_in(trained[0])


def test_finished_training_is_not_repeated(
    tmp_path: Path, trained: tuple[RunDir, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = a_run(tmp_path)
    first = run(config(), run_dir)
    monkeypatch.setattr(reward, "train", None)
    again = run(config(), run_dir)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def test_lora_learns_and_a_reloaded_adapter_scores_the_same(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path)
    settings = config(tuning="lora", learning_rate=1e-2, lora_rank=4)
    result = run(settings, run_dir)
    assert (result["chosen"]["tuning"], result["chosen"]["lora_rank"]) == ("lora", 4)
    assert result["accuracy"] > 0.8
    assert (run_dir.model_dir / "adapter_model.safetensors").is_file()
    again = score_candidates(settings, run_dir.model_dir, some_candidates())
    assert {score.response_id: score.score for score in again} == scores_in(run_dir)


def test_whole_rankings_can_be_learned_from(tmp_path: Path) -> None:
    result = run(config(loss="listwise"), a_run(tmp_path, annotators=("a", "b")))
    assert result["chosen"]["loss"] == "listwise"
    assert result["accuracy"] >= 0.9


def test_tied_and_unranked_answers_have_their_place_in_the_ranking() -> None:
    prompt = Prompt("p", "question")
    entry = Candidates(prompt, tuple(Response(key, "p", f"answer {key}", "base") for key in "abcd"))
    rankings = [
        Ranking("r1", "p", "tom", (("b",), ("a", "c"), ("d",)), round=2),
        Ranking("r2", "p", "ann", (("b",), ("d",))),
        Ranking("r3", "p", "lin", (("a", "b", "c", "d"),)),
    ]
    preferences = derive_preferences(rankings, [entry])
    ranked = reward._by_prompt([entry], rankings, preferences)[0]
    encoded = ranked.encoded(new_reward_model(config())[0], config(), {1: 0.6, 2: 1.0})
    assert encoded.rankings == ((-1, 0, -1, 1), (1, 0, 1, 2))  # ann's, then tom's; lin prefers nothing
    # a third each, lin's voice counts, for nothing; ann's is of an older round
    assert encoded.ranking_weights == pytest.approx((0.6 / 3, 1 / 3))


FRESH_PROCESS = """
import json, sys
from pathlib import Path
from trainers.config import RewardConfig
from trainers.records import Candidates, read_jsonl
from trainers.reward import score_candidates
run_dir = Path(sys.argv[1])
candidates = read_jsonl(run_dir / "input" / "candidates.jsonl", Candidates)
settings = RewardConfig.from_json(json.loads(sys.argv[2]))
print(json.dumps([score.to_json() for score in score_candidates(settings, run_dir / "model", candidates)]))
"""


@pytest.mark.parametrize(("tuning", "ensemble"), [("full", 1), ("lora", 1), ("full", 3), ("lora", 3)])
def test_scores_are_the_same_after_a_restart(tmp_path: Path, tuning: str, ensemble: int) -> None:
    run_dir = a_run(tmp_path)
    settings = config(tuning=tuning, ensemble=ensemble, epochs=1, threads=1)
    run(settings, run_dir)
    scores = [score.to_json() for score in read_jsonl(run_dir.output("scores.jsonl"), Score)]
    assert len({score["score"] for score in scores}) > 3  # the heads have learnt something to lose
    assert all((score["disagreement"] is None) == (ensemble == 1) for score in scores)
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(tmp_path), json.dumps(settings.to_json())],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == scores


def test_an_ensemble_learns_and_disagrees_more_about_nonsense(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path)
    settings = config(ensemble=4, seed=1)
    result = run(settings, run_dir)
    assert result["accuracy"] >= 0.9
    assert result["chosen"]["ensemble"] == 4
    rng = random.Random(0)
    heldout = [entry for entry in some_candidates() if entry.prompt.split != "train"]
    nonsense = [
        replace(entry, responses=tuple(replace(r, text=random_letters(rng)) for r in entry.responses))
        for entry in heldout
    ]
    real, odd = (
        fmean(score.disagreement or 0.0 for score in score_candidates(settings, run_dir.model_dir, answers))
        for answers in (heldout, nonsense)
    )
    assert odd > 1.5 * real


def random_letters(rng: random.Random) -> str:
    return "".join(rng.choice("qxzjkvbfp ") for _ in range(40))


def test_several_annotators_give_agreement_and_a_ceiling(tmp_path: Path) -> None:
    result = run(config(epochs=1), a_run(tmp_path, annotators=("a", "b")))
    assert (result["agreement"], result["ceiling"]) == (1.0, 1.0)


def test_one_annotator_is_enough_and_has_no_agreement(trained: tuple[RunDir, dict[str, Any]]) -> None:
    assert (trained[1]["agreement"], trained[1]["ceiling"]) == (None, None)


def test_few_held_out_pairs_are_not_enough_evidence(tmp_path: Path) -> None:
    result = run(config(), a_run(tmp_path, some_candidates(4, ("train", "train", "train", "unseen"))))
    assert result["outcome"] == "not_enough_evidence"
    assert 20 <= result["rankings_needed"] <= 50
    assert result["chosen"]["best_step"] == result["chosen"]["steps"]  # nothing to choose weights by


def test_random_rankings_do_not_pass(tmp_path: Path) -> None:
    rng = random.Random(1)

    def at_random(candidates: Candidates) -> tuple[tuple[str, ...], ...]:
        return tuple((r.id,) for r in rng.sample(candidates.responses, 3))

    result = run(config(), a_run(tmp_path, order=at_random))
    assert result["outcome"] == "failed"


@pytest.mark.parametrize(
    ("candidates", "order", "message"),
    [
        ([], shorter_first, "there are no rankings"),
        (some_candidates(1), shorter_first, "rank more prompts"),
        (some_candidates(10), all_tied, "prefer no answer"),
        (some_candidates(10, ("train",)), shorter_first, "held out"),
        (some_candidates(10, ("train",)), shorter_first, "`split` of some prompts must be `verification`"),
        (some_candidates(10, ("unseen",)), shorter_first, "for training"),
    ],
)
def test_unusable_data_is_an_error_that_says_what_to_do(
    tmp_path: Path,
    candidates: list[Candidates],
    order: Callable[[Candidates], tuple[tuple[str, ...], ...]],
    message: str,
) -> None:
    with pytest.raises(DataError, match=message):
        run(config(), a_run(tmp_path, candidates, order))


def test_answers_to_two_prompts_with_one_id_are_refused(tmp_path: Path) -> None:
    """Their scores would be one score."""
    first, second, *others = some_candidates()
    same = replace(second.responses[0], id=first.responses[0].id)
    second = replace(second, responses=(same, *second.responses[1:]))
    with pytest.raises(RecordError, match=r"have the same id `.*`; needed is each id once, e.g. `"):
        run(config(), a_run(tmp_path, [first, second, *others]))


def test_missing_rankings_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path)
    run_dir.input("rankings.jsonl").unlink()
    with pytest.raises(RecordError, match=r"rankings\.jsonl"):
        run(config(), run_dir)


def test_more_data_means_fewer_epochs_and_larger_steps() -> None:
    assert list(RECIPES) == sorted(RECIPES, key=lambda recipe: recipe.prompts)
    assert [r.epochs for r in RECIPES] == sorted((r.epochs for r in RECIPES), reverse=True)
    assert [r.prompts_per_step for r in RECIPES] == sorted(r.prompts_per_step for r in RECIPES)


def test_settings_page_shows_the_recipes_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    section = " ".join(page.split("\n## What the reward model chooses")[1].split("\n## ")[0].split("\n"))
    above, rows = 0, []
    for recipe in RECIPES:
        sizes = f"{above + 1} to {recipe.prompts}" if above else f"up to {recipe.prompts}"
        sizes = "more" if recipe is RECIPES[-1] else sizes
        rows.append(f"| {sizes} | {recipe.epochs} | {recipe.prompts_per_step} | {recipe.patience} |")
        above = recipe.prompts
    assert "|---|---|---|---| " + " ".join(rows) + "  " in section
    assert f"fewer than {MIN_VERIFICATION_PAIRS} pairs" in section
    assert f"{FULL_LEARNING_RATE:g} for full fine-tuning of models up to {REFERENCE_WIDTH} wide" in section
    assert f"{LORA_LEARNING_RATE:g} for adapters" in section


def test_configuration_overrides_the_recipe() -> None:
    plain = RewardConfig(base_model="x")
    by_recipe = choose_schedule(plain, "full", 40, 256)
    assert by_recipe.epochs == next(recipe for recipe in RECIPES if recipe.prompts >= 40).epochs
    own = choose_schedule(RewardConfig(base_model="x", epochs=9, learning_rate=0.5), "full", 10**6, 256)
    assert (own.epochs, own.learning_rate) == (9, 0.5)


def test_wider_models_take_smaller_steps_and_adapters_their_own() -> None:
    plain = RewardConfig(base_model="x")
    widths = {width: choose_schedule(plain, "full", 40, width).learning_rate for width in (32, 256, 512)}
    assert widths == {32: 1e-3, 256: 1e-3, 512: 5e-4}
    assert choose_schedule(plain, "lora", 40, 4096).learning_rate == 2e-4
