"""From one score a response to one advantage a token: tensors in, tensors out.

Scores and a KL penalty become per-token rewards, rewards and values become advantages and returns. Everything
is (B, T), zero where masked. Imports torch only. Used by `trainers.ppo`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.errors import ShapeError
from trainers.losses import same_shape


def token_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, *, kl_coef: float) -> Tensor:
    """Per-token rewards: −β KL on each real token, and the score on the last one.

    Args:
        scores: one a response, penalties included. (B,)
        kl: log p − log q of each token. (B, T)
        response_mask: True on real response tokens. (B, T) bool
        kl_coef: β.
    Returns:
        (B, T), zero where masked.
    Source: Ziegler et al. 2019, arXiv:1909.08593, eq. 2.
    """
    _check(response_mask, kl=kl)
    rewards = torch.where(response_mask, -kl_coef * kl, 0.0)
    last = response_mask.sum(dim=1) - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def rewards_to_go(rewards: Tensor, response_mask: Tensor, *, gamma: float) -> Tensor:
    """The return after each state: what the response still earns, this token's reward included.

        Gₜ = rₜ + γ Gₜ₊₁

    Args:
        rewards: per-token rewards, KL penalty included. (B, T)
        response_mask: True on real response tokens, which come first. (B, T) bool
    Returns:
        (B, T), zero where masked.
    Raises:
        ShapeError: shapes differ, or a row has no real token.
    """
    return gae(rewards, torch.zeros_like(rewards), response_mask, gamma=gamma, gae_lambda=1.0)


def gae(rewards: Tensor, values: Tensor, response_mask: Tensor, *, gamma: float, gae_lambda: float) -> Tensor:
    """Advantages by generalised advantage estimation.

        δₜ = rₜ + γ Vₜ₊₁ − Vₜ        Âₜ = δₜ + γλ Âₜ₊₁

    After the last real token there is neither value nor advantage: nothing passes the end.

    Args:
        rewards: per-token rewards, KL penalty included. (B, T)
        values: value estimates from before the update. (B, T)
        response_mask: True on real response tokens, which come first. (B, T) bool
    Returns:
        (B, T), zero where masked, not whitened.
    Raises:
        ShapeError: shapes differ, or a row has no real token.
    Source: Schulman et al. 2016, arXiv:1506.02438, eq. 16.
    """
    _check(response_mask, rewards=rewards, values=values)
    values = torch.where(response_mask, values, 0.0)
    rewards = torch.where(response_mask, rewards, 0.0)
    advantages = torch.zeros_like(rewards)
    advantage, next_value = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(response_mask[:, t], delta + gamma * gae_lambda * advantage, 0.0)
        advantages[:, t] = advantage
        next_value = values[:, t]
    return advantages


def masked_mean(tensor: Tensor, mask: Tensor) -> Tensor:
    """Mean over the True places of the mask; 0 if there is none. (B, T) -> ()"""
    same_shape(tensor=tensor, mask=mask)
    return torch.where(mask, tensor, 0.0).sum() / mask.sum().clamp(min=1)


def whiten(tensor: Tensor, mask: Tensor) -> Tensor:
    """Unmasked entries shifted and scaled to mean 0, deviation 1; a single one is 0. (B, T) -> (B, T)"""
    mean = masked_mean(tensor, mask)
    variance = masked_mean((tensor - mean) ** 2, mask)
    return torch.where(mask, (tensor - mean) * torch.rsqrt(variance + 1e-8), 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 − Var(returns − values) / Var(returns): 1 is perfect, 0 knows only the mean."""
    error, target = (returns - values)[mask], returns[mask]
    variance = float(target.var(unbiased=False))
    return 1.0 - float(error.var(unbiased=False)) / variance if variance > 1e-12 else 0.0


def adapt_kl_coef(kl_coef: float, kl: float, *, target: float, horizon: int, responses: int) -> float:
    """The adaptive KL controller's next coefficient.

        e = clip(KL / target − 1, −0.2, 0.2)        β ← β (1 + e · responses / horizon)

    At most halved or doubled at once: with many responses to a short horizon it would go below zero.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return kl_coef * min(max(1.0 + error * responses / horizon, 0.5), 2.0)


def adapt_step_scale(scale: float, approx_kl: float, *, kl_stop: float) -> float:
    """The next factor of the step size: smaller where an update changed the policy much, larger where little.

    Source: Schulman et al. 2017, arXiv:1707.06347, section 4, whose adaptive penalty is put on the step here.
    """
    if approx_kl > kl_stop / 5:
        return max(scale / 1.5, 0.1)
    return min(scale * 1.2, 1.0) if approx_kl < kl_stop / 20 else scale


@dataclass(frozen=True)
class ScoreMoments:
    """Count, mean and sum of squared deviations of all scores so far (Welford, in parts)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def with_scores(self, scores: Tensor) -> ScoreMoments:
        """These moments and a further batch. Source: Chan et al. 1983."""
        if not len(scores):
            return self
        batch_mean = float(scores.double().mean())
        batch_squares = float(((scores.double() - batch_mean) ** 2).sum())
        total = self.count + len(scores)
        shift = batch_mean - self.mean
        return ScoreMoments(
            count=total,
            mean=self.mean + shift * len(scores) / total,
            squares=self.squares + batch_squares + shift**2 * self.count * len(scores) / total,
        )

    @property
    def deviation(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def standardise(self, scores: Tensor) -> Tensor:
        """Scores in deviations from the mean; equal scores become 0. (B,) -> (B,)"""
        return (scores - self.mean) / max(self.deviation, 1e-6)


def _check(response_mask: Tensor, **tensors: Tensor) -> None:
    same_shape(response_mask=response_mask, **tensors)
    if not bool(response_mask.any(dim=1).all()):
        raise ShapeError("a row has no real token; needed is at least one, EOS")
