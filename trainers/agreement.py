"""How far the annotators agree, and what that lets a reward model reach.

Standard library only; takes rankings as they are, one an annotator and prompt. The reward stage puts the
result beside the held-out accuracy.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from trainers.records import Ranking

Order = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Agreement:
    """Agreement of the annotators over all prompts that two or more of them ranked."""

    rate: float | None
    """Share of the judgements in which both prefer the same answer; `None` without a judgement."""
    judgements: int
    """Pairs of answers times pairs of annotators, both with a preference."""
    kendall_tau: float | None
    """Mean Kendall's τ-b of two annotators on one prompt."""
    annotators: int
    """Annotators with a ranking, also those who share no prompt with another."""

    @property
    def ceiling(self) -> float | None:
        """See `accuracy_ceiling`."""
        return None if self.rate is None else accuracy_ceiling(self.rate)


def measure_agreement(rankings: Iterable[Ranking]) -> Agreement:
    """Compare every two annotators on every prompt that both ranked. Pairs that either tied are left out."""
    by_prompt: dict[str, list[Ranking]] = defaultdict(list)
    annotators = set()
    for ranking in rankings:
        by_prompt[ranking.prompt_id].append(ranking)
        annotators.add(ranking.annotator)
    same = judgements = 0
    taus = []
    for ranked in by_prompt.values():
        for first, second in combinations(ranked, 2):
            counts = _compare(first.order, second.order)
            same += counts.concordant
            judgements += counts.concordant + counts.discordant
            tau = counts.kendall_tau
            if tau is not None:
                taus.append(tau)
    return Agreement(
        rate=same / judgements if judgements else None,
        judgements=judgements,
        kendall_tau=fmean(taus) if taus else None,
        annotators=len(annotators),
    )


def kendall_tau(first: Order, second: Order) -> float | None:
    """Kendall's τ-b of two orders, −1 (opposite) to 1 (the same), over the answers that both contain.

        τ_b = (C − D) / √((C + D + T₁)(C + D + T₂))

    with C concordant, D discordant pairs and Tᵢ those tied only in one order.

    Returns:
        `None` if one of the orders has no preference at all.
    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    return _compare(first, second).kendall_tau


def accuracy_ceiling(rate: float) -> float:
    """The accuracy of a perfect model against single labels, if annotators agree with one another at `rate`.

    With each label right with probability q, two agree at a = q² + (1 − q)², so

        q = (1 + √(2a − 1)) / 2

    Args:
        rate: share of agreement between two annotators, 0 to 1; at ½ or less the labels are noise.
    """
    return (1 + math.sqrt(max(0.0, 2 * rate - 1))) / 2


@dataclass(frozen=True)
class _Counts:
    concordant: int
    discordant: int
    tied_first: int
    tied_second: int

    @property
    def kendall_tau(self) -> float | None:
        decided = self.concordant + self.discordant
        scale = math.sqrt((decided + self.tied_first) * (decided + self.tied_second))
        return (self.concordant - self.discordant) / scale if scale else None


def _compare(first: Order, second: Order) -> _Counts:
    first_place, second_place = _places(first), _places(second)
    concordant = discordant = tied_first = tied_second = 0
    for a, b in combinations(sorted(first_place.keys() & second_place.keys()), 2):
        in_first = first_place[a] - first_place[b]
        in_second = second_place[a] - second_place[b]
        concordant += in_first * in_second > 0
        discordant += in_first * in_second < 0
        tied_first += in_first == 0 and in_second != 0
        tied_second += in_first != 0 and in_second == 0
    return _Counts(concordant, discordant, tied_first, tied_second)


def _places(order: Order) -> dict[str, int]:
    return {response_id: place for place, group in enumerate(order) for response_id in group}
