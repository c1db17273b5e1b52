"""One run on several processes (one a GPU): each does a share of the rows, and sums make the whole.

Every loss is divided by what the whole step holds, so the sum of the processes' gradients is the gradient of
one process with the same global batch. All processes draw the same random numbers and take the same steps;
only the first writes events, checkpoints and output.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
LARGEST = ("policy/first_ratio_error",)
"""Figures of which the largest counts; of all others it is the sum."""


class Processes:
    """The processes of a run; alone, every method gives back what it got."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        """Whether this one speaks for all."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's rows: neighbours, so that shares in order of rank are the whole again."""
        cuts = [len(rows) * rank // self.count for rank in range(self.count + 1)]
        return rows[cuts[self.rank] : cuts[self.rank + 1]]

    def gather(self, mine: list[T]) -> list[T]:
        """The lists of all processes, one after the other, on every process."""
        if self.count == 1:
            return mine
        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, mine)
        return [item for part in parts for item in part]

    def any(self, mine: bool) -> bool:
        """Whether it is true on some process; the same answer on all."""
        return any(self.gather([mine]))

    def add(self, whole: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            torch.distributed.all_reduce(whole)
        return whole

    def add_gradients(self, weights: Iterable[Tensor]) -> None:
        """Give every weight that is trained the sum of all processes' gradients, by one message."""
        if self.count == 1:
            return
        trained = [weight for weight in weights if weight.requires_grad]
        flat = torch.cat(
            [
                torch.zeros_like(weight).reshape(-1) if weight.grad is None else weight.grad.reshape(-1)
                for weight in trained
            ]
        )
        parts = self.add(flat).split([weight.numel() for weight in trained])
        for weight, part in zip(trained, parts, strict=True):
            weight.grad = part.view_as(weight).clone()

    def join(self, facts: dict[str, float]) -> dict[str, float]:
        """Figures of the whole step: sums, but the largest of those in LARGEST."""
        parts = self.gather([facts])
        return {
            name: max(part[name] for part in parts) if name in LARGEST else sum(part[name] for part in parts)
            for name in facts
        }

    def part(self) -> None:
        """Once there is nothing more to say, and before the interpreter ends.

        A thread of gloo may still hold the last message; if it lets go of it after that, torch aborts the
        process (SIGABRT), and the launcher calls a run that is done a failure. NCCL's ends wait for one
        another here: the others for as long as the first saves.
        """
        if self.count > 1:
            torch.distributed.destroy_process_group()


def join_processes() -> Processes:
    """The processes that `torch.distributed.run` started, through accelerate; alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState  # picks gloo or NCCL, and this process's GPU

    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes)
