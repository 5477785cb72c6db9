"""Rankings become preferences: who learns from which prompt, and which of two answers won.

Standard library only; knows nothing of where the rankings come from, and takes them as the caller chose them:
one an annotator and prompt. The reward stage learns from the result; the exports carry it to other trainers.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from trainers.errors import DataError, RecordError
from trainers.manifest import write_json_atomic
from trainers.records import Candidates, Message, Preference, Prompt, Ranking, Split

MIN_TRAIN_PROMPTS = 2
"""Fewer prompts with a preference to learn from than this is an error."""
MIN_HELDOUT_PROMPTS = 1
"""Fewer prompts with a preference to measure accuracy on than this is an error."""

_TRAIN_SHARE, _VERIFICATION_SHARE = 0.60, 0.12  # the rest is unseen
_EVEN = 1e-9
"""A margin of votes no larger than this comes from rounding: weights of rounds are no whole numbers."""
_INVISIBLE = frozenset("\ufeff\u200b\u2060\u00ad")
_LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


def normalise_prompt(text: str) -> str:
    """The text as it is stored: composed characters, `\\n` line ends, no invisible or control characters.

    Raises: RecordError: nothing is left.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    visible = [_visible(line).rstrip() for line in lines]
    clean = unicodedata.normalize("NFC", "\n".join(visible)).strip()
    if not clean:
        raise RecordError("a prompt is empty; needed is a text with at least one visible character")
    return clean


def prompt_id(text: str, system: str = "", history: Sequence[Message] = ()) -> str:
    """The id of a prompt: the same for texts that differ only in spaces and invisible characters.

    Raises: RecordError: the text is empty.
    """
    parts = [normalise_prompt(text), *(turn.role + ":" + turn.content for turn in history)]
    if system.strip():
        parts.append("system:" + normalise_prompt(system))
    key = "\0".join(" ".join(part.split()) for part in parts)
    return "p" + hashlib.sha256(key.encode("utf-8", errors="replace")).hexdigest()[:12]


