"""Training with torchbearer: the trial, its closure and metric, and what keeps its traps shut."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torchbearer
from torch import Tensor, nn
from torch.nn import functional as F
from torchbearer import Trial
from torchbearer.callbacks import Callback
from torchbearer.metrics import Metric

from common.base import environment
from common.pruning import Masks
from common.pruning.scores import in_mode
from common.training import cuda_graphs, steps
from common.training.callbacks import ApplyMasks, Bar, History, Measure, Recorder, Schedule, Stage
from common.training.protocols import Protocol


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
    pays = captured and epochs * len(train_data) >= cuda_graphs.FEWEST_STEPS
    device = next(model.parameters()).device
    graphs = steps.graphs_for(device, precision) if pays else None
    optimizer = steps.make_optimizer(model, hyper, precision, whole=graphs is not None)
    schedule = Schedule(optimizer, hyper, len(train_data))
    recorder = Recorder(history, schedule, train_data, folder, epochs, stage or Stage(), more)
    measure = functools.partial(evaluate, model, test_data, precision)
    masking = ApplyMasks(model, masks)
    callbacks = [schedule, masking, Measure(measure), recorder, *more]
    closure = steps.gradients
    if graphs is not None:
        callbacks.remove(masking)
        step = steps.whole_step(model, optimizer, masking.pairs, precision)
        closure = steps.replaying(steps.captured_step(step, model, optimizer, graphs))
    if progress and environment.person_watches():
        callbacks.append(Bar(progress, epochs))
    framed, metrics = steps.Framed(model, precision), [_LossAndAccuracy("train")]
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
    trial.with_closure(steps.gradients)
    history.seconds = recorder.clock()
    return history


@torch.no_grad()
def evaluate(model: nn.Module, data, precision: str = "float32") -> dict[str, float]:
    """{`test_loss`, `test_accuracy` in percent} of the model in eval mode; its modes stay.

    A loop of its own: torchbearer's evaluation calls a network that fails a second time and then
    raises an exception of another type.
    """
    framed, metric = steps.Framed(model, precision), _LossAndAccuracy("test")
    with in_mode(model, training=False):
        for images, labels in data:
            logits = framed(images)
            metric.add(F.cross_entropy(logits, labels), logits, labels)
    return metric.means()


def _next_batch(state: torchbearer.State) -> None:
    # The loaders' batches are on the device; torchbearer would bring them to the CPU.
    state[torchbearer.X], state[torchbearer.Y_TRUE] = next(state[torchbearer.ITERATOR])


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
