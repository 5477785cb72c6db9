"""Which of the answers drawn for a new prompt become its candidates: the choices that are measured.

A prompt to learn from is answered several times by the generate stage, and a trained model picks the set that
is ranked: one answer each in different styles, none flagged, no near-duplicates. Held-out prompts keep the
candidates of the first time: the gate measures the accuracy on answers as they come. For
`scripts.active_learning`, which says what the choices are worth.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.make_base_model import WEIGHTS_DIR
from trainers import generate
from trainers.acquisition import sureness
from trainers.config import GenerationConfig
from trainers.records import Candidates, Prompt, Response, read_jsonl, write_jsonl
from trainers.run_dir import RunDir
from trainers.text import similarity

Floats = NDArray[np.float64]
Sets = Sequence[Candidates]
"""What could be the candidates of one prompt; first those that would be without a choice."""


@dataclass(frozen=True)
class Learnt:
    """What a training leaves behind for the next choice."""

    scores: Mapping[str, float]
    """Response id -> score."""
    features: Mapping[str, Floats]
    """Response id -> what the score is linear in."""
    pairs: Sequence[tuple[str, str]]
    """(chosen, rejected) that it learned from."""


Choice = Callable[[Sequence[Sets], Learnt, random.Random], list[Candidates]]
"""The sets of each new prompt -> its candidates."""


def as_drawn(new: Sequence[Sets], _learnt: Learnt, _rng: random.Random) -> list[Candidates]:
    return [sets[0] for sets in new]


def at_random(new: Sequence[Sets], _learnt: Learnt, rng: random.Random) -> list[Candidates]:
    return [rng.choice(sets) for sets in new]


def least_sure(new: Sequence[Sets], learnt: Learnt, _rng: random.Random) -> list[Candidates]:
    """Two answers of each set that the model can hardly order."""
    return [min(sets, key=lambda own: sureness([learnt.scores[r.id] for r in own.responses])) for sets in new]


def most_informative(new: Sequence[Sets], learnt: Learnt, _rng: random.Random) -> list[Candidates]:
    """Prompt after prompt the set whose pairs add most Fisher information to all pairs before them.

        max over sets of ln det(H + Σ p(1 − p) d dᵀ),   d: difference of two answers' features

    H is the information of the pairs learned from and of the sets chosen so far, p the Bradley-Terry
    probability. In every direction H begins with what one pair of the mean squared difference would tell.

    Source: D-optimal design; Shen et al. 2025, arXiv:2502.04354, sec. 3 ("past-aware D-opt").
    """
    known = _information(learnt.pairs, learnt)  # (pairs, features)
    information = known.T @ known + np.square(known).mean() * np.eye(known.shape[1])
    chosen = []
    for sets in new:
        inverse = np.linalg.inv(information)
        added = [_information(_pairs(own), learnt) for own in sets]
        # det(H + XᵀX) = det(H) det(1 + X H⁻¹ Xᵀ)
        gains = [np.linalg.slogdet(np.eye(len(x)) + x @ inverse @ x.T)[1] for x in added]
        best = int(np.argmax(gains))
        chosen.append(sets[best])
        information = information + added[best].T @ added[best]
    return chosen


CHOICES: dict[str, Choice] = {
    "drawn": as_drawn,
    "random": at_random,
    "unsure": least_sure,
    "informative": most_informative,
}


def draw_sets(directory: Path, prompts: Sequence[Prompt], seed: int, draws: int) -> list[Sets]:
    """The sets of each prompt, after `draws` runs of the generate stage; made once."""
    first, *others = (
        answers(
            directory / f"{seed}-{number}",
            [prompt for prompt in prompts if number == 0 or prompt.split == "train"],
            seed=100 * seed + number,
        )
        for number in range(draws)
    )
    more: dict[str, list[Response]] = defaultdict(list)
    for own in itertools.chain(*others):
        more[own.prompt.id] += own.responses
    return [[own, *_sets(own, more[own.prompt.id])] for own in first]


def answers(directory: Path, prompts: Sequence[Prompt], seed: int = 0) -> list[Candidates]:
    """Candidates for the prompts by the generate stage; made once."""
    out = RunDir(directory)
    if not (made := out.output("candidates.jsonl")).is_file():
        write_jsonl(out.input("prompts.jsonl"), prompts)
        generate.run(GenerationConfig(base_model=str(WEIGHTS_DIR), seed=seed, threads=1), out)
    return read_jsonl(made, Candidates)


def _sets(drawn: Candidates, more: Sequence[Response]) -> list[Candidates]:
    """As many answers as were drawn at first, all in different styles."""
    usable = [response for response in (*drawn.responses, *more) if not response.flags]
    limit = GenerationConfig.max_similarity
    alike = {(a.id, b.id) for a, b in itertools.combinations(usable, 2) if similarity(a.text, b.text) > limit}
    return [
        Candidates(drawn.prompt, own)
        for own in itertools.combinations(usable, len(drawn.responses))
        if len({response.style for response in own}) == len(own)
        and not any((a.id, b.id) in alike for a, b in itertools.combinations(own, 2))
    ]


def _pairs(own: Candidates) -> list[tuple[str, str]]:
    return list(itertools.combinations([response.id for response in own.responses], 2))


def _information(pairs: Sequence[tuple[str, str]], learnt: Learnt) -> Floats:
    """√(p(1 − p)) d of each pair. (pairs, features)"""
    apart = np.array([learnt.features[a] - learnt.features[b] for a, b in pairs])
    gaps = np.array([learnt.scores[a] - learnt.scores[b] for a, b in pairs])
    return np.asarray(apart / (2 * np.cosh(gaps / 2))[:, None])  # p(1 − p) = 1 / (2 cosh(gap / 2))²
