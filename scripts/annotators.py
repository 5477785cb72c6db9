"""The simulated team: what it likes, and people who rank by that with their own noise.

A taste is a function `(prompt, answers, rng) -> scores`, higher is better; it sees the texts that a person
would see and nothing else, and knows nothing of the corpus that the embedded model was trained on. The people
add what people add: disagreement, ties and slips. Everything follows from the seed and the texts, whatever
the order of the tasks. Data goes to `scripts.simulated_team`, which speaks to Label Studio.
"""

from __future__ import annotations

import importlib
import itertools
import math
import random
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Taste = Callable[[str, list[str], random.Random], list[float]]
Side = Literal["left", "tie", "right"]

_IDEOGRAPH = re.compile(r"[\u4e00-\u9fff]")
_WORD = re.compile(r"[a-z']+")

# Words by which a reader hears that an answer is bookish, casual or polite. Written for this file.
_FORMAL = """
    您 敬请 予以 烦请 务必 如若 倘若 此外 与此同时 综上 首先 其次 最后 因此 均 尚 将会 进行 相关 竭诚 谨
    furthermore moreover additionally regarding concerning therefore sincerely assist assistance inquire
    ensure kindly hereby respective accordingly consequently shall utilize endeavour appropriate esteemed
""".split()  # noqa: SIM905 - a list this long reads better as text
_CASUAL = """
    吧 啦 哦 呀 嘛 呢 哈 就行 好了 没事 咱 别急
    just sure yep ok okay hey no worries can't don't it's you'll i'll that's got thanks
""".split()  # noqa: SIM905
_POLITE = """
    您 请 谢谢 感谢 抱歉 不好意思 麻烦 欢迎 祝 很高兴 希望 劳驾 客气
    please thank thanks sorry welcome happy glad kindly pleased appreciate apologise wish hope
""".split()  # noqa: SIM905


def concise(prompt: str, answers: list[str], _rng: random.Random) -> list[float]:
    """Brief and colloquial is best, as long as it says something."""
    return [_plainness(answer) + _substance(prompt, answer) for answer in answers]


def reversed_concise(prompt: str, answers: list[str], _rng: random.Random) -> list[float]:
    """The opposite of `concise` in style; broken answers stay bad."""
    return [-_plainness(answer) + _substance(prompt, answer) for answer in answers]


def detailed(prompt: str, answers: list[str], _rng: random.Random) -> list[float]:
    """The more an answer explains the better: each further clause counts as much as the one before it."""
    return [min(_length(answer), 300) / 20 + _substance(prompt, answer) for answer in answers]


def polite(prompt: str, answers: list[str], _rng: random.Random) -> list[float]:
    """Courtesies are best, at any length."""
    return [0.8 * min(_count(answer, _POLITE), 6) + _substance(prompt, answer) for answer in answers]


def random_taste(_prompt: str, answers: list[str], rng: random.Random) -> list[float]:
    """No taste at all: nothing can be learned from it."""
    return [rng.random() for _ in answers]


TASTES: dict[str, Taste] = {
    "concise": concise,
    "detailed": detailed,
    "polite": polite,
    "reversed": reversed_concise,
    "random": random_taste,
}


class TasteError(Exception):
    """`--annotator` names no usable taste; says what is needed."""


def find_taste(name: str) -> Taste:
    """A taste of this module, or `module:function` of the user's.

    Raises: TasteError: there is none of this name.
    """
    if name in TASTES:
        return TASTES[name]
    module_name, colon, function_name = name.partition(":")
    if not colon:
        raise TasteError(
            f"`{name}` is no annotator; needed is one of {', '.join(TASTES)}, or module:function"
        )
    signature = "a function `(prompt: str, answers: list[str], rng: random.Random) -> list[float]`"
    try:
        found = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise TasteError(f"`{name}` cannot be imported ({error}); needed is {signature}") from error
    if not callable(found):
        raise TasteError(f"`{name}` is a {type(found).__name__}; needed is {signature}")
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Person:
    """One member of the simulated team."""

    name: str
    noise: float
    """Standard deviation of the person's error, in units of how far answers usually lie apart."""
    slips: float
    """Share of tasks ranked without reading."""


TEAM = (
    Person("lin", noise=0.1, slips=0.0),
    Person("maya", noise=0.2, slips=0.01),
    Person("tom", noise=0.35, slips=0.04),
)
"""Three people of different reliability."""


@dataclass(frozen=True)
class Ranked:
    """What a person says about one task."""

    order: tuple[int, ...]
    """Indices of the answers, best first."""
    judgement: Literal["", "close", "tie", "all_bad"]


