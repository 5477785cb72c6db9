"""A frozen base too large for one device, spread over the processes of a run.

Each process keeps its part of every layer's base weights. Before a layer computes, all put its weights
together, and drop what is not theirs afterwards, in the backward pass as well (FSDP2). Adapters, embeddings
and output layer stay whole everywhere, so training, saving and resuming know nothing of this.

All processes must run the model equally often, or one waits for the others: `Group.batches`,
`trainers.sampling` and `trainers.reward_model` see to that. Used by `trainers.trainable_policy`.
"""

from __future__ import annotations

from typing import Any, cast

from torch.distributed.fsdp import FSDPModule, fully_shard

from trainers.models import PolicyModel, RewardModel


def shard_base(model: PolicyModel) -> None:
    """Keep this process's part of the layers' base weights, on the process's own device; forget the rest."""
    trunk: Any = model.trunk
    adapters = {parameter for name, parameter in trunk.named_parameters() if "lora_" in name}
    for layer in trunk.layers:
        fully_shard(layer, reshard_after_forward=True, ignored_params=adapters)
    sharded = {parameter for layer in trunk.layers for parameter in layer.parameters()}
    others = {parameter for parameter in trunk.parameters() if parameter not in sharded}
    fully_shard(trunk, ignored_params=adapters | others)


def is_sharded(model: PolicyModel | RewardModel) -> bool:
    return isinstance(cast(Any, model.trunk), FSDPModule)
