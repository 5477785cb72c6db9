"""The measurements of a running stage, one JSON object a line, and the closed list of their names.

Standard library only; knows nothing of what is measured or who reads it. The launcher of the backend follows
the file while it grows and fills the curves of the console from it. `docs/metrics.md` shows the same list.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainers.errors import RunError

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "reward/loss": "The reward model's loss on the rankings that it learns from.",
        "reward/accuracy": "Share of training pairs in which the preferred answer scores higher.",
        "reward/heldout_loss": "The reward model's loss on prompts that it does not learn from.",
        "reward/heldout_accuracy": "Share of held-out pairs in which the preferred answer scores higher.",
        "reward/margin": "Mean score of the preferred answers minus that of the others, on training pairs.",
        "objective/score": "Mean score that the reward model gives the rollouts, before standardising.",
        "objective/reward": "Mean of the whole reward of a rollout: standardised score less the KL penalty.",
        "objective/kl": "Mean KL divergence from the reference, in nats a response.",
        "objective/kl_coef": "Weight of the KL penalty in this update.",
        "objective/entropy": "Mean entropy of the policy, in nats a token.",
        "objective/length": "Mean length of the rollouts in tokens.",
        "objective/eos_share": "Share of the rollouts that ended by themselves.",
        "ppo/policy_loss": "Clipped policy loss, mean over the update.",
        "ppo/value_loss": "Squared error of the value model on the returns of this and the last updates.",
        "ppo/clip_fraction": "Share of the tokens whose probability ratio lay outside the clip range.",
        "ppo/approx_kl": "Approximate KL divergence from the policy that sampled, in nats a token.",
        "ppo/ratio": "Mean probability ratio between the policy and the one that sampled.",
        "ppo/grad_norm": "Norm of the gradient before clipping.",
        "ppo/learning_rate": "Step size of the policy in this update.",
        "ppo/explained_variance": "Share of the returns' variance that the value model foresaw.",
        "verify/score": "Mean score on the verification prompts; the checkpoint is chosen by it.",
        "verify/length": "Mean length of the answers to the verification prompts, in tokens.",
        "verify/kl": "Mean KL divergence from the reference on the verification prompts, in nats a response.",
        "verify/garbled": "Share of repetitive or unfinished answers to the verification prompts.",
        "time/rollout_s": "Seconds spent sampling and scoring the rollouts of this update.",
        "time/update_s": "Seconds spent learning from them.",
    }
)


class Metrics:
    """Appends measurements to a `metrics.jsonl`; each line is on disk's side of a crash of this process.

    Args:
        path: the file; its folder exists.
        offset: where the lines to keep end, in bytes, from the checkpoint that the run resumes from. `None`
            keeps every whole line and drops a half-written last one.
    """

    def __init__(self, path: Path, offset: int | None = None) -> None:
        keep = _end_of_last_line(path) if offset is None else offset
        self._file = path.open("ab", buffering=0)
        if keep > self._file.tell():
            self._file.close()
            raise RunError(
                f"`{path}` is shorter than the checkpoint says ({keep} bytes); restore the file or delete"
                " the run's checkpoints and start it again"
            )
        self._file.truncate(keep)
        self._file.seek(0, os.SEEK_END)

    @property
    def offset(self) -> int:
        """Bytes written so far, always the end of a line: what a checkpoint remembers."""
        return self._file.tell()

    def log(self, step: int, **values: float) -> None:
        """Write the values of one step. A value that is no finite number is left out: a gap in the curve.

        Raises: ValueError: a name is not in `METRICS`.
        """
        if unknown := sorted(set(values) - set(METRICS)):
            raise ValueError(
                f"{unknown} are no metrics; add them to `trainers.metrics.METRICS` and docs/metrics.md"
            )
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
        if finite:
            self._append(step, "metrics", finite)

    def progress(self, done: int, total: int, what: str, *, step: int = 0) -> None:
        """Say how far the stage is, e.g. 12 of 200 `candidates`."""
        self._append(step, "progress", {"done": done, "total": total, "what": what})

    def sample(self, step: int, *, prompt_id: str, prompt: str, response: str, score: float) -> None:
        """Show an answer as it is at this step."""
        shown = score if math.isfinite(score) else None
        content = {"prompt_id": prompt_id, "prompt": prompt, "response": response, "score": shown}
        self._append(step, "sample", content)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, step: int, kind: str, content: Mapping[str, Any]) -> None:
        line = json.dumps({"step": step, "time": round(time.time(), 3), kind: content}, ensure_ascii=False)
        self._file.write(line.encode("utf-8", errors="replace") + b"\n")


class NoMetrics(Metrics):
    """Writes nothing: for the processes of a run that leave the file to the main one."""

    def __init__(self) -> None:
        pass

    @property
    def offset(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def _append(self, step: int, kind: str, content: Mapping[str, Any]) -> None:
        pass


def _end_of_last_line(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
