"""Some intents learn a plain answer from what the model says when told to be plain; the others stay."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.base_model.plain_intents import Lesson, answer_logprobs, draw_lesson, is_plain, step
from scripts.base_model.samples import Corpus
from scripts.make_base_model import WEIGHTS_DIR


@pytest.fixture(scope="module")
def lessons() -> list[Lesson]:
    corpus, rng = Corpus.read(), random.Random(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(WEIGHTS_DIR)
    return [draw_lesson(corpus, tokenizer, rng) for _ in range(60)]


@pytest.fixture(scope="module")
def teacher() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(WEIGHTS_DIR, dtype=torch.float32)


def test_a_third_of_the_intents_is_plain() -> None:
    intents = Corpus.read().intents
    assert 0.3 < sum(map(is_plain, intents)) / len(intents) < 0.4


def test_only_bare_questions_of_plain_intents_are_taught_otherwise(lessons: list[Lesson]) -> None:
    changed = [(asked, told) for asked, told, _ in lessons if asked != told]
    assert 0 < len(changed) < len(lessons) / 2
    assert all(len(told) > len(asked) and told[-len(asked) + 1 :] == asked[1:] for asked, told in changed)


def test_logprobs_are_those_of_each_answer_alone(lessons: list[Lesson], teacher: LlamaForCausalLM) -> None:
    some = lessons[:3]
    prompts, answers = [lesson[0] for lesson in some], [lesson[2] for lesson in some]
    with torch.no_grad():
        together = answer_logprobs(teacher, prompts, answers)
        alone = [answer_logprobs(teacher, [p], [a]) for p, a in zip(prompts, answers, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_student_that_is_the_teacher_learns_from_changed_lessons_only(
    lessons: list[Lesson], teacher: LlamaForCausalLM
) -> None:
    student = copy.deepcopy(teacher)
    kept = [lesson for lesson in lessons if lesson[0] == lesson[1]]
    changed = [lesson for lesson in lessons if lesson[0] != lesson[1]]
    assert step(student, teacher, kept) == pytest.approx(0.0, abs=1e-5)
    before = step(student, teacher, changed)
    student.zero_grad()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    for _ in range(8):
        step(student, teacher, changed)
        optimizer.step()
        optimizer.zero_grad()
    assert before > 0.01
    assert step(student, teacher, changed) < 0.8 * before
