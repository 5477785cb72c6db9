"""A stand-in for the reward stage that trains in milliseconds: a linear score on what an answer looks like.

For measurements that need hundreds of trainings (`scripts.active_learning`). Sees the answers' n-grams and
their length, no prompt and no language model. Its gate is the real one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainers.coverage import ngrams, tfidf
from trainers.records import Candidates, Preference

DIMENSIONS = 60
RIDGE = 1.0
_NEWTON_STEPS = 8

Floats = NDArray[np.float64]


class LinearReward:
    """Learns scores of a fixed set of answers."""

    def __init__(self, candidates: Sequence[Candidates]) -> None:
        texts = {response.id: response.text for own in candidates for response in own.responses}
        self._rows = {key: row for row, key in enumerate(texts)}
        self._features = _features(list(texts.values()))

    @property
    def features(self) -> dict[str, Floats]:
        """Response id -> what its score is linear in. (features,)"""
        return {key: self._features[row] for key, row in self._rows.items()}

    def fit(self, preferences: Sequence[Preference]) -> dict[str, float]:
        """Scores of all answers: Bradley-Terry with a ridge penalty, by Newton's method.

        min over w of Σ ln(1 + exp(−w·d)) + ½ λ |w|²,   d: difference of chosen and rejected features

        Returns: response id -> score.
        """
        chosen = [self._rows[preference.chosen_id] for preference in preferences]
        rejected = [self._rows[preference.rejected_id] for preference in preferences]
        apart = self._features[chosen] - self._features[rejected]  # (pairs, features)
        weights = np.zeros(apart.shape[1])
        for _ in range(_NEWTON_STEPS):
            right = 1 / (1 + np.exp(-(apart @ weights)))
            slope = RIDGE * weights - apart.T @ (1 - right)
            curvature = (apart.T * (right * (1 - right))) @ apart + RIDGE * np.eye(len(weights))
            weights -= np.linalg.solve(curvature, slope)
        scores = self._features @ weights
        return {key: float(scores[row]) for key, row in self._rows.items()}


def _features(texts: Sequence[str]) -> Floats:
    """TF-IDF of the n-grams in fewer dimensions, and the logarithm of the length. (answers, features)"""
    left, scale, _ = np.linalg.svd(tfidf([ngrams(text) for text in texts]).toarray(), full_matrices=False)
    words = (left * scale)[:, :DIMENSIONS]
    length = np.log([max(1, len(text)) for text in texts])
    return np.column_stack([0.5 * words / words.std(), (length - length.mean()) / length.std()])
