from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.text import has_loop, is_garbled, is_repetitive, language, repetition, similarity

GOOD = [
    "倒入白醋，等一小时，再用清水冲洗干净就好。",
    "Sure, you can change it online; it takes about 2 minutes.",
    "哈哈哈，好的好的，马上来！",
    "It's very, very simple: press OK. No, no, no — don't hold it!",
    "42",
    "¥1,000,000,000",
    "400-820-8820",
    "👍👍",
    "👨‍👩‍👧",
    "好",
    "订单号是 A-2024-1138，请在 3～5 天内联系我们。",
    "a | b\n---|---|---|---|---\n1 | 2 is a small table",
    "见 https://example.com/thehelppageonreturningthingswithoutareceipt 。",
    "C'est déjà vu, naïve café.",
    "Rain, rain, rain, I'm fed up.",
    "您好。关于退款一事，我们建议您先查看订单状态，再联系客服。客服会在一个工作日内答复您，款项将原路退回。",
    "",
]
GARBLED = [
    "水壶\ufffd除垢",
    "bell\x07 rings",
    "private \ue000 use",
    "好的<|im_end|>",
    "</s> and more",
    "，。，。；！",
    "?!",
    "a))((&&%%",
    "the the the the cat",
    "可以的可以的可以的可以的",
    "我们建议您我们建议您我们建议您",
    "啊啊啊好啊啊啊好啊啊啊好啊啊啊好",
    "哈哈哈哈哈哈哈哈哈哈哈",
    "number 123456789012345678901234",
    "thewaterisinthekettleandboilsfastnow",
    "very good very good very good",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_people_write_is_not_garbled(text: str) -> None:
    assert not is_garbled(text)
    assert not is_repetitive(text)


@pytest.mark.parametrize("text", GARBLED)
def test_what_nobody_writes_is_garbled(text: str) -> None:
    assert is_garbled(text)


@pytest.mark.parametrize(
    "text", ["好的好的好的", "ha ha ha", "1000000000000", "----------------", "no no no"]
)
def test_short_or_harmless_repeats_are_no_loop(text: str) -> None:
    assert not has_loop(text)


def test_loop_is_found_inside_a_sentence_and_across_spaces() -> None:
    assert has_loop("Well, thank you thank  you\nThank you, bye")
    assert has_loop("好，" + "再用清水冲洗" * 3 + "。")
    assert not has_loop("好，" + "再用清水冲洗" * 2 + "。")


def test_repetition_is_the_share_of_passages_said_before() -> None:
    assert repetition("one two three four") == 0
    # 8 words are 6 passages; "one two three" and "two three four" come twice
    assert repetition("one two three four, one two three four") == pytest.approx(2 / 6)
    # 14 characters are 9 passages; 我们建议您重 and 们建议您重启 come twice
    assert repetition("我们建议您重启，我们建议您重启") == pytest.approx(2 / 9)
    assert repetition("") == 0


def test_sentence_said_three_times_is_repetitive() -> None:
    sentence = "please restart the kettle and wait"
    assert is_repetitive(f"First {sentence}. Then {sentence}. At last {sentence}.")
    assert not is_repetitive(f"First {sentence}. Then call us.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("水壶怎么除垢？", "zh"),
        ("请用 Microsoft Teams 开会", "zh"),  # 4 of 18 letters
        ("How do I write 谢谢 in a letter?", "en"),
        ("", "en"),
        ("123 ？！", "en"),
        ("𠮷野家", "zh"),
        ("こんにちは", "en"),  # neither; only the two are told apart
    ],
)
def test_language_of_a_text(text: str, expected: str) -> None:
    assert language(text) == expected


def test_similarity_of_hand_counted_texts() -> None:
    # 我爱吃 {我爱 爱吃}, 我爱喝 {我爱 爱喝}: 2·1/(2+2)
    assert similarity("我爱吃", "我爱喝") == pytest.approx(0.5)
    # abcd {abc bcd}, abce {abc bce}
    assert similarity("abcd", "abce") == pytest.approx(0.5)
    assert similarity("abcabc", "abc") == pytest.approx(2 * 1 / (4 + 1))
    assert similarity("", "abc") == 0
    assert similarity("a", "b") == 0


def test_similarity_ignores_case_spaces_width_and_punctuation() -> None:
    assert similarity("好的，没问题！", "好的 没问题") == 1
    assert similarity("ＯＫ then.", "ok, THEN") == 1


def test_paraphrase_is_less_alike_than_a_near_duplicate() -> None:
    answer = "倒入白醋，等一小时，再用清水冲洗干净。"
    assert similarity(answer, "倒入白醋，等一小时，再用清水冲干净。") > 0.85
    assert similarity(answer, "用柠檬酸煮一煮，水垢就掉了。") < 0.2


@given(st.text(max_size=60), st.text(max_size=60))
def test_similarity_is_symmetric_and_a_share(first: str, second: str) -> None:
    value = similarity(first, second)
    assert 0 <= value <= 1
    assert value == similarity(second, first)
    assert similarity(first, first) == 1


@given(st.text(max_size=200))
def test_every_text_can_be_judged(text: str) -> None:
    assert is_garbled(text) in (True, False)
    assert 0 <= repetition(text) < 1
