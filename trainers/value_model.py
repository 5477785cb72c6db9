"""The value model of PPO: what a response that is written up to here will be worth in the end.

It reads hidden states of the frozen reference, which PPO runs anyway for the KL penalty. They depend on the
text alone and not on the weights being trained, so the model can learn from earlier updates' responses as
well as from this one's, and its gradient never disturbs the policy. What was measured is in
`docs/decisions/value-model.md`. Imports torch only; used by `trainers.ppo`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.errors import ShapeError

WIDTH = 256
REMEMBERED = 8
"""Updates whose tokens the model learns from; older ones were written by a policy too different."""
TOKENS_REMEMBERED = 4096
"""Most tokens kept of one update, at random: one response's tokens say nearly the same."""
FIT_STEPS = 25
FIRST_FIT_STEPS = 60
FIT_BATCH = 512
LEARNING_RATE = 1e-3
LEAST_DEVIATION = 1e-4
"""A feature that varies by less, measured by the size of all, does not vary."""
MOST_DEVIATIONS = 1000.0
"""A standardised feature further from the mean is taken as this far: fp16 holds it."""


def value_layer(layers: int, lowest: int = 0) -> int:
    """The number of layers below the hidden states that the value model reads.

    Three quarters of them: the last layers know the next token, those before know where the text is going.

    Args:
        layers: layers of the language model.
        lowest: as many must be below, because only what is above them is computed.
    """
    return max(-(-3 * layers // 4), lowest)


class ValueModel(nn.Module):
    """Two layers on standardised features, with the tokens of the last updates that it learns from."""

    def __init__(self, features: int, seed: int) -> None:
        """
        Args:
            features: H, the width of the hidden states.
            seed: of the first weights and of the order in which it learns.
        """
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            hidden, worth = nn.Linear(features, WIDTH), nn.Linear(WIDTH, 1)
        nn.init.zeros_(worth.weight)  # before it has learnt anything, every state is worth 0
        nn.init.zeros_(worth.bias)
        self.layers = nn.Sequential(hidden, nn.GELU(), worth)
        self._seed = seed
        self._memory: deque[tuple[Tensor, Tensor]] = deque(maxlen=REMEMBERED)
        self._fits = 0

    def forward(self, features: Tensor) -> Tensor:
        """(N, H) -> (N,)"""
        out: Tensor = self.layers(self._standardised(features)).squeeze(-1)
        return out

    @torch.no_grad()
    def values(self, features: Tensor) -> Tensor:
        """The estimates, without gradient. (N, H) -> (N,)"""
        out: Tensor = self(features)
        return out

    def learn(self, features: Tensor, returns: Tensor) -> float:
        """Remember an update's tokens, and fit those remembered.

        Targets are whole returns and not bootstrapped ones: no error of the model's own comes back into them.

        Args:
            features: (N, H)
            returns: what came after each of these states. (N,)
        Returns: the mean squared error over the steps made.
        Raises: ShapeError: there is not one return to each state.
        """
        if len(features) != len(returns) or not len(returns):
            raise ShapeError(f"{len(features)} states and {len(returns)} returns; needed is one each")
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._fits)
        does_vary = True
        if not self._fits:
            self._memory.clear()
            does_vary = self._standardise_by(features.float())
        chosen = torch.randperm(len(returns), generator=generator)[:TOKENS_REMEMBERED]
        states = self._standardised(features[chosen.to(features.device)])
        self._memory.append((states.cpu().half(), returns.cpu()[chosen].float()))
        steps = FIT_STEPS if self._fits else FIRST_FIT_STEPS
        self._fits += does_vary  # else the next features are the first again
        # a fresh optimizer each time: the targets have moved, and a checkpoint need not hold its state
        optimizer = torch.optim.AdamW(self.layers.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
        total = 0.0
        for states, targets in self._batches(steps, generator):
            loss = functional.mse_loss(self.layers(states).squeeze(-1), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach())
        return total / steps

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Go on from the weights of an earlier run, and with how it standardised features."""
        self.load_state_dict(weights)
        self._fits = 1

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint must hold, as tensors and numbers."""
        states, targets = zip(*self._memory, strict=True) if self._memory else ((), ())
        return {
            "weights": {name: tensor.clone() for name, tensor in self.state_dict().items()},
            "features": list(states),
            "returns": list(targets),
            "fits": self._fits,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave. Raises: KeyError, RuntimeError: it is another model's."""
        self.load_state_dict(state["weights"])
        self._memory.clear()
        self._memory.extend(zip(state["features"], state["returns"], strict=True))
        self._fits = int(state["fits"])

    def _standardise_by(self, features: Tensor) -> bool:
        """From now on by these; one that does not vary is measured by the size of all, as it may vary later.

        Returns: whether any of them varies.
        """
        size = float(features.square().mean().sqrt()) or 1.0
        deviation = features.std(dim=0, unbiased=False)
        varies = deviation > LEAST_DEVIATION * size
        self.mean.copy_(features.mean(dim=0))
        self.deviation.copy_(torch.where(varies, deviation, size))
        return bool(varies.any())

    def _standardised(self, features: Tensor) -> Tensor:
        return ((features.to(self.mean) - self.mean) / self.deviation).clamp_(
            -MOST_DEVIATIONS, MOST_DEVIATIONS
        )

    def _batches(self, steps: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        features = torch.cat([states for states, _ in self._memory])
        returns = torch.cat([targets for _, targets in self._memory])
        for _ in range(steps):
            rows = torch.randint(len(returns), (FIT_BATCH,), generator=generator)
            yield features[rows].to(self.mean), returns[rows].to(self.mean)
