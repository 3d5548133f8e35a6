"""Which parameters of a network can be pruned, and the names masks and scores are keyed by."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

# Biases and normalisation parameters are never pruned. Attention's input projection is a linear
# layer that torch keeps as a bare parameter of the attention module.
_WEIGHTS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("weight",)),
    (_ConvNd, ("weight",)),
    (
        nn.MultiheadAttention,
        ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
    ),
)


def prunable_modules(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Parameter name -> (the module that owns it, the attribute), first layer to last.

    The weights of convolutions (plain, grouped, transposed, 1-3 dimensional) and linear layers, the
    first and the last included. A weight that several modules share counts once, under the name
    that `model.named_parameters()` gives it (an embedding's, where the last layer shares its).
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[nn.Module, str]] = {}
    for module in model.modules():
        for kind, attributes in _WEIGHTS:
            if not isinstance(module, kind):
                continue
            for attribute in attributes:
                weight = module._parameters.get(attribute)
                if weight is not None:
                    found.setdefault(names[id(weight)], (module, attribute))
    return found


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameter name -> weight, for every weight that can be pruned (see `prunable_modules`)."""
    return {
        name: getattr(module, attribute)
        for name, (module, attribute) in prunable_modules(model).items()
    }
