"""Pure measures of a text: its language, whether it is garbled or repetitive, how alike two texts are.

Standard library only; knows nothing of models. Quality control of the candidates, PPO's guard against garbled
answers and the reports share these, so that the same answer gets the same judgement everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from trainers.records import Language

REPETITIVE = 0.3
"""Above this share of repeated passages a text is repetitive."""

_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_UNIT = re.compile(rf"{_IDEOGRAPH.pattern}|[^\W_]+(?:['’][^\W_]+)?")
_LOOP = re.compile(
    rf"(.)\1{{9,}}|(..)\2{{4,}}|(.{{3,7}}?)\3{{3,}}|({_IDEOGRAPH.pattern}{{4,7}}?)\4{{2,}}|(.{{8,40}}?)\5{{2,}}",
    re.DOTALL,
)
"""A passage said again and again, the shorter the more often (`哈哈哈`, `rain, rain, rain` are none)."""
_HARMLESS_LOOP = re.compile(r"[\d.,]*\d[\d.,]*|[-|=_*#:~.\s]+")  # 1,000,000,000 and a Markdown rule
_SPECIAL_TOKEN = re.compile(r"<\|\w+\|>|</?s>|<(?:pad|unk|eos|bos)>")
_MARKS = frozenset({"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc"})
_MARKDOWN = frozenset("-|=*#_`")
_LONG_NUMBER = re.compile(r"\d{20,}")
_LONG_WORD = re.compile(r"(?<![/.\w])[A-Za-z]{31,}(?![/.\w])")


def language(text: str) -> Language:
    """`zh` if more than a fifth of the letters are Chinese characters, else `en`."""
    ideographs = len(_IDEOGRAPH.findall(text))
    letters = sum(map(str.isalpha, text)) if ideographs else 0
    return "zh" if letters and ideographs / letters > 0.2 else "en"


def is_garbled(text: str) -> bool:
    """True if no person would write this: broken characters, noise or a loop. An empty text is not."""
    return (
        any(map(_is_broken, text))
        or bool(_SPECIAL_TOKEN.search(text))
        or bool(_LONG_NUMBER.search(text))
        or bool(_LONG_WORD.search(text))
        or _is_noise(text)
        or has_loop(text)
    )


def has_loop(text: str) -> bool:
    """True if a passage is said again and again: a phrase three times in a row, a word four times."""
    packed = "".join(text.casefold().split())
    return any(not _HARMLESS_LOOP.fullmatch(match[match.lastindex or 0]) for match in _LOOP.finditer(packed))


def repetition(text: str) -> float:
    """Share (0 to 1) of the passages that the text has said before.

    A passage is six Chinese characters or three words; passages overlap.
    """
    units = _UNIT.findall(text.casefold())
    length = 6 if language(text) == "zh" else 3
    passages = [tuple(units[start : start + length]) for start in range(len(units) - length + 1)]
    return 1 - len(set(passages)) / len(passages) if passages else 0.0


def is_repetitive(text: str) -> bool:
    """True if the text loops or says much of what it says again."""
    return has_loop(text) or repetition(text) > REPETITIVE


def similarity(first: str, second: str) -> float:
    """How alike two texts are, 0 (nothing in common) to 1 (the same but for spaces, case and punctuation).

    The Dice coefficient of their character n-grams, each counted as often as it occurs: pairs of characters
    if one text is Chinese, else triples.
    """
    first_folded, second_folded = _fold(first), _fold(second)
    if first_folded == second_folded:
        return 1.0
    length = 2 if "zh" in (language(first), language(second)) else 3
    first_grams, second_grams = _grams(first_folded, length), _grams(second_folded, length)
    total = first_grams.total() + second_grams.total()
    return 2 * (first_grams & second_grams).total() / total if total else 0.0


def _is_broken(character: str) -> bool:
    """A replacement character, or a control, unassigned, private or surrogate one."""
    if character == "\ufffd":
        return True
    return character not in "\n\r\t" and unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs")


def _is_noise(text: str) -> bool:
    """True if there is no letter, digit or emoji, or more punctuation (Markdown's apart) than these."""
    signs = sum(c.isalnum() or unicodedata.category(c) == "So" for c in text)
    marks = sum(unicodedata.category(c) in _MARKS and c not in _MARKDOWN for c in text)
    return (signs == 0 and bool(text.strip())) or (marks >= 4 and marks > signs)


def _fold(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def _grams(text: str, length: int) -> Counter[str]:
    if 0 < len(text) < length:
        return Counter([text])
    return Counter(text[start : start + length] for start in range(len(text) - length + 1))
