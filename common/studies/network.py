"""Networks at initialisation, each pruned again and again from the same weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common import datasets, models
from common.base import environment
from common.pruning import prunable
from common.runs import network as runs
from common.runs.options import one_of
from common.studies.tables import provenance
from common.training import protocols

SETTING = ("dataset", "model", "protocol")


@dataclass(frozen=True)
class Setting:
    """Which network is measured, on which data, drawn by which protocol, and where.

    images: whether there are to be any; without, only their shape is known, and no method that
    looks at them can be asked.

    Raises ConfigurationError for a name that is not known.
    """

    model: str
    dataset: str
    protocol: str
    device: str = "auto"
    data_dir: str | Path | None = None
    images: bool = True

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


@dataclass(frozen=True)
class NoImages:
    """What a network has to know of its images where there are none."""

    spec: datasets.Spec
    device: torch.device


# As in the experiments of Tanaka et al. 2020, and of the reproduction (COMP6258).
TANAKA2020 = Setting("vgg16", "cifar100", "tanaka2020")
REPRODUCTION = Setting("vgg16", "cifar10", "seed")


class Network(runs.Network):
    """The initial network of a run with these parameters, kept to be pruned again and again."""

    @functools.cached_property
    def module(self) -> nn.Module:
        """The network, as the last measurement left it."""
        return self.build()

    @functools.cached_property
    def _state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.build().state_dict().items()}

    def fresh(self) -> nn.Module:
        """The module with its initial weights."""
        self.module.load_state_dict(self._state)
        return self.module

    def sizes(self) -> dict[str, int]:
        """Parameter name -> number of weights, of the prunable ones from input to output."""
        return {name: weight.numel() for name, weight in prunable(self.module).items()}


@functools.lru_cache(maxsize=1)
def _network(setting: Setting, seed: int) -> Network:
    device = environment.resolve_device(setting.device)
    protocol = protocols.find(setting.protocol)
    hyper = protocol.for_run(setting.model, setting.dataset, None)
    if setting.images:
        data = _data(setting.dataset, setting.data_dir).to(device)
    else:
        data = NoImages(datasets.DATASETS[setting.dataset], device)
    return Network(setting.model, data, hyper, seed)


@functools.lru_cache(maxsize=2)
def _data(name: str, data_dir: str | Path | None) -> datasets.Dataset:
    return datasets.load(name, data_dir)
