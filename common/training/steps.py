"""One step of a training: forward, loss, backward, optimizer, masks; by kernels or replayed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
import torchbearer
from torch import Tensor, nn
from torch.nn import functional as F

from common.base import environment
from common.pruning.masks import multiply
from common.training import cuda_graphs
from common.training.protocols import Protocol


def graphs_for(device: torch.device) -> cuda_graphs.Graphs | None:
    """What captures training steps there; None where they are not captured."""
    return cuda_graphs.CudaGraphs(device) if device.type == "cuda" else None


def whole_step(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    pairs: Sequence[tuple[Tensor, Tensor]],
    precision: str,
    micro_batch: int | None = None,
) -> cuda_graphs.Step:
    """(images, labels) -> (loss, logits) after a step with all that belongs to it: `backward`, the
    optimizer, the masks of the `pairs` (weight, mask)."""
    autocast_model = AutocastModel(model, precision)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        results = backward(autocast_model, optimizer, images, labels, micro_batch)
        getattr(optimizer, "update", optimizer.step)()
        # At the end: no gradient, and nothing that knows this step's stream, outlives it.
        optimizer.zero_grad(set_to_none=True)
        multiply(pairs)
        return results

    optimizer.zero_grad(set_to_none=True)
    return step


def captured_step(
    step: cuda_graphs.Step, model: nn.Module, optimizer: torch.optim.SGD, graphs: cuda_graphs.Graphs
) -> cuda_graphs.Captured:
    """The whole step of `model` and `optimizer`, replayed where it can be."""

    def changed() -> dict[str, list[Tensor]]:
        momentum = [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        weights = [weight.detach() for weight in model.parameters()]
        # Apart: beside a count of batches the change of a running mean would hardly be seen.
        statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        counters = [buffer for buffer in model.buffers() if not buffer.is_floating_point()]
        scaler = getattr(optimizer, "scaler", None)
        return {
            **{"weights": weights, "momentum": momentum},
            **{"statistics": statistics, "counters": counters},
            "scale": [scaler._scale, scaler._growth_tracker] if scaler else [],
        }

    return cuda_graphs.Captured(step, changed, graphs)


def make_optimizer(
    model: nn.Module, hyper: Protocol, precision: str, whole: bool = False
) -> torch.optim.SGD:
    """SGD as the protocol has it. whole: its steps are part of the closure, which a graph may
    replay; its learning rate is then a tensor (), since a graph reads that anew in every replay."""
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    rate = hyper.learning_rate
    if whole:
        # The fused kernel wants float32; on a CPU a double is the number that it would be.
        double = device.type == "cpu"
        rate = torch.tensor(rate, device=device, dtype=torch.float64 if double else torch.float32)
    options = {
        "lr": rate,
        "momentum": hyper.momentum,
        "nesterov": hyper.nesterov,
        "weight_decay": hyper.weight_decay,
        # One kernel instead of several for each parameter. On a CPU it is a hundredth of a step,
        # and rounds otherwise.
        "fused": True if on_gpu else None,
    }
    if on_gpu and precision == "float16":
        return ScaledSGD(model.parameters(), torch.amp.GradScaler("cuda"), whole, **options)
    return (_SteppedInClosure if whole else torch.optim.SGD)(model.parameters(), **options)


class _SteppedInClosure(torch.optim.SGD):
    """SGD whose closure, where it gets one, takes the step itself."""

    def step(self, closure=None):
        return super().step() if closure is None else closure()


class ScaledSGD(torch.optim.SGD):
    """SGD whose closure leaves gradients of the scaled loss; float16 gradients would underflow.

    scaler: takes the scale out again, and leaves out a step whose gradients overflowed: on the
    device, without waiting for it, where the optimizer is fused. whole: the closure takes the step
    itself, by `update`.
    """

    def __init__(self, parameters, scaler: torch.amp.GradScaler, whole: bool, **options) -> None:
        super().__init__(parameters, **options)
        self.scaler, self.whole = scaler, whole
        # The fused kernel makes them itself in its first step, and leaves them unwritten where that
        # one overflows, as the first often does.
        if self.defaults["momentum"]:
            for weight in self.param_groups[0]["params"]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)

    def step(self, closure=None):
        if closure is None:
            return super().step()
        loss = closure()
        if not self.whole:
            self.update()
        return loss

    def update(self) -> None:
        """Take the step, unless a gradient overflowed, and choose the next scale."""
        self.scaler.step(self)  # calls step() without a closure
        self.scaler.update()


class AutocastModel(nn.Module):
    """The model under autocast, its logits in float32."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model = model
        self.dtype = environment.DTYPES[precision]

    def forward(self, images: Tensor) -> Tensor:
        autocast = contextlib.nullcontext()
        if self.dtype is not torch.float32:
            # A cache of cast weights is for weights that are used twice. It would hold them all
            # through an evaluation, and must not get into a CUDA graph.
            autocast = torch.autocast(images.device.type, self.dtype, cache_enabled=False)
        with autocast:
            logits = self.model(images)
        return logits.float()


def gradients(
    state: torchbearer.State,
    model: nn.Module,
    micro_batch: int | None,
    weight: Callable[[torchbearer.State], float],
) -> Tensor:
    """Gradients of one batch; the optimizer's step calls it."""
    optimizer = state[torchbearer.OPTIMIZER]
    optimizer.zero_grad(set_to_none=True)
    batch = state[torchbearer.X], state[torchbearer.Y_TRUE]
    loss, logits = backward(model, optimizer, *batch, micro_batch, weight(state))
    state[torchbearer.Y_PRED], state[torchbearer.LOSS] = logits, loss
    return loss


def backward(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    images: Tensor,
    labels: Tensor,
    micro_batch: int | None = None,
    weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(mean loss, logits) of a batch, without their graph; its gradients, times `weight`, are added
    to the weights'.

    micro_batch: how many images go through the network at a time, all where None. The gradient is
    the whole batch's but for the order of its sums, except that BatchNorm normalises by the images
    that go together, and moves its running statistics each time.
    """
    losses, logits, size = [], [], micro_batch or max(len(labels), 1)
    pieces = list(zip(images.split(size), labels.split(size), strict=True))
    for number, (x, y) in enumerate(pieces, 1):
        # Of several processes, they exchange gradients when the last of these are there.
        alone = number < len(pieces) and hasattr(model, "no_sync")
        with model.no_sync() if alone else contextlib.nullcontext():
            found = model(x)
            share = len(y) / max(len(labels), 1)
            loss = F.cross_entropy(found, y) * share if share else found.sum()
            scaled(optimizer, weight * loss).backward()
        losses.append(loss.detach())
        logits.append(found.detach())
    return sum(losses[1:], losses[0]), logits[0] if len(logits) == 1 else torch.cat(logits)


def scaled(optimizer: torch.optim.SGD, loss: Tensor) -> Tensor:
    """The loss as its gradients are taken of it."""
    scaler = getattr(optimizer, "scaler", None)
    return loss if scaler is None else scaler.scale(loss)


def replaying(step: cuda_graphs.Step) -> Callable[[torchbearer.State], Tensor]:
    """A closure that takes the whole step."""

    def closure(state: torchbearer.State) -> Tensor:
        loss, logits = step(state[torchbearer.X], state[torchbearer.Y_TRUE])
        state[torchbearer.Y_PRED], state[torchbearer.LOSS] = logits, loss
        return loss

    return closure
