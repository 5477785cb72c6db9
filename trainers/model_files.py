"""Finds a model's files and says whether the model fits into memory, before any weight is loaded.

Reads the configuration only. Used by `trainers.models`, which loads the weights.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from trainers.errors import ConfigError, MemoryLimitError, ModelError, ModelMissingError
from trainers.manifest import MANIFEST, verify_manifest

HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
"""What is downloaded of a hub model: no pickles, no code."""
OVERHEAD = 1.2
"""Activations and the cache of keys and values, on top of the weights."""
LEAST_PROMPT = 8
"""Tokens of a model's context that a response must leave."""
SUPPORTED = "a model of the Llama, Qwen2, Qwen3 or Mistral family"
_UNUSABLE = (
    AttributeError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""What the libraries raise on files that they cannot use."""


def local_directory(model: str | Path) -> str:
    """Where a model lies on this machine; one of the hub is downloaded if it is not there yet.

    Raises: ModelMissingError: there is no such directory, and the hub does not hand out such a model.
    """
    if Path(model).is_dir():
        return str(model)
    if Path(model).is_absolute() or str(model).startswith(".") or str(model).count("/") > 1:
        raise ModelMissingError(
            f"the model directory `{model}` does not exist; give a directory or a name of the hub"
        )
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            return snapshot_download(str(model), allow_patterns=HUB_FILES, local_files_only=True)
        return snapshot_download(str(model), allow_patterns=HUB_FILES)
    except (OSError, ValueError) as error:
        raise ModelMissingError(
            f"`{model}` is neither a directory nor a model that the hub hands out from here; give a model "
            f"directory, or download it with `hf download {model} --local-dir DIR` ({_first_line(error)})"
        ) from error


def load_config(base_model: str) -> PreTrainedConfig:
    """Raises: ModelError: there is no such model, or its architecture cannot be used."""
    source = local_directory(base_model)
    with readable(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    for scaling in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, scaling, None) not in (None, 1, 1.0):
            raise ModelError(
                f"`{base_model}` ({config.model_type}) changes its logits by `{scaling}`, "
                f"which is not supported; use {SUPPORTED}"
            )
    return cast(PreTrainedConfig, config)


def check_memory(config: PreTrainedConfig, name: str, shards: int = 1, base_bits: int = 16) -> None:
    """Refuse a model too large for this machine.

    Args:
        shards: GPUs over which the weights are spread; the machine's own memory holds them whole for a while.
        base_bits: bits of a weight; 16 means what the device computes in.
    Raises: MemoryLimitError: the weights and some room to work do not fit into free memory.
    """
    bytes_each = 2 / shards if torch.cuda.is_available() else 4
    if base_bits < 16:
        bytes_each = base_bits / 8
    needed = int(OVERHEAD * bytes_each * parameter_count(config))
    free = free_bytes()
    if needed > free:
        raise MemoryLimitError(
            f"`{name}` needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; "
            "use a smaller model, free memory, or run on a machine with more"
        )


def longest_prompt(config: PreTrainedConfig, max_prompt_tokens: int, max_response_tokens: int) -> int:
    """Most tokens of a prompt: those asked for, or as many as a response leaves in the model's context.

    Raises: ConfigError: it leaves no room.
    """
    room = getattr(config, "max_position_embeddings", 2**31) - max_response_tokens
    if room < LEAST_PROMPT:
        raise ConfigError(
            f"`max_response_tokens` is `{max_response_tokens}`, which leaves {room} tokens of the model's "
            f"context for the prompt; needed are at least {LEAST_PROMPT}: set it lower"
        )
    return min(max_prompt_tokens, room)


def parameter_count(config: PreTrainedConfig) -> int:
    """Parameters of a model, without making any.

    Raises: ModelError: it is no causal language model, or of an architecture that is not supported.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except _UNUSABLE as error:
        raise ModelError(
            f"a configuration of type `{config.model_type}` gives no causal language model "
            f"({_first_line(error)}); needed is {SUPPORTED}"
        ) from error
    if not hasattr(model.base_model, "layers"):
        raise ModelError(
            f"a model of type `{config.model_type}` is not supported, since its trunk has no `layers`; "
            f"needed is {SUPPORTED}"
        )
    return sum(parameter.numel() for parameter in model.parameters())


def free_bytes() -> int:
    """Memory that can still be taken: of the GPU, or of the machine and this process's control group."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    limits = [_available_on_machine(), *_available_in_cgroup()]
    return min(limits)


def _available_on_machine() -> int:
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return 2**62  # not Linux: let the loader find out
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _available_in_cgroup(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    try:
        limit, used = (root / "memory.max").read_text().strip(), (root / "memory.current").read_text().strip()
        return [] if limit == "max" else [int(limit) - int(used) + _reclaimable(root)]
    except OSError:
        return []


def _reclaimable(root: Path) -> int:
    statistics = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    return int(statistics.get("inactive_file", 0))


def verify_published(directory: Path) -> None:
    """Raises: ModelError: the directory has a manifest, and is not what that says."""
    if (directory / MANIFEST).is_file():
        verify_manifest(directory.resolve())


def require_all_weights(info: dict[str, Any], layers: int, directory: str | Path) -> None:
    """Refuse weights that are not those of the configuration: in their place the library makes random ones.

    A score head may be missing: it is made new, or comes with an adapter.

    Args:
        info: what the loader tells with `output_loading_info`.
        layers: of the configuration.
    Raises: ModelError: a weight is missing or has another shape, or there are layers too many.
    """
    if missing := sorted(name for name in info["missing_keys"] if not name.endswith("score.weight")):
        fault = f"lacks {_some(missing)}"
    elif changed := sorted(name for name, *_ in info["mismatched_keys"]):
        fault = f"has another shape of {_some(changed)} than config.json says"
    elif surplus := sorted(name for name in info["unexpected_keys"] if _layer_number(name) >= layers):
        fault = f"has {_some(surplus)}, but `num_hidden_layers` is `{layers}` in config.json"
    else:
        return
    raise ModelError(
        f"`{directory}` {fault}; needed are the weights of exactly this config.json: get the model again"
    )


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"`{name}`" for name in names[:3]) + rest


def _layer_number(name: str) -> int:
    """The layer that a weight belongs to, -1 if to none."""
    found = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


@contextlib.contextmanager
def readable(directory: str | Path) -> Iterator[None]:
    """Turn what the libraries raise on a damaged or unsafe model into a `ModelError`."""
    try:
        yield
    except _UNUSABLE as error:
        raise ModelError(f"{_unusable(Path(directory))} ({_first_line(error)})") from error


def _unusable(directory: Path) -> str:
    if (directory / "adapter_config.json").is_file():
        return (
            f"`{directory}` holds no usable adapter on this base model; needed are adapter_config.json and "
            "adapter_model.safetensors"
        )
    if (directory / "model").is_dir():
        return f"`{directory}` holds no model itself; did you mean `{directory / 'model'}`?"
    return (
        f"`{directory}` holds no usable Hugging Face model; needed are config.json, *.safetensors and "
        "the tokenizer's files"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].endswith(":"):  # the reason is in the next
        lines[0] = " ".join(line.strip() for line in lines[:2])
    return lines[0][:200]
