"""A lottery ticket, step by step: what its notebook drives."""

from __future__ import annotations

import pandas as pd
import torch

from common.base.seeding import generator
from common.pruning import Masks, apply, masks, prunable
from common.pruning.rounds import keep_best
from common.pruning.scores import Scores
from common.results import run_folder, schema
from common.results.schema import LEVELS
from common.runs import ticket_settings
from common.runs.cache import State, copy_state, short_hash
from common.runs.experiment import Experiment
from common.runs.run import Run
from common.tickets import levels
from common.tickets.trainings import Trainings
from common.training.callbacks import History


class TicketRun(Run):
    """A network on its way to a lottery ticket (Frankle and Carbin 2019, section 1).

    Pruning the smallest of the weights left, going back and training are one level; before the last
    training comes the ablation, if any. Call `score` (which trains the dense network first),
    `prune` (all levels up to the final mask), `train` (the final ticket) and `save`, in this order.
    Every trained network is shared with the runs that need the same one (`<results_dir>/shared/`),
    and a run that was killed goes on after its last one.

    initial: the weights before any training. dense: the dense network's training. trained: its
    weights after that. rewound: those of the rewinding point. rows: of levels.csv, so far.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.trainings = Trainings(experiment, self.trainer, self.model)
        self.initial = copy_state(self.model)
        self.trained: State | None = None
        self.rewound: State | None = None
        self.dense: History | None = None
        self.rows: list[dict] = []

    def describe(self) -> dict[str, str]:
        """What will run, in words: {choice: what was chosen}."""
        counts, options = self.trainings.counts, self.experiment.options
        shares = ", ".join(f"{100 - 100 * count / self.trainings.total:.4g}%" for count in counts)
        point, retrain = options["rewind_epoch"], options["retrain"]
        own = {
            "levels": f"{len(counts)}: {shares} of the weights removed" if counts else "none",
            "rewind epoch": f"{point}: after {self.trainings.step} iterations",
            "retrain": f"{retrain}: {ticket_settings.RETRAIN[retrain]}",
            "init": self.experiment.hyper.init,
        }
        return {**super().describe(), **own}

    def train_dense(self) -> pd.DataFrame:
        """Train the whole network, or take it from a run that did; returns a row per epoch."""
        self.begin()
        trainings = self.trainings
        rewinds = trainings.step and self.experiment.options["retrain"] == "rewind_weights"
        point = f"step-{trainings.step}"
        with trainings.cache.lock("dense"):
            self.dense = trainings.load("dense", {})
            if self.dense is None:
                more = [trainings.keeping(point)] if rewinds else []
                self.dense = trainings.train(0, {}, more)
                trainings.save("dense", self.dense, {})
            self.trained = copy_state(self.model)
            self.rewound = self.initial
            if rewinds:
                self.rewound = trainings.weights_at(point, self.initial, self.trained)
        whole = {
            name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(self.model).items()
        }
        self.masks = masks.like_weights(self.model, whole)
        self.rows = [levels.row(0, self.masks, self.dense, trainings.per_epoch, 0)]
        return pd.DataFrame(self.dense.rows, columns=schema.EPOCHS)

    def begin(self) -> None:
        """As for every run, and make the folder of the networks that runs share."""
        super().begin()
        if self.trainings.cache is None:
            self.trainings.open_cache()

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
        for level, count in enumerate(self.trainings.counts, 1):
            self._prune_to(count, level)
            if level < len(self.trainings.counts):
                history = self._train_level(level)
                self._note(level, history)
        if self.trainings.counts:
            self._ablate()
            self._go_back(len(self.trainings.counts))
        self.keep_masks()
        return self.masks

    def train(self) -> pd.DataFrame:
        """Train the final ticket; returns a row per epoch: the columns of epochs.csv."""
        level = len(self.trainings.counts)
        if not level:
            self.history = self.dense
        else:
            altered = {"masks", "weights"} & set(self.trainings.ablated)
            self.history = self._retrain(level) if altered else self._train_level(level)
            self._note(level, self.history)
        return self.epochs()

    def levels(self) -> pd.DataFrame:
        """A row per level so far, level 0 the dense network: the columns of levels.csv."""
        return pd.DataFrame(self.rows, columns=LEVELS)

    def save(self) -> pd.DataFrame:
        """Write levels.csv and the tables of every run, summary.csv last; returns its row."""
        run_folder.write_csv(self.experiment.folder / "levels.csv", self.rows, LEVELS)
        return super().save()

    # One level

    def _prune_to(self, count: int, level: int) -> None:
        """Keep `count` of the weights still there, those of the highest scores."""
        with self._timed():
            scores = self.method.score(self.model, self.context)
            scores = self.trainings.ablated.get("scores", lambda same: same)(scores)
            ties, scope = generator(self.experiment.seed, "pruning", level), self.method.scope
            self.masks = keep_best(self.model, scope, scores, count, ties, self.masks)
            apply(self.model, self.masks)

    def _train_level(self, level: int) -> History:
        """Train the ticket of this level, or take it from a run that did."""
        made = {"retrain": self.experiment.options["retrain"], "step": self.trainings.step}
        made |= {"variant": self.experiment.variant, "inverted": "scores" in self.trainings.ablated}
        name = f"level-{level}_{short_hash([made, self.trainings.counts[:level]])}"
        with self.trainings.cache.lock(name):
            history = self.trainings.load(name, self.masks)
            if history is None:
                history = self._retrain(level)
                self.trainings.save(name, history, self.masks)
        return history

    def _retrain(self, level: int) -> History:
        """Go back as the run has it, and train."""
        self._go_back(level)
        return self.trainings.train(level, self.masks)

    def _go_back(self, level: int) -> None:
        """The weights that the ticket of this level starts from."""
        if self.trainings.redraws(level):
            # The ablation's draw is of its own stream, as in every other method.
            own = self.experiment.options["retrain"] == "reinit"
            stream = generator(self.experiment.seed, "redrawn weights", level if own else 0)
            self.network.initialise(self.model, stream)
        elif self.experiment.options["retrain"] == "rewind_weights":
            self.model.load_state_dict(self.rewound)
        apply(self.model, self.masks)

    def _ablate(self) -> None:
        """Exchange the final mask for a shuffled one; what was pruned gets the weights back that
        the dense network had."""
        if "masks" in self.trainings.ablated:
            stream = generator(self.experiment.seed, "mask shuffle")
            with self._timed(), torch.no_grad():
                shuffled = self.trainings.ablated["masks"](self.masks, stream)
                for name, weight in prunable(self.model).items():
                    dense = self.trained[name].to(weight.device)
                    weight.copy_(torch.where(self.masks[name], weight, dense))
                self.masks = masks.like_weights(self.model, shuffled)

    def _note(self, level: int, history: History) -> None:
        skipped = self.trainings.start(level) % self.trainings.per_epoch
        self.rows.append(levels.row(level, self.masks, history, self.trainings.per_epoch, skipped))
