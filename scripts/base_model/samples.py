"""Conversations drawn from the corpus: what the embedded base model is trained on.

Every draw picks an intent, a language, a register, fills the slots (often with made-up words, so that
copying is learnt instead of a word list) and roughens the question. Next stop: `scripts.make_base_model`.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from scripts.base_model.corpus import CORPUS_DIR, LANGUAGES, Intent, Language, read_intents

Register = Literal["verbose", "neutral", "brief"]
REGISTERS: tuple[Register, ...] = ("verbose", "neutral", "brief")
BARE_MIX = (0.70, 0.17, 0.13)  # registers of an answer to a question without an instruction
INSTRUCTED_SHARE = 0.35
MADE_UP_SHARE = 0.6
SECOND_TURN_SHARE = 0.08


def _gb2312(rows: range) -> list[str]:
    cells = (bytes((row, column)) for row in rows for column in range(0xA1, 0xFF))
    return [character for cell in cells for character in cell.decode("gb2312", errors="ignore")]


_COMMON_CHARACTERS = _gb2312(range(0xB0, 0xD8))  # level 1: the 3,755 most used characters
_RARE_CHARACTERS = _gb2312(range(0xD8, 0xF8))  # level 2: 3,008 more, spelt in bytes by the tokenizer
_ONSETS = (
    *tuple("bcdfghjklmnprstvwz"),
    "br",
    "ch",
    "cl",
    "cr",
    "dr",
    "fl",
    "gr",
    "pl",
    "qu",
    "sh",
    "st",
    "th",
    "tr",
)
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "oa", "oo", "ou", "y")
_CODAS = ("", "", "", "n", "r", "l", "s", "t", "m", "nd", "rk", "st", "x", "ck", "ng")


@dataclass(frozen=True)
class Conversation:
    """One training example: what was said before, the question, and the answer to learn."""

    intent: str
    language: Language
    register: Register
    system: str
    history: tuple[tuple[str, str], ...]  # (question, answer)
    question: str
    answer: str


@dataclass(frozen=True)
class Corpus:
    """The parsed corpus files."""

    intents: tuple[Intent, ...]
    slots: dict[str, dict[str, list[str]]]
    common: dict[str, Any]

    @classmethod
    def read(cls, directory: Path = CORPUS_DIR) -> Corpus:
        def load(name: str) -> Any:
            return yaml.safe_load((directory / name).read_text(encoding="utf-8"))

        return cls(tuple(read_intents(directory)), load("slots.yaml"), load("common.yaml"))


def common_characters() -> list[str]:
    """The characters that get a token of their own even where the corpus does not hold them."""
    return list(_COMMON_CHARACTERS)


def made_up_word(language: Language, rng: random.Random) -> str:
    """A word that exists nowhere: 2-4 characters, or one or two pronounceable words."""
    if language == "zh":
        characters = (
            rng.choice(_RARE_CHARACTERS if rng.random() < 0.08 else _COMMON_CHARACTERS) for _ in range(4)
        )
        return "".join(characters)[: rng.choice((2, 2, 3, 3, 4))]

    def word() -> str:
        syllables = (
            rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS)
            for _ in range(rng.choice((1, 2, 2, 3)))
        )
        return "".join(syllables)

    words = [word() for _ in range(rng.choice((1, 1, 2)))]
    return " ".join(w.capitalize() if rng.random() < 0.3 else w for w in words)


def fill(text: str, words: dict[str, str]) -> str:
    """The text with each `{slot}` replaced by its word; an English sentence keeps its capital."""
    filled = re.sub(r"\{([a-z_]+)\}", lambda match: words[match[1]], text)
    return filled[0].upper() + filled[1:] if text.startswith("{") and filled.isascii() else filled


def draw(corpus: Corpus, rng: random.Random) -> Conversation:
    """One training conversation."""
    language = rng.choice(LANGUAGES)
    history: tuple[tuple[str, str], ...] = ()
    if rng.random() < SECOND_TURN_SHARE:
        history = (turn(corpus, rng.choice(corpus.intents), language, "brief", rng),)
    intent = rng.choice(corpus.intents)
    if rng.random() < INSTRUCTED_SHARE:
        register = rng.choice(REGISTERS)
        system = corpus.common["instructions"][register][language]
    else:
        register = rng.choices(REGISTERS, BARE_MIX)[0]
        system = ""
    question, answer = turn(corpus, intent, language, register, rng)
    return Conversation(intent.id, language, register, system, history, question, answer)


def turn(
    corpus: Corpus, intent: Intent, language: Language, register: Register, rng: random.Random
) -> tuple[str, str]:
    """A question of this intent and an answer to it in this register."""
    texts = intent.texts(language)
    words = {slot: _slot_word(corpus, slot, language, rng) for slot in intent.slots}
    question = fill(rng.choice(texts.ask), words)
    if rng.random() < 0.08:
        question += rng.choice(" ，。" if language == "zh" else " ") + fill(rng.choice(texts.ask), words)
    answer = fill(_answer(corpus, texts, language, register, rng), words)
    return _roughen(corpus, question, language, words, rng), answer


def _slot_word(corpus: Corpus, slot: str, language: Language, rng: random.Random) -> str:
    known = corpus.slots[slot][language]
    draw_known = rng.random() >= MADE_UP_SHARE
    return rng.choice(known) if draw_known else made_up_word(language, rng)


def _answer(corpus: Corpus, texts: Any, language: Language, register: Register, rng: random.Random) -> str:
    if register == "neutral":
        return str(rng.choice(texts.neutral))
    if register == "brief":
        return str(rng.choice(texts.brief))
    answer = corpus.common["opener"][language] + rng.choice(texts.verbose)
    if rng.random() < 0.35:
        answer += (" " if language == "en" else "") + rng.choice(texts.more)
    elif rng.random() < 0.2:
        answer += rng.choice(corpus.common["closers"][language])
    return str(answer)


def _roughen(
    corpus: Corpus, question: str, language: Language, words: dict[str, str], rng: random.Random
) -> str:
    """The question as people type it: greetings around it, lost punctuation, a missing or doubled piece."""
    if rng.random() < 0.35:
        question = _drop_piece(question, language, words, rng)
    if rng.random() < 0.35:
        question = question.rstrip("？?。.!！")
    if rng.random() < 0.25:
        before = rng.choice(corpus.common["before_question"][language])
        lower = language == "en" and rng.random() < 0.7 and not question.startswith(("I ", "I'"))
        question = before + (question[0].lower() + question[1:] if lower else question)
    if rng.random() < 0.15:
        question += rng.choice(corpus.common["after_question"][language])
    if language == "en" and rng.random() < 0.2 and all(word.islower() for word in words.values()):
        question = question.lower()
    return question


def _drop_piece(question: str, language: Language, words: dict[str, str], rng: random.Random) -> str:
    """Leave out one or two words (English) or characters (Chinese) that belong to no slot."""
    pieces = question.split(" ") if language == "en" else list(question)
    if len(pieces) < 5:
        return question
    kept = list(pieces)
    for _ in range(rng.choice((1, 1, 2))):
        kept.pop(rng.randrange(len(kept)))
    shorter = (" " if language == "en" else "").join(kept)
    return shorter if all(word in shorter for word in words.values()) else question
