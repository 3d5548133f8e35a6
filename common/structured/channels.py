"""Which filters make which channels, and who reads them: the units that structured pruning removes.

In a plain network a channel is one filter. In a residual network everything that is added up shares
its channels, so a channel is a filter of every layer that writes into the sum. Torch-Pruning's
dependency graph (Fang et al. 2023, 2301.12900) finds them by running the network once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.base.errors import ConfigurationError
from common.pruning.scores import in_mode


@dataclass(frozen=True)
class Channels:
    """Channels of one place in the network; channel i is output i of all its writers.

    name: the first layer that writes to it. count: of channels.
    writers: the layers whose filters make them. norms: the normalisations that scale them.
    readers: (layer, features, channels): input `features[j]` of the layer comes from
    `channels[j]`; after a flattened map several features come from one channel.
    """

    name: str
    count: int
    writers: tuple[str, ...]
    norms: tuple[str, ...]
    readers: tuple[tuple[str, Tensor, Tensor], ...]

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Everything that makes a channel what it is: filters, biases, normalisation. The first
        dimension of each is the channel."""
        modules = [model.get_submodule(name) for name in (*self.writers, *self.norms)]
        return [parameter for module in modules for parameter in module.parameters(recurse=False)]

    def filters(self, model: nn.Module) -> list[nn.Parameter]:
        """The weights that write to the channels, (count, ...) each."""
        return [model.get_submodule(name).weight for name in self.writers]


def graph(model: nn.Module, shape: Sequence[int]) -> torch_pruning.DependencyGraph:
    """Torch-Pruning's dependency graph of a network for images of `shape` (C, H, W)."""
    device = next(model.parameters()).device
    with in_mode(model, training=False), torch.enable_grad():
        example = torch.zeros(1, *shape, device=device)
        return torch_pruning.DependencyGraph().build_dependency(model, example)


def find_channels(model: nn.Module, shape: Sequence[int]) -> list[Channels]:
    """All channels that can be removed, from the input to the output; never the network's outputs.

    Raises ConfigurationError for layers whose filters do not see all of their inputs (groups).
    """
    names = {module: name for name, module in model.named_modules()}
    found = []
    for group in graph(model, shape).get_all_groups():
        writers, norms, readers = [], [], []
        for item in group:
            module, prune = item.dep.target.module, item.dep.handler
            if module not in names:
                continue  # an operation without parameters
            incoming = prune.__name__ == "prune_in_channels"
            if isinstance(module, _BatchNorm):
                norms.append(names[module])
            elif incoming:
                features = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
                readers.append((names[module], *features))
            elif item.idxs == item.root_idxs == list(range(len(module.weight))):
                writers.append(names[module])
            else:
                raise _mixed(names[module])
            if getattr(module, "groups", 1) != 1:
                raise _mixed(names[module])
        if readers:
            order = [name for name in names.values() if name in writers]
            count = len(model.get_submodule(order[0]).weight)
            found.append(Channels(order[0], count, tuple(order), tuple(norms), tuple(readers)))
    order = list(names.values())
    return sorted(found, key=lambda channels: order.index(channels.name))


def _mixed(layer: str) -> ConfigurationError:
    return ConfigurationError(
        f"model: the channels of {layer} are grouped; filters can be removed from plain "
        "convolutions and linear layers"
    )
