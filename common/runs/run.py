"""One run, step by step: what a notebook drives from its configuration to its CSVs."""

from __future__ import annotations

import contextlib
import datetime
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from common import datasets
from common.base import environment
from common.pruning import Masks, diagnostics, save_masks
from common.pruning.rounds import Round, prune_ablated
from common.pruning.scores import Context, Scores
from common.results import run_folder, schema
from common.runs import record
from common.runs.experiment import Experiment
from common.runs.network import Network, Trainer
from common.runs.record import Conditions
from common.runs.registry import find_method
from common.training import protocols
from common.training.callbacks import History

REPORT_SECONDS = 2.0  # between two reports of the rounds


class Run:
    """A network on its way from initialisation to a trained sparse network.

    Making one resolves device and precision, loads the data and draws the weights; it raises
    ConfigurationError for whatever cannot be had, before any work starts, and writes nothing. Then
    call `score`, `prune`, `train` and `save`, in this order.

    network: the initial one, and its images. model: the network as it is now. scores: of the first
    round. masks: the final ones. history: of the training after pruning. prune_seconds: from the
    first score to the final mask. moved: where an earlier finished result went, if there was one.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        device = environment.resolve_device(experiment.device)
        precision = environment.resolve_precision(experiment.precision, device)
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.conditions = Conditions(device, precision, now)
        self.method = find_method(experiment.method, experiment.variant)
        data = datasets.load(experiment.dataset, experiment.data_dir).to(device)
        self.network = Network(experiment.model, data, experiment.hyper, experiment.seed)
        self.trainer = Trainer(self.network, precision, experiment.batch_size)
        run_folder.check(experiment.folder)
        self.model: nn.Module = self.network.build()
        self.moved: Path | None = None
        self.scores: Scores | None = None
        self.masks: Masks | None = None
        self.history: History | None = None
        self.prune_seconds = 0.0
        self._begun = False

    def describe(self) -> dict[str, str]:
        """What will run, in words: {choice: what was chosen}."""
        told = self._plan()
        if run_folder.is_done(self.experiment.folder) and not self._begun:
            told["earlier result"] = "is there, and will be moved aside"
        elif self.moved:
            told["earlier result"] = f"moved to {record.shown(self.moved)}"
        return told

    def score(self) -> Scores:
        """The first round's scores, of the network before pruning: {parameter name: tensor}."""
        self.begin()
        self._report("score")
        with self._timed():
            self.scores = self.method.score(self.model, self.context)
        return self.scores

    def prune(self) -> Masks:
        """Prune the model by the method and the run's ablation; returns the masks."""
        if self.scores is None:
            self.score()
        with self._timed(), self._rounds() as observe:
            self.masks = prune_ablated(
                self.model,
                self.method,
                self.experiment.sparsity,
                self.context,
                self.experiment.ablation,
                self.experiment.seed,
                self.scores,
                observe,
            )
        self.keep_masks()
        return self.masks

    def keep_masks(self) -> None:
        """Write the masks into the run's folder, one bit a weight."""
        experiment = self.experiment
        about = {name: getattr(experiment, name) for name in ("method", "run_id", "sparsity")}
        save_masks(self.masks, experiment.folder / run_folder.MASKS, about, packed=True)

    def train(self) -> pd.DataFrame:
        """Train the pruned network; returns a row per epoch: the columns of epochs.csv."""
        experiment = self.experiment
        self.history = self.trainer.train(
            self.model,
            self.masks,
            experiment.hyper,
            experiment.epochs,
            folder=experiment.folder,
            progress=f"{experiment.method} at sparsity {experiment.sparsity:g}",
        )
        return self.epochs()

    def epochs(self) -> pd.DataFrame:
        """The training so far, a row per epoch; epoch 0 is the pruned network before training."""
        return pd.DataFrame(self.history.rows, columns=schema.EPOCHS)

    def layers(self) -> pd.DataFrame:
        """A row per prunable layer, first to last: the columns of layers.csv. Says so where a layer
        has no weight left."""
        table = self._layers()
        if len(empty := table.loc[table["kept"] == 0, "layer"]):
            print(
                f"Note: no weight is left in {len(empty)} of {len(table)} layers "
                f"({', '.join(empty)}); nothing gets through them."
            )
        return table

    def _layers(self) -> pd.DataFrame:
        flops = diagnostics.multiply_adds(self.model, self.network.data.spec.shape)
        return record.layers(self.model, self.masks, self.scores, flops)

    def summary(self) -> dict[str, object]:
        """What came of the run: the columns of summary.csv."""
        shape = self.network.data.spec.shape
        effective = diagnostics.effective_masks(self.model, self.masks, shape)
        told = self._layers(), effective, self.history, self.prune_seconds
        return record.summary(self.experiment, self.conditions, *told)

    def save(self) -> pd.DataFrame:
        """Write layers.csv, epochs.csv and, last, summary.csv; returns the summary's row."""
        folder, summary = self.experiment.folder, self.summary()
        run_folder.write_csv(
            folder / "layers.csv", self._layers().to_dict("records"), schema.LAYERS
        )
        run_folder.write_csv(folder / "epochs.csv", self.history.rows, schema.EPOCHS)
        if self.history.top5:
            run_folder.write_csv(folder / "top5.csv", self.history.top5, schema.TOP5.columns)
        run_folder.write_csv(folder / "summary.csv", [summary], schema.SUMMARY)
        for leftover in (run_folder.checkpoint(folder), folder / "progress.json"):
            leftover.unlink(missing_ok=True)
        return pd.DataFrame([summary], columns=schema.SUMMARY)

    def begin(self) -> None:
        """Before the first work: move an earlier result aside, write run.json, pretrain. Whoever
        works first calls it; again it does nothing."""
        if self._begun:
            return
        experiment = self.experiment
        self.moved = run_folder.prepare(experiment.folder)
        about = record.provenance(experiment, self.conditions)
        run_folder.write_json(experiment.folder / "run.json", about)
        self._begun = True
        if experiment.pretrain_epochs:
            self._report("pretrain")
            # The beginning of the protocol's training, however long this run's own is.
            protocol = protocols.find(experiment.protocol)
            hyper = protocol.for_run(experiment.model, experiment.dataset, None)
            self.trainer.train(self.model, {}, hyper, experiment.pretrain_epochs)

    @functools.cached_property
    def context(self) -> Context:
        """What the run's scores may look at."""
        return self.network.context(self.method)

    def _plan(self) -> dict[str, str]:
        data = self.network.data
        told = record.describe(self.experiment, self.conditions, self.model, data)
        return told | record.describe_options(self.experiment)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        environment.synchronize(self.conditions.device)
        started = time.perf_counter()
        yield
        environment.synchronize(self.conditions.device)
        self.prune_seconds += time.perf_counter() - started

    @contextlib.contextmanager
    def _rounds(self) -> Iterator[Callable[[Round], None]]:
        """What tells onlookers how many rounds of scoring are over, now and then."""
        total, told = self.method.iterations, time.monotonic()
        hidden = total == 1 or not environment.person_watches()
        with tqdm(total=total, desc="Scoring", unit="round", disable=hidden) as bar:

            def over(done: Round) -> None:
                nonlocal told
                bar.update()
                if total > 1 and time.monotonic() - told > REPORT_SECONDS:
                    self._report(f"round {done.step}/{total}")
                    told = time.monotonic()

            yield over

    def _report(self, stage: str) -> None:
        run_folder.write_progress(self.experiment.folder, stage, 0, self.experiment.epochs, None)
