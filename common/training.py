"""Training with torchbearer: the trial, its closure and metric, and what keeps its traps shut."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchbearer
from torch import Tensor, nn
from torch.nn import functional as F
from torchbearer import Trial
from torchbearer.callbacks import Callback
from torchbearer.metrics import Metric

from common import capture, environment
from common.callbacks import ApplyMasks, Bar, History, Measure, Recorder, Schedule, Stage
from common.protocols import Protocol
from common.pruning import Masks
from common.pruning.masks import multiply
from common.pruning.scores import in_mode


def train(
    model: nn.Module,
    masks: Masks,
    train_data,
    test_data,
    hyper: Protocol,
    epochs: int,
    precision: str,
    *,
    folder: Path | None = None,
    progress: str | None = None,
    stage: Stage | None = None,
    more: Sequence[Callback] = (),
    captured: bool = True,
) -> History:
    """Train the masked `model` for `epochs`; its pruned weights stay zero throughout.

    train_data, test_data: loaders of (images, labels) on the model's device. `precision`: float32,
    or bfloat16 / float16 for autocast around the forward pass (the weights stay float32).
    folder: where a run leaves its progress and, every two minutes, a checkpoint from which the same
    call continues with the result an uninterrupted run would have had. progress: a title for a
    progress bar, shown when a person watches. stage: which one it is, of a run that trains several
    times. more: callbacks beside those of every training; checkpoints keep their `state_dict`s.
    captured: on a CUDA device, replay the whole step from a CUDA graph where that pays and works
    (see `capture`).
    """
    history = History()
    device, steps = next(model.parameters()).device, epochs * len(train_data)
    graphs = graphs_for(device, precision) if captured and steps >= capture.FEWEST_STEPS else None
    optimizer = _optimizer(model, hyper, precision, whole=graphs is not None)
    recorder = Recorder(history, optimizer, train_data, folder, epochs, stage or Stage(), more)
    measure = functools.partial(evaluate, model, test_data, precision)
    masking = ApplyMasks(model, masks)
    callbacks = [Schedule(optimizer, hyper), masking, Measure(measure), recorder, *more]
    closure = _closure
    if graphs is not None:
        callbacks.remove(masking)
        step = whole_step(model, optimizer, masking.pairs, precision)
        closure = _replaying(captured_step(step, model, optimizer, graphs))
    if progress and environment.person_watches():
        callbacks.append(Bar(progress, epochs))
    framed, metrics = _Framed(model, precision), [_LossAndAccuracy("train")]
    trial = Trial(framed, optimizer, F.cross_entropy, metrics, callbacks, verbose=0)
    trial.with_train_generator(train_data).with_loader(_next_batch).with_closure(closure)
    done = recorder.resume(model, masks)
    if not done:
        recorder.before_training(measure())
    # torchbearer goes on from the length of its history.
    trial.state[torchbearer.HISTORY] = [{} for _ in range(done)]
    train_data.epoch = done
    started = time.perf_counter()
    before = history.seconds
    recorder.clock = lambda: before + time.perf_counter() - started
    trial.run(epochs, verbose=0)
    # A trial lives until the garbage collector comes; a graph's memory need not.
    trial.with_closure(_closure)
    history.seconds = recorder.clock()
    return history


@torch.no_grad()
def evaluate(model: nn.Module, data, precision: str = "float32") -> dict[str, float]:
    """{`test_loss`, `test_accuracy` in percent} of the model in eval mode; its modes stay.

    A loop of its own: torchbearer's evaluation calls a network that fails a second time and then
    raises an exception of another type.
    """
    framed, metric = _Framed(model, precision), _LossAndAccuracy("test")
    with in_mode(model, training=False):
        for images, labels in data:
            logits = framed(images)
            metric.add(F.cross_entropy(logits, labels), logits, labels)
    return metric.means()


def _next_batch(state: torchbearer.State) -> None:
    # The loaders' batches are on the device; torchbearer would bring them to the CPU.
    state[torchbearer.X], state[torchbearer.Y_TRUE] = next(state[torchbearer.ITERATOR])


def graphs_for(device: torch.device, precision: str) -> capture.Graphs | None:
    """What captures training steps there; None where they are not captured. A loss scaler decides
    in Python whether a step is taken."""
    captures = device.type == "cuda" and precision != "float16"
    return capture.CudaGraphs(device) if captures else None


def whole_step(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    pairs: Sequence[tuple[Tensor, Tensor]],
    precision: str,
) -> capture.Step:
    """(images, labels) -> (loss, logits) after a step with all that belongs to it: forward, loss,
    backward, the optimizer, the masks of the `pairs` (weight, mask)."""
    framed = _Framed(model, precision)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = framed(images)
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
    step: capture.Step, model: nn.Module, optimizer: torch.optim.SGD, graphs: capture.Graphs
) -> capture.Captured:
    """The whole step of `model` and `optimizer`, replayed where it can be."""

    def changed() -> dict[str, list[Tensor]]:
        momentum = [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        weights = [weight.detach() for weight in model.parameters()]
        return {"weights": weights, "momentum": momentum, "statistics": list(model.buffers())}

    def rates() -> list[float]:
        return [group["lr"] for group in optimizer.param_groups]

    return capture.Captured(step, changed, rates, graphs)


def _optimizer(
    model: nn.Module, hyper: Protocol, precision: str, whole: bool = False
) -> torch.optim.SGD:
    """whole: its steps are part of the closure."""
    device = next(model.parameters()).device.type
    scaled = device == "cuda" and precision == "float16"
    return (_ScaledSGD if scaled else _SteppedInClosure if whole else torch.optim.SGD)(
        model.parameters(),
        lr=hyper.learning_rate,
        momentum=hyper.momentum,
        nesterov=hyper.nesterov,
        weight_decay=hyper.weight_decay,
        # One kernel instead of several for each parameter. On a CPU it is a hundredth of a step,
        # and rounds otherwise; the scaler calls this optimizer's step itself.
        fused=True if device == "cuda" and not scaled else None,
    )


class _SteppedInClosure(torch.optim.SGD):
    """SGD whose closure, where it gets one, takes the step itself."""

    def step(self, closure=None):
        return super().step() if closure is None else closure()


class _ScaledSGD(torch.optim.SGD):
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


class _Framed(nn.Module):
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


def _closure(state: torchbearer.State) -> Tensor:
    """Gradients of one batch; the optimizer's step calls it."""
    optimizer = state[torchbearer.OPTIMIZER]
    optimizer.zero_grad(set_to_none=True)
    logits = state[torchbearer.MODEL](state[torchbearer.X])
    loss = state[torchbearer.CRITERION](logits, state[torchbearer.Y_TRUE])
    scaler = getattr(optimizer, "scaler", None)
    (loss if scaler is None else scaler.scale(loss)).backward()
    state[torchbearer.Y_PRED], state[torchbearer.LOSS] = logits, loss
    return loss


