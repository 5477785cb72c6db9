"""LoRA adapters of a language model or classifier: added new, loaded from a directory, recognised.

Knows nothing of what they are trained for. Source: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import Embedding
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from trainers.errors import ModelError
from trainers.model_files import readable, verify_published

ADAPTER_FILE = "adapter_model.safetensors"
_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def holds_adapter(path: Path) -> bool:
    """Whether a model's directory is an adapter on another model. Raises: ModelError: one without weights."""
    if not (path / "adapter_config.json").is_file():
        return False
    if not (path / ADAPTER_FILE).is_file():
        raise ModelError(
            f"`{path}` has an adapter_config.json but no `{ADAPTER_FILE}`; only safetensors are read"
        )
    return True


def load_adapter(model: nn.Module, path: Path) -> PeftModel:
    """The model with the adapter of a directory.

    Raises: ModelError: it does not fit, or is more than two thin matrices, A and B, beside linear layers: no
        more is computed by our own layers (`trainers.llama_layers`).
    """
    with readable(path), _without_deprecations():
        _require_plain(PeftConfig.from_pretrained(str(path)), path)
        adapted = cast(PeftModel, PeftModel.from_pretrained(model, str(path)))
    if any(isinstance(module, Embedding) for module in adapted.modules()):
        raise _not_plain(path, "adapts an embedding")
    return adapted


def _require_plain(settings: PeftConfig, path: Path) -> None:
    if settings.peft_type != PeftType.LORA:
        raise _not_plain(path, f"is of the kind {settings.peft_type}")
    for name, plain in (("use_dora", False), ("lora_bias", False), ("bias", "none")):
        if (found := getattr(settings, name, plain)) != plain:
            raise _not_plain(path, f"has `{name}` = `{found}`")


def _not_plain(path: Path, fault: str) -> ModelError:
    return ModelError(
        f"the adapter `{path}` {fault}; needed is plain LoRA on linear layers: train such a one, or merge the"
        " adapter into its base and give the directory with all weights"
    )


def new_adapter(
    model: nn.Module,
    rank: int,
    task: Literal["CAUSAL_LM", "SEQ_CLS"],
    *,
    seed: int,
    layers: Sequence[int] | None = None,
) -> PeftModel:
    """The model with an adapter that changes nothing yet; in `SEQ_CLS` the score heads are trained with it.

    Args:
        seed: half of an adapter starts at random.
        layers: those that get one, counted from below; `None` is all.
    Raises: ModelError: the model has no layer of a kind that is known.
    """
    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    if not (targets := [name for name in _TARGETS if name in present]):
        raise ModelError(f"none of the layers {_TARGETS} are in this model; set `tuning` to `full`")
    settings = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=targets,
        layers_to_transform=None if layers is None else list(layers),
        task_type=task,
    )
    with _without_deprecations(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return cast(PeftModel, get_peft_model(cast(PreTrainedModel, model), settings))


def add_trunk_of_classifier(model: PeftModel, name: str, path: Path) -> None:
    """Another adapter beside the model's own, that of a classifier without its score heads.

    Raises: ModelError: it does not fit, or is not as it was published.
    """
    verify_published(path)
    with readable(path), _without_deprecations():
        settings = cast(LoraConfig, PeftConfig.from_pretrained(str(path)))
        _require_plain(settings, path)
        settings.modules_to_save, settings.task_type = None, "CAUSAL_LM"
        weights = load_file(path / ADAPTER_FILE)
        model.add_adapter(name, settings)
        layers = {key: tensor for key, tensor in weights.items() if not key.endswith("score.weight")}
        unknown = set_peft_model_state_dict(model, layers, name).unexpected_keys
    if unknown:
        raise ModelError(f"`{path}` is no adapter on this base model: it holds {sorted(unknown)[:3]}")


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """peft 0.21 asks transformers 5.23 for an attribute that was renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield
