"""Logprobs and entropy of response tokens, from the hidden states before them.

Logits are as wide as the vocabulary: they are computed for some tokens at a time. Where the output layer is
frozen, a token's gradient is computed along with its logprob, so that no logits are kept for the backward
pass, nor computed again in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainers.models import PolicyModel

LOGITS_AT_ONCE = {"cpu": 2**22, "cuda": 2**26}
"""By device: what its cache can hold (16 MiB in fp32), or what keeps it busy (256 MiB)."""
LOGITS_KEPT = 2**26
"""Of an output layer that is trained, until the backward pass; of more all are computed again in it."""


def token_logprobs(
    model: PolicyModel, hidden: Tensor, targets: Tensor, temperature: float, *, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """What the model says of each target, (N,), after its hidden state, (N, H); in fp32.

    Returns: logprobs, and entropy if asked for. (N,) each
    """

    def of(part: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
        logits = model.logits(part)
        logprobs = torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
        chosen = logprobs.gather(1, wanted[:, None]).squeeze(1)
        return (chosen, -(logprobs.exp() * logprobs).sum(dim=-1)) if with_entropy else (chosen,)

    vocabulary = int(model.causal_model.config.vocab_size)
    if torch.is_grad_enabled() and model.trains_output_layer:
        found = _in_parts(of, hidden, targets, max(1, LOGITS_KEPT // vocabulary))
    else:
        rows = max(1, LOGITS_AT_ONCE[hidden.device.type] // vocabulary)
        found = _WithGradient.apply(of, hidden, targets, rows)  # type: ignore[no-untyped-call]
    return found[0], found[1] if with_entropy else None


Outputs = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Of hidden states (n, H) and targets (n,), each (n,); no row depends on another."""


def _in_parts(of: Outputs, hidden: Tensor, targets: Tensor, rows: int) -> tuple[Tensor, ...]:
    """Of at most so many rows at a time, with gradients of whatever `of` uses."""
    if len(targets) <= rows:
        return of(hidden, targets)
    return _joined(checkpoint(of, *part, use_reentrant=False) for part in _split(hidden, targets, rows))


class _WithGradient(torch.autograd.Function):
    """Outputs together with each row's gradient of them, (H,), which is all that is kept."""

    @staticmethod
    def forward(ctx: Any, of: Outputs, hidden: Tensor, targets: Tensor, rows: int) -> tuple[Tensor, ...]:
        parts = _split(hidden, targets, rows)
        if not ctx.needs_input_grad[1]:
            return _joined(of(*part) for part in parts)
        found = _joined(_with_gradients(of, *part) for part in parts)
        outputs = len(found) // 2
        ctx.save_for_backward(*found[outputs:])
        return found[:outputs]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(grads, ctx.saved_tensors, strict=True)
        return None, sum(grad[:, None] * own for grad, own in pairs), None, None


def _with_gradients(of: Outputs, hidden: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """The outputs, (n,) each, and behind them their gradients, (n, H) each."""
    with torch.enable_grad():
        states = hidden.detach().requires_grad_()
        outputs = of(states, targets)
    ones, last = torch.ones_like(outputs[0]), outputs[-1]
    grads = [torch.autograd.grad(out, states, ones, retain_graph=out is not last)[0] for out in outputs]
    return *(output.detach() for output in outputs), *grads


def _split(hidden: Tensor, targets: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)


def _joined(parts: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