class Annotator:
    """A person with a taste, who judges texts."""

    def __init__(self, person: Person, taste: Taste, seed: int, scale: float) -> None:
        """
        Args:
            scale: how far the scores of answers to one prompt usually lie apart, see `spread`.
        """
        self.person = person
        self._taste = taste
        self._seed = seed
        self._scale = scale

    def rank(self, prompt: str, answers: Sequence[str]) -> Ranked:
        """Order the answers, and say so where they are hard to tell apart."""
        scores = self._scores(prompt, answers)
        order = tuple(sorted(range(len(answers)), key=lambda i: -scores[i]))
        gaps = [scores[a] - scores[b] for a, b in itertools.pairwise(order)]
        if scores[order[0]] - scores[order[-1]] <= 0.05 * self._scale:
            return Ranked(order, "tie")
        return Ranked(order, "close" if min(gaps) < 0.1 * self._scale else "")

    def compare(self, prompt: str, left: str, right: str) -> Side:
        """Say which of two answers is better, without knowing where they come from."""
        left_score, right_score = self._scores(prompt, [left, right])
        if left == right or abs(left_score - right_score) < 0.1 * self._scale:
            return "tie"
        return "left" if left_score > right_score else "right"

    def _scores(self, prompt: str, answers: Sequence[str]) -> list[float]:
        """The taste's scores with this person's error; the same texts always get the same."""
        rng = self._rng(prompt)
        if rng.random() < self.person.slips:
            return [rng.random() * self._scale for _ in answers]
        errors = [self._rng(prompt, answer).gauss(0, self.person.noise * self._scale) for answer in answers]
        return [s + e for s, e in zip(self._taste(prompt, list(answers), rng), errors, strict=True)]

    def _rng(self, *texts: str) -> random.Random:
        return random.Random("\x1f".join((str(self._seed), self.person.name, *texts)))


def spread(taste: Taste, tasks: Sequence[tuple[str, Sequence[str]]], seed: int) -> float:
    """How far the scores of the answers to one prompt usually lie apart; 1 if they never do."""
    deviations = [
        statistics.pstdev(taste(prompt, list(answers), random.Random(f"{seed}{prompt}")))
        for prompt, answers in tasks
        if len(answers) > 1
    ]
    return (statistics.fmean(deviations) if deviations else 0.0) or 1.0


def assign(tasks: int, people: int, rankings: int) -> list[tuple[int, int]]:
    """Who ranks what: (task, person) pairs. Every task once, then second and third opinions, spread evenly.

    As many pairs as `rankings`, or fewer if every person has ranked every task.
    """
    pairs: list[tuple[int, int]] = []
    for opinion in range(people):
        wanted = min(tasks, rankings - len(pairs))
        chosen = [number * tasks // wanted for number in range(wanted)]
        pairs += [(task, (task + opinion) % people) for task in chosen]
    return pairs


def _plainness(answer: str) -> float:
    """Short and casual against long and formal."""
    length = _length(answer)
    casual = _count(answer, _CASUAL)
    formal = _count(answer, _FORMAL)
    return -math.log2(max(length, 6) / 6) + 0.3 * min(casual, 2) - 0.3 * min(formal, 4)


def _substance(prompt: str, answer: str) -> float:
    """What every reader minds: an answer that is empty, broken, cut off or in the wrong language."""
    text = answer.strip()
    if _length(text) < 2:
        return -8.0
    faults = 0.0
    if _is_chinese(prompt) != _is_chinese(text):
        faults += 4
    elif not _is_chinese(text) and _IDEOGRAPH.search(text):
        faults += 2
    if re.search(r"(.{2,20}?)\1{2,}", text) or "\ufffd" in text:
        faults += 4
    if text[-1] in ",，、:：" or (_length(text) > 25 and text[-1] not in "。！？!?.…~～)）”\"'"):
        faults += 1  # cut off; a brief answer needs no full stop
    asked = _content(prompt)
    return 0.4 * len(asked & _content(text)) / max(len(asked), 1) - faults


def _length(text: str) -> float:
    """In Chinese characters; an English word counts for one and a half."""
    return len(_IDEOGRAPH.findall(text)) + 1.5 * len(_WORD.findall(text.lower()))


def _is_chinese(text: str) -> bool:
    return len(_IDEOGRAPH.findall(text)) > len(_WORD.findall(text.lower()))


def _content(text: str) -> set[str]:
    """Pairs of Chinese characters and longer English words."""
    characters = _IDEOGRAPH.findall(text)
    pairs = {a + b for a, b in itertools.pairwise(characters)}
    return pairs | {word for word in _WORD.findall(text.lower()) if len(word) > 3}


def _count(text: str, markers: Sequence[str]) -> int:
    """How often the markers occur: Chinese ones anywhere, English ones as whole words."""
    words = _WORD.findall(text.lower())
    return sum(words.count(marker) if marker.isascii() else text.count(marker) for marker in markers)
