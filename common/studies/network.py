"""Networks at initialisation, each pruned again and again from the same weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common import datasets, models
from common.base import environment
from common.base.seeding import generator
from common.models.initialise import initialise
from common.pruning import Method, prunable
from common.pruning.scores import Context
from common.runs.options import one_of
from common.runs.run import scoring_context
from common.studies.tables import provenance
from common.training import protocols

SETTING = ("dataset", "model", "protocol")


@dataclass(frozen=True)
class Setting:
    """Which network is measured, on which data, drawn by which protocol, and where.

    Raises ConfigurationError for a name that is not known.
    """

    model: str
    dataset: str
    protocol: str
    device: str = "auto"
    data_dir: str | Path | None = None

    def __post_init__(self) -> None:
        known = (datasets.DATASETS, models.MODELS, protocols.PROTOCOLS)
        for (name, value), choices in zip(self.names().items(), known, strict=True):
            one_of(choices)(name, value)

    def names(self) -> dict[str, str]:
        """The columns of SETTING."""
        return {name: getattr(self, name) for name in SETTING}

    def network(self, seed: int) -> Network:
        """The network of a seed, made when it is first asked for and kept until another is.

        Raises ConfigurationError for what an ordinary run would not take either.
        """
        return _network(self, seed)

    def columns(self) -> dict[str, str]:
        """What every row of a table says of its setting: SETTING and PROVENANCE."""
        return self.names() | provenance(environment.resolve_device(self.device))


# As in the experiments of Tanaka et al. 2020, and of the reproduction (COMP6258).
TANAKA2020 = Setting("vgg16", "cifar100", "tanaka2020")
REPRODUCTION = Setting("vgg16", "cifar10", "seed")


class Network:
    """The initial network of a run with these parameters: same weights, same scoring images.

    Raises ConfigurationError for what an ordinary run would not take either.
    """

    def __init__(self, setting: Setting, seed: int) -> None:
        self.seed = seed
        self.device = environment.resolve_device(setting.device)
        protocol = protocols.find(setting.protocol)
        self.hyper = protocol.for_run(setting.model, setting.dataset, None)
        self.data = _data(setting.dataset, setting.data_dir).to(self.device)
        self.spec = self.data.spec
        self.module = models.build(setting.model, self.spec.shape, self.spec.classes)
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

    def context(self, method: Method) -> Context:
        """What a run's score of `method` may look at."""
        return scoring_context(method, self.data, self.seed, self.initialise)


@functools.lru_cache(maxsize=1)
def _network(setting: Setting, seed: int) -> Network:
    return Network(setting, seed)


@functools.lru_cache(maxsize=2)
def _data(name: str, data_dir: str | Path | None) -> datasets.Dataset:
    return datasets.load(name, data_dir)
