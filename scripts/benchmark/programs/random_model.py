"""Makes a random Llama with a reward model of the same shape, for measures in which only the work counts.

    base/  reward/       in Hugging Face layout, with a tokenizer whose tokens are made-up words
    prompts.jsonl

No response ends before its length limit, whoever samples it: one channel of the hidden states is constant,
and the embedding of the end and pad tokens opposes it, which puts their logits far below all others.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from scripts.benchmark.programs import meter
from trainers.config import RewardConfig
from trainers.records import Prompt, write_jsonl
from trainers.reward_model import new_reward_model, save_reward_model

CONSTANT = 1.0
"""Of the constant channel; the others have a deviation of 0.02 in the embedding."""


def measure(options: dict[str, Any]) -> dict[str, float]:
    """Write the directories.

    Args:
        options: `out`; `width`, `layers`, `heads`, `kv_heads`, `intermediate`, `vocabulary`, `tied`;
            `dtype`; `reward_tuning` (`full` or `lora`); `prompts`, `prompt_tokens` (least, most).
    """
    out = Path(options["out"])
    torch.manual_seed(0)
    tokenizer = make_tokenizer(options["vocabulary"])
    config = LlamaConfig(
        vocab_size=options["vocabulary"],
        hidden_size=options["width"],
        intermediate_size=options["intermediate"],
        num_hidden_layers=options["layers"],
        num_attention_heads=options["heads"],
        num_key_value_heads=options["kv_heads"],
        max_position_embeddings=2048,
        tie_word_embeddings=options["tied"],
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:
        model = LlamaForCausalLM(config).to(getattr(torch, options["dtype"]))
    never_end(model, tokenizer)
    model.save_pretrained(out / "base")
    tokenizer.save_pretrained(str(out / "base"))
    del model
    make_reward_model(out, options["reward_tuning"])
    write_jsonl(out / "prompts.jsonl", make_prompts(options))
    return {}


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token a made-up word; the last two are pad and end. Texts and tokens go to and fro unchanged."""
    words = [f"w{index}" for index in range(vocabulary - 2)]
    entries = {word: index for index, word in enumerate([*words, "<pad>", "<end>"])}
    core = Tokenizer(models.WordLevel(entries, unk_token="w0"))  # noqa: S106 - a word, no password
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", padding_side="left"  # noqa: S106
    )  # fmt: skip
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return tokenizer


@torch.no_grad()
def never_end(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Put the end and pad tokens' logits far below all others."""
    unwanted = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    for embedding in {model.model.embed_tokens.weight, model.lm_head.weight}:  # one, if they are tied
        embedding[:, 0] = CONSTANT
        embedding[unwanted, 0] = -CONSTANT
    for layer in model.model.layers:  # which leave the channel as it is
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0


def make_reward_model(out: Path, tuning: Literal["full", "lora"]) -> None:
    """What the project's reward stage leaves behind, with a head of its own random weights."""
    reward, _ = new_reward_model(RewardConfig(base_model=str(out / "base"), tuning=tuning))
    for name, parameter in reward.classifier.named_parameters():
        if "score" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    (out / "reward").mkdir()
    save_reward_model(reward, out / "reward")


def make_prompts(options: dict[str, Any]) -> list[Prompt]:
    rng = random.Random(0)
    least, most = options["prompt_tokens"]
    words = options["vocabulary"] - 2
    return [
        Prompt(f"p{index}", " ".join(f"w{rng.randrange(words)}" for _ in range(rng.randint(least, most))))
        for index in range(options["prompts"])
    ]


if __name__ == "__main__":
    meter.main(measure)
