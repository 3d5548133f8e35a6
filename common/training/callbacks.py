"""What happens around the steps of a training: torchbearer callbacks, and the history they keep."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torchbearer
from torch import Tensor, nn
from torchbearer.callbacks import Callback

from common.base.seeding import generator
from common.pruning.masks import Masks, multiply, paired
from common.results import run_folder, schema
from common.training import parallel
from common.training.cuda_graphs import Captured
from common.training.protocols import Protocol

CHECKPOINT_SECONDS = 120.0

Row = dict[str, float | int | None]


@dataclass
class History:
    """What a training left: a row per epoch (columns of epochs.csv) and the time it took.

    step_seconds, images: of the training passes alone, for the throughput. top5: a row per epoch
    (columns of top5.csv) where there are classes enough.
    """

    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    step_seconds: float = 0.0
    images: int = 0
    top5: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """Which one of a run's trainings this is: its label in progress.json and in the checkpoint.

    before, total: epochs of the trainings before it, and of all together (None: its own).
    """

    name: str = "train"
    before: int = 0
    total: int | None = None


class Schedule(Callback):
    """Sets every step's learning rate from the step's number: torchbearer's schedulers restart when
    a training is resumed.

    steps: of a whole epoch. An epoch of fewer is the end of one. rate: the last step's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, hyper: Protocol, steps: int) -> None:
        super().__init__()
        self.optimizer, self.hyper, self.steps = optimizer, hyper, steps
        self.rate = 0.0

    def on_sample(self, state) -> None:
        step = self.steps - state[torchbearer.STEPS] + state[torchbearer.BATCH]
        self.rate = self.hyper.learning_rate_at(state[torchbearer.EPOCH] + step / self.steps)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.rate)
            else:
                group["lr"] = self.rate


class ApplyMasks(Callback):
    """Prunes again after every optimizer step: momentum moves pruned weights.

    That the masks fit is checked when it is made, not in every step: raises ConfigurationError.
    """

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        super().__init__()
        self.pairs = paired(dict(model.named_parameters()), masks)

    def on_step_training(self, state) -> None:
        multiply(self.pairs)


