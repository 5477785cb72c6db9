"""How well scores tell the preferred answer: how sure that is, against simple rules, and on which pairs.

Pure, with a seed where something is drawn. Knows scipy and nothing of models: takes preferences and scores.
Pairs of one prompt share its answers, so whatever asks "how sure?" draws or counts whole prompts. The reward
stage puts the results beside the accuracy of `trainers.evaluation`, which decides the gate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from trainers.evaluation import Accuracy, Interval, SignTest, pair_accuracy, sign_test
from trainers.records import Candidates, Preference, Response
from trainers.text import language

RESAMPLES = 2000
MOST_BINS = 10
PAIRS_PER_BIN = 10
"""Fewer pairs in a bin say little about its share."""
ABOUT_EQUAL = 0.1
"""Two answers are about equally long if they differ by at most this share of the longer one."""
_BATCH = 100  # resamples at a time: 10,000 prompts need 8 MB
_SIMULATIONS = 200

Floats = NDArray[np.float64]


def clustered_interval(
    preferences: Iterable[Preference],
    scores: Mapping[str, float],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Bootstrap interval of the accuracy over pairs: percentiles over prompts drawn with replacement.

    Wider than Wilson's where the pairs of a prompt are right or wrong together.

    Returns:
        `None` where drawing prompts shows nothing: there is one prompt, or all have the same accuracy.
    Source: Efron and Tibshirani 1993, ch. 13; Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x.
    """
    clusters = [(own.correct, own.pairs) for own in _by_prompt(preferences, scores).values()]
    if len({correct / pairs for correct, pairs in clusters}) < 2:
        return None
    found = bootstrap(
        tuple(np.array(clusters, dtype=float).T),
        lambda correct, pairs, axis: correct.sum(axis=axis) / pairs.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def compare_scores(
    preferences: Sequence[Preference], scores: Mapping[str, float], baseline: Mapping[str, float]
) -> SignTest:
    """Do scores get more right than a baseline on the same pairs? Exact test over prompts.

    A prompt is a win if the scores get more of its pairs right than the baseline, a loss if fewer. With one
    pair a prompt this is McNemar's exact test; over pairs that share answers McNemar's says "better" too
    often (in 4.0 % of null cases instead of 2.5 %, with 160 prompts of four answers).

    Source: McNemar 1947, doi:10.1007/BF02295996.
    """
    own, other = _by_prompt(preferences, scores), _by_prompt(preferences, baseline)
    differences = [own[prompt].correct - other[prompt].correct for prompt in own]
    wins = sum(difference > 0 for difference in differences)
    return sign_test(wins, sum(difference < 0 for difference in differences))


@dataclass(frozen=True)
class CalibrationPoint:
    """One bin of a reliability plot."""

    predicted: float
    """Mean predicted probability that the answer with the higher score is preferred."""
    observed: float
    """Share of the pairs in which it is."""
    pairs: int


@dataclass(frozen=True)
class Calibration:
    """Whether the probabilities that the scores imply come true."""

    error: float | None
    """Expected calibration error: mean distance of predicted and observed over the pairs. `None` without a
    pair."""
    noise: float | None
    """What the error of perfectly calibrated scores would be on average, with this many pairs."""
    points: tuple[CalibrationPoint, ...]


def calibration(
    preferences: Iterable[Preference], scores: Mapping[str, float], *, seed: int = 0
) -> Calibration:
    """Compare σ(difference of the scores) with how often the answer with the higher score is preferred.

    Bins hold equally many pairs, `PAIRS_PER_BIN` or more where there are so many.

    Source: Guo et al. 2017, arXiv:1706.04599; equal-count bins: Nguyen and O'Connor 2015, arXiv:1508.05154.
    """
    margins = sorted((scores[p.chosen_id] - scores[p.rejected_id] for p in preferences), key=abs)
    if not margins:
        return Calibration(None, None, ())
    predicted = np.array([1 / (1 + math.exp(-abs(margin))) for margin in margins])
    observed = np.array([1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins])
    bins = min(MOST_BINS, max(1, len(margins) // PAIRS_PER_BIN))
    edges = [round(number * len(margins) / bins) for number in range(bins + 1)]
    parts = [slice(*edge) for edge in pairwise(edges)]
    rng = np.random.default_rng(seed)
    simulated = [
        _error(predicted, (rng.random(len(predicted)) < predicted).astype(float), parts)
        for _ in range(_SIMULATIONS)
    ]
    points = [
        CalibrationPoint(float(predicted[part].mean()), float(observed[part].mean()), part.stop - part.start)
        for part in parts
    ]
    return Calibration(_error(predicted, observed, parts), float(np.mean(simulated)), tuple(points))


def accuracy_by_kind(
    preferences: Sequence[Preference], candidates: Iterable[Candidates], scores: Mapping[str, float]
) -> dict[str, dict[str, Accuracy]]:
    """Accuracy over the pairs of each kind, only of kinds that occur.

    Returns:
        rank: `adjacent` (no answer of the prompt lies between the two), `first_last` (the best against the
            worst of three or more), `between` (the rest).
        style: `same`, `different` style instruction.
        length: the preferred answer is `longer`, `shorter`, or the two are `about_equal`.
        language: of the prompt, `zh` or `en`.
    """
    entries = {entry.prompt.id: entry for entry in candidates}
    responses = {response.id: response for entry in entries.values() for response in entry.responses}
    ranks = _ranks(preferences)
    kinds: dict[str, Callable[[Preference], str]] = {
        "rank": lambda p: ranks[p.chosen_id, p.rejected_id],
        "style": lambda p: _style(responses[p.chosen_id], responses[p.rejected_id]),
        "length": lambda p: _length(responses[p.chosen_id], responses[p.rejected_id]),
        "language": lambda p: language(entries[p.prompt_id].prompt.text),
    }
    found = {}
    for name, kind in kinds.items():
        groups: dict[str, list[Preference]] = defaultdict(list)
        for preference in preferences:
            groups[kind(preference)].append(preference)
        found[name] = {key: pair_accuracy(groups[key], scores) for key in sorted(groups)}
    return found


def _by_prompt(preferences: Iterable[Preference], scores: Mapping[str, float]) -> dict[str, Accuracy]:
    own: dict[str, list[Preference]] = defaultdict(list)
    for preference in preferences:
        own[preference.prompt_id].append(preference)
    return {prompt: pair_accuracy(pairs, scores) for prompt, pairs in own.items()}


def _error(predicted: Floats, observed: Floats, parts: Sequence[slice]) -> float:
    return float(sum(abs(predicted[part].sum() - observed[part].sum()) for part in parts) / len(predicted))


def _ranks(preferences: Iterable[Preference]) -> dict[tuple[str, str], str]:
    """(preferred, other) -> how far apart the two lie among the answers to their prompt."""
    below: dict[str, set[str]] = defaultdict(set)
    above: dict[str, set[str]] = defaultdict(set)
    for preference in preferences:
        below[preference.chosen_id].add(preference.rejected_id)
        above[preference.rejected_id].add(preference.chosen_id)
    found = {}
    for chosen, others in list(below.items()):
        for rejected in others:
            between = others & above[rejected]
            ends = not above.get(chosen) and not below.get(rejected)
            found[chosen, rejected] = "adjacent" if not between else "first_last" if ends else "between"
    return found


def _style(chosen: Response, rejected: Response) -> str:
    return "same" if chosen.style == rejected.style else "different"


def _length(chosen: Response, rejected: Response) -> str:
    lengths = len(chosen.text), len(rejected.text)
    if abs(lengths[0] - lengths[1]) <= ABOUT_EQUAL * max(lengths):
        return "about_equal"
    return "longer" if lengths[0] > lengths[1] else "shorter"
