from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import tiny_model_dir
from trainers import generate
from trainers.config import GenerationConfig
from trainers.conversations import load_tokenizer
from trainers.errors import DataError, RunError
from trainers.generate import (
    DRAWS,
    STYLES,
    Job,
    Journal,
    PolicySampler,
    again,
    batches,
    first_jobs,
    plan,
    run,
)
from trainers.preferences import prompt_id
from trainers.quality import Draw, choose
from trainers.records import Candidates, Prompt, read_jsonl, write_jsonl
from trainers.run_dir import RunDir
from trainers.spread import measure_spread

EMBEDDED = Path(__file__).parents[2] / "scripts/base_model/weights"
QUESTIONS = [
    "How do I descale a kettle?",
    "水壶怎么除垢？",
    "Could we go for a walk today?",
    "今天天气怎么样？",
    "Thank you for your question, dear customer, is the park near?",
]


def prompts_of(questions: Sequence[str]) -> list[Prompt]:
    return [Prompt(prompt_id(text), text) for text in questions]


def a_run(path: Path, questions: Sequence[str] = QUESTIONS) -> RunDir:
    run_dir = RunDir(path)
    write_jsonl(run_dir.input("prompts.jsonl"), prompts_of(questions))
    return run_dir


def config(**changes: Any) -> GenerationConfig:
    small = {
        "base_model": str(tiny_model_dir()),
        "max_response_tokens": 12,
        "batch_size": 4,
        "max_attempts": 2,
    }
    return GenerationConfig(**{**small, **changes})


def candidates_in(run_dir: RunDir) -> list[Candidates]:
    return read_jsonl(run_dir.output("candidates.jsonl"), Candidates)


def answers_in(run_dir: RunDir) -> list[tuple[str, str, float]]:
    return [(r.text, r.style, r.temperature) for c in candidates_in(run_dir) for r in c.responses]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_prompt_gets_its_candidates(tmp_path: Path, count: int) -> None:
    run_dir = a_run(tmp_path)
    result = run(config(candidates_per_prompt=count), run_dir)
    candidates = candidates_in(run_dir)
    assert [c.prompt for c in candidates] == prompts_of(QUESTIONS)
    assert {len(c.responses) for c in candidates} == {count}
    assert result["prompts"] == 5
    assert result["candidates"] == 5 * count
    assert result["spread"] == measure_spread(candidates).to_json()
    assert result["flagged"] == {
        flag: sum(flag in r.flags for c in candidates for r in c.responses)
        for flag in {flag for c in candidates for r in c.responses for flag in r.flags}
    }


def test_a_single_prompt_is_enough(tmp_path: Path) -> None:
    assert run(config(), a_run(tmp_path, QUESTIONS[:1]))["candidates"] == 3


def test_response_ids_are_unique_and_say_nothing(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path)
    run(config(), run_dir)
    ids = [response.id for c in candidates_in(run_dir) for response in c.responses]
    assert len(set(ids)) == 15
    assert all(re.fullmatch(r"a[0-9a-f]{8}", response_id) for response_id in ids)


def test_same_seed_gives_the_same_answers_and_another_seed_others(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / name) for name in ("first", "second", "third")]
    for run_dir, seed in zip(runs, (1, 1, 2), strict=True):
        run(config(seed=seed), run_dir)
    assert answers_in(runs[0]) == answers_in(runs[1])
    assert answers_in(runs[0]) != answers_in(runs[2])


def test_candidates_of_a_prompt_differ_in_style_and_temperature() -> None:
    for prompt in prompts_of(QUESTIONS):
        jobs = first_jobs(config(), prompt)
        assert len({job.style for job in jobs}) == 3
        assert {job.temperature for job in jobs} == {0.7, 1.0, 1.2}
        assert {"default", "brief"} < {job.style for job in jobs}


def test_prompts_take_turns_with_styles_and_temperatures() -> None:
    prompts = prompts_of([f"question {number}" for number in range(60)])
    jobs = [job for prompt in prompts for job in first_jobs(config(), prompt)]
    assert {job.style for job in jobs} == set(STYLES)
    assert {(job.style, job.temperature) for job in jobs if job.style == "brief"} == {
        ("brief", 0.7), ("brief", 1.0), ("brief", 1.2)
    }  # fmt: skip


