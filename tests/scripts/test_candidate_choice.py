"""Which set of answers is chosen, on answers of two features whose information can be computed by hand."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from scripts import candidate_choice
from scripts.candidate_choice import CHOICES, Learnt, draw_sets
from trainers.config import GenerationConfig
from trainers.records import Candidates, Prompt, Response, write_jsonl
from trainers.run_dir import RunDir

PROMPT = Prompt("p", "How do I descale a kettle?")


def pair(first: str, second: str) -> Candidates:
    return Candidates(PROMPT, tuple(Response(name, "p", name, "base") for name in (first, second)))


def chosen(name: str, sets: list[Candidates], learnt: Learnt, prompts: int = 1) -> list[str]:
    picked = CHOICES[name]([sets] * prompts, learnt, random.Random(0))
    return ["".join(response.id for response in own.responses) for own in picked]


LEARNT = Learnt(
    scores={"o": 0.0, "x": 0.2, "y": 0.3, "z": 0.0, "f": 9.0},
    features={
        "o": np.array([0.0, 0.0]),
        "x": np.array([2.0, 0.0]),
        "y": np.array([0.0, 2.0]),
        "z": np.array([0.1, 0.1]),
        "f": np.array([0.0, 9.0]),
    },
    pairs=[("x", "o"), ("x", "o")],
)
"""Much is known of the first feature, nothing of the second."""
SETS = [pair("x", "o"), pair("y", "o"), pair("z", "o"), pair("f", "o")]


def test_without_a_choice_the_first_set_is_taken() -> None:
    assert chosen("drawn", SETS, LEARNT) == ["xo"]


def test_unsure_takes_answers_that_score_the_same() -> None:
    assert chosen("unsure", SETS, LEARNT) == ["zo"]


def test_information_is_new_far_apart_and_open() -> None:
    # "xo" is known, "zo" nearly the same answer, "fo" decided: p (1 - p) d² is 81 e⁻⁹ = 0.01 against 0.98
    assert chosen("informative", SETS, LEARNT) == ["yo"]


def test_information_counts_what_was_chosen_before() -> None:
    # a pair tells 0.99 of the first feature, 0.98 of the second; known are 2.48 and 0.50: the gains are
    # ln(1 + 0.99 / 2.48) = 0.34 and ln(1 + 0.98 / 0.50) = 1.09, then 0.34 and 0.51, then 0.3365 and 0.3358
    assert chosen("informative", SETS[:2], LEARNT, prompts=3) == ["yo", "yo", "xo"]


def test_sets_have_different_styles_and_held_out_prompts_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(config: GenerationConfig, run_dir: RunDir) -> None:
        asked = [Prompt("t", "Train?"), Prompt("u", "Unseen?", split="unseen")]
        given = run_dir.input("prompts.jsonl").read_text(encoding="utf-8").count("\n")
        assert given == (2 if config.seed == 300 else 1)
        write_jsonl(
            run_dir.output("candidates.jsonl"),
            [
                Candidates(
                    prompt,
                    tuple(
                        Response(
                            f"{prompt.id}{config.seed}{style}", prompt.id, text, "base", style, flags=flags
                        )
                        for style, text, flags in (
                            ("default", f"A {'long ' * 9}answer of run {config.seed}.", ()),
                            ("brief", "Soon." if config.seed == 300 else "Not before tomorrow, I fear.", ()),
                            (
                                "neutral",
                                f"{config.seed} it is.",
                                ("truncated",) if config.seed == 302 else (),
                            ),
                        )
                    ),
                )
                for prompt in asked[:given]
            ],
        )

    monkeypatch.setattr(candidate_choice.generate, "run", stage)
    prompts = [Prompt("t", "Train?"), Prompt("u", "Unseen?", split="unseen")]
    train, unseen = draw_sets(tmp_path, prompts, seed=3, draws=3)
    assert len({response.id for response in train[0].responses if "300" in response.id}) == 3
    assert all(
        [r.style for r in own.responses].count(style) == 1 for own in train for style in ("default", "brief")
    )
    assert not any(response.flags for own in train for response in own.responses)
    # three default answers are near-duplicates of one another, which are never together; two of run 301 and
    # 302 are the same brief answer; of three neutral ones one is flagged: 3 x 3 x 2
    assert len({frozenset(r.id for r in own.responses) for own in train}) == 18
    assert len({frozenset(r.id for r in own.responses) for own in unseen}) == 1
