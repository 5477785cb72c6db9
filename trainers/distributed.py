"""Several processes that train one policy together, as torchrun starts them.

    torchrun --nproc_per_node 2 -m trainers ppo --run-dir D

Every process holds the whole model, works on its share of the rows and receives what the others made of
theirs; so all come to the same numbers and to the same decisions. Only the main process writes files. A
`Group` of one does nothing, so that callers read the same for one process and for many.

The only reader of torchrun's environment; knows nothing of models or of PPO. torch is imported only where it
is needed: `trainers.__main__`, which joins the group, must not wait for it. The group goes on to
`trainers.ppo_run` and `trainers.sampling`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trainers.errors import RunError, TrainerError
from trainers.stopping import stop_requested

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMEOUT_S = 1800.0
"""A process that waits longer than this for another gives up; saving a large model takes minutes."""
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of a run and the place of this one among them. All must make the same calls in turn."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """What this process does of the items: every `size`-th one, so sorted items give like shares."""
        return list(items[self.rank :: self.size])

    def batches(self, items: Sequence[T], size: int) -> list[list[T]]:
        """The share in lists of at most `size`; all have equally many lists, some perhaps an empty last one.

        Of items in order of their length a list holds alike ones, which need little padding.
        """
        own, most = self.share(items), -(-len(items) // self.size)
        return [own[start : start + size] for start in range(0, most, size)]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place: whatever the shares have added up, or filled into zeros.

        Raises: RunError: another process is gone.
        """
        if self.size > 1:
            from torch import distributed

            with _lost_process():
                distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give all processes the sum of their gradients, in one message.

        A parameter that has no gradient here takes part with zeros.

        Raises: RunError: another process is gone.
        """
        if self.size == 1:
            return
        import torch

        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(flat, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def on_each(self, act: Callable[[], T]) -> list[T]:
        """Every process acts for itself; all receive all results, in order of rank.

        Args:
            act: must not wait for other processes, except where all of them can only fail afterwards.
        Raises:
            whatever `act` raised, on every process; where that cannot travel, a RunError that tells of it.
            RunError: another process is gone.
        """
        if self.size == 1:
            return [act()]
        from torch import distributed

        result, error = None, None
        try:
            result = act()
        except Exception as caught:  # noqa: BLE001 - raised below, here and on all others
            error = caught
        outcomes: list[Any] = [None] * self.size
        with _lost_process():
            distributed.all_gather_object(outcomes, (result, self._as_told(error)))
        if error is not None:
            raise error
        for _, told in outcomes:
            if told is not None:
                raise told
        return [outcome for outcome, _ in outcomes]

    def on_main(self, act: Callable[[], T]) -> T:
        """The main process acts, e.g. writes a file; all wait for it and receive the result.

        Raises: as `on_each`.
        """
        return self.on_each(cast("Callable[[], T]", act if self.is_main else lambda: None))[0]

    def in_turn(self, act: Callable[[], T]) -> T:
        """One process acts after the other, each for itself.

        Raises: as `on_each`.
        """
        results: list[T] = []

        def take_turn() -> None:
            results.append(act())

        for rank in range(self.size):
            self.on_each(take_turn if rank == self.rank else lambda: None)
        return results[0]

    def from_main(self, decision: T) -> T:
        """The main process's, for all: rounding may differ on another machine."""
        return self.on_main(lambda: decision)

    def any(self, flag: bool) -> bool:
        """True on every process if it is true on any."""
        if self.size == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor(int(flag))))

    def _as_told(self, error: Exception | None) -> TrainerError | None:
        if error is None or isinstance(error, TrainerError):
            return error
        return RunError(
            f"process {self.rank} of {self.size} failed: {type(error).__name__}: {error}; its traceback is in"
            " the output"
        )


ALONE = Group()


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """The processes that torchrun started with this one, until the block ends; without torchrun, one alone.

    With several, being told to stop waits for the end of an update from here on: nobody leaves in the middle.

    Raises: RunError: more processes than GPUs on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    stop_requested()
    backend = "gloo"
    if torch.cuda.is_available():
        local_rank, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= cards:
            raise RunError(
                f"torchrun started {local_rank + 1} processes or more on this machine, which has {cards}"
                f" GPUs; needed is a GPU for each process: `--nproc_per_node {cards}`"
            )
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"  # rollouts and decisions are in the machine's memory
    distributed.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_S))
    try:
        yield current()
    finally:
        distributed.destroy_process_group()


def current() -> Group:
    """What `joined` has joined."""
    from torch import distributed

    if not distributed.is_initialized():
        return ALONE
    return Group(distributed.get_rank(), distributed.get_world_size())


@contextlib.contextmanager
def _lost_process() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no narrower class
        raise RunError(
            "another process of this run has ended or gives no sign of life; its own output says why."
            f" Start the run again: it goes on from its last checkpoint ({str(error).splitlines()[0][:200]})"
        ) from error
