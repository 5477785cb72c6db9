"""Where PPO's scores come from: a reward model's directory, any Python function, or a scorer behind a URL.

A `RewardFunction` sees text, not tokens, so the reward model may have another tokenizer than the policy. One
that is an adapter on the policy's base scores on that base, which is then in memory once.
Knows nothing of PPO; `trainers.ppo` standardises what comes from here.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from trainers.address import is_url
from trainers.config import PPOConfig
from trainers.conversations import encode_conversations, load_tokenizer
from trainers.errors import ConfigError, ScorerError, TrainerError
from trainers.models import RewardModel, assembled_reward_model, load_reward_model, score_weight
from trainers.records import Prompt
from trainers.reward_http import http_reward
from trainers.reward_model import disagreement, head_scores
from trainers.trainable_policy import REWARD, TrainablePolicy

RewardFunction = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
"""`(prompts, responses) -> one score a response`; higher is better."""
UNBOUNDED = 2**20
"""Tokens that a model without a stated context reads."""
_NEEDED = "needed is `(prompts, responses) -> list of scores`"


def load_reward(config: PPOConfig, policy: TrainablePolicy | None = None) -> RewardFunction:
    """The reward that the configuration names.

    Args:
        policy: what is trained by it; with the reward model's adapter on its base, where both have the same.

    With `disagreement_penalty` β the score of a response is the mean of the heads' scores less β times their
    standard deviation: what only some heads like counts less.

    Raises:
        ConfigError: `module:function` cannot be imported or called, the URL is none, or a penalty is set
            where nothing can disagree.
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
    longest_prompt, longest_response = _limits(config, model)

    def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> Sequence[float]:
        rows = encode_conversations(model.tokenizer, prompts, responses, longest_prompt, longest_response)
        with as_reward():
            scores = head_scores(model, rows, config.batch_size)
        means = scores.mean(dim=1)
        return (means - penalty * disagreement(scores) if penalty else means).tolist()

    return score


def _limits(config: PPOConfig, model: RewardModel) -> tuple[int, int]:
    """Most tokens that the reward model reads of a prompt and of a response.

    What the policy sees and writes, where it reads the same tokens. With a tokenizer of its own a text may be
    more tokens: then all that has room in its context, half for each.
    """
    if model.tokenizer.get_vocab() == load_tokenizer(config.base_model).get_vocab():
        return config.max_prompt_tokens, config.max_response_tokens
    context = getattr(model.classifier.config, "max_position_embeddings", None) or UNBOUNDED
    return context - context // 2, context // 2 - 1  # one more is the end token


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

    Raises: ScorerError: the reward gave no list, another number of scores, or one that is no finite number.
    """
    given: Any = reward(prompts, responses)
    try:
        values = None if isinstance(given, str | bytes | dict | set | frozenset) else list(given)
    except TypeError:  # a single number, nothing, a tensor without a dimension
        values = None
    if values is None:
        raise ScorerError(
            f"the reward gave a `{type(given).__name__}`; needed is a list of {len(responses)} numbers, one "
            "a response; mend it"
        )
    if len(values) != len(responses):
        raise ScorerError(
            f"the reward gave {len(values)} scores for {len(responses)} responses; needed is one each"
        )
    # through float64: what is beyond float32 becomes infinite instead of an error
    scores = torch.tensor([_as_number(value) for value in values], dtype=torch.float64).to(torch.float32)
    if broken := int((~scores.isfinite()).sum()):
        raise ScorerError(
            f"the reward gave {broken} of {len(values)} scores that are no finite number below 3.4e38; "
            "mend it"
        )
    return scores


def _as_number(value: Any) -> float:
    """A score as a float; one that is too large is infinite. Raises: ScorerError: it is no number."""
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several
        pass
    raise ScorerError(
        f"the reward gave a `{type(value).__name__}` as a score; needed is a number for each response; "
        "mend it"
    )


def _require_heads(penalty: float, heads: int, name: str) -> None:
    if penalty and heads < 2:
        raise ConfigError(
            f"`disagreement_penalty` is `{penalty}`, but `{name}` gives one score without a second opinion; "
            "train the reward model with `ensemble` of 2 or more, or set the penalty to 0"
        )


def _imported(module: str, function: str) -> RewardFunction:
    """The function of that name; what it raises becomes a ScorerError without its message.

    A message of foreign code may hold a prompt, an answer or a key: its type and place are told instead.
    """
    name = f"{module}:{function}"
    try:
        found = getattr(importlib.import_module(module), function, None)
    except TrainerError:
        raise
    except Exception as error:  # noqa: BLE001 - a module of others may raise anything
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        fault = f"no module `{module}` on the import path" if missing else _type_and_place(error)
        raise ConfigError(
            f"`reward_model` is `{name}`, which cannot be imported: {fault}; {_NEEDED}"
        ) from None
    if not callable(found):
        raise ConfigError(
            f"`reward_model` is `{name}`, but `{module}` holds no function `{function}`; {_NEEDED}"
        )
    if not _takes_two(found):
        raise ConfigError(f"`reward_model` is `{name}`, which takes other arguments; {_NEEDED}")

    def reward(prompts: Sequence[Prompt], responses: Sequence[str]) -> Sequence[float]:
        try:
            scores = found(prompts, responses)
            return list(scores) if isinstance(scores, Iterator) else scores
        except TrainerError:
            raise
        except Exception as error:  # noqa: BLE001 - a function of others may raise anything
            raise ScorerError(
                f"`{name}` raised {_type_and_place(error)}; needed is one score a response; mend it, then "
                "start the run again: it goes on from its last checkpoint"
            ) from None

    return reward


def _takes_two(function: Callable[..., Any]) -> bool:
    """False where it is sure that the function cannot be called with prompts and responses."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C
        return True
    try:
        signature.bind((), ())
    except TypeError:
        return False
    return True


def _type_and_place(error: Exception) -> str:
    """An exception of foreign code without its message: its type, and the file and line that raised it."""
    kind = f"`{type(error).__name__}`"
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{kind} at `{error.filename}`, line {error.lineno}"  # of the file that was not even run
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename != __file__ and not frame.filename.startswith("<frozen "):
            return f"{kind} at `{frame.filename}`, line {frame.lineno}"
    return kind
