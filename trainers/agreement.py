"""How far the annotators agree, what that lets a reward model reach, and on which prompts they do not.

Standard library only; takes rankings as they are, one an annotator and prompt (`trainers.concordance` has the
coefficients). The reward stage puts the result beside the held-out accuracy; the backend marks the prompts
that divide the team.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from trainers.concordance import (
    Order,
    PairCounts,
    compare_orders,
    kendall_w,
    krippendorff_alpha,
    mid_ranks,
    over_common,
)
from trainers.records import Ranking

CONTESTED = 0.5
"""Below this share of agreeing judgements a prompt divides the team: more often against than with another."""


@dataclass(frozen=True)
class Concordance:
    """How far two orders agree, over the prompts that both sides ranked."""

    prompts: int
    """Prompts that both ranked."""
    judgements: int
    """Pairs of answers on which both have a preference."""
    rate: float | None
    """Share of the judgements in which both prefer the same answer; `None` without one."""
    kendall_tau: float | None
    """Mean of Kendall's τ-b over the prompts on which both have a preference."""


@dataclass(frozen=True)
class AnnotatorPair(Concordance):
    """Two annotators."""

    first: str
    second: str


@dataclass(frozen=True)
class Member(Concordance):
    """One annotator against the others together, whose mean ranks are one order."""

    annotator: str
    rankings: int
    """Also of prompts that nobody else ranked."""


@dataclass(frozen=True)
class Repeater(Concordance):
    """One annotator against the same annotator, at another time."""

    annotator: str


@dataclass(frozen=True)
class SelfConsistency(Concordance):
    """How far people agree with themselves, over the prompts that the same person ranked twice."""

    annotators: tuple[Repeater, ...]


@dataclass(frozen=True)
class PromptAgreement:
    """The annotators of one prompt."""

    prompt_id: str
    annotators: int
    rate: float | None
    """Share of the judgements of every two annotators in which both prefer the same answer."""
    kendall_w: float | None

    @property
    def contested(self) -> bool:
        """True if the annotators disagree more often than they agree."""
        return self.rate is not None and self.rate < CONTESTED


@dataclass(frozen=True)
class Agreement:
    """Agreement of the annotators over all prompts that two or more of them ranked."""

    annotators: int
    """Annotators with a ranking, also those who share no prompt with another."""
    shared_prompts: int
    """Prompts that two or more ranked."""
    contested_prompts: int
    """Those among them on which the annotators disagree more often than they agree."""
    judgements: int
    """Pairs of answers times pairs of annotators, both with a preference."""
    rate: float | None
    """Share of the judgements in which both prefer the same answer; `None` without a judgement."""
    kendall_tau: float | None
    """Mean Kendall's τ-b of two annotators on one prompt."""
    kendall_w: float | None
    """Mean Kendall's W of a prompt; its chance level is one over the number of annotators."""
    krippendorff_alpha: float | None
    """Of the ranks, each answer a unit; 0 is chance."""
    pairs: tuple[AnnotatorPair, ...]
    members: tuple[Member, ...]

    @property
    def ceiling(self) -> float | None:
        """See `accuracy_ceiling`."""
        return None if self.rate is None else accuracy_ceiling(self.rate)

    def to_json(self) -> dict[str, Any]:
        pairs, members = map(asdict, self.pairs), map(asdict, self.members)
        return {**asdict(self), "pairs": list(pairs), "members": list(members)}


def measure_agreement(rankings: Iterable[Ranking]) -> Agreement:
    """Compare every two annotators on every prompt that both ranked, and each with the rest.

    Pairs of answers that either side tied are no judgement.
    """
    all_rankings = list(rankings)
    by_prompt = _by_prompt(all_rankings)
    shared = [ranked for ranked in by_prompt.values() if len(ranked) > 1]
    between: dict[tuple[str, str], list[PairCounts]] = defaultdict(list)
    for ranked in shared:
        for first, second in combinations(ranked, 2):
            between[first.annotator, second.annotator].append(compare_orders(first.order, second.order))
    everything = _concordance([counts for pair in between.values() for counts in pair])
    prompts = [_prompt_agreement(ranked) for ranked in shared]
    return Agreement(
        annotators=len({ranking.annotator for ranking in all_rankings}),
        shared_prompts=len(shared),
        contested_prompts=sum(prompt.contested for prompt in prompts),
        judgements=everything["judgements"],
        rate=everything["rate"],
        kendall_tau=everything["kendall_tau"],
        kendall_w=_mean([prompt.kendall_w for prompt in prompts]),
        krippendorff_alpha=krippendorff_alpha(_units(shared)),
        pairs=tuple(
            AnnotatorPair(first=first, second=second, **_concordance(counts))
            for (first, second), counts in sorted(between.items())
        ),
        members=_members(all_rankings, shared),
    )


