"""Losses and divergence estimators: tensors in, tensors out.

Everything here is per token or per response and not reduced, unless it says so: the caller sums and divides
by the count of the whole mini-batch, so that splitting a mini-batch changes nothing. Imports torch only.
Used by `trainers.ppo` and `trainers.reward`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trainers.errors import ShapeError


def same_shape(**tensors: Tensor) -> None:
    """Raises: ShapeError: the tensors' shapes differ; names them."""
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"`{name}` {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ShapeError(f"shapes differ: {shapes}; needed is one shape for all")


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_range: float) -> Tensor:
    """PPO's clipped surrogate, to be minimised.

        rₜ = exp(logprobsₜ − old_logprobsₜ)        Lₜ = −min(rₜ Âₜ, clip(rₜ, 1 − ε, 1 + ε) Âₜ)

    Args:
        logprobs: under the policy being trained. (N,)
        old_logprobs: under the policy that sampled, without gradient. (N,)
        advantages: without gradient. (N,)
        clip_range: ε.
    Returns:
        The loss of each token. (N,)
    Raises:
        ShapeError: shapes differ.
    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(policy ‖ reference) from samples of the policy, unbiased, of either sign: log p − log q. (N,)

    Source: Schulman 2020, "Approximating KL divergence".
    """
    same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    return logprobs - ref_logprobs


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(policy ‖ reference) from samples, unbiased, never negative: (r − 1) − log r with r = q / p. (N,)

    Source: Schulman 2020, "Approximating KL divergence".
    """
    same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(chosen − rejected): how surprising the preference is under the scores. (N,)

    Raises:
        ShapeError: shapes differ.
    Source: Bradley and Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1.
    """
    same_shape(chosen=chosen, rejected=rejected)
    return -functional.logsigmoid(chosen - rejected)


def plackett_luce_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    """Negative log-likelihood of whole rankings, for each a mean over its choices.

        L = −(1/n) Σᵢ (sᵢ − log Σⱼ exp sⱼ)    over the n answers i that beat another; j: i and what i beats

    With two answers this is Bradley-Terry; a ranking that is one tie costs nothing.

    Args:
        scores: (..., K)
        ranks: 0 is best; equal numbers are tied; −1 is padding. (..., K) long
    Returns:
        The loss of each ranking. (...)
    Raises:
        ShapeError: shapes differ.
    Source: Plackett 1975. Tied answers do not compete with each other: their order is unknown.
    """
    same_shape(scores=scores, ranks=ranks)
    beats = ranks[..., None, :] > ranks[..., :, None]  # (..., K, K): row beats column
    chooser = beats.any(dim=-1) & (ranks >= 0)  # (..., K)
    field = beats | torch.eye(ranks.shape[-1], dtype=torch.bool, device=ranks.device)
    log_sums = scores[..., None, :].masked_fill(~field, float("-inf")).logsumexp(dim=-1)
    costs = (log_sums - scores).masked_fill(~chooser, 0.0)
    return costs.sum(dim=-1) / chooser.sum(dim=-1).clamp(min=1)
