"""One run, step by step: what a notebook drives from its configuration to its CSVs."""

from __future__ import annotations

import contextlib
import datetime
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from common import datasets, models
from common.base import environment
from common.base.seeding import generator
from common.models.initialise import initialise
from common.pruning import Masks, Method
from common.pruning.rounds import prune_ablated
from common.pruning.scores import Context, Initialise, Scores
from common.results import run_folder, schema
from common.runs.experiment import Experiment
from common.runs.record import Record
from common.runs.registry import find
from common.training import loop, protocols
from common.training.callbacks import History
from common.training.protocols import Protocol

# As Tanaka et al. have it; CIFAR-100's 1,000 scoring images make four batches.
SCORING_BATCH = 256
# Alizadeh et al.'s for the steps that ProsPr takes.
TRAINING_BATCH = 128
# Wang et al.'s for NTK-SAP.
INPUTS_PER_CLASS = 10
EVALUATION_BATCH = 1000


def scoring_context(
    method: Method, data: datasets.Dataset, seed: int, initialise: Initialise
) -> Context:
    """What the scores of `method` may look at: scoring images of the seed's own stream, on the
    data's device, the input's shape, and how the weights are drawn."""
    batches, spec = [], data.spec
    per_class, size = method.images_per_class, SCORING_BATCH
    if method.training_batches:
        each = max(1, round(TRAINING_BATCH / spec.classes))
        per_class, size = each * method.training_batches, each * spec.classes
    if per_class:
        device = data.train_images.device
        images, labels = datasets.scoring_batch(data, per_class, seed, device)
        batches = list(zip(images.split(size), labels.split(size), strict=True))
    stream, inputs = generator(seed, "pruning"), INPUTS_PER_CLASS * spec.classes
    return Context(spec.shape, batches, stream, initialise=initialise, inputs=inputs)


class Run(Record):
    """A network on its way from initialisation to a trained sparse network.

    Making one resolves device and precision, loads the data and draws the weights; it raises
    ConfigurationError for whatever cannot be had, before any work starts. Then call `score`,
    `prune`, `train` and `save`, in this order.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.started_at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.device = environment.resolve_device(experiment.device)
        self.precision = environment.resolve_precision(experiment.precision, self.device)
        self.method = find(experiment.method, experiment.variant)
        self.data = datasets.load(experiment.dataset, experiment.data_dir).to(self.device)
        self._check()
        self.moved = run_folder.prepare(experiment.folder)
        run_folder.write_json(experiment.folder / "run.json", self.provenance())
        spec = self.data.spec
        self.model = models.build(experiment.model, spec.shape, spec.classes)
        self._initialise(self.model, generator(experiment.seed, "initial weights"))
        self.model.to(self.device, memory_format=environment.memory_format(self.device))
        if experiment.pretrain_epochs:
            self._report("pretrain")
            # The beginning of the protocol's training, however long this run's own is.
            protocol = protocols.find(experiment.protocol)
            hyper = protocol.for_run(experiment.model, experiment.dataset, None)
            self._train({}, experiment.pretrain_epochs, hyper)

    def score(self) -> Scores:
        """The first round's scores, of the network before pruning: {parameter name: tensor}."""
        self._report("score")
        with self._timed():
            self.scores = self.method.score(self.model, self.context)
        return self.scores

    def prune(self) -> Masks:
        """Prune the model by the method and the run's ablation; returns the masks."""
        if self.scores is None:
            self.score()
        # Selecting overwrites what it ranks; these scores are still to be looked at.
        first = {name: score.clone() for name, score in self.scores.items()}
        with self._timed():
            self.masks = prune_ablated(
                self.model,
                self.method,
                self.experiment.sparsity,
                self.context,
                self.experiment.ablation,
                self.experiment.seed,
                first,
            )
        return self.masks

    def train(self) -> pd.DataFrame:
        """Train the pruned network; returns a row per epoch: the columns of epochs.csv."""
        experiment = self.experiment
        title = f"{experiment.method} at sparsity {experiment.sparsity:g}"
        self.history = self._train(
            self.masks, experiment.epochs, experiment.hyper, experiment.folder, title
        )
        return self.epochs()

    def epochs(self) -> pd.DataFrame:
        """The training so far, a row per epoch; epoch 0 is the pruned network before training."""
        return pd.DataFrame(self.history.rows, columns=schema.EPOCHS)

    def save(self) -> pd.DataFrame:
        """Write layers.csv, epochs.csv and, last, summary.csv; returns the summary's row."""
        folder, summary = self.experiment.folder, self.summary()
        run_folder.write_csv(folder / "layers.csv", self.layers().to_dict("records"), schema.LAYERS)
        run_folder.write_csv(folder / "epochs.csv", self.history.rows, schema.EPOCHS)
        run_folder.write_csv(folder / "summary.csv", [summary], schema.SUMMARY)
        for leftover in (run_folder.checkpoint(folder), folder / "progress.json"):
            leftover.unlink(missing_ok=True)
        return pd.DataFrame([summary], columns=schema.SUMMARY)

    def _train(
        self,
        kept: Masks,
        epochs: int,
        hyper: Protocol,
        folder: Path | None = None,
        progress: str | None = None,
    ) -> History:
        train_data, test_data = self._loaders(hyper)
        return loop.train(
            self.model,
            kept,
            train_data,
            test_data,
            hyper,
            epochs,
            self.precision,
            folder=folder,
            progress=progress,
        )

    def _loaders(self, hyper: Protocol) -> tuple[datasets.Loader, datasets.Loader]:
        """Training and test images."""
        data, experiment = self.data, self.experiment
        train_data = datasets.Loader(
            data.train_images,
            data.train_labels,
            data.mean,
            data.std,
            experiment.batch_size,
            augment=hyper.augment if data.spec.natural else None,
            seed=experiment.seed,
        )
        test_data = datasets.Loader(
            data.test_images, data.test_labels, data.mean, data.std, EVALUATION_BATCH
        )
        return train_data, test_data

    def _check(self) -> None:
        """Raises ConfigurationError for what only the data tell, before anything is written."""

    def _initialise(self, model: nn.Module, stream: torch.Generator) -> None:
        hyper = self.experiment.hyper
        initialise(model, hyper.init, hyper.batchnorm, stream)

    @functools.cached_property
    def context(self) -> Context:
        """What the run's scores may look at."""
        return scoring_context(self.method, self.data, self.experiment.seed, self._initialise)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        environment.synchronize(self.device)
        started = time.perf_counter()
        yield
        environment.synchronize(self.device)
        self.prune_seconds += time.perf_counter() - started

    def _report(self, stage: str) -> None:
        run_folder.report(self.experiment.folder, stage, 0, self.experiment.epochs, None)
