"""A run of filter pruning: its trainings, one after the other, and what they leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn
from torchbearer.callbacks import Callback

from common.base import environment
from common.pruning import Masks
from common.results import run_folder
from common.runs import filter_settings
from common.runs.cache import Shared, copy_state
from common.runs.experiment import Experiment
from common.runs.run import Run
from common.structured import channels, removal
from common.structured.penalty import Penalty, channel_groups, weight_groups
from common.structured.training import Shrink, default_strength, descent
from common.training import loop
from common.training.callbacks import History, Stage
from common.training.protocols import Protocol

# In this order, and what a progress bar calls them.
STAGES = {"sparse": "with the penalty", "train": "fine-tuning", "mask": "the mask beside it"}


class Stages(Run):
    """A run that trains with the penalty, then what is left, then a mask beside it.

    sparse: the training with the penalty. trained: the network after it. model: the same with all
    that was removed set to zero. kept: the channels that stay. small: the network without the
    others. masked: `trained` under an unstructured mask of as many weights; masked_history: how
    that was fine-tuned. None: not yet, or not in this variant.
    """

    sparse: History | None = None
    trained: nn.Module | None = None
    kept: removal.Kept | None = None
    small: nn.Module | None = None
    masked: nn.Module | None = None
    masked_history: History | None = None

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.variant, self.shape = filter_settings.variant(experiment), self.data.spec.shape
        self.channels = channels.find(self.model, self.shape)
        weights = self.variant.penalised == "weights"
        groups = weight_groups(self.model) if weights else channel_groups(self.model, self.channels)
        self.penalty = Penalty(groups, 0.0, self.variant.proximal)
        self.sparse_hyper = hyper = filter_settings.sparse_hyper(experiment)
        given = experiment.options["penalty"]
        if given is not None:
            self.penalty.strength = given
        elif self.variant.penalised:
            steps = -(-len(self.data.train_labels) // experiment.batch_size)
            total = descent(hyper, hyper.epochs, steps)
            self.penalty.strength = default_strength(self.penalty, total)
        self.shrink = Shrink(self.penalty, hyper, hyper.epochs)

    def _fine_tune(
        self, name: str, model: nn.Module, masks: Masks, hyper: Protocol, epochs: int
    ) -> History:
        """Train, or take what this run had finished before it was stopped."""
        path = self.experiment.folder / f"{name}.pt"
        if path.is_file():
            content = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(content["model"])
        else:
            content = self._stage(name, model, masks, hyper, epochs)
            run_folder.write_atomically(path, lambda path: torch.save(content, path))
        return History(**content["history"])

    def _stage(
        self,
        name: str,
        model: nn.Module,
        masks: Masks,
        hyper: Protocol,
        epochs: int,
        more: Sequence[Callback] = (),
    ) -> dict[str, object]:
        """Train; returns what the next stage goes on from, as plain tensors and numbers."""
        experiment, stages = self.experiment, list(STAGES)
        lengths = [self.sparse_hyper.epochs, experiment.epochs]
        before = experiment.pretrain_epochs + sum(lengths[: stages.index(name)])
        train_data, test_data = self._loaders(hyper)
        history = loop.train(
            model,
            masks,
            train_data,
            test_data,
            hyper,
            epochs,
            self.precision,
            folder=experiment.folder,
            progress=STAGES[name],
            stage=Stage(name, before, int(experiment.all_epochs)),
            more=more,
        )
        return {
            "model": copy_state(model),
            "history": dataclasses.asdict(history),
            "more": [callback.state_dict() for callback in more],
        }

    def _shared(self) -> Shared:
        """Where networks trained with this penalty lie."""
        run, hyper = self.experiment, self.sparse_hyper
        parts = [run.protocol, run.dataset, run.model, self.variant.penalised or "plain"]
        name = "_".join([*parts, f"seed{run.seed}", f"epochs{hyper.epochs}"])
        identity = {
            "hyperparameters": dataclasses.asdict(hyper),
            "penalised": self.variant.penalised,
            "proximal": self.variant.proximal,
            "strength": self.penalty.strength,
            "seed": run.seed,
            "batch_size": run.batch_size,
            "pretrain_epochs": run.pretrain_epochs,
            "precision": self.precision,
            "device": environment.hardware(self.device),
            "torch_version": torch.__version__,
            "code_version": environment.code_version(),
        }
        return Shared(run.results_dir / "shared", name, identity)
