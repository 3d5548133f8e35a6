"""One run, step by step: what a notebook drives from its configuration to its CSVs."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from common import datasets, environment, models, protocols, results, training
from common.callbacks import History, checkpoint
from common.experiment import ROOT, Experiment
from common.models.initialise import initialise
from common.protocols import Protocol
from common.pruning import diagnostics, find, keep_count, masks, prunable
from common.pruning.parameters import prunable_modules
from common.pruning.rounds import prune_ablated
from common.pruning.scores import Context, Scores
from common.seeding import generator

# As Tanaka et al. have it; CIFAR-100's 1,000 scoring images make four batches.
SCORING_BATCH = 256
# Alizadeh et al.'s for the steps that ProsPr takes.
TRAINING_BATCH = 128
# Wang et al.'s for NTK-SAP.
INPUTS_PER_CLASS = 10
EVALUATION_BATCH = 1000


class Run:
    """A network on its way from initialisation to a trained sparse network.

    Making one resolves device and precision, loads the data and draws the weights; it raises
    ConfigurationError for whatever cannot be had, before any work starts. Then call `score`,
    `prune`, `train` and `save`, in this order.

    scores: of the first round. masks: the final ones. history: of the training after pruning.
    moved: where an earlier finished result of the same run was moved to, if there was one.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.started_at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.device = environment.resolve_device(experiment.device)
        self.precision = environment.resolve_precision(experiment.precision, self.device)
        self.method = find(experiment.method, experiment.variant)
        self.data = datasets.load(experiment.dataset, experiment.data_dir).to(self.device)
        self.moved = results.prepare(experiment.folder)
        self._write_run_json()
        spec = self.data.spec
        self.model = models.build(experiment.model, spec.shape, spec.classes)
        self._initialise(self.model, generator(experiment.seed, "initial weights"))
        self.model.to(self.device, memory_format=torch.channels_last)
        self.scores: Scores | None = None
        self.masks: masks.Masks | None = None
        self.history: History | None = None
        self.prune_seconds = 0.0
        if experiment.pretrain_epochs:
            self._report("pretrain")
            # The beginning of the protocol's training, however long this run's own is.
            protocol = protocols.find(experiment.protocol)
            hyper = protocol.for_run(experiment.model, experiment.dataset, None)
            self._train({}, experiment.pretrain_epochs, hyper)

    def describe(self) -> dict[str, str]:
        """What will run, in words: {choice: what was chosen}."""
        experiment, hyper = self.experiment, self.experiment.hyper
        prunable_count = sum(weight.numel() for weight in prunable(self.model).values())
        kept = keep_count(prunable_count, experiment.sparsity)
        steps = ", ".join(map(str, hyper.milestones))
        rows = {
            "method": " ".join(filter(None, (experiment.method, experiment.variant))),
            "ablation": experiment.ablation,
            "sparsity": f"{experiment.sparsity:g}: {kept:,} of {prunable_count:,} weights kept",
            "network": f"{experiment.model}, {hyper.init}, BatchNorm weights {hyper.batchnorm}",
            "data": f"{self.data.spec.title}: {len(self.data.train_labels):,} training and "
            f"{len(self.data.test_labels):,} test images",
            "protocol": f"{hyper.name} ({hyper.source})",
            "training": f"{experiment.epochs} epochs in batches of {experiment.batch_size}, SGD "
            f"{hyper.learning_rate:g} x {hyper.gamma:g} after epochs {steps}, "
            f"weight decay {hyper.weight_decay:g}",
            "device": f"{environment.hardware(self.device)}, {self.precision}",
            "results": _shown(experiment.folder),
        }
        if self.moved:
            rows["earlier result"] = f"moved to {_shown(self.moved)}"
        return rows

    def score(self) -> Scores:
        """The first round's scores, of the network before pruning: {parameter name: tensor}."""
        self._report("score")
        with self._timed():
            self.scores = self.method.score(self.model, self.context)
        return self.scores

    def prune(self) -> masks.Masks:
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

    def layers(self) -> pd.DataFrame:
        """A row per prunable layer, first to last: the columns of layers.csv.

        score_mean, score_std: of the first round's scores; flops: multiply-adds of the dense layer
        for one image.
        """
        flops = diagnostics.multiply_adds(self.model, self.data.spec.shape)
        rows = []
        for name, (module, _) in prunable_modules(self.model).items():
            mask, score = self.masks[name], self.scores[name]
            kept = int(mask.sum())
            rows.append(
                {
                    "layer": name.removesuffix(".weight"),
                    "kind": type(module).__name__,
                    "shape": "x".join(map(str, mask.shape)),
                    "size": mask.numel(),
                    "kept": kept,
                    "density": kept / mask.numel(),
                    "score_mean": float(score.mean()),
                    "score_std": float(score.std(correction=0)),
                    "flops": flops[name],
                }
            )
        return pd.DataFrame(rows, columns=results.LAYERS)

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
        return pd.DataFrame(self.history.rows, columns=results.EPOCHS)

    def save(self) -> pd.DataFrame:
        """Write layers.csv, epochs.csv and, last, summary.csv; returns the summary's row."""
        folder, summary = self.experiment.folder, self._summary()
        results.write_csv(folder / "layers.csv", self.layers().to_dict("records"), results.LAYERS)
        results.write_csv(folder / "epochs.csv", self.history.rows, results.EPOCHS)
        results.write_csv(folder / "summary.csv", [summary], results.SUMMARY)
        for leftover in (checkpoint(folder), folder / "progress.json"):
            leftover.unlink(missing_ok=True)
        return pd.DataFrame([summary], columns=results.SUMMARY)

    def _summary(self) -> dict[str, object]:
        layers = self.layers()
        size, kept = int(layers["size"].sum()), int(layers["kept"].sum())
        effective = diagnostics.effective_masks(self.model, self.masks, self.data.spec.shape)
        rows, last = self.history.rows, self.history.rows[-1]
        experiment, trained = self.experiment, self.history.step_seconds > 0
        named = {
            name: getattr(experiment, name)
            for name in results.SUMMARY
            if name in {field.name for field in dataclasses.fields(experiment)}
        }
        return {
            **named,
            "run_id": experiment.run_id,
            "protocol": experiment.protocol,
            "dataset": experiment.dataset,
            "model": experiment.model,
            "sparsity_actual": 1 - kept / size,
            "compression": size / kept if kept else float("inf"),
            "test_accuracy": last["test_accuracy"],
            "best_test_accuracy": max(row["test_accuracy"] for row in rows),
            "train_accuracy": last["train_accuracy"],
            "test_loss": last["test_loss"],
            "layers_collapsed": len(diagnostics.collapsed_layers(self.masks)),
            "effective_sparsity": 1 - masks.kept(effective) / size,
            "parameters_prunable": size,
            "parameters_kept": kept,
            "flops_dense": int(layers["flops"].sum()),
            # Every weight of a layer is used equally often, so this is exact.
            "flops_sparse": int((layers["flops"] // layers["size"] * layers["kept"]).sum()),
            "prune_seconds": self.prune_seconds,
            "train_seconds": self.history.seconds,
            "images_per_second": self.history.images / self.history.step_seconds
            if trained
            else None,
            "device": environment.hardware(self.device),
            "precision": self.precision,
            "torch_version": torch.__version__,
            "code_version": environment.code_version(),
            "started_at": self.started_at,
        }

    def _train(
        self,
        kept: masks.Masks,
        epochs: int,
        hyper: Protocol,
        folder: Path | None = None,
        progress: str | None = None,
    ) -> History:
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
        return training.train(
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

    def _initialise(self, model: nn.Module, stream: torch.Generator) -> None:
        hyper = self.experiment.hyper
        initialise(model, hyper.init, hyper.batchnorm, stream)

    @functools.cached_property
    def context(self) -> Context:
        """What the scores may look at: scoring images of the run's own stream, input shape."""
        batches, spec, seed = [], self.data.spec, self.experiment.seed
        per_class, size = self.method.images_per_class, SCORING_BATCH
        if self.method.training_batches:
            each = max(1, round(TRAINING_BATCH / spec.classes))
            per_class, size = each * self.method.training_batches, each * spec.classes
        if per_class:
            images, labels = datasets.scoring_batch(self.data, per_class, seed, self.device)
            batches = list(zip(images.split(size), labels.split(size), strict=True))
        stream, inputs = generator(seed, "pruning"), INPUTS_PER_CLASS * spec.classes
        return Context(spec.shape, batches, stream, initialise=self._initialise, inputs=inputs)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        self._synchronize()
        started = time.perf_counter()
        yield
        self._synchronize()
        self.prune_seconds += time.perf_counter() - started

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _report(self, stage: str) -> None:
        results.report(self.experiment.folder, stage, 0, self.experiment.epochs, None)

    def _write_run_json(self) -> None:
        experiment = self.experiment
        results.write_json(
            experiment.folder / "run.json",
            {
                "run_id": experiment.run_id,
                "method": experiment.method,
                "parameters": experiment.parameters(),
                "hyperparameters": dataclasses.asdict(experiment.hyper),
                "device": environment.hardware(self.device),
                "precision": self.precision,
                "versions": environment.versions(),
                "code_version": environment.code_version(),
                "started_at": self.started_at,
            },
        )


def _shown(folder: Path) -> str:
    """The folder as people here call it: from the repository on, where it lies in there."""
    inside = folder.is_relative_to(ROOT)
    return str(folder.relative_to(ROOT) if inside else folder)
