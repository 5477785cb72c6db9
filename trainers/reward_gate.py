"""Holds a reward model against the gate: what the reward stage reports, from its scores alone.

Pure; knows nothing of models or files. Takes preferences of held-out prompts and the scores of the model as
it was written to disk; the result goes into the stage's `result.json`, which the backend reads.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from trainers.agreement import measure_agreement
from trainers.config import RewardConfig
from trainers.coverage import measure_coverage
from trainers.evaluation import Accuracy, Interval, Supply, decide_gate, pair_accuracy
from trainers.pair_evaluation import accuracy_by_kind, calibration, clustered_interval, compare_scores
from trainers.preferences import Sufficiency, split_preferences
from trainers.records import Candidates, Preference, Ranking

BEATS_BELOW = 0.05
"""p-value below which the model counts as better than the best baseline."""


def judge(
    config: RewardConfig,
    counts: Sufficiency,
    candidates: Sequence[Candidates],
    rankings: Sequence[Ranking],
    preferences: Sequence[Preference],
    scores: Mapping[str, float],
) -> dict[str, Any]:
    """Accuracy on held-out prompts, what bounds it, what it must beat, and the gate's outcome.

    Returns: the figures that docs/metrics.md lists.
    """
    _, heldout = split_preferences(preferences, {c.prompt.id: c.prompt.split for c in candidates})
    ranked = Counter(ranking.prompt_id for ranking in rankings)
    gate = decide_gate(
        pair_accuracy(heldout, scores),
        gate_accuracy=config.gate_accuracy,
        gate_margin=config.gate_margin,
        supply=_supply(counts, candidates, ranked),
    )
    clustered = clustered_interval(heldout, scores, seed=config.seed)
    calibrated = calibration(heldout, scores, seed=config.seed)
    agreement = measure_agreement(rankings)
    covered = measure_coverage([entry.prompt for entry in candidates], ranked, seed=config.seed)
    by_kind = accuracy_by_kind(heldout, candidates, scores)
    return {
        "accuracy": gate.accuracy.value,
        "interval": _pair(gate.accuracy.interval),
        "clustered_interval": None if clustered is None else _pair(clustered),
        "pairs": gate.accuracy.pairs,
        "prompts_train": counts.prompts_train,
        "prompts_heldout": counts.prompts_heldout,
        "annotators": counts.annotators,
        "agreement": agreement.rate,
        "ceiling": agreement.ceiling,
        "team": agreement.to_json(),
        "coverage": covered.to_json(),
        **_against_baselines(candidates, heldout, scores),
        "calibration": {**asdict(calibrated), "points": [asdict(point) for point in calibrated.points]},
        "accuracy_by_kind": {
            name: {kind: _figures(accuracy) for kind, accuracy in kinds.items()}
            for name, kinds in by_kind.items()
        },
        "outcome": gate.outcome,
        "rankings_needed": gate.rankings_needed,
        "length_correlation": length_correlation(candidates, scores),
    }


def length_correlation(candidates: Iterable[Candidates], scores: Mapping[str, float]) -> float | None:
    """Pearson's correlation of score and length in characters, each taken relative to its prompt's mean.

    Relative, because prompts and languages differ in length and score for reasons of their own.

    Returns: `None` if all scores or all lengths are equal.
    """
    pairs: list[tuple[float, float]] = []
    for own in candidates:
        if own.responses:
            mean_score = fmean(scores[response.id] for response in own.responses)
            mean_length = fmean(len(response.text) for response in own.responses)
            pairs += [(scores[r.id] - mean_score, len(r.text) - mean_length) for r in own.responses]
    product = sum(score * length for score, length in pairs)
    scale = math.sqrt(sum(score**2 for score, _ in pairs) * sum(length**2 for _, length in pairs))
    return product / scale if scale > 0 else None


def _supply(counts: Sufficiency, candidates: Iterable[Candidates], ranked: Mapping[str, int]) -> Supply:
    """As many held-out pairs a ranking as so far; `counts` has one held-out prompt or more."""
    heldout = [entry.prompt.id for entry in candidates if entry.prompt.split != "train"]
    return Supply(
        pairs_per_ranking=counts.pairs_heldout / counts.rankings,
        pairs_per_heldout_ranking=counts.pairs_heldout / sum(ranked[key] for key in heldout if key in ranked),
        heldout_unranked=sum(key not in ranked for key in heldout),
    )


def _against_baselines(
    candidates: Iterable[Candidates], heldout: Sequence[Preference], scores: Mapping[str, float]
) -> dict[str, Any]:
    """The rules "longer wins" and "shorter wins", and whether the model beats the better of them."""
    lengths = {response.id: float(len(response.text)) for c in candidates for response in c.responses}
    rules = {"longer": lengths, "shorter": {key: -length for key, length in lengths.items()}}
    accuracies = {name: pair_accuracy(heldout, rule) for name, rule in rules.items()}
    best = max(accuracies, key=lambda name: accuracies[name].correct)
    test = compare_scores(heldout, scores, rules[best])
    found: dict[str, Any] = {}
    for name, accuracy in accuracies.items():
        found[f"baseline_{name}"] = accuracy.value
        found[f"baseline_{name}_interval"] = _pair(accuracy.interval)
    return found | {
        "best_baseline": best,
        "beats_baselines": test.wins > test.losses and test.p_value < BEATS_BELOW,
        "beats_baselines_p": test.p_value,
    }


def _figures(accuracy: Accuracy) -> dict[str, Any]:
    return {
        "accuracy": accuracy.value,
        "interval": _pair(accuracy.interval),
        "pairs": accuracy.pairs,
    }


def _pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]
