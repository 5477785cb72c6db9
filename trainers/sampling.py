"""Samples responses: prompts as tokens in, a `Rollout` out.

Each row has its own random numbers, drawn before the first token, so a response depends neither on the batch
size nor on its neighbours, beyond rounding. Knows nothing of rewards. Used by PPO, candidate generation and
comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainers.decoder import Decoder, decoder_for
from trainers.distributed import ALONE, Group
from trainers.errors import ShapeError
from trainers.models import PolicyModel
from trainers.rollout import Rollout, response_mask
from trainers.sharding import is_sharded

COMPACT_BELOW = 0.8
"""Ended rows are dropped from the batch when the others are fewer than this share of it."""


@torch.no_grad()
def sample(
    model: PolicyModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    *,
    temperature: float | Sequence[float] = 1.0,
    max_new_tokens: int,
    generator: torch.Generator,
    batch_size: int = 64,
    group: Group = ALONE,
    progress: Callable[[int], None] | None = None,
) -> Rollout:
    """One response to each prompt.

    Args:
        prompt_ids: rows of token ids, as `trainers.conversations.encode_prompts` makes them.
        temperature: one for all or one a row; 0 is greedy (its logprobs are those at temperature 1).
        generator: on the CPU; its state decides every response.
        batch_size: rows decoded together; prompts of like length go together.
        group: the processes that share the rows out; each returns all of them.
        progress: called with the number of finished rows after each batch.
    """
    count = len(prompt_ids)
    temperatures = torch.tensor(
        [temperature] * count if isinstance(temperature, (int, float)) else temperature
    )
    if len(temperatures) != count or not all(prompt_ids):
        raise ShapeError(
            f"{count} prompts, {len(temperatures)} temperatures; needed is one a prompt, none empty"
        )
    chances = torch.rand(count, max_new_tokens, generator=generator)
    result = _Result(count, max_new_tokens, model.device)
    order = sorted(range(count), key=lambda row: len(prompt_ids[row]))
    decoder = decoder_for(model)
    ends = torch.tensor(sorted({cast(int, tokenizer.eos_token_id)} | model.eos_ids), device=model.device)
    together = group if is_sharded(model) else ALONE  # who must run the model equally often
    done = 0
    for batch in group.batches(order, batch_size):
        rows = batch or order[:1]  # without a row of its own it keeps step on another's
        prompts = [list(prompt_ids[row]) for row in rows]
        put = result.put if batch else lambda *_: None
        index = torch.tensor(rows)
        _sample_batch(
            model, decoder, prompts, index, temperatures[index], chances[index], ends, put, together
        )  # fmt: skip
        if decoder.lower is not None and batch:
            result.put_lower(batch, decoder.lower.of_each_row())
        done += len(batch)
        if progress is not None:
            progress(done)
    return result.rollout(prompt_ids, cast(int, tokenizer.pad_token_id), ends, group)


def response_texts(tokenizer: PreTrainedTokenizerBase, rollout: Rollout) -> list[str]:
    """The responses as text, without end tokens."""
    texts = tokenizer.batch_decode(rollout.responses(), skip_special_tokens=True)
    return [text.strip() for text in texts]


class _Result:
    """The growing (B, R) tensors of a rollout, where the model is; what stands behind an end is nothing."""

    def __init__(self, count: int, width: int, device: torch.device) -> None:
        self.ids = torch.zeros((count, width), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((count, width), device=device)
        self.lower: dict[int, Tensor] = {}

    def put(self, rows: Tensor, step: int, tokens: Tensor, logprobs: Tensor) -> None:
        self.ids[rows, step] = tokens
        self.logprobs[rows, step] = logprobs

    def put_lower(self, rows: Sequence[int], states: Sequence[Tensor]) -> None:
        """What the layers below the trained ones computed for each row's tokens. (T, H) each"""
        self.lower.update(zip(rows, states, strict=True))

    def rollout(
        self, prompt_ids: Sequence[Sequence[int]], pad_id: int, ends: Tensor, group: Group
    ) -> Rollout:
        """The rows of all processes, on the CPU."""
        ids, logprobs = group.sum(self.ids.cpu()), group.sum(self.logprobs.cpu())
        mask, finished = response_mask(ids, ends.tolist())
        width = int(mask.any(dim=0).sum())
        pairs = zip(prompt_ids, mask.sum(dim=1).tolist(), strict=True)
        reads = [len(prompt) + length - 1 for prompt, length in pairs]  # nothing follows the last token
        lower = tuple(self.lower[row][:read] for row, read in enumerate(reads) if row in self.lower)
        return Rollout(
            prompt_ids=tuple(tuple(row) for row in prompt_ids),
            response_ids=torch.where(mask, ids, pad_id)[:, :width].clone(),
            response_mask=mask[:, :width].clone(),
            finished=finished,
            logprobs=torch.where(mask, logprobs, 0.0)[:, :width].clone(),
            lower_hidden=lower if 0 < len(lower) == len(reads) else None,  # another process's are not here
        )


def _sample_batch(
    model: PolicyModel,
    decoder: Decoder,
    prompts: list[list[int]],
    rows: Tensor,
    temperatures: Tensor,
    chances: Tensor,
    ends: Tensor,
    put: Callable[[Tensor, int, Tensor, Tensor], None],
    together: Group,
) -> None:
    """Decode one batch until no process that shares the weights has a row going.

    `rows` says where each of its rows stands in the result. A GPU is waited for twice a token.
    """
    width = chances.shape[1]
    hidden = decoder.start(prompts, width)
    rows, heat, chance = (tensor.to(model.device) for tensor in (rows, temperatures, chances))
    going = torch.ones(len(rows), dtype=torch.bool)
    for step in range(width):
        tokens, logprobs = choose(model.logits(hidden), heat, chance[:, step])
        put(rows, step, tokens, logprobs)
        going &= ~torch.isin(tokens, ends).cpu()
        if not together.any(bool(going.any())):
            return
        if 0 < going.float().mean() < COMPACT_BELOW:
            kept = going.nonzero().squeeze(1).to(model.device)
            decoder.keep(kept)
            going = going[going]
            rows, heat, chance, tokens = (t[kept] for t in (rows, heat, chance, tokens))
        if step + 1 < width:
            hidden = decoder.step(tokens)


def choose(logits: Tensor, temperatures: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a token from each row by inverting its cumulative distribution.

    Args:
        logits: (B, V)
        temperatures: (B,); 0 takes the likeliest token.
        chances: uniform numbers in [0, 1). (B,)
    Returns:
        (tokens, logprobs), each (B,).
    """
    greedy = temperatures == 0
    logprobs = torch.log_softmax(logits / torch.where(greedy, 1.0, temperatures)[:, None], dim=-1)
    below = logprobs.exp().cumsum(dim=-1)  # (B, V)
    drawn = torch.searchsorted(below, (chances * below[:, -1])[:, None], right=True).squeeze(1)
    if bool(greedy.any()):
        drawn = torch.where(greedy, logits.argmax(dim=-1), drawn)
    tokens = drawn.clamp(max=logits.shape[1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)
