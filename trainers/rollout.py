"""The rollout record: responses as tokens, with what was known about them when they were sampled.

    prompt_ids      B rows of any length, no padding
    response_ids    (B, R) long, EOS included, pad where masked
    response_mask   (B, R) bool, True on real response tokens, EOS included
    finished        (B,)   bool, True where the response ended by itself
    logprobs        (B, R) fp32, of the policy that sampled, at the sampling temperature; 0 where masked
    lower_hidden    B tensors (T - 1, H), what the layers below the trained ones compute for all tokens but
                    the last, which nothing follows; `None` where all train or nobody kept it

Made by `trainers.sampling`; `evaluate` computes the same quantities again under changed weights for
`trainers.ppo`. Knows nothing of rewards or of text.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from trainers.errors import ShapeError
from trainers.llama_layers import is_llama
from trainers.models import PolicyModel, pad
from trainers.packed_trunk import pack, wanted_states
from trainers.split_trunk import SplitTrunk
from trainers.token_logprobs import token_logprobs


@dataclass(frozen=True)
class Rollout:
    """Sampled responses; see the module for shapes."""

    prompt_ids: tuple[tuple[int, ...], ...]
    response_ids: Tensor
    response_mask: Tensor
    finished: Tensor
    logprobs: Tensor
    lower_hidden: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        rows, width = self.response_ids.shape
        tensors = (self.response_mask, self.logprobs)
        if len(self.prompt_ids) != rows or any(tensor.shape != (rows, width) for tensor in tensors):
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise ShapeError(f"{len(self.prompt_ids)} prompts, responses ({rows}, {width}), others {shapes}")
        if rows and not bool(self.response_mask.any(dim=1).all()):
            raise ShapeError("a response has no token; a response that ends at once still holds EOS")

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each response, EOS included. (B,)"""
        return self.response_mask.sum(dim=1)

    def responses(self) -> list[list[int]]:
        """Each response's tokens, EOS included, without padding."""
        lengths = self.lengths.tolist()
        return [row[:length] for row, length in zip(self.response_ids.tolist(), lengths, strict=True)]

    def select(self, rows: Sequence[int]) -> Rollout:
        """These rows, which may be none, trimmed to their longest response."""
        index = torch.as_tensor(list(rows), dtype=torch.long, device=self.response_ids.device)
        width = max(self.lengths[index].tolist(), default=0)
        return Rollout(
            prompt_ids=tuple(self.prompt_ids[row] for row in rows),
            response_ids=self.response_ids[index, :width],
            response_mask=self.response_mask[index, :width],
            finished=self.finished[index],
            logprobs=self.logprobs[index, :width],
            lower_hidden=None if self.lower_hidden is None else tuple(self.lower_hidden[row] for row in rows),
        )

    def shortest_first(self, rows: Iterable[int]) -> list[int]:
        """These rows in order of their length, prompt included."""
        lengths = self.lengths.tolist()
        return sorted(rows, key=lambda row: (len(self.prompt_ids[row]) + lengths[row], row))

    def replace(self, logprobs: Tensor) -> Rollout:
        """The same tokens, evaluated again."""
        return dataclasses.replace(self, logprobs=logprobs)


class TokenOutputs(NamedTuple):
    """What a model says of the N real response tokens of a rollout, row after row."""

    logprobs: Tensor
    """(N,)"""
    entropy: Tensor | None
    """(N,)"""
    features: Tensor | None
    """Hidden states below the last layers, from before each token was drawn. (N, H)"""


