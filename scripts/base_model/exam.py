"""Examine the embedded base model: `python -m scripts.base_model.exam [MODEL_DIR] [--policy DIR]`.

The questions and the topic words that judge the answers (`exam.yaml`) were written without sight of the
corpus. Nothing of the corpus generator is used here but the list of ordinary slot words.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedTokenizerBase

from trainers.conversations import encode_prompts, load_tokenizer
from trainers.models import PolicyModel, load_policy
from trainers.records import Prompt
from trainers.sampling import response_texts, sample

HERE = Path(__file__).parent
MOST_NEW_TOKENS = 160
VERBOSE_FROM = {"zh": 50, "en": 170}  # characters
_LOOP = re.compile(r"(.{2,}?)\1{2,}")


@dataclass(frozen=True)
class Question:
    """One exam question, filled in, with what an on-topic answer holds."""

    intent: str
    language: str
    text: str
    topic: tuple[str, ...]
    words: tuple[str, ...]  # slot words that the answer should copy


@dataclass(frozen=True)
class Answer:
    """What the model said."""

    question: Question
    text: str
    finished: bool

    @property
    def on_topic(self) -> bool:
        text = self.text.lower()
        for word in self.question.words:  # a slot word may itself hold a topic word
            text = text.replace(word.lower(), "_")
        return any(topic.lower() in text for topic in self.question.topic)

    @property
    def copied(self) -> bool:
        return all(word.lower() in self.text.lower() for word in self.question.words)

    @property
    def garbled(self) -> bool:
        """Broken characters, a loop, or the wrong language."""
        cjk = len(re.findall(r"[㐀-鿿]", self.text)) / max(1, len(self.text))
        wrong_language = cjk < 0.3 if self.question.language == "zh" else cjk > 0.2
        return (
            not self.text.strip() or "\ufffd" in self.text or bool(_LOOP.search(self.text)) or wrong_language
        )

    @property
    def verbose(self) -> bool:
        return len(self.text) >= VERBOSE_FROM[self.question.language]


def questions(new_slot_words: bool, seed: int = 0) -> Iterator[Question]:
    """Every exam question, filled with ordinary slot words or with ones that the corpus does not hold."""
    exam: dict[str, Any] = yaml.safe_load((HERE / "exam.yaml").read_text(encoding="utf-8"))
    ordinary = yaml.safe_load((HERE / "corpus" / "slots.yaml").read_text(encoding="utf-8"))
    words, rng = exam.pop("new_slot_words") if new_slot_words else ordinary, random.Random(seed)
    exam.pop("new_slot_words", None)
    for intent, entry in exam.items():
        for language in ("zh", "en"):
            for text in entry[language]:
                slots = {slot: rng.choice(words[slot][language]) for slot in re.findall(r"\{(\w+)\}", text)}
                if new_slot_words and not slots:
                    continue
                topic = tuple(entry[f"topic_{language}"])
                yield Question(intent, language, text.format(**slots), topic, tuple(slots.values()))


def ask(
    model: PolicyModel, tokenizer: PreTrainedTokenizerBase, asked: list[Question], temperature: float
) -> list[Answer]:
    """One answer to each question; temperature 0 is greedy."""
    prompt_ids = encode_prompts(tokenizer, [Prompt(q.intent, q.text) for q in asked], None)
    rollout = sample(
        model, tokenizer, prompt_ids,
        temperature=temperature, max_new_tokens=MOST_NEW_TOKENS, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    texts = response_texts(tokenizer, rollout)
    return [Answer(*answer) for answer in zip(asked, texts, rollout.finished.tolist(), strict=True)]


def load(directory: Path, policy: str = "") -> tuple[PreTrainedTokenizerBase, PolicyModel]:
    """The base model of a directory, or a policy trained on it, ready to answer."""
    return load_tokenizer(directory), load_policy(str(directory), policy)


def examine(directory: Path, policy: str = "") -> tuple[dict[str, float], list[Answer]]:
    """The figures of the exam, and the sampled answers to read."""
    tokenizer, model = load(directory, policy)
    known, new = list(questions(new_slot_words=False)), list(questions(new_slot_words=True))
    greedy, sampled = ask(model, tokenizer, known, 0.0), ask(model, tokenizer, known, 0.7)
    with_new_words = ask(model, tokenizer, new, 0.0)
    slotted = [a for a in greedy if a.question.words]

    def share(answers: list[Answer], what: Callable[[Answer], bool]) -> float:
        return round(sum(map(what, answers)) / max(1, len(answers)), 3)

    def mean_length(answers: list[Answer]) -> float:
        return round(sum(len(a.text) for a in answers) / max(1, len(answers)), 1)

    def of(language: str) -> list[Answer]:
        return [a for a in greedy if a.question.language == language]

    return {
        "questions": len(known),
        "on_topic": share(greedy, lambda a: a.on_topic),
        "on_topic_zh": share(of("zh"), lambda a: a.on_topic),
        "on_topic_en": share(of("en"), lambda a: a.on_topic),
        "on_topic_sampled": share(sampled, lambda a: a.on_topic),
        "known_words_copied": share(slotted, lambda a: a.copied),
        "new_words_copied": share(with_new_words, lambda a: a.copied),
        "garbled": share(sampled, lambda a: a.garbled),
        "finished": share(sampled, lambda a: a.finished),
        "greedy_verbose": share(greedy, lambda a: a.verbose),
        "greedy_characters_zh": mean_length(of("zh")),
        "greedy_characters_en": mean_length(of("en")),
    }, sampled + with_new_words


def main() -> None:
    """Read the command line, examine, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=HERE / "weights", help="model directory")
    parser.add_argument("--policy", default="", help="directory of a policy that PPO trained on the model")
    parser.add_argument("--read", type=int, default=0, help="print this many answers to read")
    args = parser.parse_args()
    figures, answers = examine(args.model, args.policy)
    print(json.dumps(figures, indent=2))
    for answer in random.Random(0).sample(answers, min(args.read, len(answers))):
        mark = ("" if answer.on_topic else " OFF-TOPIC") + ("" if answer.copied else " NOT-COPIED")
        print(f"\n[{answer.question.intent}]{mark} {answer.question.text}\n  {answer.text}")


if __name__ == "__main__":
    main()
