"""Pruning of any `torch.nn.Module`, usable on its own:

from common.pruning import apply, prune
masks = prune(model, "SNIP", 0.9, batches=[(images, labels)])   # the weights are masked now
...; optimizer.step(); apply(model, masks)                      # after every step

`METHODS` is read without torch, which is imported when something else is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING

from common.base import deferred
from common.base.errors import ConfigurationError, shown, unknown
from common.pruning.methods import METHODS, Method
from common.pruning.schedule import keep_count

if TYPE_CHECKING:
    from torch import nn

    from common.pruning.formats import (
        about_masks,
        from_torch_prune,
        load_masks,
        save_masks,
        save_network,
        to_torch_prune,
    )
    from common.pruning.masks import Masks, apply, kept, like_weights
    from common.pruning.parameters import prunable
    from common.pruning.scores import Batch, Initialise

__all__ = [
    "METHODS",
    "Masks",
    "Method",
    "about_masks",
    "apply",
    "from_torch_prune",
    "keep_count",
    "kept",
    "like_weights",
    "load_masks",
    "prunable",
    "prune",
    "save_masks",
    "save_network",
    "to_torch_prune",
]

__getattr__ = deferred.exports(__name__, __all__, ["formats", "masks", "parameters"])


def prune(
    model: nn.Module,
    method: str,
    sparsity: float,
    *,
    variant: str = "",
    batches: Sequence[Batch] = (),
    shape: Sequence[int] | None = None,
    ablation: str = "none",
    initialise: Initialise | None = None,
    seed: int = 0,
) -> Masks:
    """Prune a model in place and return its masks, {parameter name: bool tensor}.

    sparsity: the fraction of prunable weights removed, in [0, 1).
    batches: (images, labels) for the methods that look at data (SNIP, grasp, prospr).
    shape: of one input without its batch dimension, for those that make their own (synflow,
    ntk_sap); taken from `batches` if not given.
    ablation: none, shuffle, reinit, invert, shuffle_network, or a combination with +.
    initialise: draws the model's weights, (model, generator) -> None; reinit and ntk_sap need it.

    Raises ConfigurationError for an unknown method, variant or ablation, a sparsity outside [0, 1),
    what is no module or was made in inference mode, or where the method's data, shape or
    initialisation is missing.
    """
    import torch

    from common.base.seeding import generator
    from common.pruning.parameters import check_model
    from common.pruning.rounds import prune_ablated
    from common.pruning.scores import Context

    check_sparsity(sparsity)
    check_model(model)
    chosen = find_method(method, variant)
    _check_batches(batches)
    if chosen.needs_images and not batches:
        raise ConfigurationError(
            f"{method} scores on data: give it batches=[(images, labels), ...]"
        )
    if shape is None:
        shape = batches[0][0].shape[1:] if batches else ()
    sizes = isinstance(shape, Sequence) and all(isinstance(size, Integral) for size in shape)
    if chosen.needs_shape and not (shape and sizes):
        raise ConfigurationError(f"{method} needs the shape of one input, e.g. shape=(3, 32, 32)")
    stream = generator(seed, "pruning")
    context = Context(tuple(shape), batches, stream, initialise=initialise)
    with torch.inference_mode(False):  # scores need gradients, wherever one prunes
        return prune_ablated(model, chosen, sparsity, context, ablation, seed)


def _check_batches(batches: Sequence[Batch]) -> None:
    """Raises ConfigurationError for what is not a sequence of pairs, a single pair most of all."""
    from torch import Tensor

    def is_pair(pair: object) -> bool:
        tensors = isinstance(pair, Sequence) and [isinstance(one, Tensor) for one in pair]
        return tensors == [True, True]

    if not isinstance(batches, Sequence) or not all(map(is_pair, batches)):
        raise ConfigurationError(
            "batches must be a list of pairs of tensors: batches=[(images, labels), ...], a single "
            "pair in a list too"
        )


def find_method(method: str, variant: str = "") -> Method:
    """The registered method. Raises ConfigurationError with the choices."""
    if str(method) not in METHODS:
        raise unknown("method", method, METHODS)
    if str(variant) not in METHODS[method]:
        raise unknown(f"{method}'s variant", variant, [v or '""' for v in METHODS[method]])
    return METHODS[method][variant]


def check_sparsity(sparsity: float) -> None:
    """Raises ConfigurationError unless sparsity is a number in [0, 1)."""
    number = isinstance(sparsity, Real) and not isinstance(sparsity, bool)
    if not number or not 0 <= sparsity < 1:
        raise ConfigurationError(
            f"sparsity={shown(sparsity)} is not a number in [0, 1): "
            "it is the fraction of prunable weights removed"
        )