def _replaying(step: capture.Step) -> Callable[[torchbearer.State], Tensor]:
    """A closure that takes the whole step."""

    def closure(state: torchbearer.State) -> Tensor:
        loss, logits = step(state[torchbearer.X], state[torchbearer.Y_TRUE])
        state[torchbearer.Y_PRED], state[torchbearer.LOSS] = logits, loss
        return loss

    return closure


class _LossAndAccuracy(Metric):
    """Mean loss and accuracy (percent) of an epoch, summed on the device and read once at its end:
    torchbearer's own metrics wait for the device at every batch."""

    def __init__(self, prefix: str) -> None:
        super().__init__("loss_and_accuracy")
        self.prefix = prefix
        self.reset({})

    def reset(self, state) -> None:
        self.sums, self.count = torch.zeros(()), 0

    def process(self, state) -> dict:
        self.add(state[torchbearer.LOSS], state[torchbearer.Y_PRED], state[torchbearer.Y_TRUE])
        return {}

    def process_final(self, state) -> dict[str, float]:
        return self.means()

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch with its mean loss."""
        hits = (logits.detach().argmax(1) == labels).sum()
        sums = torch.stack([loss.detach() * len(labels), hits.to(loss.dtype)])
        self.sums = sums + self.sums.to(sums)
        self.count += len(labels)

    def means(self) -> dict[str, float]:
        """{`<prefix>_loss`, `<prefix>_accuracy`} of all that was counted."""
        loss, hits = self.sums.tolist()
        return {
            f"{self.prefix}_loss": loss / self.count,
            f"{self.prefix}_accuracy": 100 * hits / self.count,
        }