def split_of(text: str) -> Split:
    """The split of a prompt, by its text alone: 60 % `train`, 12 % `verification`, 28 % `unseen`.

    Texts that differ only in case, width, spaces or punctuation fall on the same side, so that nothing is
    learned from a held-out prompt in another spelling.
    """
    visible = _visible("".join(text.split()))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
    digest = hashlib.sha256(("".join(filter(str.isalnum, folded)) or folded).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < _TRAIN_SHARE:
        return "train"
    return "verification" if place < _TRAIN_SHARE + _VERIFICATION_SHARE else "unseen"


def weight_by_round(rankings: Iterable[Ranking], decay: float) -> dict[int, float]:
    """Round → weight of its rankings: decay to the power of the rounds that it is older than the newest.

    What a team wants moves, and so do the answers that it ranks: those of the newest round are nearest to
    what the policy will be asked. With 0.8 three rounds of equal size still weigh as much as 2.9 of them
    would, (Σw)² / Σw², and ten as much as 7.3.
    """
    rounds = sorted({ranking.round for ranking in rankings})
    return {number: decay ** (rounds[-1] - number) for number in rounds}


def derive_preferences(
    rankings: Sequence[Ranking], candidates: Iterable[Candidates], *, decay: float = 1.0
) -> list[Preference]:
    """Count the annotators' votes on every pair of answers.

    A ranking votes for the answer that it puts above another; a tie is a vote cast for neither. Votes have
    the weight of their round, at most 1. The majority wins with the weight (votes for − votes against) /
    number of votes cast; an even pair yields no preference, and a pair that nobody ranked no vote.

    Args:
        rankings: one an annotator and prompt, in any order; the result does not depend on it.
        candidates: the answers that may be ranked.
        decay: see `weight_by_round`; 1 counts all votes alike.
    Returns:
        At most one preference a pair, sorted by ids.
    Raises:
        RecordError: a ranking does not fit the candidates or itself, an annotator ranked a prompt twice, or
            the id of a prompt or of a ranking is there twice.
    """
    counted: dict[tuple[str, str, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for ranking in _checked(rankings, candidates):
        for first, second, vote in _votes(ranking):
            counted[ranking.prompt_id, first, second][ranking.round].append(vote)
    weights = weight_by_round(rankings, decay)
    preferences = []
    for (prompt, first, second), by_round in counted.items():
        # in the order of the rounds: a sum of floats depends on its order
        margin = sum(weights[number] * sum(by_round[number]) for number in sorted(by_round))
        if abs(margin) > _EVEN:
            chosen, rejected = (first, second) if margin > 0 else (second, first)
            votes = sum(map(len, by_round.values()))
            preferences.append(Preference(prompt, chosen, rejected, abs(margin) / votes, votes))
    return sorted(preferences, key=lambda p: (p.prompt_id, p.chosen_id, p.rejected_id))


@dataclass(frozen=True)
class Sufficiency:
    """What there is to learn from and to measure on."""

    rankings: int
    annotators: int
    prompts_train: int
    """Prompts of the train split with at least one preference."""
    prompts_heldout: int
    """Prompts of the verification and unseen splits with at least one preference."""
    pairs_train: int
    pairs_heldout: int


def require_enough(
    rankings: Sequence[Ranking], preferences: Sequence[Preference], splits: Mapping[str, Split]
) -> Sufficiency:
    """Count the data and refuse what no reward model can be trained on or measured with.

    Args:
        rankings: what the preferences were derived from.
        preferences: the result of `derive_preferences`.
        splits: prompt id -> split.
    Raises:
        DataError: nothing is ranked, everything is tied, or one side of the split has too few prompts.
    """
    train, heldout = split_preferences(preferences, splits)
    counts = Sufficiency(
        rankings=len(rankings),
        annotators=len({ranking.annotator for ranking in rankings}),
        prompts_train=len({preference.prompt_id for preference in train}),
        prompts_heldout=len({preference.prompt_id for preference in heldout}),
        pairs_train=len(train),
        pairs_heldout=len(heldout),
    )
    if not rankings:
        raise DataError("there are no rankings; rank some answers first")
    if not preferences:
        raise DataError(
            f"the {len(rankings)} rankings prefer no answer to another (tied, or even between annotators);"
            " rank more, better answers first"
        )
    if counts.prompts_train < MIN_TRAIN_PROMPTS or counts.prompts_heldout < MIN_HELDOUT_PROMPTS:
        raise DataError(
            f"{counts.prompts_train} prompts with a preference are for training and {counts.prompts_heldout}"
            f" held out; needed are at least {MIN_TRAIN_PROMPTS} and {MIN_HELDOUT_PROMPTS}:"
            f" {_way_to_enough(counts, set(splits.values()))}"
        )
    return counts


def _way_to_enough(counts: Sufficiency, splits: set[Split]) -> str:
    """What to do about too few prompts, given the splits that there are: ranking alone adds none."""
    by_text = "where the text decides it, add prompts"
    if splits == {"train"}:
        advice = f"`split` of some prompts must be `verification` or `unseen`, all have `train` ({by_text})"
        return advice + "; rank more prompts" * (counts.prompts_train < MIN_TRAIN_PROMPTS)
    if "train" not in splits:
        return f"`split` of some prompts must be `train`, none has it ({by_text})"
    return "rank more prompts"


def split_preferences(
    preferences: Iterable[Preference], splits: Mapping[str, Split]
) -> tuple[list[Preference], list[Preference]]:
    """Those to learn from and those held out (verification and unseen), by their prompt's split."""
    train: list[Preference] = []
    heldout: list[Preference] = []
    for preference in preferences:
        (train if splits[preference.prompt_id] == "train" else heldout).append(preference)
    return train, heldout


def to_trl(
    preferences: Iterable[Preference],
    candidates: Iterable[Candidates],
    path: Path,
    *,
    conversational: bool = False,
) -> None:
    """Write TRL's preference format, JSON Lines with `prompt`, `chosen`, `rejected`.

    Args:
        preferences: what `derive_preferences` made.
        candidates: the texts; each preference's prompt and answers are among them.
        path: the file to write, for `load_dataset("json", data_files=…)`.
        conversational: messages instead of text; only these tell apart the system prompt and earlier turns.
            In plain text they stand before the prompt, an empty line after each (TRL just joins the two).
    """
    rows: list[dict[str, Any]] = []
    for prompt, chosen, rejected in _texts(preferences, candidates):
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt.history]
        turns.append({"role": "user", "content": prompt.text})
        if prompt.system:
            turns.insert(0, {"role": "system", "content": prompt.system})
        if conversational:
            answers = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
            rows.append({"prompt": turns, "chosen": answers[0], "rejected": answers[1]})
        else:
            asked = "".join(turn["content"] + "\n\n" for turn in turns)
            rows.append({"prompt": asked, "chosen": chosen, "rejected": rejected})
    _write_lines(path, rows)


def to_llama_factory(
    preferences: Iterable[Preference],
    candidates: Iterable[Candidates],
    directory: Path,
    *,
    name: str = "rankings",
) -> None:
    """Write LLaMA-Factory's preference format: `NAME.jsonl` and the `dataset_info.json` that describes it.

    Args:
        preferences: what `derive_preferences` made.
        candidates: the texts; each preference's prompt and answers are among them.
        directory: its `dataset_dir`; made if missing.
        name: its `dataset`.
    Raises:
        RecordError: the earlier turns of a prompt do not alternate between user and assistant.
    """
    rows = [
        {
            "instruction": prompt.text,
            "input": "",
            "system": prompt.system,
            "history": _exchanges(prompt),
            "chosen": chosen,
            "rejected": rejected,
        }
        for prompt, chosen, rejected in _texts(preferences, candidates)
    ]
    columns = {"prompt": "instruction", "query": "input", "system": "system", "history": "history"}
    columns |= {"chosen": "chosen", "rejected": "rejected"}
    directory.mkdir(parents=True, exist_ok=True)
    _write_lines(directory / f"{name}.jsonl", rows)
    described = {"file_name": f"{name}.jsonl", "formatting": "alpaca", "ranking": True, "columns": columns}
    write_json_atomic(directory / "dataset_info.json", {name: described})


def _texts(
    preferences: Iterable[Preference], candidates: Iterable[Candidates]
) -> Iterator[tuple[Prompt, str, str]]:
    """Prompt, chosen text and rejected text of each preference."""
    known = {
        c.prompt.id: (c.prompt, {response.id: response.text for response in c.responses}) for c in candidates
    }
    for preference in preferences:
        prompt, texts = known[preference.prompt_id]
        yield prompt, texts[preference.chosen_id], texts[preference.rejected_id]


def _exchanges(prompt: Prompt) -> list[tuple[str, str]]:
    """The earlier turns as (user, assistant) pairs."""
    roles = [turn.role for turn in prompt.history]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise RecordError(
            f"the earlier turns of prompt `{prompt.id}` are {roles}; LLaMA-Factory needs user, assistant, …"
        )
    contents = [turn.content for turn in prompt.history]
    return list(zip(contents[::2], contents[1::2], strict=True))


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines, also for readers that take U+2028 or U+0085 for the end of a line."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).translate(_LINE_ENDS)
            file.write(line.encode("utf-8", errors="replace") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _visible(line: str) -> str:
    if line.isprintable():  # almost every line, and quicker to find out than to filter
        return line
    return "".join(filter(_is_visible, line))


def _is_visible(character: str) -> bool:
    unseen = character in _INVISIBLE or unicodedata.category(character) in ("Cc", "Cs", "Cn")
    return character == "\t" or not unseen


def _checked(rankings: Iterable[Ranking], candidates: Iterable[Candidates]) -> Iterator[Ranking]:
    known: dict[str, frozenset[str]] = {}
    for entry in candidates:
        if entry.prompt.id in known:
            raise RecordError(f"prompt `{entry.prompt.id}` has candidates twice; needed is one line for each")
        known[entry.prompt.id] = frozenset(response.id for response in entry.responses)
    seen: set[tuple[str, str]] = set()
    ranking_ids: set[str] = set()
    for ranking in rankings:
        ids = [response_id for group in ranking.order for response_id in group]
        if ranking.prompt_id not in known:
            raise _malformed(ranking, f"prompt `{ranking.prompt_id}` has no candidates; add them")
        if unknown := sorted(set(ids) - known[ranking.prompt_id]):
            raise _malformed(
                ranking, f"{unknown} are no answers to prompt `{ranking.prompt_id}`; remove them"
            )
        if len(set(ids)) != len(ids):
            raise _malformed(ranking, "it places an answer twice; needed is one place for each")
        if not all(ranking.order):
            raise _malformed(ranking, "it has a place without an answer; remove the empty group")
        if (ranking.prompt_id, ranking.annotator) in seen:
            raise _malformed(ranking, "its annotator has another ranking of the same prompt; keep the newest")
        if ranking.id in ranking_ids:
            raise _malformed(ranking, "another ranking has the same id; give each its own")
        seen.add((ranking.prompt_id, ranking.annotator))
        ranking_ids.add(ranking.id)
        yield ranking


def _votes(ranking: Ranking) -> Iterator[tuple[str, str, int]]:
    """(first, second, vote) of each pair, first < second: 1 for the first, −1 for the second, 0 for a tie."""
    places = {response_id: place for place, group in enumerate(ranking.order) for response_id in group}
    for first, second in combinations(sorted(places), 2):
        yield first, second, (places[first] < places[second]) - (places[first] > places[second])


def _malformed(ranking: Ranking, fault: str) -> RecordError:
    return RecordError(f"ranking `{ranking.id}` cannot be used: {fault}")
