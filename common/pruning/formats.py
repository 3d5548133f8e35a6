"""Masks in a file, and masks in the form of torch.nn.utils.prune.

Files are safetensors: names, numbers and text. Nothing in them is code, so nothing is unpickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.nn.utils import prune as torch_prune

from common.base.errors import ConfigurationError
from common.base.files import write_atomically
from common.pruning.masks import Masks, apply, check_fit, check_masks
from common.pruning.parameters import prunable, weight_places

# What a file holds, among its notes: packed bits, or a network's state with its masks' names.
_FORM, _SHAPES = "masks", "shapes"
FORMS = ("safetensors", "torch_prune", "state_dict")


def save_masks(
    masks: Masks, path: str | Path, about: Mapping[str, object] | None = None, packed: bool = False
) -> None:
    """Write masks to a safetensors file, whole or not at all.

    about: what to note in the file, as text: the method, the sparsity ... packed: one bit a weight
    (an uint8 vector for each mask, the first weight in the highest bit) where it is a byte.
    Raises ConfigurationError for what are no masks.
    """
    check_masks(masks)
    notes, tensors = dict(about or {}), masks
    if packed:
        notes |= _noted("bits", masks)
        tensors = {
            name: torch.from_numpy(np.packbits(mask.detach().cpu().numpy()))
            for name, mask in masks.items()
        }
    _write(tensors, path, notes)


def save_network(
    model: nn.Module,
    masks: Masks,
    path: str | Path,
    form: str,
    about: Mapping[str, object] | None = None,
) -> None:
    """Prune the model by the masks and write its state to a safetensors file, for others' code.

    form: `torch_prune`, the state of a model under torch.nn.utils.prune (`<name>_orig` and
    `<name>_mask`), or `state_dict`, the sparse network's own state, zeros where it is pruned.
    Raises ConfigurationError where masks do not fit the model.
    """
    if form == "torch_prune":
        to_torch_prune(model, masks)
    else:
        apply(model, masks)
    _write(model.state_dict(), path, dict(about or {}) | _noted(form, masks))


def load_masks(path: str | Path) -> Masks:
    """The masks in a file that `save_masks` or `save_network` wrote, on the CPU; `like_weights`
    brings them to a model's device. Of a sparse network a weight of zero counts as pruned.

    Raises ConfigurationError for a file that holds anything else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigurationError(
            f"{path} is not a whole safetensors file, and no other is read: {error}"
        ) from error
    try:
        if notes.get(_FORM) == "bits":
            return {
                name: _unpacked(tensors[name], shape)
                for name, shape in json.loads(notes[_SHAPES]).items()
            }
        if notes.get(_FORM) == "torch_prune":
            return {name: tensors[f"{name}_mask"].bool() for name in json.loads(notes[_SHAPES])}
        if notes.get(_FORM) == "state_dict":
            return {name: tensors[name] != 0 for name in json.loads(notes[_SHAPES])}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"{path}: its masks are not those it tells of: {error}") from error
    for name, mask in tensors.items():
        if mask.dtype != torch.bool:
            raise ConfigurationError(
                f"{path} holds no masks: {name} is {mask.dtype}, a mask is torch.bool"
            )
    return tensors


def about_masks(path: str | Path) -> dict[str, str]:
    """What `save_masks` was told to note in the file."""
    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
    return {key: note for key, note in notes.items() if key not in (_FORM, _SHAPES)}


def _write(tensors: Mapping[str, torch.Tensor], path: str | Path, notes: Mapping) -> None:
    # safetensors wants contiguous tensors that share no memory.
    alone = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = {key: str(value) for key, value in notes.items()}
    content = save(alone, text)
    write_atomically(Path(path), lambda p: p.write_bytes(content))


def _noted(form: str, masks: Masks) -> dict[str, str]:
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    return {_FORM: form, _SHAPES: json.dumps(shapes)}


def _unpacked(bits: torch.Tensor, shape: list[int]) -> torch.Tensor:
    size = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.numel() != -(-size // 8):
        raise ValueError(f"{bits.numel()} x {bits.dtype} for {size} bits")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=size)).bool().view(shape)


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
