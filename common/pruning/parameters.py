"""Which parameters of a network can be pruned, and the names masks and scores are keyed by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from common.base.errors import ConfigurationError, shown

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


def check_model(model: nn.Module) -> None:
    """Raises ConfigurationError for what is no module, or cannot be changed."""
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"model={shown(model)} is not a torch.nn.Module")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ConfigurationError(
            "the model was made in torch.inference_mode, so its weights can neither be changed nor "
            "differentiated: make or load it outside"
        )


def prunable_modules(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Parameter name -> (the module that owns it, the attribute), first layer to last.

    The weights of convolutions (plain, grouped, transposed, 1-3 dimensional) and linear layers, the
    first and the last included. A weight that several modules share counts once, under the name
    that `model.named_parameters()` gives it (an embedding's, where the last layer shares its).

    Raises ConfigurationError for a layer whose weight is not a parameter but computed from others.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[nn.Module, str]] = {}
    for module, attribute in weight_places(model):
        if attribute not in module._parameters:
            raise _computed(model, module, attribute)
        weight = module._parameters[attribute]
        if weight is not None:
            found.setdefault(names[id(weight)], (module, attribute))
    return found


def weight_places(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """(module, attribute) wherever a module may hold a prunable weight."""
    for module in model.modules():
        for kind, attributes in _WEIGHTS:
            if isinstance(module, kind):
                yield from ((module, attribute) for attribute in attributes)


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameter name -> weight, for every weight that can be pruned (see `prunable_modules`)."""
    return {
        name: getattr(module, attribute)
        for name, (module, attribute) in prunable_modules(model).items()
    }


def functional_call(
    model: nn.Module, tensors: tuple[Mapping[str, Tensor], ...], inputs: tuple[Tensor, ...]
) -> Tensor:
    """`torch.func.functional_call` that leaves the model its own tensors.

    Torch's puts a module that the model holds under two names back in the order in which it took it
    out: what was put in stays there.
    """
    stores = [store for m in model.modules() for store in (m._parameters, m._buffers)]
    before = [dict(store) for store in stores]
    try:
        return torch.func.functional_call(model, tensors, inputs)
    finally:
        for store, own in zip(stores, before, strict=True):
            store.update(own)


def _computed(model: nn.Module, module: nn.Module, attribute: str) -> ConfigurationError:
    owner = next(name for name, other in model.named_modules() if other is module)
    cure = (
        "it is under torch.nn.utils.prune: masks = from_torch_prune(model) takes that off"
        if f"{attribute}_orig" in module._parameters
        else "take weight_norm or whatever parametrises it off first"
    )
    name = f"{owner}.{attribute}".lstrip(".")
    return ConfigurationError(f"{name} is computed from other parameters, not one itself; {cure}")
