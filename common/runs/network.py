"""The network of a seed before any pruning, and the images that it sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from common import datasets, models
from common.base import environment
from common.base.seeding import generator
from common.models.initialisation import initialise
from common.pruning import Method
from common.pruning.scores import Context
from common.training.protocols import Protocol

# As Tanaka et al. have it; CIFAR-100's 1,000 scoring images make four batches.
SCORING_BATCH = 256
# Alizadeh et al.'s for the steps that ProsPr takes.
TRAINING_BATCH = 128
# Wang et al.'s for NTK-SAP.
INPUTS_PER_CLASS = 10
EVALUATION_BATCH = 1000


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