def test_later_rounds_draw_from_the_newest_policy_and_the_base_and_take_turns_with_earlier_ones() -> None:
    later = config(policies=("a", "b", "c"), policy_ids=("policy-1", "policy-2", "policy-3"))
    jobs = [first_jobs(later, prompt) for prompt in prompts_of([f"question {n}" for n in range(40)])]
    assert all("policy-3" in {job.policy for job in of_prompt} for of_prompt in jobs)
    assert {job.policy for of_prompt in jobs for job in of_prompt} == {
        "base",
        "policy-1",
        "policy-2",
        "policy-3",
    }
    two = config(policies=("a", "b"), policy_ids=("policy-1", "policy-2"))
    for prompt in prompts_of([f"question {n}" for n in range(40)]):
        assert sorted(job.policy for job in first_jobs(two, prompt)) == ["base", "policy-1", "policy-2"]
    newest_styles = {job.style for of_prompt in jobs for job in of_prompt if job.policy == "policy-3"}
    assert len(newest_styles) == 4  # no style belongs to one policy


def test_earlier_policies_answer_too(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path)
    directory = str(tiny_model_dir())
    run(config(policies=(directory,), policy_ids=("policy-team-1",)), run_dir)
    assert {r.policy for c in candidates_in(run_dir) for r in c.responses} == {"base", "policy-team-1"}


def test_style_instruction_is_in_the_language_of_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    original = generate.sample

    def spy(model: Any, tokenizer: Any, prompt_ids: Any, **rest: Any) -> Any:
        seen.extend(prompt_ids)
        return original(model, tokenizer, prompt_ids, **rest)

    monkeypatch.setattr(generate, "sample", spy)
    prompts = {prompt.id: prompt for prompt in prompts_of(QUESTIONS[:2])}
    jobs = [Job(key, 0, 0, "base", "brief", 1.0) for key in prompts]
    PolicySampler(config()).draw(jobs, prompts)
    texts = load_tokenizer(tiny_model_dir()).batch_decode(seen)
    assert STYLES["brief"]["en"] in texts[0]
    assert STYLES["brief"]["zh"] in texts[1]


def faulty(job: Job, text: str = "") -> Draw:
    return Draw(**vars(job), text=text, finished=True)


def test_only_faulty_places_are_drawn_again() -> None:
    prompt = prompts_of(QUESTIONS)[0]
    jobs = first_jobs(config(), prompt)
    texts = ["Pour in vinegar.", "", "Use lemon juice and rinse it well."]
    draws = {prompt.id: [faulty(job, text) for job, text in zip(jobs, texts, strict=True)]}
    assert [(job.place, job.attempt) for job in plan(config(), [prompt], draws, 1)] == [(1, 1)]
    assert plan(config(), [prompt], {}, 0) == jobs


def test_next_attempt_has_a_style_that_no_good_answer_has() -> None:
    prompt = prompts_of(QUESTIONS)[0]
    jobs = first_jobs(config(), prompt)
    texts = ["Pour in vinegar.", "", "Use lemon juice and rinse it well."]
    kept = choose(prompt, [faulty(job, text) for job, text in zip(jobs, texts, strict=True)], 0.85)
    attempts = [again(config(), jobs[1], kept, attempt) for attempt in (1, 2, 3)]
    assert all(job.style not in {jobs[0].style, jobs[2].style} for job in attempts)
    assert {job.style for job in attempts} == set(STYLES) - {jobs[0].style, jobs[2].style}


def test_duplicate_is_drawn_hotter_and_garbled_calmer() -> None:
    prompt = prompts_of(QUESTIONS)[0]
    jobs = first_jobs(config(), prompt)
    texts = ["Pour in vinegar.", "Pour in vinegar!", "vinegar \ufffd"]
    kept = choose(prompt, [faulty(job, text) for job, text in zip(jobs, texts, strict=True)], 0.85)
    assert again(config(), jobs[1], kept, 1).temperature == 1.2
    assert again(config(), jobs[2], kept, 1).temperature == 0.7


