"""What surrounds the PPO loop: making or resuming a run, its checkpoints, its result.

`trainers.ppo` holds the algorithm; nothing here decides what is learnt.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainers import reward_source
from trainers.config import PPOConfig
from trainers.conversations import encode_prompts, load_tokenizer
from trainers.distributed import Group, current
from trainers.errors import ModelError
from trainers.metrics import Metrics, NoMetrics
from trainers.model_files import longest_prompt
from trainers.models import SMALL_MODEL_PARAMETERS, PolicyModel
from trainers.ppo_state import TrainingState, load_state, save_state
from trainers.records import Prompt
from trainers.reward_source import RewardFunction, load_reward
from trainers.rollout import Rollout, evaluate, scatter, with_lower_hidden
from trainers.run_dir import RunDir
from trainers.sampling import response_texts, sample
from trainers.trainable_policy import REFERENCE, TrainablePolicy, load_trainable_policy, save_policy
from trainers.value_model import ValueModel, value_layer
from trainers.verification import Look

log = logging.getLogger(__name__)

VALUE_MODEL_FILE = "value_model.safetensors"
"""In the directory of the policy that it was trained with."""


@dataclass(frozen=True)
class Trainer:
    """What stays the same during a run.

    With several processes each computes its share of the rows, and all receive all of them.
    """

    config: PPOConfig
    policy: TrainablePolicy
    tokenizer: PreTrainedTokenizerBase
    reward: RewardFunction
    optimizer: torch.optim.Optimizer
    value_model: ValueModel
    metrics: Metrics
    max_prompt_tokens: int
    group: Group

    def respond(self, prompts: Sequence[Prompt], generator: torch.Generator) -> tuple[Rollout, list[str]]:
        """Sampled responses, as tokens and as text."""
        ids = encode_prompts(self.tokenizer, prompts, max_tokens=self.max_prompt_tokens)
        rollout = sample(
            self.policy,
            self.tokenizer,
            ids,
            temperature=self.config.temperature,
            max_new_tokens=self.config.max_response_tokens,
            generator=generator,
            batch_size=self.config.batch_size,
            group=self.group,
        )
        rollout = with_lower_hidden(self.policy, rollout, self.config.batch_size)
        if self.policy.dtype != torch.float32:
            # in bf16 decoding and training differ by up to 1e-2: once more
            rollout = rollout.replace(self.logprobs(self.policy, rollout))
        return rollout, response_texts(self.tokenizer, rollout)

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """One score a response. (B,)

        Raises: DataError: the reward gave something else.
        """
        count = len(responses)
        rows, scores = self.group.share(range(count)), torch.zeros(count)
        # processes that share a base's weights score equally often: one with fewer rows scores the first too
        asked = [*rows, 0][: -(-count // self.group.size)]

        def fill() -> None:
            own = [prompts[row] for row in asked], [responses[row] for row in asked]
            scores[rows] = reward_source.score(self.reward, *own)[: len(rows)]

        self.group.on_each(fill)
        return self.group.sum(scores)

    def ref_logprobs(self, rollout: Rollout) -> Tensor:
        """The reference's logprobs of the same tokens. (B, R)"""
        with self.policy.as_reference() as reference:
            return self.logprobs(reference, rollout)

    def reference(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """The reference's logprobs (B, R), and the value model's features, row after row (N, H)."""
        split, layers = self.policy.split, self.policy.causal_model.config.num_hidden_layers
        layer = value_layer(layers, lowest=split.layer if split and rollout.lower_hidden else 0)
        with self.policy.as_reference() as reference:
            return self._evaluated(reference, rollout, layer)

    def logprobs(self, model: PolicyModel, rollout: Rollout) -> Tensor:
        """Logprobs without gradient, in batches of like length. (B, R)"""
        return self._evaluated(model, rollout, None)[0]

    @torch.no_grad()
    def _evaluated(self, model: PolicyModel, rollout: Rollout, layer: int | None) -> tuple[Tensor, Tensor]:
        logprobs, lengths = torch.zeros_like(rollout.logprobs), rollout.lengths
        places = torch.split(torch.arange(int(lengths.sum())), lengths.tolist())  # of each row's features
        width = 0 if layer is None else self.policy.causal_model.config.hidden_size
        features = torch.zeros(int(lengths.sum()), width)
        order = rollout.shortest_first(range(len(rollout)))
        for rows in self.group.batches(order, self.config.batch_size):
            part = rollout.select(rows)
            outputs = evaluate(model, part, self.config.temperature, features_after=layer)
            logprobs[rows, : part.response_ids.shape[1]] = scatter(outputs.logprobs.cpu(), part.response_mask)
            if outputs.features is not None and rows:
                features[torch.cat([places[row] for row in rows])] = outputs.features.float().cpu()
        return self.group.sum(logprobs), self.group.sum(features)


def start(config: PPOConfig, run_dir: RunDir, reward: RewardFunction | None) -> tuple[Trainer, TrainingState]:
    if config.threads:
        torch.set_num_threads(config.threads)
    group = current()
    policy = _load_policy(config, group)
    prompt_tokens = longest_prompt(
        policy.causal_model.config, config.max_prompt_tokens, config.max_response_tokens
    )
    optimizer = make_optimizer(config, policy)
    value_model = load_value_model(config, policy.causal_model.config.hidden_size).to(policy.device)
    checkpoint = group.on_main(run_dir.latest_checkpoint)
    state, offset = TrainingState(kl_coef=config.kl_coef), 0
    if checkpoint is not None:
        state, offset = load_state(checkpoint, policy, optimizer, value_model)
        state.resumed += 1
        log.info("resumed after update %d", state.update)
    trainer = Trainer(
        config=config,
        policy=policy,
        tokenizer=load_tokenizer(config.base_model),
        reward=reward or load_reward(config, policy),
        optimizer=optimizer,
        value_model=value_model,
        metrics=run_dir.metrics(offset) if group.is_main else NoMetrics(),
        max_prompt_tokens=prompt_tokens,
        group=group,
    )
    return trainer, state


def _load_policy(config: PPOConfig, group: Group) -> TrainablePolicy:
    if not config.shard_base or group.size == 1:
        return load_trainable_policy(config)
    # the machine's memory holds the whole base only once
    return group.in_turn(lambda: load_trainable_policy(config, shards=group.size))


def load_value_model(config: PPOConfig, features: int) -> ValueModel:
    """The one that the starting policy was trained with, or a new one.

    Raises: ModelError: it is damaged, or was trained on another base model.
    """
    value_model = ValueModel(features, config.seed)
    path = Path(config.start_policy) / VALUE_MODEL_FILE
    if config.start_policy and path.is_file():
        try:
            value_model.start_from(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"`{path}` is damaged or belongs to another base model; name another `start_policy`, or make "
                "this one again"
            ) from error
    return value_model


def make_optimizer(config: PPOConfig, policy: TrainablePolicy) -> torch.optim.Optimizer:
    """AdamW without decay."""
    rate = config.learning_rate
    if rate is None:
        parameters = sum(parameter.numel() for parameter in policy.causal_model.parameters())
        if parameters < SMALL_MODEL_PARAMETERS:  # the larger the rank, the smaller the step
            rate = 1e-4 if policy.tuning == "full" else 0.008 / config.lora_rank
        else:
            rate = 1e-5 if policy.tuning == "full" else 2e-4
    optimizer = torch.optim.AdamW(trained_parameters(policy), lr=rate, weight_decay=0.0, fused=True)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def trained_parameters(policy: TrainablePolicy) -> list[torch.nn.Parameter]:
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def save_checkpoint(run_dir: RunDir, trainer: Trainer, state: TrainingState) -> None:
    def write(directory: Path) -> None:
        save_state(
            directory, state, trainer.policy, trainer.optimizer, trainer.value_model, trainer.metrics.offset
        )

    trainer.group.on_main(lambda: run_dir.save_checkpoint(state.update, write))


def finish(run_dir: RunDir, trainer: Trainer, state: TrainingState) -> dict[str, Any]:
    """Write the best policy. Returns: the content of result.json."""
    return trainer.group.on_main(lambda: _finish(run_dir, trainer, state))


def _finish(run_dir: RunDir, trainer: Trainer, state: TrainingState) -> dict[str, Any]:
    config, policy = trainer.config, trainer.policy
    assert state.stop is not None  # noqa: S101  # the loop ended
    log.info(
        "ended by %s after update %d: %g (limit %g)",
        state.stop.reason,
        state.update,
        state.stop.measured,
        state.stop.limit,
    )
    policy.load_trainable_state(state.best_weights)
    before = state.looks[0]
    after = next(found for found in state.looks if found.update == state.best_update)

    def write(directory: Path) -> None:
        # an adapter trained on other weights than the base model's would not fit the base model
        save_policy(
            policy,
            trainer.tokenizer,
            directory,
            merge=bool(config.start_policy) and not policy.has_adapter(REFERENCE),
        )
        save_file(trainer.value_model.cpu().state_dict(), directory / VALUE_MODEL_FILE)

    lineage = {
        "base_model": config.base_model,
        "start_policy": config.start_policy,
        "update": state.best_update,
    }
    run_dir.save_model(write, lineage | {"reward_model": config.reward_model, "seed": config.seed})
    lines = (json.dumps(shown, ensure_ascii=False) + "\n" for shown in state.samples)
    run_dir.output("samples.jsonl").write_text("".join(lines), encoding="utf-8")
    return {
        "updates": state.update,
        "stop_reason": state.stop.reason,
        "stop_measured": state.stop.measured,
        "stop_limit": state.stop.limit,
        "best_update": state.best_update,
        "reward_before": before.score,
        "reward_after": after.score,
        "kl": after.kl,
        "length_before": before.length,
        "length_after": after.length,
        "seconds": round(state.seconds, 1),
        "resumed": state.resumed,
        "tuning": policy.tuning,
        "learning_rate": trainer.optimizer.param_groups[0]["initial_lr"],
        "looks": [_figures(found) for found in state.looks],
    }


def _figures(look: Look) -> dict[str, Any]:
    """JSON knows no NaN: before the first look nothing was trained on."""
    return dataclasses.asdict(look) | {
        "train_score": None if math.isnan(look.train_score) else look.train_score
    }