class Dropout(Callback):
    """What dropout drops follows from the run's seed, the epoch and, of several processes, which it
    is: it draws from torch's global generators, which start anew in every epoch. So a resumed
    training drops what the uninterrupted one does."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def on_start_epoch(self, state) -> None:
        place = state[torchbearer.EPOCH] * parallel.size() + parallel.rank()
        torch.manual_seed(generator(self.seed, "dropout", place).initial_seed())


class Measure(Callback):
    """Adds what `measure()` returns to the metrics of every epoch."""

    def __init__(self, measure: Callable[[], dict[str, float]]) -> None:
        super().__init__()
        self.measure = measure

    def on_end_epoch(self, state) -> None:
        state[torchbearer.METRICS].update(self.measure())


class Recorder(Callback):
    """A row an epoch, progress.json, and checkpoints."""

    def __init__(
        self, history: History, schedule: Schedule, train_data, folder, epochs, stage: Stage, more
    ) -> None:
        super().__init__()
        self.stage, self.more = stage, more
        self.history, self.schedule, self.train_data = history, schedule, train_data
        self.optimizer = schedule.optimizer
        self.folder, self.epochs = folder, epochs
        self.clock: Callable[[], float] = lambda: 0.0
        self.step: Captured | None = None  # what is replayed, where steps are
        self.saved = time.monotonic()
        self.epoch_started = self.steps_started = 0.0

    def before_training(self, measured: dict[str, float]) -> None:
        """Row 0: the pruned network before its first step."""
        row = dict.fromkeys(schema.EPOCHS)
        row.update(epoch=0, learning_rate=0.0, seconds=0.0, **measured)
        self._record(row)

    def on_start_epoch(self, state) -> None:
        self.epoch_started = time.perf_counter()

    def on_start_training(self, state) -> None:
        self.steps_started = time.perf_counter()

    def on_end_training(self, state) -> None:
        # The epoch's sums were just read, so the device has finished its steps.
        self.history.step_seconds += time.perf_counter() - self.steps_started
        self.history.images += len(self.train_data.labels)

    def on_end_epoch(self, state) -> None:
        row = {
            "epoch": state[torchbearer.EPOCH] + 1,
            "learning_rate": self.schedule.rate,
            **state[torchbearer.METRICS],
            "seconds": time.perf_counter() - self.epoch_started,
        }
        self._record(row)

    def on_checkpoint(self, state) -> None:
        if self.folder and time.monotonic() - self.saved >= CHECKPOINT_SECONDS:
            self.save(state[torchbearer.MODEL].model)

    def _record(self, row: Row) -> None:
        top5 = row.pop("test_top5", None)
        if top5 is not None:
            self.history.top5.append({"epoch": row["epoch"], "test_top5": top5})
        self.history.rows.append(row)
        if self.folder:
            stage, accuracy = self.stage, row["test_accuracy"]
            epoch, epochs = stage.before + row["epoch"], stage.total or self.epochs
            run_folder.write_progress(self.folder, stage.name, epoch, epochs, accuracy)
            if row["epoch"]:
                run_folder.note_captured(self.folder, self.step is not None and self.step.captured)

    def save(self, model: nn.Module) -> None:
        """Everything the next epoch depends on, as plain tensors and numbers."""
        content = {
            "stage": self.stage.name,
            "model": model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict()
            if (scaler := getattr(self.optimizer, "scaler", None))
            else None,
            "rows": self.history.rows,
            "seconds": self.clock(),
            "step_seconds": self.history.step_seconds,
            "images": self.history.images,
            "top5": self.history.top5,
            "more": [callback.state_dict() for callback in self.more],
        }
        path = run_folder.checkpoint(self.folder)
        run_folder.write_atomically(path, lambda path: torch.save(content, path))
        self.saved = time.monotonic()

    def resume(self, model: nn.Module, masks: Masks) -> int:
        """Load the checkpoint, if there is one of this stage and these masks; returns the epochs
        already done."""
        path, content = self.folder and run_folder.checkpoint(self.folder), None
        if path and path.is_file():
            content = torch.load(path, map_location="cpu", weights_only=True)
        content = parallel.of_first(content)
        if content is None:
            return 0
        weights = content["model"]
        if content.get("stage", "train") != self.stage.name:
            return 0
        if any(weights[name][~mask.cpu()].any() for name, mask in masks.items()):
            return 0
        model.load_state_dict(weights)
        # The schedule sets the rates; where they are tensors, a graph reads these very ones.
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(content["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if content["scaler"]:
            self.optimizer.scaler.load_state_dict(content["scaler"])
        self.history.rows[:] = content["rows"]
        self.history.seconds = content["seconds"]
        self.history.step_seconds = content["step_seconds"]
        self.history.images = content["images"]
        self.history.top5[:] = content.get("top5", [])
        for callback, state in zip(self.more, content.get("more", ()), strict=False):
            callback.load_state_dict(state)
        return len(self.history.rows) - 1


class Bar(Callback):
    """A progress bar over epochs."""

    def __init__(self, title: str, epochs: int) -> None:
        super().__init__()
        self.title, self.epochs = title, epochs

    def on_start(self, state) -> None:
        from tqdm.auto import tqdm

        done = len(state[torchbearer.HISTORY])
        self.bar = tqdm(total=self.epochs, initial=done, desc=self.title, unit="epoch")

    def on_end_epoch(self, state) -> None:
        measured = state[torchbearer.METRICS]
        self.bar.set_postfix_str(f"test accuracy {measured['test_accuracy']:.2f} %")
        self.bar.update()

    def on_end(self, state) -> None:
        self.bar.close()
