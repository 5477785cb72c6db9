"""How time and memory are read on the device that torch finds; runs in every environment."""

from __future__ import annotations

import time

import torch


class Device:
    """The CPU, measured in CPU seconds; or the GPU, in seconds of the clock and its own peak memory."""

    def __init__(self) -> None:
        self.is_cuda = torch.cuda.is_available()
        if not self.is_cuda:
            torch.set_num_threads(1)

    def now(self) -> float:
        if not self.is_cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def figures(self) -> dict[str, float]:
        """Peak of the GPU's memory, weights included."""
        return {"gpu_peak_gib": torch.cuda.max_memory_allocated() / 2**30} if self.is_cuda else {}
