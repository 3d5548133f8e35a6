"""The trainings of a lottery ticket, each kept for the runs that need the same network; and going
back in them: to a step's weights, and to the batches and learning rates after it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torchbearer
from torch import Tensor, nn
from torchbearer.callbacks import Callback

from common.datasets import Loader
from common.pruning import Masks, ablations, keep_count, prunable
from common.runs import ticket_settings
from common.runs.cache import NetworkCache, State, copy_state, packed, unpacked
from common.runs.experiment import Experiment
from common.runs.network import Trainer
from common.training.callbacks import History, Stage
from common.training.protocols import Protocol


class Trainings:
    """Trains the network of a ticket several times: dense (level 0), then each level's ticket.

    model: the network, which every training changes in place. ablated: the ablation, as
    `ablations.parse` has it. cache: where trained networks are kept for other runs.
    """

    def __init__(self, experiment: Experiment, trainer: Trainer, model: nn.Module) -> None:
        """Raises ConfigurationError for a rewinding point that leaves nothing to train."""
        self.experiment, self.trainer, self.model = experiment, trainer, model
        self.ablated = ablations.parse(experiment.ablation)
        self.total = sum(weight.numel() for weight in prunable(model).values())
        self.cache: NetworkCache | None = None
        last = experiment.epochs * self.per_epoch
        ticket_settings.check_step(experiment, self.step, last)

    @property
    def per_epoch(self) -> int:
        """Iterations in an epoch."""
        images = self.trainer.network.data.train_labels
        return math.ceil(len(images) / self.experiment.batch_size)

    @property
    def step(self) -> int:
        """The rewinding point, in iterations."""
        return ticket_settings.rewind_step(self.experiment.options["rewind_epoch"], self.per_epoch)

    @property
    def counts(self) -> list[int]:
        """Weights left after each level."""
        sparsity = self.experiment.sparsity
        shares = ticket_settings.densities(sparsity, self.experiment.options["levels"])
        return [round(share * self.total) for share in shares[:-1]] + [
            keep_count(self.total, sparsity) for _ in shares[-1:]
        ]

    def open_cache(self) -> None:
        """Make the folder of the networks that start as this one does."""
        self.cache = NetworkCache(self.experiment.results_dir / "shared", *self._identity())

    def save(self, name: str, history: History, kept: Masks) -> None:
        """Keep the model, and how it was trained, as `name`."""
        state = packed(copy_state(self.model), kept)
        told = dataclasses.asdict(history)
        self.cache.save(name, {"masks": _on_cpu(kept), "state": state, "history": told})

    def load(self, name: str, kept: Masks) -> History | None:
        """The history of the network `name`, which the model then is; None if it is not there, or
        not of these masks."""
        found = self.cache.load(name)
        if found is None or not _same(found["masks"], _on_cpu(kept)):
            return None
        self.model.load_state_dict(unpacked(found["state"], found["masks"]))
        return History(**found["history"])

    def weights_at(self, point: str, initial: State, trained: State) -> State:
        """The dense network's weights at the rewinding point: kept when it was trained, or trained
        again that far from `initial`, for a run that goes back to another point. The model has the
        `trained` weights afterwards."""
        if found := self.cache.load(point):
            return found
        self.model.load_state_dict(initial)
        epochs = -(-self.step // self.per_epoch)
        more = [self.keeping(point)]
        self.trainer.train(self.model, {}, self.experiment.hyper, epochs, more=more)
        self.model.load_state_dict(trained)
        return self.cache.load(point)

    def keeping(self, point: str) -> AtStep:
        """Keeps the weights of the rewinding point when a training passes there."""
        return AtStep(
            self.step, self.per_epoch, lambda: self.cache.save(point, copy_state(self.model))
        )

    def train(self, level: int, kept: Masks, more: Sequence[Callback] = ()) -> History:
        """Train the dense network (level 0) or the ticket of a level, from where it has gone back
        to."""
        experiment, left, train_data = self.experiment, self.hyper(level), None
        if start := self.start(level):
            batches, _ = self.trainer.network.loaders(experiment.batch_size)
            train_data = Remaining(batches, start)
            more = [*more, ShortFirstEpoch(start % self.per_epoch)]
        name = f"level {level} of {len(self.counts)}" if level else "dense network"
        before = experiment.epochs + (level - 1) * left.epochs if level else 0
        return self.trainer.train(
            self.model,
            kept,
            left,
            left.epochs,
            folder=experiment.folder,
            progress=name,
            stage=Stage(name, before, max(round(experiment.all_epochs), before + left.epochs)),
            more=more,
            train_data=train_data,
        )

    def hyper(self, level: int) -> Protocol:
        """Of a level's training: what is left of the whole one from where it starts."""
        whole = self.experiment.hyper
        left = whole.rest(self.start(level) // self.per_epoch)
        if level and self.experiment.options["retrain"] == "fine_tune" and not self.redraws(level):
            return dataclasses.replace(whole.at_last_rate(), epochs=left.epochs)
        return left

    def start(self, level: int) -> int:
        """The iteration at which a level's training starts."""
        return self.step if level and not self.redraws(level) else 0

    def redraws(self, level: int) -> bool:
        """Whether this level starts from weights drawn anew, and so from the beginning."""
        last = level == len(self.counts)
        return self.experiment.options["retrain"] == "reinit" or (
            last and "weights" in self.ablated
        )

    def _identity(self) -> tuple[str, dict[str, object]]:
        """The readable name and everything that decides on the dense training."""
        run, hyper = self.experiment, self.experiment.hyper
        parts = [run.protocol, run.dataset, run.model, hyper.init, f"seed{run.seed}"]
        return "_".join([*parts, f"epochs{run.epochs}"]), self.trainer.identity(hyper)


def _on_cpu(kept: Masks) -> Masks:
    return {name: mask.cpu() for name, mask in kept.items()}


def _same(one: Masks, other: Masks) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


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
