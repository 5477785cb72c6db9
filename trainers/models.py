"""Loads and saves models: the only place that touches weights on disk.

A `PolicyModel` is a causal language model, with adapters or without; a `RewardModel` gives one
score to a token sequence, or one by each of its heads. Both work on the trunk's hidden states, so that logits
are computed only for the positions that need them. Only safetensors are read and no code that comes with a
model is run.
Knows nothing of sampling, losses or run directories; what it loads goes to `trainers.sampling`,
`trainers.reward` and `trainers.ppo`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from trainers.adapters import holds_adapter, load_adapter
from trainers.config import PPOConfig, RewardConfig
from trainers.conversations import load_tokenizer
from trainers.errors import ModelError, ModelMissingError
from trainers.fused_layers import layers_of
from trainers.llama_layers import Layer, is_llama
from trainers.model_files import (
    check_memory,
    load_config,
    local_directory,
    parameter_count,
    readable,
    require_all_weights,
    verify_published,
)
from trainers.packed_trunk import pack, wanted_states
from trainers.quantisation import quantisation
from trainers.split_trunk import SplitTrunk

SMALL_MODEL_PARAMETERS = 50_000_000
"""Below this a model is tiny: full fine-tuning fits anywhere, and steps may be larger."""
HEAD_ZEROS_FILE = "head_zeros.safetensors"
"""Of an ensemble of score heads: what is taken from each head's scores."""


class PolicyModel(nn.Module):
    """A causal language model, with adapters or without."""

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.language_model = language_model
        self.split: SplitTrunk | None = None
        self.gradient_checkpointing = False
        self._layers: dict[tuple[int, int | None], list[Layer]] | None = None

    @property
    def causal_model(self) -> PreTrainedModel:
        """The language model itself; adapters live inside its layers."""
        return unwrap(self.language_model)

    @property
    def trunk(self) -> nn.Module:
        return self.causal_model.base_model

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.causal_model.dtype

    @property
    def eos_ids(self) -> set[int]:
        """Every token that ends a response by the model's own generation settings."""
        settings = self.causal_model.generation_config
        eos: int | list[int] | None = getattr(settings, "eos_token_id", None)
        if eos is None:
            return set()
        return set(eos) if isinstance(eos, list) else {eos}

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states after the last layer; padding on either side. (B, T) -> (B, T, H)"""
        return _hidden(self.trunk, input_ids, attention_mask)

    def checkpoint_layers(self) -> None:
        """From now on the layers keep only their inputs for the backward pass, and compute the rest again."""
        self.causal_model.activation_checkpointing_enable()
        self.gradient_checkpointing = True

    @contextlib.contextmanager
    def keeping_inputs_only(self) -> Iterator[None]:
        """For a forward pass with a backward pass to come: `checkpoint_layers` takes effect in here.

        The library does it in training mode only, which would also turn dropout on and the cache of decoding
        off; so the layers are in training mode by themselves, without what is in them.
        """
        modules = self.trunk.modules() if self.gradient_checkpointing else ()
        layers = [module for module in modules if isinstance(module, GradientCheckpointingLayer)]
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def layers(self, first: int, end: int | None = None) -> list[Layer]:
        """The trunk's layers from `first` to before `end`, where it `trainers.llama_layers.is_llama`."""
        if self._layers is None:
            return layers_of(self.trunk, first, end)
        if (first, end) not in self._layers:
            self._layers[first, end] = layers_of(self.trunk, first, end)
        return self._layers[first, end]

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Inside, nobody changes weights or switches adapters: `layers` are made once for all passes."""
        self._layers = {}
        try:
            yield
        finally:
            self._layers = None

    @property
    def output_layer(self) -> nn.Module:
        return cast(nn.Module, self.causal_model.get_output_embeddings())  # type: ignore[no-untyped-call]

    @property
    def trains_output_layer(self) -> bool:
        return any(parameter.requires_grad for parameter in self.output_layer.parameters())

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits in fp32 for any selection of hidden states. (..., H) -> (..., V)"""
        return cast(Tensor, self.output_layer(hidden)).float()


