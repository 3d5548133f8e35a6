"""The network of a seed before any pruning, the images that it sees, and its trainings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchbearer.callbacks import Callback

from common import datasets, models
from common.base import environment
from common.base.seeding import generator
from common.base.version import code_version
from common.models.initialisation import initialise
from common.pruning import Masks, Method
from common.pruning.diagnostics import multiply_adds
from common.pruning.scores import Context
from common.training import loop
from common.training.callbacks import History, Stage
from common.training.protocols import Protocol

# As Tanaka et al. have it; CIFAR-100's 1,000 scoring images make four batches.
SCORING_BATCH = 256
# Alizadeh et al.'s for the steps that ProsPr takes.
TRAINING_BATCH = 128
# Wang et al.'s for NTK-SAP.
INPUTS_PER_CLASS = 10
EVALUATION_BATCH = 1000


@functools.cache
def work(model: str, dataset: str) -> float:
    """Multiply-accumulate operations for one image."""
    spec = datasets.DATASETS[dataset]
    network = models.build(model, spec.shape, spec.classes)
    return float(sum(multiply_adds(network, spec.shape).values()))


@dataclass(frozen=True, eq=False)
class Network:
    """What a seed decides: initial weights, scoring images, the order of the training images.

    model: its name. data: on the device where all is computed. hyper: how weights are drawn and
    images augmented.
    """

    model: str
    data: datasets.Dataset
    hyper: Protocol
    seed: int

    @property
    def device(self) -> torch.device:
        """Where the data lie, and the network."""
        return self.data.device

    def build(self) -> nn.Module:
        """The network with its initial weights, on the device."""
        spec = self.data.spec
        module = models.build(self.model, spec.shape, spec.classes)
        self.initialise(module, generator(self.seed, "initial weights"))
        return module.to(self.device, memory_format=environment.memory_format(self.device))

    def initialise(self, module: nn.Module, stream: torch.Generator) -> None:
        """Draw all weights of `module` from `stream`, as the protocol says."""
        initialise(module, self.hyper.init, self.hyper.batchnorm, stream)

    def context(self, method: Method) -> Context:
        """What the scores of `method` may look at: scoring images of the seed's own stream, the
        input's shape, and how the weights are drawn."""
        batches, spec = [], self.data.spec
        per_class, size = method.images_per_class, SCORING_BATCH
        if method.training_batches:
            each = max(1, round(TRAINING_BATCH / spec.classes))
            per_class, size = each * method.training_batches, each * spec.classes
        if per_class:
            batches = datasets.scoring_batches(self.data, per_class, self.seed, size)
        stream, inputs = generator(self.seed, "pruning"), INPUTS_PER_CLASS * spec.classes
        return Context(spec.shape, batches, stream, initialise=self.initialise, inputs=inputs)

    def loaders(self, batch_size: int) -> tuple[datasets.Loader, datasets.Loader]:
        """Training images in batches of `batch_size`, and test images."""
        augment = self.hyper.augment if self.data.spec.natural else None
        return self.data.loaders(batch_size, EVALUATION_BATCH, augment, self.seed)


@dataclass(frozen=True)
class Trainer:
    """Trains networks on the images of `network`, in batches of `batch_size`."""

    network: Network
    precision: str
    batch_size: int

    def identity(self, hyper: Protocol) -> dict[str, object]:
        """What a training by `hyper` from the initial weights depends on."""
        return {
            "hyperparameters": dataclasses.asdict(hyper),
            "seed": self.network.seed,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "device": environment.hardware(self.network.device),
            "torch_version": torch.__version__,
            "code_version": code_version(),
        }

    def train(
        self,
        model: nn.Module,
        masks: Masks,
        hyper: Protocol,
        epochs: int,
        *,
        folder: Path | None = None,
        progress: str | None = None,
        stage: Stage | None = None,
        more: Sequence[Callback] = (),
        train_data: loop.Batches | None = None,
    ) -> History:
        """Train the masked `model` for `epochs`; arguments as for `loop.train`.

        train_data: what to train on, if not the whole images from the first epoch on.
        """
        batches, test_data = self.network.loaders(self.batch_size)
        return loop.train(
            model,
            masks,
            batches if train_data is None else train_data,
            test_data,
            hyper,
            epochs,
            self.precision,
            folder=folder,
            progress=progress,
            stage=stage,
            more=more,
            seed=self.network.seed,
        )
