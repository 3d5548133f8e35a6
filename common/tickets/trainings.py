"""The trainings of a lottery ticket, each shared with the runs that need the same network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torchbearer.callbacks import Callback

from common.base import environment
from common.pruning import Masks, ablations, keep_count, prunable
from common.runs import ticket_settings
from common.runs.cache import Shared, State, copy_state, packed, unpacked
from common.runs.experiment import Experiment
from common.runs.run import Run
from common.tickets.rewind import AtStep, Remaining, ShortFirstEpoch
from common.training import loop
from common.training.callbacks import History, Stage


class Trainings(Run):
    """A run that trains several times: the dense network (level 0), then the ticket of each level.

    initial: the weights before any training. trained: the dense network's after its own. shared:
    where trained networks are kept for other runs. stages: the ablation's, as `ablations.parse`
    has them.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.stages = ablations.parse(experiment.ablation)
        self.total = sum(weight.numel() for weight in prunable(self.model).values())
        self.initial = copy_state(self.model)
        self.trained: State | None = None
        self.shared = Shared(experiment.results_dir / "shared", *self._identity())

    @property
    def per_epoch(self) -> int:
        """Iterations in an epoch."""
        return math.ceil(len(self.data.train_labels) / self.experiment.batch_size)

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

    def _check(self) -> None:
        ticket_settings.check_step(
            self.experiment, self.step, self.experiment.epochs * self.per_epoch
        )

    def _identity(self) -> tuple[str, dict[str, object]]:
        """The readable name and everything that decides on the dense training."""
        run, hyper = self.experiment, self.experiment.hyper
        parts = [run.protocol, run.dataset, run.model, hyper.init, f"seed{run.seed}"]
        return "_".join([*parts, f"epochs{run.epochs}"]), {
            "hyperparameters": dataclasses.asdict(hyper),
            "seed": run.seed,
            "batch_size": run.batch_size,
            "precision": self.precision,
            "device": environment.hardware(self.device),
            "torch_version": torch.__version__,
            "code_version": environment.code_version(),
        }

    def _save(self, name: str, history: History, kept: Masks) -> None:
        state = packed(copy_state(self.model), kept)
        told = dataclasses.asdict(history)
        self.shared.save(name, {"masks": _on_cpu(kept), "state": state, "history": told})

    def _load(self, name: str, kept: Masks) -> History | None:
        """The history of the network `name`, which the model then is; None if it is not there, or
        not of these masks."""
        found = self.shared.load(name)
        if found is None or not _same(found["masks"], _on_cpu(kept)):
            return None
        self.model.load_state_dict(unpacked(found["state"], found["masks"]))
        return History(**found["history"])

    def _weights_at(self, point: str) -> State:
        """The dense network's weights at the rewinding point: kept when it was trained, or trained
        again that far, for a run that goes back to another point."""
        if found := self.shared.load(point):
            return found
        self.model.load_state_dict(self.initial)
        train_data, test_data = self._loaders(self.experiment.hyper)
        loop.train(
            self.model,
            {},
            train_data,
            test_data,
            self.experiment.hyper,
            -(-self.step // self.per_epoch),
            self.precision,
            more=[self._keeping(point)],
        )
        self.model.load_state_dict(self.trained)
        return self.shared.load(point)

    def _keeping(self, point: str) -> AtStep:
        return AtStep(
            self.step, self.per_epoch, lambda: self.shared.save(point, copy_state(self.model))
        )

    def _train_stage(self, level: int, kept: Masks, more: Sequence[Callback] = ()) -> History:
        """Train the dense network (level 0) or the ticket of a level, from where it has gone back
        to."""
        experiment, hyper = self.experiment, self.experiment.hyper
        start = self._start(level)
        first, done = divmod(start, self.per_epoch)
        left = hyper.rest(first)
        if level and experiment.options["retrain"] == "fine_tune" and not self._redraws(level):
            left = dataclasses.replace(hyper.at_last_rate(), epochs=left.epochs)
        train_data, test_data = self._loaders(hyper)
        if start:
            train_data, more = Remaining(train_data, start), [*more, ShortFirstEpoch(done)]
        name = f"level {level} of {len(self.counts)}" if level else "dense network"
        before = experiment.epochs + (level - 1) * left.epochs if level else 0
        return loop.train(
            self.model,
            kept,
            train_data,
            test_data,
            left,
            left.epochs,
            self.precision,
            folder=experiment.folder,
            progress=name,
            stage=Stage(name, before, max(round(experiment.all_epochs), before + left.epochs)),
            more=more,
        )

    def _start(self, level: int) -> int:
        """The iteration at which a level's training starts."""
        return self.step if level and not self._redraws(level) else 0

    def _redraws(self, level: int) -> bool:
        """Whether this level starts from weights drawn anew, and so from the beginning."""
        last = level == len(self.counts)
        return self.experiment.options["retrain"] == "reinit" or (last and "weights" in self.stages)


def _on_cpu(kept: Masks) -> Masks:
    return {name: mask.cpu() for name, mask in kept.items()}


def _same(one: Masks, other: Masks) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
