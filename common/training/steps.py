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


def graphs_for(device: torch.device, precision: str) -> cuda_graphs.Graphs | None:
    """What captures training steps there; None where they are not captured. A loss scaler decides
    in Python whether a step is taken."""
    captures = device.type == "cuda" and precision != "float16"
    return cuda_graphs.CudaGraphs(device) if captures else None


def whole_step(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    pairs: Sequence[tuple[Tensor, Tensor]],
    precision: str,
) -> cuda_graphs.Step:
    """(images, labels) -> (loss, logits) after a step with all that belongs to it: forward, loss,
    backward, the optimizer, the masks of the `pairs` (weight, mask)."""
    autocast_model = AutocastModel(model, precision)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = autocast_model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        # At the end: no gradient, and nothing that knows this step's stream, outlives it.
        optimizer.zero_grad(set_to_none=True)
        multiply(pairs)
        return loss.detach(), logits.detach()

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
        return {
            **{"weights": weights, "momentum": momentum},
            **{"statistics": statistics, "counters": counters},
        }

    return cuda_graphs.Captured(step, changed, graphs)


def make_optimizer(
    model: nn.Module, hyper: Protocol, precision: str, whole: bool = False
) -> torch.optim.SGD:
    """SGD as the protocol has it. whole: its steps are part of the closure, which a graph may
    replay; its learning rate is then a tensor (), since a graph reads that anew in every replay."""
    device = next(model.parameters()).device
    scaled = device.type == "cuda" and precision == "float16"
    rate = hyper.learning_rate
    if whole:
        # The fused kernel wants float32; on a CPU a double is the number that it would be.
        double = device.type == "cpu"
        rate = torch.tensor(rate, device=device, dtype=torch.float64 if double else torch.float32)
    return (ScaledSGD if scaled else _SteppedInClosure if whole else torch.optim.SGD)(
        model.parameters(),
        lr=rate,
        momentum=hyper.momentum,
        nesterov=hyper.nesterov,
        weight_decay=hyper.weight_decay,
        # One kernel instead of several for each parameter. On a CPU it is a hundredth of a step,
        # and rounds otherwise; the scaler calls this optimizer's step itself.
        fused=True if device.type == "cuda" and not scaled else None,
    )


class _SteppedInClosure(torch.optim.SGD):
    """SGD whose closure, where it gets one, takes the step itself."""

    def step(self, closure=None):
        return super().step() if closure is None else closure()


class ScaledSGD(torch.optim.SGD):
    """SGD whose closure leaves gradients of the scaled loss; float16 gradients would underflow."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.scaler = torch.amp.GradScaler("cuda")

    def step(self, closure=None):
        if closure is None:
            return super().step()
        loss = closure()
        # Calls step() again without a closure, unless a gradient overflowed.
        self.scaler.step(self)
        self.scaler.update()
        return loss


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


def gradients(state: torchbearer.State) -> Tensor:
    """Gradients of one batch; the optimizer's step calls it."""
    optimizer = state[torchbearer.OPTIMIZER]
    optimizer.zero_grad(set_to_none=True)
    logits = state[torchbearer.MODEL](state[torchbearer.X])
    loss = state[torchbearer.CRITERION](logits, state[torchbearer.Y_TRUE])
    scaler = getattr(optimizer, "scaler", None)
    (loss if scaler is None else scaler.scale(loss)).backward()
    state[torchbearer.Y_PRED], state[torchbearer.LOSS] = logits, loss
    return loss


def replaying(step: cuda_graphs.Step) -> Callable[[torchbearer.State], Tensor]:
    """A closure that takes the whole step."""

    def closure(state: torchbearer.State) -> Tensor:
        loss, logits = step(state[torchbearer.X], state[torchbearer.Y_TRUE])
        state[torchbearer.Y_PRED], state[torchbearer.LOSS] = logits, loss
        return loss

    return closure
