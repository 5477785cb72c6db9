"""The machine in words, without its name: `12 CPU cores, x86_64 with AVX-512, 64 GiB of memory, Linux, …`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sve": "SVE", "asimd": "NEON"}


def describe_machine() -> str:
    """Cores, instruction set, memory, system and the versions that matter."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return ", ".join(
        (
            f"{os.cpu_count()} CPU cores",
            f"{platform.machine()}{_instructions()}",
            f"{gib:.0f} GiB of memory",
            *_gpu(),
            platform.system(),
            f"Python {'.'.join(platform.python_version_tuple()[:2])}",
            *(f"{name} {version(name).partition('+')[0]}" for name in ("torch", "transformers", "peft")),
        )
    )


def _gpu() -> list[str]:
    import torch  # takes seconds: only when something is measured

    if not torch.cuda.is_available():
        return []
    card = torch.cuda.get_device_properties(0)
    return [f"{card.name} with {card.total_memory / 2**30:.0f} GiB"]


def _instructions() -> str:
    """What matters for matrix products, as far as Linux tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return ""
    lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))]
    flags = set(lines[0].split()) if lines else set()
    found = [name for flag, name in _VECTORS.items() if flag in flags][:1]
    if "amx_bf16" in flags:
        found.append("AMX")
    return f" with {' and '.join(found)}" if found else ""
