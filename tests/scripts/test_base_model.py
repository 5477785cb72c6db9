"""The corpus is whole, and the shipped weights hold what the documentation says of them."""

import random
from pathlib import Path

import pytest

from scripts.base_model import exam, samples
from scripts.base_model.corpus import CorpusError, read_intents, slot_names
from scripts.make_base_model import WEIGHTS_DIR
from trainers.conversations import load_tokenizer

EXAM_SAMPLE = 120


@pytest.fixture(scope="module")
def corpus() -> samples.Corpus:
    return samples.Corpus.read()


def test_corpus_holds_at_least_150_intents_with_slot_words_for_every_slot(corpus: samples.Corpus) -> None:
    assert len(corpus.intents) >= 150
    assert {slot for intent in corpus.intents for slot in intent.slots} <= set(corpus.slots)


def test_faulty_corpus_file_is_named_with_its_intent(tmp_path: Path) -> None:
    (tmp_path / "intents_bad.yaml").write_text("- id: lonely\n  domain: service\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"intents_bad\.yaml: `lonely`\.zh\.ask: 0 different texts"):
        read_intents(tmp_path)


def test_exam_covers_every_intent_twice_in_both_languages(corpus: samples.Corpus) -> None:
    asked = [(q.intent, q.language) for q in exam.questions(new_slot_words=False)]
    assert {(i.id, lang): 2 for i in corpus.intents for lang in ("zh", "en")} == {
        key: asked.count(key) for key in set(asked)
    }


def test_drawn_conversations_have_every_slot_filled(corpus: samples.Corpus) -> None:
    rng = random.Random(0)
    for _ in range(2000):
        conversation = samples.draw(corpus, rng)
        assert not slot_names(conversation.question + conversation.answer), conversation
        assert conversation.question.strip() and conversation.answer.strip()


@pytest.mark.parametrize("text", ["电饭煲坏了，怎么办？", "It's 25% off — ok?\n  Two  spaces", "龘é🙂 泸州"])
def test_shipped_tokenizer_gives_every_text_back(text: str) -> None:
    tokenizer = load_tokenizer(str(WEIGHTS_DIR))
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.slow
def test_shipped_weights_answer_new_questions_on_topic_and_copy_new_words() -> None:
    tokenizer, model = exam.load(WEIGHTS_DIR)
    rng = random.Random(1)
    known = rng.sample(list(exam.questions(new_slot_words=False)), EXAM_SAMPLE)
    new = rng.sample(list(exam.questions(new_slot_words=True)), EXAM_SAMPLE)
    answers = exam.ask(model, tokenizer, known, temperature=0.0)
    copies = exam.ask(model, tokenizer, new, temperature=0.0)

    def share(hits: list[bool]) -> float:
        return sum(hits) / len(hits)

    assert share([a.on_topic for a in answers]) >= 0.80
    assert share([a.copied for a in copies]) >= 0.55  # 0.655 over all; a sample of 120 varies by 0.08
    assert share([a.finished for a in answers + copies]) >= 0.99
    assert share([a.garbled for a in answers + copies]) <= 0.02
    assert share([a.verbose for a in answers]) >= 0.55  # 0.676 over all
