"""Training with torchbearer: its trial, closure and metric, workarounds for its pitfalls."""

from __future__ import annotations

import functools
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torchbearer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torchbearer import Trial
from torchbearer.callbacks import Callback
from torchbearer.metrics import Metric

from common.base import environment
from common.pruning import Masks
from common.pruning.scores import in_mode
from common.training import cuda_graphs, parallel, steps
from common.training.callbacks import (
    ApplyMasks,
    Bar,
    Dropout,
    History,
    Measure,
    Recorder,
    Schedule,
    Stage,
)
from common.training.protocols import Protocol


class Batches(typing.Protocol):
    """What a training goes over: an epoch of (images, labels) at a time, as `datasets.Loader`.

    epoch: the number of the next one. labels: of all images of the epoch.
    """

    epoch: int
    labels: Tensor

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


def train(
    model: nn.Module,
    masks: Masks,
    train_data: Batches,
    test_data: Batches,
    hyper: Protocol,
    epochs: int,
    precision: str,
    *,
    folder: Path | None = None,
    progress: str | None = None,
    stage: Stage | None = None,
    more: Sequence[Callback] = (),
    captured: bool = True,
    seed: int = 0,
) -> History:
    """Train the masked `model` for `epochs`; its pruned weights stay zero throughout.

    train_data, test_data: on the model's device. precision: float32, or bfloat16 / float16 for
    autocast around the forward pass (the weights stay float32).
    folder: where a run leaves its progress and, every two minutes, a checkpoint from which the same
    call continues with the result an uninterrupted run would have had. progress: a title for a
    progress bar, shown when a person watches. stage: which one it is, of a run that trains several
    times. more: callbacks beside those of every training; checkpoints keep their `state_dict`s.
    captured: on a CUDA device, replay the whole step from a CUDA graph where that pays and works
    (see `capture`). seed: of what the network itself draws (see `callbacks.Dropout`). Several
    processes that torchrun started share the training (see `parallel`).
    """
    history, device = History(), next(model.parameters()).device
    parallel.join(model, hyper.micro_batch)
    masks = parallel.masks_of_first(masks)
    if parallel.size() > 1:
        train_data.part = functools.partial(parallel.part, micro_batch=hyper.micro_batch)
        test_data.part = parallel.part
        folder = None if parallel.rank() else folder
    pays = (
        captured and parallel.size() == 1 and epochs * len(train_data) >= cuda_graphs.FEWEST_STEPS
    )
    graphs = steps.graphs_for(device) if pays else None
    optimizer = steps.make_optimizer(model, hyper, precision, whole=graphs is not None)
    schedule = Schedule(optimizer, hyper, len(train_data))
    recorder = Recorder(history, schedule, train_data, folder, epochs, stage or Stage(), more)
    measure = functools.partial(evaluate, model, test_data, precision)
    masking = ApplyMasks(model, masks)
    callbacks = [schedule, masking, Measure(measure), recorder, *more]
    autocast_model, metrics = steps.AutocastModel(model, precision), [_LossAndAccuracy("train")]
    closure = functools.partial(
        steps.gradients,
        model=parallel.wrapped(autocast_model),
        micro_batch=hyper.micro_batch,
        weight=functools.partial(parallel.weight, train_data),
    )
    drops = any(isinstance(module, _DropoutNd) for module in model.modules())
    if drops:
        callbacks.append(Dropout(seed))
    if parallel.size() > 1 and hyper.micro_batch:
        callbacks.insert(0, parallel.RunningStatistics(model, train_data, hyper.micro_batch))
    if graphs is not None:
        callbacks.remove(masking)
        step = steps.whole_step(model, optimizer, masking.pairs, precision, hyper.micro_batch)
        recorder.step = steps.captured_step(step, model, optimizer, graphs)
        closure = steps.replaying(recorder.step)
    if progress and environment.person_watches():
        callbacks.append(Bar(progress, epochs))
    trial = _Trial(autocast_model, optimizer, F.cross_entropy, metrics, callbacks)
    trial.with_train_generator(train_data).with_closure(closure)
    done = recorder.resume(model, masks)
    if not done:
        recorder.before_training(measure())
    # torchbearer goes on from the length of its history.
    trial.state[torchbearer.HISTORY] = [{} for _ in range(done)]
    train_data.epoch = done
    started = time.perf_counter()
    before = history.seconds
    recorder.clock = lambda: before + time.perf_counter() - started
    devices = [device] if device.type == "cuda" else []
    with cuda_graphs.fastest_convolutions(device), torch.random.fork_rng(devices, enabled=drops):
        trial.run(epochs, verbose=0)
    # A trial lives until the garbage collector comes; a graph's memory need not.
    trial.with_closure(None)
    recorder.step = None
    history.seconds = recorder.clock()
    return history


