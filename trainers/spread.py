"""How different the answers to one prompt are: what there is to choose between.

Pure; knows nothing of models or files. Looks at the answers that people will rank, those without a flag. The
generate stage writes the result for its prompts, the report shows that of all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean, median, quantiles
from typing import Any

from trainers.records import Candidates, Language, Response
from trainers.text import language, similarity

ALIKE = 0.6
"""Above this mean similarity the answers to a prompt are variants of one: ranking them teaches little."""


@dataclass(frozen=True)
class Lengths:
    """Lengths in characters: a tenth is shorter than `tenth`, a tenth longer than `ninetieth`."""

    answers: int
    tenth: float
    median: float
    ninetieth: float


@dataclass(frozen=True)
class Spread:
    """The candidates of prompts with two or more answers to rank."""

    prompts: int
    answers: int
    similarity: float | None
    """Mean over prompts of the mean similarity (`trainers.text.similarity`) of every two answers."""
    alike_prompts: int
    """Prompts whose answers are more alike than `ALIKE` on average."""
    one_style_prompts: int
    """Prompts whose answers were all sampled with the same style instruction."""
    length_ratio: float | None
    """Median over prompts of the longest answer's length over the shortest one's."""
    other_language: int
    """Answers that are not in the language of their prompt."""
    lengths: dict[Language, Lengths]
    """By the language of the answer, because the same takes fewer characters in Chinese."""
    style_lengths: dict[str, float]
    """Median length of each style's answers."""
    policies: dict[str, int]
    """Answers that each policy wrote."""
    mixed_prompts: int
    """Prompts whose answers two or more policies wrote: ranking them compares the policies."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_spread(candidates: Iterable[Candidates], known: Mapping[str, float] | None = None) -> Spread:
    """Compare the answers to each prompt; a prompt with fewer than two without a flag is left out.

    Args:
        known: prompt id -> `likeness` of its answers, where it was measured before: most of the work.
    """
    known = known or {}
    usable = [
        (entry.prompt, [response for response in entry.responses if not response.flags])
        for entry in candidates
    ]
    ranked = [(prompt, responses) for prompt, responses in usable if len(responses) > 1]
    answers = [response for _, responses in ranked for response in responses]
    alike = [
        likeness(responses) if (found := known.get(prompt.id)) is None else found
        for prompt, responses in ranked
    ]
    ratios = [_length_ratio(responses) for _, responses in ranked]
    by_language: dict[Language, list[int]] = defaultdict(list)
    by_style: dict[str, list[int]] = defaultdict(list)
    other_language = 0
    for prompt, responses in ranked:
        asked_in = language(prompt.text)
        for response in responses:
            answered_in = language(response.text)
            other_language += answered_in != asked_in
            by_language[answered_in].append(len(response.text))
            by_style[response.style].append(len(response.text))
    return Spread(
        prompts=len(ranked),
        answers=len(answers),
        similarity=fmean(alike) if alike else None,
        alike_prompts=sum(value > ALIKE for value in alike),
        one_style_prompts=sum(len({response.style for response in own}) == 1 for _, own in ranked),
        length_ratio=median(ratios) if ratios else None,
        other_language=other_language,
        lengths={name: _lengths(by_language[name]) for name in sorted(by_language)},
        style_lengths={style: median(by_style[style]) for style in sorted(by_style)},
        policies=dict(Counter(response.policy for response in answers)),
        mixed_prompts=sum(len({response.policy for response in own}) > 1 for _, own in ranked),
    )


def likeness(responses: Sequence[Response]) -> float:
    """Mean similarity of every two answers to a prompt; 0 with fewer than two."""
    pairs = [similarity(first.text, second.text) for first, second in combinations(responses, 2)]
    return fmean(pairs) if pairs else 0.0


def _length_ratio(responses: Sequence[Response]) -> float:
    lengths = [len(response.text) for response in responses]
    return max(lengths) / max(1, min(lengths))


def _lengths(lengths: Sequence[int]) -> Lengths:
    tenths = quantiles(lengths, n=10, method="inclusive") if len(lengths) > 1 else [float(lengths[0])] * 9
    return Lengths(len(lengths), tenths[0], median(lengths), tenths[-1])