def test_batches_hold_one_policy_and_one_style_sorted_by_length() -> None:
    prompts = {prompt.id: prompt for prompt in prompts_of(QUESTIONS)}
    jobs = plan(config(policies=("x",), policy_ids=("policy-1",)), prompts.values(), {}, 0)
    made = batches(jobs, prompts, 2)
    assert sorted(map(repr, jobs)) == sorted(repr(job) for batch in made for job in batch)
    for batch in made:
        assert len(batch) <= 2
        assert len({(job.policy, job.style) for job in batch}) == 1
        lengths = [len(prompts[job.prompt_id].text) for job in batch]
        assert lengths == sorted(lengths)


class Killed(BaseException):
    """Stands for the end of the process."""


def test_killed_run_goes_on_without_drawing_anything_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = a_run(tmp_path / "whole"), a_run(tmp_path / "broken")
    run(config(), whole)
    drawn: list[Job] = []
    original = PolicySampler.draw

    def draw_two_batches(self: PolicySampler, jobs: Sequence[Job], prompts: Any) -> list[Draw]:
        if len(drawn) > 6:
            raise Killed
        drawn.extend(jobs)
        return original(self, jobs, prompts)

    monkeypatch.setattr(PolicySampler, "draw", draw_two_batches)
    with pytest.raises(Killed):
        run(config(), broken)
    assert not broken.output("candidates.jsonl").exists()
    before = set(drawn)

    def draw_and_tell(self: PolicySampler, jobs: Sequence[Job], prompts: Any) -> list[Draw]:
        drawn.extend(jobs)
        return original(self, jobs, prompts)

    monkeypatch.setattr(PolicySampler, "draw", draw_and_tell)
    run(config(), broken)
    assert before
    assert len(set(drawn)) == len(drawn)
    assert answers_in(broken) == answers_in(whole)


def test_half_written_batch_is_forgotten(tmp_path: Path) -> None:
    job = first_jobs(config(), prompts_of(QUESTIONS)[0])[0]
    path = tmp_path / DRAWS
    with Journal(path) as journal:
        journal.append([faulty(job, "whole")])
    with path.open("ab") as file:
        file.write(b'[{"prompt_id": "p')
    with Journal(path) as journal:
        assert [draw.text for draws in journal.draws.values() for draw in draws] == ["whole"]
        journal.append([faulty(Job(**{**vars(job), "place": 1}), "after")])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)[0]["text"] for line in lines] == ["whole", "after"]


@pytest.mark.parametrize(
    "line",
    [b"{", b"\xff", b"{}", b"[1]", b'[{"prompt_id": "p1"}]', b"[" * 200_000, b"\0\0"],
    ids=["no JSON", "no UTF-8", "no list", "no draw", "half a draw", "deep", "zeros"],
)
def test_damaged_batch_says_what_to_delete(tmp_path: Path, line: bytes) -> None:
    job = first_jobs(config(), prompts_of(QUESTIONS)[0])[0]
    path = tmp_path / DRAWS
    with Journal(path) as journal:
        journal.append([faulty(job, "whole")])
    with path.open("ab") as file:
        file.write(line + b"\n")
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"draws\.jsonl` line 2 is damaged; delete .* to begin anew"):
        Journal(path)
    assert path.read_bytes() == before


def test_progress_ends_with_every_candidate(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path)
    run(config(), run_dir)
    lines = [json.loads(line) for line in run_dir.metrics_path.read_text().splitlines()]
    assert lines[-1]["progress"] == {"done": 15, "total": 15, "what": "candidates"}


def test_no_prompts_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="import some"):
        run(config(), a_run(tmp_path, []))


def test_a_prompt_twice_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=prompt_id(QUESTIONS[0])):
        run(config(), a_run(tmp_path, [QUESTIONS[0], *QUESTIONS]))


def test_embedded_model_answers_in_clearly_different_registers(tmp_path: Path) -> None:
    questions = ["怎么清洗热水壶", "怎么退货", "支持微信支付吗", "晚上睡不着怎么办"]
    run_dir = a_run(tmp_path, questions)
    run(config(base_model=str(EMBEDDED), max_response_tokens=128, batch_size=32, max_attempts=4), run_dir)
    for candidates in candidates_in(run_dir):
        lengths = sorted(len(response.text) for response in candidates.responses)
        assert lengths[0] * 2 < lengths[-1]
        assert not any(response.flags for response in candidates.responses)
