"""Masks in a file, and masks in the form of torch.nn.utils.prune."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune as torch_prune

from common.base.errors import ConfigurationError
from common.base.files import write_atomically
from common.pruning.masks import Masks, check_fit
from common.pruning.parameters import prunable, weight_places


def save_masks(masks: Masks, path: str | Path, about: Mapping[str, object] | None = None) -> None:
    """Write masks to a safetensors file, whole or not at all.

    about: what to note in the file, as text: the method, the sparsity ...
    """
    # safetensors wants contiguous tensors that share no memory.
    tensors = {
        name: mask.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, mask in masks.items()
    }
    notes = {key: str(value) for key, value in (about or {}).items()}
    write_atomically(Path(path), lambda p: save_file(tensors, p, metadata=notes))


def load_masks(path: str | Path) -> Masks:
    """The masks in a file that `save_masks` wrote, on the CPU; `like_weights` brings them to a
    model's device. Raises ConfigurationError for a file that holds anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            masks = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigurationError(f"{path} is not a whole safetensors file: {error}") from error
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise ConfigurationError(
                f"{path} holds no masks: {name} is {mask.dtype}, a mask is torch.bool"
            )
    return masks


def about_masks(path: str | Path) -> dict[str, str]:
    """What `save_masks` was told to note in the file."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def to_torch_prune(model: nn.Module, masks: Masks) -> None:
    """Hand the masks over to torch.nn.utils.prune, in place: each weight becomes a parameter
    `<name>_orig` and a buffer `<name>_mask`, multiplied before every forward pass; no more `apply`.

    An optimizer that has the weights keeps them. Raises ConfigurationError where masks do not fit
    the model, and for attention's output projection, whose layer is never called.
    """
    weights = prunable(model)
    check_fit(weights, masks, device=False)
    uncalled = {
        id(module.out_proj.weight)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    for name in masks:
        if id(weights[name]) in uncalled:
            raise ConfigurationError(
                f"{name}: torch.nn.utils.prune masks a weight when its layer is called, and "
                "attention never calls its output projection; leave it out of the masks"
            )
    owners = [
        (module, attribute, weight)
        for module in model.modules()
        for attribute, weight in module._parameters.items()
    ]
    # A weight that modules share has to be masked in each of them.
    for name, mask in masks.items():
        for module, attribute, weight in owners:
            if weight is weights[name]:
                torch_prune.custom_from_mask(module, attribute, mask.to(weight.device))


def from_torch_prune(model: nn.Module) -> Masks:
    """Take torch.nn.utils.prune off the model's prunable weights and return the masks.

    Every prunable weight has a mask, of True where it was not pruned. The weights are plain
    parameters again, the same objects as `<name>_orig` before, masked; from now on `apply` keeps
    them so. What is never pruned here (biases, normalisation) stays as it is.
    """
    found: dict[int, torch.Tensor] = {}
    pruned = {id(module._parameters.get(f"{name}_orig")) for module, name in weight_places(model)}
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if not isinstance(hook, torch_prune.BasePruningMethod):
                continue
            attribute = hook._tensor_name
            weight = module._parameters[f"{attribute}_orig"]
            if id(weight) in pruned:
                mask = getattr(module, f"{attribute}_mask").bool()
                found[id(weight)] = found.get(id(weight), True) & mask
                torch_prune.remove(module, attribute)
    return {
        name: found.get(id(weight), torch.ones_like(weight, dtype=torch.bool))
        for name, weight in prunable(model).items()
    }
