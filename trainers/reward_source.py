"""Where PPO's scores come from: a reward model's directory, any Python function, or a scorer behind a URL.

A `RewardFunction` sees text, not tokens, so the reward model may have another tokenizer than the policy. One
that is an adapter on the policy's base scores on that base, which is then in memory once.
Knows nothing of PPO; `trainers.ppo` standardises what comes from here.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from trainers.config import PPOConfig
from trainers.errors import ConfigError, ScorerError
from trainers.models import (
    RewardModel,
    assembled_reward_model,
    encode_conversations,
    load_reward_model,
    score_weight,
)
from trainers.records import Prompt
from trainers.reward_http import http_reward, is_url
from trainers.reward_model import disagreement, head_scores
from trainers.trainable_policy import REWARD, TrainablePolicy

RewardFunction = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
"""`(prompts, responses) -> one score a response`; higher is better."""


def load_reward(config: PPOConfig, policy: TrainablePolicy | None = None) -> RewardFunction:
    """The reward that the configuration names.

    Args:
        policy: what is trained by it; with the reward model's adapter on its base, where both have the same.

    With `disagreement_penalty` β the score of a response is the mean of the heads' scores less β times their
    standard deviation: what only some heads like counts less.

    Raises:
        ConfigError: `module:function` cannot be imported, the URL is none, or a penalty is set where nothing
            can disagree.
        ModelError: the directory holds no reward model.
    Source: Coste et al. 2024, arXiv:2310.02743, with the deviation in place of the variance.
    """
    penalty = config.disagreement_penalty
    if is_url(config.reward_model):
        reward = http_reward(
            config.reward_model, batch_size=config.batch_size, timeout_s=config.reward_timeout_s
        )
        _require_heads(penalty, 1, config.reward_model)
        return reward
    module, colon, function = config.reward_model.partition(":")
    if colon and module.replace(".", "").isidentifier() and function.isidentifier():
        _require_heads(penalty, 1, config.reward_model)
        return _imported(module, function)
    base = config.reward_base_model or config.base_model
    as_reward: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    if policy is not None and policy.has_adapter(REWARD):
        model, as_reward = _on_policy(policy, Path(config.reward_model), base), policy.as_reward
    else:
        model = load_reward_model(base, config.reward_model)
    _require_heads(penalty, model.heads, config.reward_model)

    def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> Sequence[float]:
        rows = encode_conversations(
            model.tokenizer, prompts, responses, config.max_prompt_tokens, config.max_response_tokens
        )
        with as_reward():
            scores = head_scores(model, rows, config.batch_size)
        means = scores.mean(dim=1)
        return (means - penalty * disagreement(scores) if penalty else means).tolist()

    return score


def _on_policy(policy: TrainablePolicy, path: Path, base_model: str) -> RewardModel:
    """The reward model's score heads on the policy's trunk, for use within `policy.as_reward()`."""
    heads = score_weight(path)
    config = copy.deepcopy(policy.causal_model.config)
    config.num_labels = len(heads)
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    setattr(classifier, classifier.base_model_prefix, policy.trunk)
    classifier.score.weight = nn.Parameter(heads.to(policy.device, policy.dtype), requires_grad=False)
    reward = assembled_reward_model(classifier, path, base_model)
    reward.head_zeros = reward.head_zeros.to(policy.device)
    return reward


def score(reward: RewardFunction, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
    """Scores as a tensor. (B,)

    Raises: ScorerError: the reward gave another number of scores, or one that is no finite number.
    """
    scores = [float(value) for value in reward(prompts, responses)]
    if len(scores) != len(responses):
        raise ScorerError(
            f"the reward gave {len(scores)} scores for {len(responses)} responses; needed is one each"
        )
    if broken := sum(not math.isfinite(value) for value in scores):
        raise ScorerError(
            f"the reward gave {broken} of {len(scores)} scores that are no finite number; mend it"
        )
    return torch.tensor(scores, dtype=torch.float32)


def _require_heads(penalty: float, heads: int, name: str) -> None:
    if penalty and heads < 2:
        raise ConfigError(
            f"`disagreement_penalty` is `{penalty}`, but `{name}` gives one score without a second opinion; "
            "train the reward model with `ensemble` of 2 or more, or set the penalty to 0"
        )


def _imported(module: str, function: str) -> RewardFunction:
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"`reward_model` is `{module}:{function}`, which cannot be imported ({error}); "
            "needed is a function `(prompts, responses) -> list of scores` on the import path"
        ) from error
    if not callable(found):
        raise ConfigError(
            f"`{module}:{function}` is no function; needed is `(prompts, responses) -> list of scores`"
        )
    return found  # type: ignore[no-any-return]
