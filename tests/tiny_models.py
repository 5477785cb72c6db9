"""Tiny random models in Hugging Face layout, built on this machine in under a second.

Two layers, a tokenizer trained on a few sentences, a ChatML template; one for each supported architecture.
They say nothing sensible: they are for shapes, identities and plumbing.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

Architecture = Literal["llama", "qwen2", "qwen3"]

SENTENCES = [
    "How do I descale a kettle? Pour in vinegar, wait an hour and rinse it well.",
    "Please answer formally and in detail. Thank you for your question, dear customer.",
    "The weather is fine today, so we could go for a walk in the park near the river.",
    "水壶怎么除垢？倒入白醋，等一小时，再用清水冲洗干净。",
    "请用简短的口语回答。好的，没问题，马上就来。",
    "今天天气不错，我们可以去河边的公园散步。",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def tiny_model_dir(architecture: Architecture = "llama") -> Path:
    """The directory of a random model; the same one for the whole test session."""
    directory = Path(tempfile.mkdtemp(prefix=f"tiny-{architecture}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    tokenizer = tiny_tokenizer("characters" if architecture == "llama" else "bytes")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(architecture, tokenizer))
    for (
        parameter
    ) in model.parameters():  # larger than the library's start: predictions that differ from uniform
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(str(directory))
    return directory


@functools.cache
def tiny_tokenizer(kind: Literal["characters", "bytes"] = "characters") -> PreTrainedTokenizerFast:
    """BPE over characters (as the embedded base has) or bytes (as Qwen has); EOS and pad differ."""
    special = ["<unk>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    if kind == "characters":
        core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        core.normalizer = normalizers.Replace(" ", "▁")
        core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else []
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )  # fmt: skip
    core.train_from_iterator([*SENTENCES, "system user assistant \n"] * 3, trainer)
    core = _without_special_bytes(core)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def _config(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    kinds = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
    return kinds[architecture](
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def _without_special_bytes(core: Tokenizer) -> Tokenizer:
    """Byte-fallback tokens must be ordinary ones, or decoding with `skip_special_tokens` drops them."""
    description = json.loads(core.to_str())
    description["added_tokens"] = [
        token for token in description["added_tokens"] if not token["content"].startswith("<0x")
    ]  # fmt: skip
    return Tokenizer.from_str(json.dumps(description))
