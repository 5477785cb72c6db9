"""The policy that PPO trains: made, switched to its reference or reward model and back, saved.

Where policy and reward model are adapters on the same base, it is in memory once for all roles. Knows nothing
of PPO itself; `trainers.ppo_run` holds one of these for a run. What it saves, anyone loads with
`trainers.models.load_policy`.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainers.adapters import add_trunk_of_classifier, holds_adapter, new_adapter
from trainers.config import PPOConfig, upper_half
from trainers.errors import ModelError
from trainers.models import (
    PolicyModel,
    count_parameters,
    device_and_dtype,
    load_language_model,
    resolve_tuning,
)
from trainers.sharding import shard_base
from trainers.split_trunk import split_below

REFERENCE, REWARD = "reference", "reward"
"""Adapters beside `default`, which is trained."""
LARGE_MODEL_PARAMETERS = 1_000_000_000
"""From here on the activations of a micro-batch need more memory than the weights, and are computed again."""


class TrainablePolicy(PolicyModel):
    """The policy that PPO changes and what it is measured by: the reference it started from, and, where the
    reward model is an adapter on the same base, that one."""

    def __init__(
        self,
        language_model: nn.Module,
        tuning: Literal["full", "lora"],
    ) -> None:
        super().__init__(language_model)
        self.tuning = tuning
        self._frozen_copy: tuple[PolicyModel, ...] = ()  # a tuple hides it from `parameters()`
        if tuning == "full":
            self._frozen_copy = (PolicyModel(copy.deepcopy(language_model)).eval().requires_grad_(False),)

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[PolicyModel]:
        """The policy as it was when training started, without gradients."""
        if self._frozen_copy:
            with torch.no_grad():
                yield self._frozen_copy[0]
            return
        with self._switched_to(REFERENCE if self.has_adapter(REFERENCE) else None):
            yield self

    @contextlib.contextmanager
    def as_reward(self) -> Iterator[None]:
        """The trunk with the reward model's adapter, without gradients."""
        with self._switched_to(REWARD):
            yield

    @contextlib.contextmanager
    def _switched_to(self, adapter: str | None) -> Iterator[None]:
        """Another adapter than the trained one, or none."""
        adapters = cast(PeftModel, self.language_model)
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        try:
            with torch.no_grad(), contextlib.ExitStack() as stack:
                if adapter is None:
                    stack.enter_context(adapters.disable_adapter())
                else:
                    adapters.set_adapter(adapter)
                yield
        finally:
            adapters.set_adapter("default")
            adapters.requires_grad_(False)
            for parameter in trainable:
                parameter.requires_grad_(True)

    def has_adapter(self, name: str) -> bool:
        return isinstance(self.language_model, PeftModel) and name in self.language_model.peft_config

    def trainable_state(self) -> dict[str, Tensor]:
        """The tensors that training changes, by name."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Raises: ModelError: the names or shapes are not those of this policy."""
        own = self.trainable_state()
        if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in state.items()}:
            raise ModelError(
                f"the checkpoint holds {len(state)} tensors, this policy trains {len(own)} others; "
                "it was written with another `tuning`, `lora_rank` or `base_model`: start a new run"
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])


def load_trainable_policy(config: PPOConfig, shards: int = 1) -> TrainablePolicy:
    """The starting policy with what PPO trains, and its reference.

    Args:
        shards: processes over which the base is spread.
    Raises: ModelError: it cannot be loaded, or not be spread.
    """
    device, dtype = device_and_dtype()
    tuning = resolve_tuning(config, count_parameters(config.base_model))
    if tuning == "full":
        dtype = torch.float32  # AdamW's small steps vanish in bf16
    model = _language_model(config, tuning, dtype, shards)
    policy = TrainablePolicy(model, tuning)
    if shards > 1 or config.base_bits < 16:
        _require_base_weights(policy, config.start_policy)
    if shards > 1:
        shard_base(policy)
    policy.to(device)
    for frozen in policy._frozen_copy:
        frozen.to(device)
    if _checkpoints_layers(config, policy):
        policy.checkpoint_layers()
    if tuning == "lora" and shards == 1:  # shards are gathered by running the whole trunk
        policy.split = split_below(policy.trunk, _lowest_adapted_layer(policy))
    return policy.eval()  # eval: dropout would make the ratio of an unchanged policy differ from 1


def save_policy(
    policy: TrainablePolicy, tokenizer: PreTrainedTokenizerBase, directory: Path, *, merge: bool
) -> None:
    """Write full weights or the adapter and the tokenizer into an existing directory.

    Args:
        merge: write full weights even where an adapter was trained, because it sits on other weights than the
            base model's.
    """
    model = policy.language_model
    if isinstance(model, PeftModel) and merge:
        copy.deepcopy(model).merge_and_unload().save_pretrained(directory)
    elif isinstance(model, PeftModel):
        model.save_pretrained(str(directory), safe_serialization=True, selected_adapters=["default"])
        (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card
    else:
        cast(PreTrainedModel, model).save_pretrained(directory)
    tokenizer.save_pretrained(str(directory))


def _language_model(
    config: PPOConfig, tuning: Literal["full", "lora"], dtype: torch.dtype, shards: int
) -> nn.Module:
    """The starting policy's language model; of its parameters those require gradients that PPO trains.

    An adapter that training starts from is there twice: as `default`, which is trained, and as `reference`.
    """
    start = config.start_policy
    model = load_language_model(config.base_model, start, dtype, shards, config.base_bits)
    if isinstance(model, PeftModel) and tuning == "lora":
        model.load_adapter(start, REFERENCE, is_trainable=False)
    elif tuning == "lora":
        layers = range(cast(PreTrainedModel, model).config.num_hidden_layers)
        trained = layers[-(config.trained_layers or upper_half(len(layers))) :]
        model = new_adapter(model, config.lora_rank, "CAUSAL_LM", seed=config.seed, layers=trained)
    elif isinstance(model, PeftModel):
        model = model.merge_and_unload()
    model.requires_grad_(tuning == "full")
    if isinstance(model, PeftModel):
        if _shares_base(config):
            add_trunk_of_classifier(model, REWARD, Path(config.reward_model))
        model.set_adapter("default")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".default." in name)
    return model


def _shares_base(config: PPOConfig) -> bool:
    """Whether the reward model is an adapter on the very weights that the policy's adapter is on."""
    on_base_model = not config.start_policy or holds_adapter(Path(config.start_policy))
    reward_base = config.reward_base_model or config.base_model
    return on_base_model and reward_base == config.base_model and holds_adapter(Path(config.reward_model))


def _require_base_weights(policy: TrainablePolicy, start_policy: str) -> None:
    """Where the base's weights cannot be written again, the adapter must fit the base model as it is."""
    if start_policy and not policy.has_adapter(REFERENCE):
        raise ModelError(
            f"`start_policy` `{start_policy}` holds full weights, which `shard_base` and `base_bits` cannot"
            " write again; name it as `base_model` instead"
        )


def _checkpoints_layers(config: PPOConfig, policy: PolicyModel) -> bool:
    if config.gradient_checkpointing is not None:
        return config.gradient_checkpointing
    return policy.device.type == "cuda" and count_parameters(config.base_model) >= LARGE_MODEL_PARAMETERS


def _lowest_adapted_layer(policy: PolicyModel) -> int:
    names = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    found = [int(match[1]) for name in names if (match := re.search(r"\.layers\.(\d+)\..*lora", name))]
    return min(found, default=0)