def prompt_agreements(rankings: Iterable[Ranking]) -> list[PromptAgreement]:
    """Every prompt that two or more annotators ranked with a preference, the most divisive first."""
    shared = [ranked for ranked in _by_prompt(rankings).values() if len(ranked) > 1]
    found = [prompt for prompt in map(_prompt_agreement, shared) if prompt.rate is not None]
    return sorted(found, key=lambda prompt: (prompt.rate, prompt.kendall_w or 0.0, prompt.prompt_id))


def self_consistency(rankings: Iterable[Ranking], repeated: Iterable[Ranking]) -> SelfConsistency:
    """Compare each annotator's rankings with those of the same prompts at another time.

    It bounds the agreement with others: nobody's rule is firmer for the team than for themselves.

    Args:
        rankings: those that count.
        repeated: those of tasks that were served again, at most one an annotator and prompt.
    """
    counted = {(ranking.annotator, ranking.prompt_id): ranking for ranking in rankings}
    between: dict[str, list[PairCounts]] = defaultdict(list)
    for again in repeated:
        if (own := counted.get((again.annotator, again.prompt_id))) is not None:
            between[again.annotator].append(compare_orders(own.order, again.order))
    return SelfConsistency(
        **_concordance([counts for compared in between.values() for counts in compared]),
        annotators=tuple(
            Repeater(annotator=annotator, **_concordance(compared))
            for annotator, compared in sorted(between.items())
        ),
    )


def accuracy_ceiling(rate: float) -> float:
    """The accuracy of a perfect model against single labels, if annotators agree with one another at `rate`.

    With each label right with probability q, two agree at a = q² + (1 − q)², so

        q = (1 + √(2a − 1)) / 2

    Args:
        rate: share of agreement between two annotators, 0 to 1; at ½ or less the labels are noise.
    """
    return (1 + math.sqrt(max(0.0, 2 * rate - 1))) / 2


def _by_prompt(rankings: Iterable[Ranking]) -> dict[str, list[Ranking]]:
    found: dict[str, list[Ranking]] = defaultdict(list)
    for ranking in sorted(rankings, key=lambda ranking: ranking.annotator):
        found[ranking.prompt_id].append(ranking)
    return found


def _prompt_agreement(ranked: Sequence[Ranking]) -> PromptAgreement:
    counts = [compare_orders(first.order, second.order) for first, second in combinations(ranked, 2)]
    return PromptAgreement(
        prompt_id=ranked[0].prompt_id,
        annotators=len(ranked),
        rate=_concordance(counts)["rate"],
        kendall_w=kendall_w([ranking.order for ranking in ranked]),
    )


def _members(rankings: Sequence[Ranking], shared: Iterable[Sequence[Ranking]]) -> tuple[Member, ...]:
    against: dict[str, list[PairCounts]] = defaultdict(list)
    made: dict[str, int] = defaultdict(int)
    for ranking in rankings:
        made[ranking.annotator] += 1
    for ranked in shared:
        for own in ranked:
            rest = _mean_order([other.order for other in ranked if other is not own])
            against[own.annotator].append(compare_orders(own.order, rest))
    return tuple(
        Member(annotator=annotator, rankings=number, **_concordance(against[annotator]))
        for annotator, number in sorted(made.items())
    )


def _mean_order(orders: Sequence[Order]) -> Order:
    """The answers that all orders contain, by the sum of their ranks (Borda)."""
    ranks = [mid_ranks(order) for order in over_common(orders)]
    groups: dict[float, list[str]] = defaultdict(list)
    for response_id in ranks[0]:
        groups[sum(own[response_id] for own in ranks)].append(response_id)
    return tuple(tuple(sorted(groups[total])) for total in sorted(groups))


def _units(shared: Iterable[Sequence[Ranking]]) -> Iterable[list[float]]:
    """For each answer that all annotators of a prompt ranked the places they gave it among those."""
    for ranked in shared:
        ranks = [mid_ranks(order) for order in over_common([ranking.order for ranking in ranked])]
        if len(ranks[0]) > 1:
            yield from ([own[response_id] for own in ranks] for response_id in ranks[0])


def _concordance(compared: Sequence[PairCounts]) -> dict[str, Any]:
    same = sum(counts.concordant for counts in compared)
    judgements = same + sum(counts.discordant for counts in compared)
    return {
        "prompts": len(compared),
        "judgements": judgements,
        "rate": same / judgements if judgements else None,
        "kendall_tau": _mean([counts.kendall_tau for counts in compared]),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
