"""Initial weights: which distribution they are drawn from, and drawing them.

| scheme | weights | source |
|---|---|---|
| kaiming_normal, _uniform | variance 2 / fan_in | He et al. 2015, 1502.01852, section 2.2 |
| xavier_normal, _uniform | variance 2 / (fan_in + fan_out) | Glorot and Bengio 2010, section 4.2 |
| lecun_normal, _uniform | variance 1 / fan_in | LeCun et al. 1998, "Efficient BackProp", 4.6 |
| orthogonal | W Wᵀ = 2 I (or Wᵀ W, the smaller) | Saxe et al. 2014, 1312.6120; gain √2 for ReLU |

fan_in is the number of inputs to one unit, fan_out the number of units that one input feeds:
channels times kernel positions for a convolution, within its group. Normal and uniform differ in
the distribution's form alone. BatchNorm weights are ones, or drawn from U(0, 1) as in Frankle et
al. (ICLR 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from common.base.errors import unknown
from common.models.schemes import INITIALISATIONS

Draw = Callable[..., Tensor]  # (tensor, generator=...) -> tensor, filled


def _ones(weight: Tensor, generator: torch.Generator) -> Tensor:
    return init.ones_(weight)


BATCHNORM: dict[str, Draw] = {"ones": _ones, "uniform": init.uniform_}


@torch.no_grad()
def initialise(model: nn.Module, scheme: str, batchnorm: str, generator: torch.Generator) -> None:
    """Redraw `model` in place, as before any training, from `generator` (on the CPU).

    Weights of convolutions and linear layers by `scheme`, BatchNorm weights by `batchnorm`; their
    biases 0, running statistics reset. The weights depend on the generator alone: on neither the
    device, the memory format, `batchnorm` nor the global generator.

    Raises ConfigurationError for an unknown `scheme` or `batchnorm`.
    """
    if scheme not in INITIALISATIONS:
        raise unknown("initialisation", scheme, INITIALISATIONS)
    if batchnorm not in BATCHNORM:
        raise unknown("batchnorm", batchnorm, BATCHNORM)
    for module in model.modules():
        if isinstance(module, nn.Linear | _ConvNd):
            # Drawn in a plain CPU tensor, so that device and memory format do not matter.
            drawn = torch.empty(module.weight.shape)
            for unit in fan_views(module, drawn):
                unit.copy_(INITIALISATIONS[scheme](torch.empty(unit.shape), generator=generator))
            module.weight.copy_(drawn)
            if module.bias is not None:
                init.zeros_(module.bias)
    # After all weights, which are therefore the same under either choice.
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            if module.affine:
                drawn = torch.empty(module.weight.shape)
                module.weight.copy_(BATCHNORM[batchnorm](drawn, generator=generator))
                init.zeros_(module.bias)


def fan_views(module: nn.Linear | _ConvNd, weight: Tensor) -> Iterator[Tensor]:
    """Views of `weight`, one a group, laid out (outputs, inputs, *kernel) as torch.nn.init counts.

    A transposed convolution stores its weight the other way round, and fan_out ends at the group.
    """
    for group in weight.chunk(getattr(module, "groups", 1)):
        yield group.transpose(0, 1) if isinstance(module, _ConvTransposeNd) else group
