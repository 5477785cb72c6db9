"""Text as token ids: prompts and conversations by the model's own chat template.

Knows nothing of models' weights; used by whatever samples, trains or scores.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trainers.errors import ModelError
from trainers.model_files import local_directory, readable
from trainers.records import Prompt


def load_tokenizer(path: str | Path, padding_side: str = "left") -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory or hub name.

    Raises: ModelError: there is none, or it has no chat template or end token.
    """
    source = local_directory(path)
    with readable(source):
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side=padding_side, trust_remote_code=False)
    tokenizer.padding_side = padding_side
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of `{path}` has no chat template or no end token; "
            "needed is a chat model (its name often ends in `-Instruct`)"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks go by length, so pad may be EOS
    return cast(PreTrainedTokenizerBase, tokenizer)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    style_system: str | None = None,
    max_tokens: int | None = None,
) -> list[list[int]]:
    """Token ids of each conversation up to where the response begins.

    Args:
        style_system: a style instruction, added to the prompt's own system message.
        max_tokens: of a longer prompt the last tokens are kept.
    Raises: ModelError: the chat template refuses a conversation.
    """
    encoded = []
    for prompt in prompts:
        system = "\n".join(part for part in (prompt.system, style_system) if part)
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt.history]
        turns.append({"role": "user", "content": prompt.text})
        if system and _takes_system(tokenizer):
            turns.insert(0, {"role": "system", "content": system})
        elif system:
            first = next(turn for turn in turns if turn["role"] == "user")
            first["content"] = f"{system}\n\n{first['content']}"
        encoded.append(_rendered(tokenizer, turns)[-(max_tokens or 0) :])
    return encoded


@functools.lru_cache(maxsize=8)
def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template renders a system message, and neither refuses nor drops it."""
    turns = [{"role": "system", "content": "instruction"}, {"role": "user", "content": "question"}]
    try:
        return "instruction" in cast(str, tokenizer.apply_chat_template(turns, tokenize=False))
    except TemplateError:
        return False


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> list[int]:
    """Token ids of a conversation by the model's chat template, up to where the response begins."""
    try:
        ids = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        raise ModelError(
            f"the model's chat template cannot render the conversation ({str(error)[:200]}); needed are "
            "turns of user and assistant in alternation, the first the user's, or a model of another template"
        ) from error
    return list(cast(list[int], ids))


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
) -> list[list[int]]:
    """Token ids of prompt, response and EOS: what a reward model reads, scored at that EOS."""
    encoded = encode_prompts(tokenizer, prompts, max_tokens=max_prompt_tokens)
    texts = tokenizer(list(responses), add_special_tokens=False)["input_ids"] if responses else []
    eos = cast(int, tokenizer.eos_token_id)
    pairs = zip(encoded, texts, strict=True)
    return [[*prompt, *response[:max_response_tokens], eos] for prompt, response in pairs]
