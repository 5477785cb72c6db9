"""Which scenarios the rankings cover: prompts grouped by what they say, and unseen prompts far from all.

Pure, with a seed; numpy and scipy, no model. A prompt is the TF-IDF of its character n-grams, reduced to a
few dimensions (latent semantic analysis) and clustered by k-means. That sees words, not meaning: two ways to
ask the same in other words may fall apart, and languages never meet. The reward stage writes the result; the
backend shows each scenario by its most typical prompt.

Source: Deerwester et al. 1990, doi:10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9; k-means++:
Arthur and Vassilvitskii 2007.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import ClusterError, kmeans2
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds

from trainers.records import Prompt

PROMPTS_PER_SCENARIO = 20
MOST_SCENARIOS = 20
THIN = 1 / 4
"""A scenario with fewer than this times the mean number of rankings is thin. Where every prompt is ranked,
the smallest of ten to twenty clusters has half of the mean, rarely less than a third."""
FEWEST_LEARNED = 20
"""With fewer prompts learned from, what is far cannot be told from what is usual."""
FAR_QUANTILE = 0.05
"""An unseen prompt is far if it is less like its nearest learned prompt than all but this share of the
learned prompts are like theirs."""
MOST_FAR = 20
"""Far prompts that are named."""

DIMENSIONS = 20
_STARTS = 5
_BLOCK = 1000
_WORD = re.compile("[\u3400-\u9fff]+|[^\\W\u3400-\u9fff_]+")
_HAN_LENGTHS, _WORD_LENGTHS = (1, 2), (3, 4)

Floats = NDArray[np.float64]
Sparse = Any


@dataclass(frozen=True)
class Scenario:
    """One group of prompts."""

    prompt_id: str
    """Its most typical prompt."""
    prompts: int
    unseen: int
    """Prompts of the `unseen` split among them."""
    rankings: int
    """Of its `train` prompts: what the reward model learns from."""
    thin: bool
    """True if these are far fewer than in the other scenarios."""


@dataclass(frozen=True)
class Coverage:
    """The scenarios of a set of prompts, and how unseen prompts lie to those learned from."""

    scenarios: tuple[Scenario, ...]
    """Fewest rankings first."""
    unseen: int
    """Prompts of the `unseen` split; 0 if too few prompts were learned from to compare them with."""
    far: int
    """Those among them that lie far from every prompt learned from; a twentieth is usual."""
    far_prompts: tuple[str, ...]
    """Ids of the farthest, `MOST_FAR` at most."""

    def to_json(self) -> dict[str, Any]:
        scenarios = [asdict(scenario) for scenario in self.scenarios]
        return {**asdict(self), "scenarios": scenarios, "far_prompts": list(self.far_prompts)}


def measure_coverage(prompts: Sequence[Prompt], rankings: Mapping[str, int], *, seed: int = 0) -> Coverage:
    """Group the prompts and compare the unseen ones with those learned from.

    Args:
        prompts: all of them, each id once, in any order.
        rankings: prompt id -> rankings of it; a prompt is learned from if it is in the `train` split and has
            one.
        seed: of the starts of k-means.
    """
    ordered = sorted(prompts, key=lambda prompt: prompt.id)
    if not ordered:
        return Coverage((), 0, 0, ())
    vectors = embed([prompt.text for prompt in ordered])
    labels = cluster(vectors, min(MOST_SCENARIOS, len(ordered) // PROMPTS_PER_SCENARIO), seed=seed)
    made = np.array([rankings.get(prompt.id, 0) * (prompt.split == "train") for prompt in ordered])
    unseen = np.array([prompt.split == "unseen" for prompt in ordered])
    far = _far(vectors, made > 0, unseen)
    return Coverage(
        scenarios=_scenarios(ordered, vectors, labels, made, unseen),
        unseen=0 if far is None else int(unseen.sum()),
        far=0 if far is None else len(far),
        far_prompts=() if far is None else tuple(ordered[place].id for place in far[:MOST_FAR]),
    )


def embed(texts: Sequence[str]) -> Floats:
    """One unit vector a text, such that the dot product says how alike two are.

    Returns: (texts, dimensions); zeros for a text that shares nothing with the others.
    """
    weights = tfidf([ngrams(text) for text in texts])
    dimensions = min(DIMENSIONS, min(weights.shape) - 1)
    if dimensions < 1:
        return np.zeros((len(texts), 1))
    left, scale, _ = svds(weights, k=dimensions, rng=np.random.default_rng(0))
    return _unit(left * scale)


def ngrams(text: str) -> Counter[str]:
    """Chinese characters and pairs of them; of other words runs of three and four letters, ends marked."""
    found: Counter[str] = Counter()
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        chinese = "\u3400" <= word[0] <= "\u9fff"
        marked, lengths = (word, _HAN_LENGTHS) if chinese else (f" {word} ", _WORD_LENGTHS)
        for length in lengths:
            found.update(marked[start : start + length] for start in range(len(marked) - length + 1))
    return found


def tfidf(counts: Sequence[Counter[str]]) -> Sparse:
    """Weights of the n-grams that occur in two texts or more.

        (1 + ln tf) · (1 + ln((1 + N) / (1 + df))), each text scaled to length 1

    Returns: sparse (texts, n-grams).
    """
    texts = len(counts)
    frequency = Counter(gram for count in counts for gram in count)
    kept = sorted(gram for gram, found in frequency.items() if found > 1)
    column_of = {gram: column for column, gram in enumerate(kept)}
    rows, columns, times = [], [], []
    for row, count in enumerate(counts):
        for gram, number in count.items():
            if (column := column_of.get(gram)) is not None:
                rows.append(row)
                columns.append(column)
                times.append(number)
    rarity = 1 + np.log((1 + texts) / (1 + np.array([frequency[gram] for gram in kept], dtype=float)))
    values = (1 + np.log(np.array(times, dtype=float))) * rarity[np.array(columns, dtype=int)]
    weights = csr_array((values, (rows, columns)), shape=(texts, len(kept)))
    lengths = np.sqrt(weights.multiply(weights).sum(axis=1))
    return diags_array(1 / np.where(lengths > 0, lengths, 1)) @ weights


def cluster(vectors: Floats, clusters: int, *, seed: int = 0) -> NDArray[np.int64]:
    """The best of a few k-means runs.

    Args:
        vectors: (n, d)
        clusters: how many are wanted; fewer come where there are fewer distinct vectors.
    Returns: the cluster of each vector. (n,)
    """
    wanted = min(clusters, len(np.unique(vectors.round(6), axis=0)))
    while wanted > 1:
        found = []
        for start in range(_STARTS):
            try:
                centres, labels = kmeans2(
                    vectors,
                    wanted,
                    minit="++",
                    missing="raise",
                    iter=50,
                    rng=np.random.default_rng([seed, start]),
                )
            except ClusterError:  # a centre lost all its vectors
                continue
            found.append((float(((vectors - centres[labels]) ** 2).sum()), start, labels))
        if found:
            return np.asarray(min(found)[2], dtype=np.int64)
        wanted -= 1
    return np.zeros(len(vectors), dtype=np.int64)


def _scenarios(
    prompts: Sequence[Prompt],
    vectors: Floats,
    labels: NDArray[np.int64],
    made: NDArray[Any],
    unseen: NDArray[Any],
) -> tuple[Scenario, ...]:
    found = []
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    mean = made.sum() / len(groups)
    for members in groups:
        central = members[np.argmax(vectors[members] @ vectors[members].mean(axis=0))]
        rankings = int(made[members].sum())
        found.append(
            Scenario(
                prompt_id=prompts[central].id,
                prompts=len(members),
                unseen=int(unseen[members].sum()),
                rankings=rankings,
                thin=bool(rankings < THIN * mean),
            )
        )
    return tuple(
        sorted(found, key=lambda scenario: (scenario.rankings, -scenario.prompts, scenario.prompt_id))
    )


def _far(vectors: Floats, learned: NDArray[Any], unseen: NDArray[Any]) -> list[int] | None:
    """Places of the unseen prompts far from all learned ones, farthest first; `None` if nobody can tell."""
    if learned.sum() < FEWEST_LEARNED:
        return None
    known = vectors[learned]
    usual = _nearest(known, known, itself=True)
    limit = np.quantile(usual, FAR_QUANTILE)
    places = np.flatnonzero(unseen)
    near = _nearest(vectors[places], known)
    return [int(places[index]) for index in np.argsort(near, kind="stable") if near[index] < limit]


def _nearest(vectors: Floats, known: Floats, *, itself: bool = False) -> Floats:
    """Similarity of each vector to the most similar known one.

    Args:
        itself: the vectors are the known ones; each is compared with the others.
    """
    found = []
    for start in range(0, len(vectors), _BLOCK):
        alike = vectors[start : start + _BLOCK] @ known.T
        if itself:
            rows = np.arange(len(alike))
            alike[rows, start + rows] = -np.inf
        found.append(alike.max(axis=1))
    return np.concatenate(found) if found else np.zeros(0)


def _unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-12)
