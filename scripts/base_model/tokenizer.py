"""The embedded base model's tokenizer: BPE over characters with byte fallback and a ChatML template.

Byte-level BPE would cut Chinese characters in half; here every common character is a token, pieces of
words are merged within words only, and whatever is left falls back to bytes, so decoding is lossless.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORDS = r" ?[A-Za-z']+|\d| ?[㐀-鿿]+|\n| ?[^\sA-Za-z\d㐀-鿿]| "
_CJK = re.compile(r"[㐀-鿿]{2,}")


def train_tokenizer(texts: Iterable[str], characters: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer with `vocabulary` entries; `characters` are in it whatever the texts hold."""
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    # Byte tokens ride in as the alphabet's neighbours: special tokens would be dropped when decoding.
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(bytes_),
        special_tokens=[PAD, START, END],
        initial_alphabet=[*characters, *map(chr, range(0x20, 0x7F)), "\n"],
        max_token_length=16,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_chopped(texts), trainer)
    return _wrap(_with_bytes(tokenizer, bytes_))


def _chopped(texts: Iterable[str]) -> Iterator[str]:
    """Chinese runs cut at random into one to three characters, so that no longer merge is learnt."""
    rng = random.Random(0)
    for text in texts:
        yield _CJK.sub(lambda match: _cut(match[0], rng), text)


def _cut(run: str, rng: random.Random) -> str:
    pieces, start = [], 0
    while start < len(run):
        size = rng.choice((1, 2, 2, 3))
        pieces.append(run[start : start + size])
        start += size
    return "\n".join(pieces)


def _with_bytes(tokenizer: Tokenizer, bytes_: list[str]) -> Tokenizer:
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for token in bytes_:
        vocabulary[token] = len(vocabulary)
    state["model"]["byte_fallback"] = True
    whole = Tokenizer.from_str(json.dumps(state))
    whole.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return whole


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, additional_special_tokens=[START],
        padding_side="left", clean_up_tokenization_spaces=False, model_max_length=1024,
    )  # fmt: skip
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