@torch.no_grad()
def evaluate(model: nn.Module, data: Batches, precision: str = "float32") -> dict[str, float]:
    """{`test_loss`, `test_accuracy` in percent} of the model in eval mode; its modes stay.

    A loop of its own: torchbearer's evaluation calls a network that fails a second time and then
    raises an exception of another type.
    """
    autocast_model, metric = steps.AutocastModel(model, precision), _LossAndAccuracy("test")
    with in_mode(model, training=False):
        for images, labels in data:
            if not len(labels):  # another process's
                continue
            logits = autocast_model(images)
            metric.add(F.cross_entropy(logits, labels), logits, labels)
    return metric.means()


class _Trial(Trial):
    """torchbearer's trial, with a lean loop over the steps of an epoch.

    Its own copies the state for the metrics and calls every hook of every callback in each step,
    0.2 ms that show beside the 3 ms of LeNet-300-100's; and it brings the batches to the CPU.
    """

    def __init__(self, model, optimizer, criterion, metrics, callbacks: list[Callback]) -> None:
        super().__init__(model, optimizer, criterion, metrics, callbacks, verbose=0)
        self.before_step = _hooks(callbacks, "on_sample")
        self.after_step = _hooks(callbacks, "on_step_training")

    def _fit_pass(self, state: torchbearer.State) -> torchbearer.State:
        state.update(self.state)
        self.train()
        data, state[torchbearer.STEPS] = state[torchbearer.TRAIN_DATA]
        callbacks, metrics = state[torchbearer.CALLBACK_LIST], state[torchbearer.METRIC_LIST]
        metrics.reset(state)
        batches = iter(data)
        callbacks.on_start_training(state)
        self._take_steps(state, batches, metrics)
        state[torchbearer.METRICS] = metrics.process_final(state)
        callbacks.on_end_training(state)
        return state

    def _take_steps(self, state: torchbearer.State, batches: Iterator, metrics: Metric) -> None:
        optimizer, closure = state[torchbearer.OPTIMIZER], functools.partial(self.closure, state)
        for batch in range(state[torchbearer.STEPS]):
            state[torchbearer.BATCH] = batch
            state[torchbearer.X], state[torchbearer.Y_TRUE] = next(batches)
            for hook in self.before_step:
                hook(state)
            optimizer.step(closure)
            metrics.process(state)
            for hook in self.after_step:
                hook(state)


def _hooks(callbacks: Sequence[Callback], name: str) -> list[Callable]:
    """Those of the callbacks that have one of their own."""
    default = getattr(Callback, name)
    return [getattr(one, name) for one in callbacks if getattr(type(one), name) is not default]


TOP5_CLASSES = 1000  # from so many on, five guesses are counted too


class _LossAndAccuracy(Metric):
    """Mean loss and accuracy (percent) of an epoch, summed on the device and read once at its end:
    torchbearer's own metrics wait for the device at every batch."""

    device = torch.device("cpu")

    def __init__(self, prefix: str) -> None:
        super().__init__("loss_and_accuracy")
        self.prefix = prefix
        self.reset({})

    def reset(self, state) -> None:
        self.loss, self.hits, self.count = 0.0, 0, 0
        self.top5: Tensor | int | None = None

    def process(self, state) -> dict:
        self.add(state[torchbearer.LOSS], state[torchbearer.Y_PRED], state[torchbearer.Y_TRUE])
        return {}

    def process_final(self, state) -> dict[str, float]:
        return self.means()

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch with its mean loss."""
        self.device = labels.device
        self.loss = self.loss + loss.detach() * len(labels)
        self.hits = self.hits + (logits.detach().argmax(1) == labels).sum()
        self.count += len(labels)
        if self.prefix == "test" and logits.shape[1] >= TOP5_CLASSES:
            five = logits.detach().topk(5).indices
            self.top5 = (0 if self.top5 is None else self.top5) + (five == labels[:, None]).sum()

    def means(self) -> dict[str, float]:
        """{`<prefix>_loss`, `<prefix>_accuracy`} of all that was counted, and `test_top5`, in
        percent, where there are `TOP5_CLASSES`."""
        sums = (self.loss, self.hits, self.count, self.top5 or 0)
        loss, hits, count, five = parallel.summed(sums, self.device)
        top5 = {} if self.top5 is None else {"test_top5": 100 * five / count}
        return {
            f"{self.prefix}_loss": loss / count,
            f"{self.prefix}_accuracy": 100 * hits / count,
            **top5,
        }
