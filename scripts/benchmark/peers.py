"""The peers' virtual environments: made when a measure first needs one, left alone when it is there.

Standard library only. TRL 1.12.0 is the last release with a PPO trainer and cannot share an environment with
the project's TRL 1.16.0, whose `RewardTrainer` is the other peer and needs none of its own. A CUDA build of
torch comes from `TORCH_INDEX`, as in `make setup`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from scripts import setup_environment
from scripts.benchmark.measure import EnvironmentName
from scripts.benchmark.results import BenchmarkError
from scripts.setup_environment import ROOT, Environment

PINNED = Path(__file__).with_name("trl-1.12.txt")


class PeerEnvironment(Environment):
    """A virtual environment that depends on its own list of versions alone."""

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{sys.version_info[:2]} {self.installs}".encode())
        digest.update(PINNED.read_bytes())
        return digest.hexdigest()


def trl_1_12(torch_index: str) -> PeerEnvironment:
    index = ("--extra-index-url", torch_index) if torch_index else ()
    path = ROOT / ".venv-benchmark-trl-1.12"
    return PeerEnvironment("TRL 1.12", path, (("-r", str(PINNED), *index),))


def python_of(name: EnvironmentName) -> Path:
    """The Python of an environment, which is made if need be.

    Raises: BenchmarkError: it cannot be made.
    """
    if name == "project":
        return Path(sys.executable)
    environment = trl_1_12(os.environ.get("TORCH_INDEX", ""))
    if not environment.is_ready():
        try:
            setup_environment.make(environment)
        except setup_environment.SetupError as error:
            raise BenchmarkError(str(error)) from error
    return environment.python
