"""One training in several processes, one a GPU, that torchrun started: torch's
DistributedDataParallel, and what it leaves open.

Every process does the whole run; only the steps of a training and its evaluations are shared. Of
each batch's micro-batches (see `protocols`) every process takes its part, in their order. So what
BatchNorm normalises by is what it would be in one process, without SyncBatchNorm, which torch has
for GPUs alone; its running statistics, which the micro-batches move one after the other, are put
together as if they had (`RunningStatistics`). Gradients, counts and losses are sums over processes:
all is as in one process but for the order of sums.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torchbearer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torchbearer.callbacks import Callback

from common.base.errors import ConfigurationError
from common.pruning.masks import Masks


def rank() -> int:
    """This process's number among those of its run; 0 writes."""
    return int(os.environ.get("RANK", 0))


def size() -> int:
    """How many processes share this run's trainings."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join(model: nn.Module, micro_batch: int | None) -> None:
    """Meet the other processes, if there are any. Raises ConfigurationError for a network with
    BatchNorm where the protocol does not split batches: each process would normalise by its own."""
    if size() == 1:
        return
    if micro_batch is None and _norms(model):
        raise ConfigurationError(
            f"gpus={size()}: this protocol has no micro_batch, so BatchNorm normalises by whole "
            "batches, of which no GPU sees more than a part; run it with gpus: 1, several at a time"
        )
    if not dist.is_initialized():
        on_gpu = next(model.parameters()).is_cuda
        dist.init_process_group("nccl" if on_gpu else "gloo")


def of_first(value: object) -> object:
    """What the first process has."""
    if size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def masks_of_first(masks: Masks) -> Masks:
    """The first process's masks: kernels that add in an order of their own may have made others."""
    for mask in masks.values() if size() > 1 else ():
        as_bytes = mask.to(torch.uint8)
        dist.broadcast(as_bytes, 0)
        mask.copy_(as_bytes)
    return masks


def summed(values: Sequence[float | Tensor], device: torch.device) -> list[float]:
    """Each value's sum over all processes."""
    if size() == 1:
        return [float(value) for value in values]
    total = torch.tensor([float(v) for v in values], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def part(count: int, micro_batch: int | None = None) -> slice:
    """Which of a batch's `count` images are this process's: whole micro-batches, or where there are
    none an equal part. It may be empty."""
    each = micro_batch or -(-count // size())
    first, last = (_share(-(-count // each), number) for number in (rank(), rank() + 1))
    return slice(first * each, min(last * each, count))


def wrapped(model: nn.Module) -> nn.Module:
    """The model for a training's steps: gradients are means over the processes."""
    if size() == 1:
        return model
    with warnings.catch_warnings():  # torch 2.15 has a new name for this, that 2.4 does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(_OrNothing(model), broadcast_buffers=False)


def weight(train_data, state: torchbearer.State) -> float:
    """Of this process's part of a batch, so that the mean over processes is that over images."""
    if size() == 1:
        return 1.0
    return size() * len(state[torchbearer.Y_TRUE]) / _images(train_data, state)


def _images(train_data, state: torchbearer.State) -> int:
    """Of the whole batch: the last one may hold fewer than the others."""
    most = train_data.batch_size
    return min(most, len(train_data.labels) - most * state[torchbearer.BATCH])


def _share(pieces: int, number: int) -> int:
    """Of so many pieces, the first that belongs to process `number`."""
    return pieces * number // size()


class _OrNothing(nn.Module):
    """The model; for no images at all a zero that hangs on every weight, since
    DistributedDataParallel waits for each one's gradient in every process."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        if len(images):
            return self.model(images)
        return sum((p * 0).sum() for p in self.parameters()).expand(0, 1)


class RunningStatistics(Callback):
    """BatchNorm's running statistics after every step, as if all the micro-batches of the batch had
    gone through one network.

    One of them makes a r + (1 - a) x of a statistic r, a = 1 - momentum. A process that saw c of
    them has a^c r + s; these are put in order: r a^(c0 + c1 + ...) + s0 a^(c1 + ...) + ...
    """

    def __init__(self, model: nn.Module, train_data, micro_batch: int) -> None:
        super().__init__()
        self.train_data, self.micro_batch = train_data, micro_batch
        self.norms = _norms(model)
        self.statistics = [s for n in self.norms for s in (n.running_mean, n.running_var)]

    def on_start_training(self, state) -> None:
        self.before, self.counted = self._flat(), [int(n.num_batches_tracked) for n in self.norms]

    def on_step_training(self, state) -> None:
        pieces = -(-_images(self.train_data, state) // self.micro_batch)
        firsts = [_share(pieces, number) for number in range(size() + 1)]
        keep = 1 - self.norms[0].momentum
        own = self._flat() - keep ** (firsts[rank() + 1] - firsts[rank()]) * self.before
        own *= keep ** (pieces - firsts[rank() + 1])
        dist.all_reduce(own)
        self.before = own + keep**pieces * self.before
        sizes = [s.numel() for s in self.statistics]
        for statistic, value in zip(self.statistics, self.before.split(sizes), strict=True):
            statistic.copy_(value)
        self.counted = [count + pieces for count in self.counted]
        for norm, count in zip(self.norms, self.counted, strict=True):
            norm.num_batches_tracked.fill_(count)

    def _flat(self) -> Tensor:
        return torch.cat([statistic.double() for statistic in self.statistics])


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
