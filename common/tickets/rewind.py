"""Going back in a training: to a step's weights, and to the batches and learning rates after it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torchbearer
from torch import Tensor
from torchbearer.callbacks import Callback

from common.datasets import Loader


class Remaining:
    """The batches of a training that are left from iteration `step` on, epoch by epoch.

    Its first epoch lacks the batches that were already done; `epoch` counts from there.
    """

    def __init__(self, loader: Loader, step: int) -> None:
        self.loader = loader
        self.started, self.done = divmod(step, len(loader))
        self.epoch = 0  # of the next iteration

    def __len__(self) -> int:
        """The batches of a whole epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.loader.epoch = self.started + self.epoch
        self.epoch += 1
        return itertools.islice(iter(self.loader), self._skipped(), None)

    @property
    def labels(self) -> Tensor:
        """One for each image of the epoch under way."""
        return self.loader.labels[self._skipped() * self.loader.batch_size :]

    def _skipped(self) -> int:
        return self.done if self.epoch == 1 else 0


class ShortFirstEpoch(Callback):
    """Tells torchbearer that the first epoch has `done` batches fewer."""

    def __init__(self, done: int) -> None:
        super().__init__()
        self.done = done

    def on_start_training(self, state) -> None:
        if state[torchbearer.EPOCH] == 0:
            state[torchbearer.STEPS] -= self.done


class AtStep(Callback):
    """Calls `act` after the iteration that completes `step` of them, with `per_epoch` an epoch."""

    def __init__(self, step: int, per_epoch: int, act: Callable[[], None]) -> None:
        super().__init__()
        self.step, self.per_epoch, self.act = step, per_epoch, act

    def on_step_training(self, state) -> None:
        if state[torchbearer.EPOCH] * self.per_epoch + state[torchbearer.BATCH] + 1 == self.step:
            self.act()