class RewardModel(nn.Module):
    """A language model's trunk with heads that score the last real token; usually one head."""

    def __init__(self, classifier: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.classifier = classifier
        self.tokenizer = tokenizer
        self.gradient_checkpointing = False
        self.head_zeros: Tensor
        self.register_buffer("head_zeros", torch.zeros(self.heads))

    @property
    def heads(self) -> int:
        return cast(int, unwrap(self.classifier).config.num_labels)

    @property
    def trunk(self) -> nn.Module:
        return unwrap(self.classifier).base_model

    @property
    def shares_beginnings(self) -> bool:
        """Whether what rows begin with is computed once. Not under autocast: the library's layers compute."""
        return is_llama(self.trunk) and not torch.is_autocast_enabled(self.head_zeros.device.type)

    def head_scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Each head's score of each row of token ids, in one forward pass. (B, heads)"""
        head = cast(nn.Module, unwrap(self.classifier).score)
        states = self._last_states(rows)
        precision = next((weights.dtype for weights in head.parameters()), states.dtype)
        return cast(Tensor, head(states.to(precision))).float() - self.head_zeros

    def _last_states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Each row's hidden state at its last token. (B, H)"""
        device, last = self.head_zeros.device, torch.tensor([len(row) - 1 for row in rows])
        if self.shares_beginnings:
            packed = pack(rows)
            wanted = torch.arange(packed.tokens.shape[1]) == last[:, None]
            states = cast(nn.Module, self.trunk.embed_tokens)(packed.ids.to(device))
            return wanted_states(
                self.trunk,
                layers_of(self.trunk),
                states,
                packed,
                wanted,
                checkpointing=self.gradient_checkpointing,
            )[0]
        ids, mask = pad(rows, 0, "right")
        hidden = _hidden(self.trunk, ids.to(device), mask.to(device))
        return hidden[torch.arange(len(rows), device=device), last.to(device)]


def unwrap(model: nn.Module) -> PreTrainedModel:
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def _hidden(trunk: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    # padding on the left counts for nothing
    position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    output = trunk(
        input_ids=input_ids, attention_mask=attention_mask.long(), position_ids=position_ids, use_cache=False
    )
    return cast(Tensor, output.last_hidden_state)


def device_and_dtype() -> tuple[torch.device, torch.dtype]:
    """bf16 on CUDA, fp32 on CPU, where bf16 matrix products are about fifty times slower."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16
    return torch.device("cpu"), torch.float32


def load_policy(base_model: str, directory: str = "") -> PolicyModel:
    """A policy in eval mode: the base, full weights, or the base with an adapter.

    Args:
        base_model: local directory or hub name.
        directory: what training produced; empty is the base model itself.
    Raises: ModelError: missing, damaged, changed, unsafe or too large.
    """
    device, dtype = device_and_dtype()
    language_model = load_language_model(base_model, directory, dtype)
    return PolicyModel(language_model).to(device).eval().requires_grad_(False)


def load_reward_model(base_model: str, directory: str) -> RewardModel:
    """A reward model in eval mode: full weights, or an adapter with its score heads on the base.

    Full weights may be of another family than the base model, with a tokenizer of their own.

    Raises: ModelError: missing, damaged, changed, unsafe, too large, or with another kind of head.
    """
    device, dtype = device_and_dtype()
    path = existing(directory)
    is_adapter = holds_adapter(path)
    source = local_directory(base_model if is_adapter else path)
    config = loadable_config(source)
    classifier = load_classifier(source, config, len(score_weight(path)), dtype)
    if is_adapter:
        classifier = load_adapter(classifier, path)
    reward = assembled_reward_model(classifier, path, base_model)
    return reward.to(device).eval().requires_grad_(False)


def loadable_config(source: str, shards: int = 1, base_bits: int = 16) -> PreTrainedConfig:
    """Raises: ModelError: the model is missing, of another architecture or too large (`check_memory`)."""
    config = load_config(source)
    check_memory(config, source, shards, base_bits)
    return config


def load_classifier(source: str, config: PreTrainedConfig, heads: int, dtype: torch.dtype) -> PreTrainedModel:
    """A model with score heads, which are new where its directory has none.

    Raises: ModelError: damaged, unsafe or not all there.
    """
    with _without_report_of_new_head():
        return _loaded(AutoModelForSequenceClassification, source, config, num_labels=heads, dtype=dtype)


def _loaded(kind: Any, source: str, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """A model of one of the library's kinds. Raises: ModelError: damaged, unsafe or not all there."""
    with readable(source):
        model, info = kind.from_pretrained(
            source,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    require_all_weights(info, config.num_hidden_layers, source)
    return cast(PreTrainedModel, model)


def assembled_reward_model(classifier: nn.Module, path: Path, base_model: str) -> RewardModel:
    """A classifier with tokenizer and zeros of the heads from a reward model's directory.

    Args:
        base_model: has the tokenizer where the directory holds none.
    Raises: ModelError: it gives several numbers to an answer and is no ensemble of ours.
    """
    has_tokenizer = (path / "tokenizer_config.json").is_file()
    reward = RewardModel(classifier, load_tokenizer(path if has_tokenizer else base_model, "right"))
    if (path / HEAD_ZEROS_FILE).is_file():
        with readable(path):
            reward.load_state_dict({"head_zeros": load_file(path / HEAD_ZEROS_FILE)["zeros"]}, strict=False)
    elif reward.heads > 1:
        raise ModelError(
            f"`{path}` gives {reward.heads} numbers to an answer and is no ensemble of ours; "
            "needed is one score"
        )
    return reward


def resolve_tuning(config: PPOConfig | RewardConfig, parameter_count: int) -> Literal["full", "lora"]:
    """What `auto` means: LoRA for PPO, which then drifts less at every size; for the reward model by size.

    Source: docs/decisions/ppo-tuning.md.
    """
    if config.tuning != "auto":
        return config.tuning
    if isinstance(config, PPOConfig):
        return "lora"
    return "full" if parameter_count < SMALL_MODEL_PARAMETERS else "lora"


def pad(rows: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """Rows of token ids as one tensor and its mask, True on real tokens. ((B, T), (B, T) bool)"""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = True
    return ids, mask


def count_parameters(base_model: str) -> int:
    """Parameters of a model, from its configuration alone."""
    return parameter_count(load_config(base_model))


def load_language_model(
    base_model: str, directory: str, dtype: torch.dtype, shards: int = 1, base_bits: int = 16
) -> nn.Module:
    """A causal language model with the adapter of a directory, if that holds one; with fewer than 16
    `base_bits` its layers' weights are quantised.

    Raises: ModelError, ConfigError.
    """
    path = existing(directory) if directory else None
    is_adapter = path is not None and holds_adapter(path)
    source = local_directory(path if path is not None and not is_adapter else base_model)
    config = loadable_config(source, shards, base_bits)
    quantised = {} if base_bits == 16 else quantisation(base_bits, dtype)
    model = _loaded(AutoModelForCausalLM, source, config, dtype=dtype, **quantised)
    return load_adapter(model, cast(Path, path)) if is_adapter else model


def score_weight(path: Path) -> Tensor:
    """Score heads of a reward model's directory. (heads, H)

    Raises: ModelError: it holds none; the library would make one of random numbers.
    """
    with readable(path):
        for file in sorted(path.glob("*.safetensors")):
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118
                    if name.endswith("score.weight"):
                        return cast(Tensor, weights.get_tensor(name))
    raise ModelError(
        f"`{path}` holds no `score.weight`, so it is no reward model that scores the last token; needed is "
        "what the reward stage makes, or an AutoModelForSequenceClassification of a causal family"
    )


@contextlib.contextmanager
def _without_report_of_new_head() -> Iterator[None]:
    """Silences the loader's table of weights that a base model does not have: the score head comes later."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def existing(directory: str) -> Path:
    """A model's directory. Raises: ModelMissingError: there is none. ModelError: it is not as published."""
    path = Path(directory)
    if not path.is_dir():
        raise ModelMissingError(
            f"the model directory `{directory}` does not exist; needed is what a training run produced"
        )
    verify_published(path)
    return path
