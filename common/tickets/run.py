"""A lottery ticket, step by step: what its notebook drives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pandas as pd
import torch
from torchbearer.callbacks import Callback

from common import environment, results, training
from common.callbacks import History, Stage
from common.experiment import Experiment
from common.pruning import Masks, ablations, apply, keep_count, masks, prunable
from common.pruning.distributions import DISTRIBUTIONS
from common.pruning.scores import Scores
from common.run import Run
from common.seeding import generator
from common.tickets import levels, settings
from common.tickets.rewind import AtStep, Remaining, ShortFirstEpoch
from common.tickets.shared import Shared, State, copy_state, digest, packed, unpacked


class TicketRun(Run):
    """A network on its way to a lottery ticket (Frankle and Carbin 2019, section 1).

    Pruning the smallest of the weights left, going back and training are one level; before the last
    training comes the ablation, if any. Call `score` (which trains the dense network first),
    `prune` (all levels up to the final mask), `train` (the final ticket) and `save`, in this order.
    Every trained network is shared with the runs that need the same one (`<results_dir>/shared/`),
    and a run that was killed goes on after its last one.

    dense: the dense network's training. initial: the weights before it. rewound: those of the
    rewinding point. trained: the dense network's. rows: of levels.csv, so far.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.stages = ablations.parse(experiment.ablation)
        self.total = sum(weight.numel() for weight in prunable(self.model).values())
        self.initial = copy_state(self.model)
        self.rewound: State | None = None
        self.trained: State | None = None
        self.dense: History | None = None
        self.rows: list[dict] = []
        self.shared = Shared(experiment.results_dir / "shared", *self._identity())

    @property
    def per_epoch(self) -> int:
        """Iterations in an epoch."""
        return math.ceil(len(self.data.train_labels) / self.experiment.batch_size)

    @property
    def step(self) -> int:
        """The rewinding point, in iterations."""
        return settings.rewind_step(self.experiment.options["rewind_epoch"], self.per_epoch)

    @property
    def counts(self) -> list[int]:
        """Weights left after each level."""
        sparsity = self.experiment.sparsity
        shares = settings.densities(sparsity, self.experiment.options["levels"])
        return [round(share * self.total) for share in shares[:-1]] + [
            keep_count(self.total, sparsity) for _ in shares[-1:]
        ]

    def describe(self) -> dict[str, str]:
        """What will run, in words: {choice: what was chosen}."""
        counts, options = self.counts, self.experiment.options
        shares = ", ".join(f"{100 * count / self.total:.3g}%" for count in counts)
        point, retrain = options["rewind_epoch"], options["retrain"]
        own = {
            "levels": f"{len(counts)}: {shares} of the weights left" if counts else "none",
            "rewind epoch": f"{point}: after {self.step} iterations",
            "retrain": f"{retrain}: {settings.RETRAIN[retrain]}",
            "init": self.experiment.hyper.init,
        }
        return {**super().describe(), **own}

    def _check(self) -> None:
        settings.check_step(self.experiment, self.step, self.experiment.epochs * self.per_epoch)

    def train_dense(self) -> pd.DataFrame:
        """Train the whole network, or take it from a run that did; returns a row per epoch."""
        rewinds = self.step and self.experiment.options["retrain"] == "rewind_weights"
        point = f"step-{self.step}"
        with self.shared.alone("dense"):
            self.dense = self._load("dense", {})
            if self.dense is None:
                self.dense = self._train_stage(0, {}, [self._keeping(point)] if rewinds else [])
                self._save("dense", self.dense, {})
            self.trained = copy_state(self.model)
            self.rewound = self._weights_at(point) if rewinds else self.initial
        whole = {
            name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(self.model).items()
        }
        self.masks = masks.like_weights(self.model, whole)
        self.rows = [levels.row(0, self.masks, self.dense, self.per_epoch, 0)]
        return pd.DataFrame(self.dense.rows, columns=results.EPOCHS)

    def score(self) -> Scores:
        """The first level's scores, of the trained dense network: {parameter name: tensor}."""
        if self.dense is None:
            self.train_dense()
        return super().score()

    def prune(self) -> Masks:
        """Train, prune and go back, level by level, up to the final mask; then the ablation.

        The model is left as the final ticket starts, the masks are returned.
        """
        if self.scores is None:
            self.score()
        for level, count in enumerate(self.counts, 1):
            self._prune_to(count, level)
            if level < len(self.counts):
                history = self._train_level(level)
                self._note(level, history)
        if self.counts:
            self._ablate()
            self._go_back(len(self.counts))
        return self.masks

    def train(self) -> pd.DataFrame:
        """Train the final ticket; returns a row per epoch: the columns of epochs.csv."""
        level = len(self.counts)
        if not level:
            self.history = self.dense
        else:
            altered = {"masks", "weights"} & set(self.stages)
            self.history = self._retrain(level) if altered else self._train_level(level)
            self._note(level, self.history)
        return self.epochs()

    def levels(self) -> pd.DataFrame:
        """A row per level so far, level 0 the dense network: the columns of levels.csv."""
        return pd.DataFrame(self.rows, columns=levels.LEVELS)

    def save(self) -> pd.DataFrame:
        """Write levels.csv and the tables of every run, summary.csv last; returns its row."""
        results.write_csv(self.experiment.folder / "levels.csv", self.rows, levels.LEVELS)
        return super().save()

    # One level

    def _prune_to(self, count: int, level: int) -> None:
        """Keep `count` of the weights still there, those of the highest scores."""
        with self._timed():
            scores = self.method.score(self.model, self.context)
            scores = self.stages.get("scores", lambda same: same)(scores)
            keep = count
            if self.method.scope != "global":
                shapes = {name: tuple(w.shape) for name, w in prunable(self.model).items()}
                left = {name: int(mask.sum()) for name, mask in self.masks.items()}
                keep = DISTRIBUTIONS[self.method.scope](shapes, count, left)
            ties = generator(self.experiment.seed, "pruning", level)
            chosen = masks.select(scores, keep, ties, self.masks)
            self.masks = masks.like_weights(self.model, chosen)
            apply(self.model, self.masks)

    def _train_level(self, level: int) -> History:
        """Train the ticket of this level, or take it from a run that did."""
        made = {"retrain": self.experiment.options["retrain"], "step": self.step}
        made |= {"variant": self.experiment.variant, "inverted": "scores" in self.stages}
        name = f"level-{level}_{digest([made, self.counts[:level]])}"
        with self.shared.alone(name):
            history = self._load(name, self.masks)
            if history is None:
                history = self._retrain(level)
                self._save(name, history, self.masks)
        return history

    def _retrain(self, level: int) -> History:
        """Go back as the run has it, and train."""
        self._go_back(level)
        return self._train_stage(level, self.masks)

    def _go_back(self, level: int) -> None:
        """The weights that the ticket of this level starts from."""
        if self._redraws(level):
            # The ablation's draw is of its own stream, as in every other method.
            own = self.experiment.options["retrain"] == "reinit"
            stream = generator(self.experiment.seed, "redrawn weights", level if own else 0)
            self._initialise(self.model, stream)
        elif self.experiment.options["retrain"] == "rewind_weights":
            self.model.load_state_dict(self.rewound)
        apply(self.model, self.masks)

    def _redraws(self, level: int) -> bool:
        """Whether this level starts from weights drawn anew, and so from the beginning."""
        last = level == len(self.counts)
        return self.experiment.options["retrain"] == "reinit" or (last and "weights" in self.stages)

    def _ablate(self) -> None:
        """Exchange the final mask for a shuffled one; what was pruned gets the weights back that
        the dense network had."""
        if "masks" in self.stages:
            stream = generator(self.experiment.seed, "mask shuffle")
            with self._timed(), torch.no_grad():
                shuffled = self.stages["masks"](self.masks, stream)
                for name, weight in prunable(self.model).items():
                    dense = self.trained[name].to(weight.device)
                    weight.copy_(torch.where(self.masks[name], weight, dense))
                self.masks = masks.like_weights(self.model, shuffled)

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
        return training.train(
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

    def _note(self, level: int, history: History) -> None:
        skipped = self._start(level) % self.per_epoch
        self.rows.append(levels.row(level, self.masks, history, self.per_epoch, skipped))

    # What is shared

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
        training.train(
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


def _on_cpu(kept: Masks) -> Masks:
    return {name: mask.cpu() for name, mask in kept.items()}


def _same(one: Masks, other: Masks) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
