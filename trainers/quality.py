"""Quality control of candidate answers: what is wrong with a draw, and which draw to keep.

Pure; knows nothing of models or files. `trainers.generate` draws again where this finds fault, and writes the
faults that stay as flags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainers.records import Prompt, Record
from trainers.text import is_garbled, is_repetitive, language, similarity

FAULTS = {
    "near_duplicate": "Too much like another answer to the same prompt.",
    "truncated": "Cut at the length limit.",
    "language": "Not in the language of the prompt.",
    "repetitive": "Says much of what it says again.",
    "garbled": "Broken characters, noise or a loop.",
    "empty": "Nothing at all.",
}
"""Every flag that a candidate can carry, from the lightest to the gravest."""
_GRAVITY = {fault: 2**place for place, fault in enumerate(FAULTS)}


@dataclass(frozen=True)
class Draw(Record):
    """One sampled answer for one place among a prompt's candidates."""

    prompt_id: str
    place: int
    attempt: int
    policy: str
    style: str
    temperature: float
    text: str
    finished: bool


@dataclass(frozen=True)
class Choice:
    """The draw kept for a place and what is wrong with it."""

    draw: Draw
    faults: tuple[str, ...]


def faults_of(prompt: Prompt, draw: Draw) -> tuple[str, ...]:
    """What is wrong with an answer taken by itself."""
    text = draw.text
    if not text.strip():
        return ("empty",)
    found = {
        "truncated": not draw.finished,
        "language": any(c.isalpha() for c in text) and language(text) != language(prompt.text),
        "repetitive": is_repetitive(text),
        "garbled": is_garbled(text),
    }
    return tuple(fault for fault, present in found.items() if present)


def choose(prompt: Prompt, draws: Iterable[Draw], max_similarity: float) -> dict[int, Choice]:
    """The draw to keep for each place that has one.

    Attempt after attempt, place after place, a draw without fault that is unlike all those kept so far is
    kept for good. A place for which none is found gets its least faulty draw, with its faults.

    Args:
        draws: of this prompt.
        max_similarity: two answers more alike than this are near-duplicates.
    Returns:
        place -> choice; places without a draw are left out.
    """
    ordered = sorted(draws, key=lambda draw: (draw.attempt, draw.place))
    kept: dict[int, Choice] = {}
    for draw in ordered:
        if draw.place not in kept and not _all_faults(prompt, draw, kept.values(), max_similarity):
            kept[draw.place] = Choice(draw, ())
    for place in sorted({draw.place for draw in ordered} - set(kept)):
        options = [
            Choice(draw, _all_faults(prompt, draw, kept.values(), max_similarity))
            for draw in ordered
            if draw.place == place
        ]
        kept[place] = min(options, key=lambda choice: _gravity(choice.faults))
    return kept


def _all_faults(prompt: Prompt, draw: Draw, kept: Iterable[Choice], max_similarity: float) -> tuple[str, ...]:
    alone = faults_of(prompt, draw)
    alike = any(similarity(draw.text, other.draw.text) > max_similarity for other in kept)
    return ("near_duplicate", *alone) if alike else alone


def _gravity(faults: Sequence[str]) -> int:
    return sum(_GRAVITY[fault] for fault in faults)
