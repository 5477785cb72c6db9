"""A frozen base in 8 or 4 bits a weight, where bitsandbytes is installed.

The adapters on it, the value head, embeddings and output layer keep their precision. Used by
`trainers.models`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from trainers.errors import ConfigError


def quantisation(base_bits: int, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments for the library's loader: weights in 8 or 4 bits, products in `dtype`.

    4 bits are NF4 with quantised scales. Source: Dettmers et al. 2023, "QLoRA", arXiv:2305.14314; 8 bits:
    Dettmers et al. 2022, "LLM.int8()", arXiv:2208.07339.

    Raises: ConfigError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"`base_bits` is `{base_bits}`, which needs the package `bitsandbytes`; install it "
            "(`pip install bitsandbytes`), or set `base_bits` to 16"
        )
    if base_bits == 8:
        settings = BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    else:
        settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": settings, "device_map": {"": device}}
