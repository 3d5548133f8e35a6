"""A network at initialisation, pruned again and again from the same weights."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import nn

from common import datasets, environment, models, protocols
from common.models.initialise import initialise
from common.pruning import prunable
from common.pruning.scores import Context
from common.run import SCORING_BATCH
from common.seeding import generator


class Network:
    """The initial network of a run with these parameters: same weights, same scoring images.

    Raises ConfigurationError for what an ordinary run would not take either.
    """

    def __init__(
        self,
        model: str,
        dataset: str,
        seed: int,
        protocol: str = "tanaka2020",
        device: str = "auto",
        data_dir: str | Path | None = None,
    ) -> None:
        self.name, self.dataset, self.seed = model, dataset, seed
        self.device = environment.resolve_device(device)
        self.hyper = protocols.find(protocol).for_run(model, dataset, None)
        self.data = _data(dataset, data_dir).to(self.device)
        self.spec = self.data.spec
        self.module = models.build(model, self.spec.shape, self.spec.classes)
        self.initialise(self.module, generator(seed, "initial weights"))
        self.module.to(self.device, memory_format=torch.channels_last)
        self._state = {name: t.clone() for name, t in self.module.state_dict().items()}

    def initialise(self, module: nn.Module, stream: torch.Generator) -> None:
        """Draw the weights of `module` as the protocol says."""
        initialise(module, self.hyper.init, self.hyper.batchnorm, stream)

    def fresh(self) -> nn.Module:
        """The module with its initial weights."""
        self.module.load_state_dict(self._state)
        return self.module

    def sizes(self) -> dict[str, int]:
        """Parameter name -> number of weights, of the prunable ones from input to output."""
        return {name: weight.numel() for name, weight in prunable(self.module).items()}

    def context(self, images_per_class: int = 0) -> Context:
        """What a score may look at: the run's scoring images, `images_per_class` of each class."""
        batches = []
        if images_per_class:
            images, labels = datasets.scoring_batch(
                self.data, images_per_class, self.seed, self.device
            )
            batches = list(
                zip(images.split(SCORING_BATCH), labels.split(SCORING_BATCH), strict=True)
            )
        return Context(self.spec.shape, batches, generator(self.seed, "pruning"))


@functools.lru_cache(maxsize=2)
def _data(name: str, data_dir: str | Path | None) -> datasets.Dataset:
    return datasets.load(name, data_dir)
