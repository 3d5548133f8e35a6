"""The trainings of a run of filter pruning, one after the other, and what they leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn
from torchbearer.callbacks import Callback

from common.base.files import write_atomically
from common.pruning import Masks
from common.runs import filter_settings
from common.runs.cache import NetworkCache, copy_state
from common.runs.experiment import Experiment
from common.runs.network import Trainer
from common.training.callbacks import History, Stage
from common.training.protocols import Protocol

# In this order, and what a progress bar calls them.
TITLES = {"sparse": "with the penalty", "train": "fine-tuning", "mask": "the mask beside it"}


class Trainings:
    """The trainings of a run of filter pruning: with the penalty, then what is left, then a mask
    beside it. hyper: of the training with the penalty."""

    def __init__(self, experiment: Experiment, trainer: Trainer) -> None:
        self.experiment, self.trainer = experiment, trainer
        self.variant = filter_settings.variant(experiment)
        self.hyper = filter_settings.sparse_hyper(experiment)

    def fine_tune(
        self, name: str, model: nn.Module, masks: Masks, hyper: Protocol, epochs: int
    ) -> History:
        """Train, or take what this run had finished before it was stopped."""
        path = self.experiment.folder / f"{name}.pt"
        if path.is_file():
            content = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(content["model"])
        else:
            content = self.train(name, model, masks, hyper, epochs)
            write_atomically(path, lambda path: torch.save(content, path))
        return History(**content["history"])

    def train(
        self,
        name: str,
        model: nn.Module,
        masks: Masks,
        hyper: Protocol,
        epochs: int,
        more: Sequence[Callback] = (),
    ) -> dict[str, object]:
        """Train; returns what the next stage goes on from, as plain tensors and numbers."""
        experiment, order = self.experiment, list(TITLES)
        lengths = [self.hyper.epochs, experiment.epochs]
        before = experiment.pretrain_epochs + sum(lengths[: order.index(name)])
        history = self.trainer.train(
            model,
            masks,
            hyper,
            epochs,
            folder=experiment.folder,
            progress=TITLES[name],
            stage=Stage(name, before, int(experiment.all_epochs)),
            more=more,
        )
        return {
            "model": copy_state(model),
            "history": dataclasses.asdict(history),
            "more": [callback.state_dict() for callback in more],
        }

    def cache(self, strength: float) -> NetworkCache:
        """Where networks trained with a penalty of this strength lie."""
        run, hyper = self.experiment, self.hyper
        parts = [run.protocol, run.dataset, run.model, self.variant.penalised or "plain"]
        name = "_".join([*parts, f"seed{run.seed}", f"epochs{hyper.epochs}"])
        identity = self.trainer.identity(hyper) | {
            "penalised": self.variant.penalised,
            "proximal": self.variant.proximal,
            "strength": strength,
            "pretrain_epochs": run.pretrain_epochs,
        }
        return NetworkCache(run.results_dir / "shared", name, identity)
