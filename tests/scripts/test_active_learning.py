"""The measurement's own bookkeeping, with a stand-in for the training: a model that knows the taste."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from scripts import active_learning
from scripts.active_learning import ORDERS, Team, Trained, Trajectories, main, summary
from scripts.candidate_choice import Learnt
from scripts.reward_trainings import Found
from trainers.records import Candidates, Prompt, Ranking, Response, write_jsonl
from trainers.run_dir import RunDir

START, STEP, LIMIT = 10, 10, 40


def answers(number: int) -> Candidates:
    split = "unseen" if number % 5 < 2 else "train"
    prompt = Prompt(f"p{number:02}", f"Question number {number}?", split=split)  # type: ignore[arg-type]
    texts = [
        "Sure, okay.",
        "Please " + "do " * (number + 2) + "it.",
        "I would kindly " + "explain " * (number + 9) + "it.",
    ]
    return Candidates(
        prompt, tuple(Response(f"p{number:02}-{n}", prompt.id, t, "base") for n, t in enumerate(texts))
    )


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The prompts of each training, in their order; the gate passes at 30."""
    seen: list[list[str]] = []

    def train(
        whole: Sequence[Candidates], seed: int, ranked: Sequence[Candidates], rankings: Sequence[Ranking]
    ) -> Found:
        assert [own.prompt.id for own in ranked] == [ranking.prompt_id for ranking in rankings]
        seen.append([ranking.prompt_id for ranking in rankings])
        rng = random.Random(seed)
        scores = {
            response.id: rng.random() - len(response.text) for own in whole for response in own.responses
        }
        return Found("passed" if len(rankings) >= 30 else "failed", 0.8, 3, Learnt(scores, {}, []))

    monkeypatch.setitem(active_learning.MODELS, "stage", lambda *given: partial(train, *given))
    return seen


def test_all_orders_begin_with_the_same_rankings_and_end_at_the_gate(trained_on: list[list[str]]) -> None:
    trajectories = Trajectories("stage", "concise", 0, [[answers(number)] for number in range(50)])
    for order in ORDERS:
        lines = trajectories.run(order, "drawn", START, STEP, LIMIT)
        assert [line.rankings for line in lines] == [10, 20, 30]
        assert [line.last for line in lines] == [False, False, True]
        assert all(line.true_accuracy is not None and line.true_accuracy > 0.9 for line in lines)
    # the first training is shared, the two others of each order are not
    assert [len(prompts) for prompts in trained_on] == [10, *[20, 30] * 5]
    second = [set(prompts) for prompts in trained_on if len(prompts) == 20]
    assert all(prompts > set(trained_on[0]) for prompts in second)
    assert len({frozenset(prompts) for prompts in second}) == 5
    # after a gate that failed, the queue asks for prompts to learn from
    *_, last = second
    queued = [number for number in range(50) if f"p{number:02}" in last - set(trained_on[0])]
    assert queued and all(number % 5 >= 2 for number in queued)


def test_linear_stand_in_learns_what_is_short_and_is_held_against_the_gate() -> None:
    trajectories = Trajectories("linear", "concise", 0, [[answers(number)] for number in range(50)])
    *_, last = trajectories.run("queue", "drawn", START, STEP, LIMIT)
    assert (last.outcome, last.last) == ("passed", True)
    assert last.true_accuracy is not None and last.true_accuracy > 0.9


def test_trajectory_ends_where_the_tasks_are_used_up(trained_on: list[list[str]]) -> None:
    trajectories = Trajectories("stage", "concise", 0, [[answers(number)] for number in range(25)])
    lines = trajectories.run("random", "drawn", START, STEP, LIMIT)
    assert [(line.rankings, line.outcome, line.last) for line in lines][-1] == (25, "failed", True)
    assert len(set(trained_on[-1])) == 25


def test_finished_trajectories_are_not_made_again(tmp_path: Path, trained_on: list[list[str]]) -> None:
    out = RunDir(tmp_path / "candidates")
    write_jsonl(out.output("candidates.jsonl"), [answers(number) for number in range(50)])
    command = [
        "--out",
        str(tmp_path),
        "--seeds",
        "0",
        "1",
        "--orders",
        "random",
        "--start",
        "10",
        "--step",
        "10",
    ]
    assert main(command) == 0
    trainings = len(trained_on)
    assert trainings == 6
    assert main(command) == 0
    assert len(trained_on) == trainings


def test_chosen_candidates_are_ranked_from_the_second_training_on_and_held_out_ones_stay_as_drawn(
    trained_on: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def longer(own: Candidates) -> Candidates:
        responses = tuple(replace(r, id=f"{r.id}-again", text=f"{r.text} Well.") for r in own.responses)
        return replace(own, responses=responses)

    def recorded(
        team: Team, own: Candidates, rank: Callable[[Team, Candidates], Ranking] = Team.rank
    ) -> Ranking:
        ranked.append(own)
        return rank(team, own)

    ranked: list[Candidates] = []
    monkeypatch.setattr(Team, "rank", recorded)
    drawn = [answers(number) for number in range(50)]
    sets = [[own] if own.prompt.split != "train" else [own, longer(own)] for own in drawn]
    monkeypatch.setitem(active_learning.CHOICES, "random", lambda new, *_: [own[-1] for own in new])
    trajectories = Trajectories("stage", "concise", 0, sets)
    lines = trajectories.run("random", "random", START, STEP, LIMIT, past_gate=True)
    assert [(line.choice, line.rankings, line.last) for line in lines][-1] == ("random", 40, True)
    assert [line.outcome for line in lines] == ["failed", "failed", "passed", "passed"]
    last = ranked[-40:]
    chosen = {own.prompt.id for own in last if own.responses[0].id.endswith("again")}
    assert chosen == {own.prompt.id for own in last[10:] if own.prompt.split == "train"}
    assert 0 < len(chosen) < 30


def test_summary_counts_the_first_pass_of_each_seed_and_the_model_at_the_end() -> None:
    def trained(seed: int, rankings: int, outcome: str, true: float) -> Trained:
        last = rankings == {0: 60, 1: 20, 2: 40}[seed]
        return Trained("linear", "polite", seed, "queue", "drawn", rankings, outcome, 0.9, 30, true, last)

    lines = [
        trained(0, 20, "failed", 0.7),
        trained(0, 40, "passed", 0.9),
        trained(0, 60, "failed", 1.0),
        trained(2, 20, "failed", 0.6),
        trained(2, 40, "failed", 0.5),
        trained(1, 20, "passed", 0.9),
    ]
    (row,) = zip(*(column.cells for column in summary(lines).columns), strict=True)
    assert row == (
        "linear", "polite", "queue", "drawn", "3", "2", "40 (20–40)", "40, 20, 40", "80.0%",
    )  # fmt: skip
