"""The hand-written corpus of the embedded base model: reading, checking, nothing else.

The corpus lies beside this file as YAML. Which answers become training text, and in what mix,
is decided in `scripts.base_model.samples`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")
CORPUS_DIR = Path(__file__).parent / "corpus"
DOMAINS = ("everyday", "product", "service")

_SLOT = re.compile(r"\{([a-z_]+)\}")
_MIN = {"ask": 16, "verbose": 2, "more": 2, "neutral": 3, "brief": 4}
# Characters a text may have: (fewest, most) by register and language.
_LENGTH = {
    "ask": {"zh": (1, 40), "en": (2, 110)},
    "verbose": {"zh": (48, 125), "en": (200, 420)},
    "more": {"zh": (15, 60), "en": (40, 170)},
    "neutral": {"zh": (14, 50), "en": (40, 150)},
    "brief": {"zh": (3, 24), "en": (6, 60)},
}


class CorpusError(ValueError):
    """A corpus file does not have the shape that training needs; the message lists every fault."""


@dataclass(frozen=True)
class Texts:
    """What one intent says in one language."""

    ask: tuple[str, ...]
    verbose: tuple[str, ...]
    more: tuple[str, ...]
    neutral: tuple[str, ...]
    brief: tuple[str, ...]


@dataclass(frozen=True)
class Intent:
    """One thing a person asks, with its answers in three registers and two languages."""

    id: str
    domain: str
    slots: tuple[str, ...]
    zh: Texts
    en: Texts

    def texts(self, language: Language) -> Texts:
        return self.zh if language == "zh" else self.en


def slot_names(text: str) -> set[str]:
    """The slot names that stand in `text` as `{name}`."""
    return set(_SLOT.findall(text))


def read_intents(directory: Path = CORPUS_DIR, pattern: str = "intents_*.yaml") -> list[Intent]:
    """Every intent of the corpus, in the order of files and entries.

    Raises:
        CorpusError: a file breaks the format; all faults are listed at once.
    """
    intents, faults = [], []
    for path in sorted(directory.glob(pattern)):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
            faults += [f"{path.name}: {fault}" for fault in _faults(entry)]
            if not faults:
                intents.append(_intent(entry))
    seen = [intent.id for intent in intents]
    faults += [f"intent `{name}` stands twice" for name in {n for n in seen if seen.count(n) > 1}]
    if faults:
        raise CorpusError("\n".join(faults))
    return intents


def _intent(entry: dict[str, Any]) -> Intent:
    texts = {lang: Texts(**{key: tuple(entry[lang][key]) for key in _MIN}) for lang in LANGUAGES}
    return Intent(entry["id"], entry["domain"], tuple(entry.get("slots", ())), texts["zh"], texts["en"])


def _faults(entry: dict[str, Any]) -> Iterator[str]:
    name = entry.get("id", "?")
    if entry.get("domain") not in DOMAINS:
        yield f"`{name}`: domain is `{entry.get('domain')}`, not one of {DOMAINS}"
    slots = set(entry.get("slots", ()))
    for language in LANGUAGES:
        for key, fewest in _MIN.items():
            texts = entry.get(language, {}).get(key, [])
            where = f"`{name}`.{language}.{key}"
            if len(set(texts)) < fewest:
                yield f"{where}: {len(set(texts))} different texts, needed are {fewest}"
            for text in texts:
                yield from (f"{where}: {fault}" for fault in _text_faults(text, key, language, slots))


def _text_faults(text: str, key: str, language: Language, slots: set[str]) -> Iterator[str]:
    low, high = _LENGTH[key][language]
    if not low <= len(text) <= high:
        yield f"{len(text)} characters, allowed are {low}-{high}: {text}"
    if unknown := slot_names(text) - slots:
        yield f"uses slots {unknown} that the intent does not list: {text}"
    if key == "ask" and slots - slot_names(text):
        yield f"a question must use every slot {slots}: {text}"


if __name__ == "__main__":
    try:
        found = read_intents(pattern=sys.argv[1] if len(sys.argv) > 1 else "intents_*.yaml")
    except CorpusError as error:
        sys.exit(str(error))
    asks = sum(len(i.texts(lang).ask) for i in found for lang in LANGUAGES)
    print(f"{len(found)} intents, {asks} questions")