def response_mask(response_ids: Tensor, eos_ids: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Where the real tokens are: up to and with the first end token, whatever follows it.

    Args:
        response_ids: (B, R)
    Returns:
        (mask, finished): (B, R) bool, True on real tokens; (B,) bool, True where an end token was found.
    """
    ends = torch.isin(response_ids, torch.tensor(sorted(eos_ids), device=response_ids.device))
    ends_before = ends.long().cumsum(dim=1) - ends.long()
    return ends_before == 0, ends.any(dim=1)


def evaluate(
    model: PolicyModel,
    rollout: Rollout,
    temperature: float,
    *,
    with_entropy: bool = False,
    features_after: int | None = None,
) -> TokenOutputs:
    """Logprobs, entropy and features of the rollout's response tokens under the model as it is now.

    Prompt and response stand next to each other and padding only at the end, where a causal model cannot see
    it: no mask is needed. Logits are computed for response tokens only. Where there is no row the model runs
    all the same, on one token: processes that share its weights run it equally often.

    Args:
        features_after: give the hidden states after this many layers too.
    """
    before, features = _states_before_responses(model, rollout, features_after)
    targets = rollout.response_ids[rollout.response_mask].to(model.device)  # (N,)
    logprobs, entropy = token_logprobs(model, before, targets, temperature, with_entropy=with_entropy)
    return TokenOutputs(logprobs, entropy, features)


def _states_before_responses(
    model: PolicyModel, rollout: Rollout, features_after: int | None
) -> tuple[Tensor, Tensor | None]:
    """Hidden states at the positions before each response token, row after row, and features. Each (N, H)"""
    reads = [row[:-1] for row in _sequences(rollout)] or [[0]]  # nothing follows the last token
    lengths = torch.tensor([len(row) for row in reads])
    first = torch.tensor([len(prompt) - 1 for prompt in rollout.prompt_ids] or [1])
    columns = torch.arange(int(lengths.max()))
    real = columns < lengths[:, None]  # (B, T)
    wanted = real & (columns >= first[:, None])
    lower = list(rollout.lower_hidden or ()) if model.split is not None else []
    if is_llama(model.trunk):
        return _packed_states(model, reads, lower, wanted, features_after)
    with _kept(model, lower, features_after) as kept, model.keeping_inputs_only():
        if model.split is not None and lower:
            hidden = model.split.upper(lower)  # (B, T, H)
        else:
            ids = pad(reads, 0, "right")[0].to(model.device)
            hidden = model.trunk(input_ids=ids, use_cache=False).last_hidden_state
    wanted = wanted.to(model.device)
    return hidden[wanted], kept[0][wanted] if kept else None


def _packed_states(
    model: PolicyModel,
    reads: list[list[int]],
    lower: list[Tensor],
    wanted: Tensor,
    features_after: int | None,
) -> tuple[Tensor, Tensor | None]:
    """The same by `trainers.packed_trunk`. `wanted` is (B, T) bool."""
    packed = pack(reads)
    if model.split is not None and lower:
        everywhere = pad_sequence(lower, batch_first=True).flatten(0, 1)  # (B * T, H)
        states, first_layer = everywhere[packed.places.to(model.device)], model.split.layer
    else:
        states, first_layer = cast(nn.Module, model.trunk.embed_tokens)(packed.ids.to(model.device)), 0
    return wanted_states(
        model.trunk,
        model.layers(first_layer),
        states,
        packed,
        wanted,
        first_layer=first_layer,
        features_after=features_after,
        checkpointing=model.gradient_checkpointing,
    )


@contextlib.contextmanager
def _kept(model: PolicyModel, lower: list[Tensor], layers: int | None) -> Iterator[list[Tensor]]:
    """The hidden states after so many layers, when the model has run. One of (B, T, H), or none asked for."""
    kept: list[Tensor] = []
    if layers is None:
        yield kept
        return
    if model.split is not None and lower and layers == model.split.layer:
        kept.append(pad_sequence(lower, batch_first=True))
        yield kept
        return

    def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = cast(Any, model.trunk).layers[layers - 1].register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def _sequences(rollout: Rollout) -> list[list[int]]:
    """Each prompt with its response."""
    return [[*p, *r] for p, r in zip(rollout.prompt_ids, rollout.responses(), strict=True)]


@torch.no_grad()
def with_lower_hidden(model: PolicyModel, rollout: Rollout, batch_size: int) -> Rollout:
    """The rollout with what the layers below the trained ones compute for it, where the model is split."""
    if model.split is None or rollout.lower_hidden is not None:
        return rollout
    reads = [row[:-1] for row in _sequences(rollout)]
    lower: list[Tensor] = [torch.empty(0)] * len(rollout)
    order = rollout.shortest_first(range(len(rollout)))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        states = _lower_states(model, model.split, [reads[row] for row in rows])
        for row, own in zip(rows, torch.split(states, [len(reads[row]) for row in rows]), strict=True):
            lower[row] = own.clone()
    return dataclasses.replace(rollout, lower_hidden=tuple(lower))


def _lower_states(model: PolicyModel, split: SplitTrunk, reads: list[list[int]]) -> Tensor:
    """Of each token, row after row. (N, H)"""
    ids, real = pad(reads, 0, "right")
    if not is_llama(model.trunk):
        return split.lower(ids.to(model.device))[real.to(model.device)]
    packed, layers = pack(reads), model.layers(0, split.layer)
    states = cast(nn.Module, model.trunk.embed_tokens)(packed.ids.to(model.device))
    _, found = wanted_states(model.trunk, layers, states, packed, real, features_after=split.layer)
    return cast(Tensor, found)


def scatter(flat: Tensor, mask: Tensor) -> Tensor:
    """N values back to their places. (N,), (B, R) bool -> (B, R), 0 where masked"""
    out = flat.new_zeros(mask.shape)
    out[mask] = flat
    return out
