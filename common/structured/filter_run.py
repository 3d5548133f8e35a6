"""One run of filter pruning: train with the penalty, remove, fine-tune, measure the cost."""

from __future__ import annotations

import copy

import pandas as pd
import torch
from torch import nn

from common.base.seeding import generator
from common.pruning import Masks, ablations, apply, kept, like_weights, prunable
from common.pruning.masks import select
from common.results import run_folder
from common.runs import filter_settings, record
from common.runs.experiment import Experiment
from common.runs.run import Run
from common.structured import channels, removal, tables
from common.structured.export import check_export, export, largest_difference
from common.structured.penalty import (
    Penalty,
    Shrink,
    channel_groups,
    default_strength,
    descent,
    weight_groups,
)
from common.structured.trainings import Trainings
from common.training.callbacks import History


class FilterRun(Run):
    """A network on its way from initialisation to a smaller one.

    Call `train_sparse`, `prune`, `train`, `cost` and `save`, in this order. sparse: the training
    with the penalty. trained: the network after it. model: the same with all that was removed set
    to zero. kept: the channels that stay. small: the network without the others. masked: `trained`
    under an unstructured mask of as many weights; masked_history: how that was fine-tuned. costs:
    what `cost` measured last. None: not yet, or not in this variant.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.shape = self.network.data.spec.shape
        self.trainings = Trainings(experiment, self.trainer)
        self.variant, self.sparse_hyper = self.trainings.variant, self.trainings.hyper
        self.channels = channels.find_channels(self.model, self.shape)
        self.penalty, self.shrink = self._penalty()
        self.sparse: History | None = None
        self.trained: nn.Module | None = None
        self.kept: removal.Kept | None = None
        self.small: nn.Module | None = None
        self.masked: nn.Module | None = None
        self.masked_history: History | None = None
        self.costs: pd.DataFrame | None = None

    def begin(self) -> None:
        """As for every run; pretraining changes the weights that the penalty is made for."""
        super().begin()
        if self.experiment.pretrain_epochs and self.sparse is None:
            self.penalty, self.shrink = self._penalty()

    def train_sparse(self) -> pd.DataFrame:
        """Train the network with the penalty, or take it from a run that did: others differ in what
        they remove. Returns the columns of sparse.csv."""
        self.begin()
        hyper, cache = self.sparse_hyper, self.trainings.cache(self.penalty.strength)
        with cache.lock("sparse"):
            content = cache.load("sparse")
            if content is None:
                told = ("sparse", self.model, {}, hyper, hyper.epochs, [self.shrink])
                content = self.trainings.train(*told)
                cache.save("sparse", content)
        self.model.load_state_dict(content["model"])
        self.shrink.load_state_dict(content["more"][0])
        self.sparse = History(**content["history"])
        return tables.sparse(self)

    def score(self) -> dict[str, torch.Tensor]:
        """Absolute weights of the network trained with the penalty, for layers.csv."""
        if self.sparse is None:
            self.train_sparse()
        self.trained = copy.deepcopy(self.model)
        return super().score()

    def prune(self) -> Masks:
        """Remove by the variant and the run's ablation; returns the masks that say the same."""
        if self.scores is None:
            self.score()
        if self.variant.removed == "weights":
            return super().prune()
        with self._timed():
            ablated = ablations.parse(self.experiment.ablation)
            self.kept = self._choose(ablated)
            masks = removal.masks(self.model, self.channels, self.kept)
            self.masks = like_weights(self.model, masks)
            removal.silence(self.model, self.channels, self.kept)
            self.small = removal.remove(self.model, self.channels, self.kept, self.shape)
            if "weights" in ablated:
                stream = generator(self.experiment.seed, "redrawn weights")
                ablated["weights"](self.small, self.network.initialise, stream)
        self.keep_masks()
        return self.masks

    def train(self) -> pd.DataFrame:
        """Fine-tune what is left, and the mask beside it; returns the columns of epochs.csv."""
        hyper, epochs = filter_settings.fine_tuning_hyper(self.experiment), self.experiment.epochs
        if self.small is None:
            self.history = self.trainings.fine_tune("train", self.model, self.masks, hyper, epochs)
            return self.epochs()
        self.history = self.trainings.fine_tune("train", self.small, {}, hyper, epochs)
        self.masked = copy.deepcopy(self.trained)
        masks = self._equal_mask()
        apply(self.masked, masks)
        compared = epochs if filter_settings.compares(self.experiment) else 0
        self.masked_history = self.trainings.fine_tune("mask", self.masked, masks, hyper, compared)
        return self.epochs()

    def differences(self) -> dict[str, float]:
        """The largest differences, over a batch of test images, between the outputs of the small
        network before fine-tuning and those of the whole one: with the removed channels set to
        zero, and as it was trained. Empty where no channels are removed."""
        if self.small is None:
            return {}
        images, _ = next(iter(self.network.loaders(self.experiment.batch_size)[1]))
        networks = {"removed channels set to zero": self.model, "as trained": self.trained}
        return {n: largest_difference(self.small, m, images) for n, m in networks.items()}

    def cost(self) -> pd.DataFrame:
        """What the networks cost, measured here and now: the columns of cost.csv."""
        self.costs = tables.cost(self)
        return self.costs

    def export(self) -> dict[str, object]:
        """Write the small network as network.pt2 beside the tables; returns what came of it."""
        path = self.experiment.folder / "network.pt2"
        export(self.small, path, self.shape)
        return check_export(self.small, path, self.shape)

    def save(self) -> pd.DataFrame:
        """Write all tables, the summary last; returns its row."""
        folder = self.experiment.folder
        costs = self.cost() if self.costs is None else self.costs
        for name, table in (
            ("sparse", tables.sparse(self)),
            ("filters", tables.filters(self)),
            ("shapes", tables.shapes(self)),
            ("cost", costs),
        ):
            run_folder.write_csv(folder / f"{name}.csv", table.to_dict("records"), table.columns)
        summary = super().save()
        for name in ("train", "mask"):
            (folder / f"{name}.pt").unlink(missing_ok=True)
        return summary

    def _plan(self) -> dict[str, str]:
        data = self.network.data
        return tables.describe(
            self, record.describe(self.experiment, self.conditions, self.model, data)
        )

    def _choose(self, ablated: dict) -> removal.Kept:
        """The channels that stay."""
        l1 = self.variant.by == "l1"
        scores = removal.l1_norms(self.model, self.channels) if l1 else self._norms()
        threshold = self.experiment.options["threshold"]
        if "scores" in ablated:
            scores = ablated["scores"](scores)
        if threshold is not None:
            chosen = removal.above(scores, threshold)
        else:
            ranked = removal.ranks(scores) if self.variant.scope == "layer" else scores
            sparsity, stream = self.experiment.sparsity, generator(self.experiment.seed, "pruning")
            chosen = removal.lowest(self.model, self.channels, ranked, sparsity, stream)
        if "masks" in ablated:
            chosen = ablated["masks"](chosen, generator(self.experiment.seed, "mask shuffle"))
            chosen = removal.keep_at_least_one(chosen, scores)
        return chosen

    def _penalty(self) -> tuple[Penalty, Shrink]:
        """The penalty on the network as it is, and the callback that takes its steps."""
        weights = self.variant.penalised == "weights"
        groups = weight_groups(self.model) if weights else channel_groups(self.model, self.channels)
        penalty, hyper = Penalty(groups, 0.0, self.variant.proximal), self.sparse_hyper
        given = self.experiment.options["penalty"]
        if given is not None:
            penalty.strength = given
        elif self.variant.penalised:
            images = len(self.network.data.train_labels)
            total = descent(hyper, hyper.epochs, -(-images // self.experiment.batch_size))
            penalty.strength = default_strength(penalty, total)
        return penalty, Shrink(penalty, hyper, hyper.epochs)

    def _norms(self) -> dict[str, torch.Tensor]:
        """Norms of the channels, in this order."""
        return Penalty(channel_groups(self.model, self.channels), 0.0).norms()

    def _equal_mask(self) -> Masks:
        """The largest weights of the trained network, as many as the small one has."""
        weights = prunable(self.masked)
        scores = {name: weight.detach().abs() for name, weight in weights.items()}
        stream = generator(self.experiment.seed, "compared mask")
        return like_weights(self.masked, select(scores, kept(self.masks), stream))
