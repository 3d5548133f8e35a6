"""Training with torchbearer: the trial, its closure and metrics, and what keeps its traps shut."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import torch
import torchbearer
from torch import Tensor, nn
from torch.nn import functional as F
from torchbearer import Trial
from torchbearer.metrics import Metric

from common import environment
from common.callbacks import ApplyMasks, Bar, History, Recorder, Schedule
from common.protocols import Protocol
from common.pruning import Masks


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
) -> History:
    """Train the masked `model` for `epochs`; its pruned weights stay zero throughout.

    train_data, test_data: loaders of (images, labels) on the model's device. `precision`: float32,
    or bfloat16 / float16 for autocast around the forward pass (the weights stay float32).
    folder: where a run leaves its progress and, every two minutes, a checkpoint from which the same
    call continues with the result an uninterrupted run would have had. progress: a title for a
    progress bar, shown when a person watches.
    """
    history = History()
    optimizer = _optimizer(model, hyper, precision)
    recorder = Recorder(history, optimizer, train_data, folder, epochs)
    callbacks = [Schedule(optimizer, hyper), ApplyMasks(model, masks), recorder]
    if progress and environment.person_watches():
        callbacks.append(Bar(progress, epochs))
    trial = _trial(model, precision, optimizer, callbacks)
    trial.with_train_generator(train_data).with_val_generator(test_data).with_closure(_closure)
    done = recorder.resume(model, masks)
    if not done:
        recorder.before_training(evaluate(model, test_data, precision))
    # torchbearer goes on from the length of its history.
    trial.state[torchbearer.HISTORY] = [{} for _ in range(done)]
    train_data.epoch = done
    started = time.perf_counter()
    before = history.seconds
    recorder.clock = lambda: before + time.perf_counter() - started
    trial.run(epochs, verbose=0)
    history.seconds = recorder.clock()
    return history


def evaluate(model: nn.Module, data, precision: str = "float32") -> dict[str, float]:
    """{`test_loss`, `test_accuracy` in percent} of the model in eval mode; its mode stays."""
    was = model.training
    # A trial of its own: evaluating fires every callback's start and end again.
    measured = _trial(model, precision).with_val_generator(data).evaluate(verbose=0)
    model.train(was)
    return {name: measured[name] for name in ("test_loss", "test_accuracy")}


def _trial(model: nn.Module, precision: str, optimizer=None, callbacks=()) -> Trial:
    framed, metrics = _Framed(model, precision), [_LossAndAccuracy()]
    trial = Trial(framed, optimizer, _cross_entropy, metrics, list(callbacks), verbose=0)
    return trial.with_loader(_next_batch)


def _next_batch(state: torchbearer.State) -> None:
    # The loaders' batches are on the device; torchbearer would bring them to the CPU.
    state[torchbearer.X], state[torchbearer.Y_TRUE] = next(state[torchbearer.ITERATOR])


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def _optimizer(model: nn.Module, hyper: Protocol, precision: str) -> torch.optim.SGD:
    scaled = precision == "float16" and next(model.parameters()).device.type == "cuda"
    return (_ScaledSGD if scaled else torch.optim.SGD)(
        model.parameters(),
        lr=hyper.learning_rate,
        momentum=hyper.momentum,
        nesterov=hyper.nesterov,
        weight_decay=hyper.weight_decay,
    )


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
    """The model as torchbearer calls it, with `state`, under autocast.

    Without the `state` argument every batch would raise an exception and run a second time.
    """

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model = model
        self.dtype = environment.DTYPES[precision]

    def forward(self, images: Tensor, state=None) -> Tensor:
        lower = self.dtype is not torch.float32
        with torch.autocast(images.device.type, self.dtype) if lower else contextlib.nullcontext():
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


class _LossAndAccuracy(Metric):
    """Mean loss and accuracy (percent) of an epoch, summed on the device and read once at its end:
    torchbearer's own metrics wait for the device at every batch."""

    def __init__(self) -> None:
        super().__init__("loss_and_accuracy")
        self.prefix = "train"
        self.sums: Tensor | None = None
        self.count = 0

    def train(self) -> None:
        self.prefix = "train"

    def eval(self, data_key=None) -> None:
        self.prefix = "test"

    def reset(self, state) -> None:
        self.sums, self.count = None, 0

    def process(self, state) -> dict:
        logits, labels = state[torchbearer.Y_PRED], state[torchbearer.Y_TRUE]
        loss = state[torchbearer.LOSS].detach() * len(labels)
        hits = (logits.detach().argmax(1) == labels).sum()
        sums = torch.stack([loss, hits.to(loss.dtype)])
        self.sums = sums if self.sums is None else self.sums.add_(sums)
        self.count += len(labels)
        return {}

    def process_final(self, state) -> dict[str, float]:
        loss, hits = self.sums.tolist()
        return {
            f"{self.prefix}_loss": loss / self.count,
            f"{self.prefix}_accuracy": 100 * hits / self.count,
        }
