"""Choosing channels and taking them out: what is left is a smaller network of ordinary layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
import torch_pruning
from torch import Tensor, nn

from common.base import environment
from common.pruning.masks import Masks, apply
from common.pruning.parameters import prunable
from common.structured import channels as finding
from common.structured.channels import Channels

Kept = dict[str, Tensor]  # name of the channels -> bool (count,), True where one stays


def l1_norms(model: nn.Module, channels: Sequence[Channels]) -> dict[str, Tensor]:
    """Sum of absolute weights of each channel's filters (Li et al. 2017, 1608.08710, sec. 3.1)."""
    return {
        c.name: sum(w.detach().abs().flatten(1).sum(1) for w in c.filters(model)).cpu()
        for c in channels
    }


def ranks(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each score's place among those of its layer, in (0, 1): selecting by it takes the same share
    of every layer."""
    return {
        name: (score.argsort(stable=True).argsort() + 0.5) / len(score)
        for name, score in scores.items()
    }


def above(scores: Mapping[str, Tensor], threshold: float) -> Kept:
    """Keep what scores more than `threshold`, and of every layer at least its best channel: without
    one the network would be cut."""
    return {name: (score > threshold) | _best(score) for name, score in scores.items()}


def lowest(
    model: nn.Module,
    channels: Sequence[Channels],
    scores: Mapping[str, Tensor],
    sparsity: float,
    stream: torch.Generator,
) -> Kept:
    """Remove the channels of lowest score until at least the fraction `sparsity` of the prunable
    weights is gone, but no layer's best channel. Equal scores, such as those of all that vanished,
    go in an order drawn from `stream`."""
    best = torch.cat([_best(scores[c.name]) for c in channels])
    flat = torch.cat([scores[c.name] for c in channels])
    drawn = torch.randperm(len(flat), generator=stream)
    order = drawn[flat.masked_fill(best, torch.inf)[drawn].argsort(stable=True)]
    sizes = [c.count for c in channels]
    shapes = {name: tuple(w.shape) for name, w in prunable(model).items()}
    total = sum(torch.Size(shape).numel() for shape in shapes.values())

    def kept_without(number: int) -> Kept:
        left = torch.ones(len(flat), dtype=torch.bool)
        left[order[:number]] = False
        return {c.name: part for c, part in zip(channels, left.split(sizes), strict=True)}

    low, high = 0, len(flat) - len(channels)
    while low < high:  # the least number that is enough
        middle = (low + high) // 2
        enough = weights_left(shapes, channels, kept_without(middle)) <= (1 - sparsity) * total
        low, high = (low, middle) if enough else (middle + 1, high)
    return kept_without(low)


def keep_at_least_one(kept: Kept, scores: Mapping[str, Tensor]) -> Kept:
    """`kept` with at least the best channel of every layer."""
    return {n: k if k.any() else _best(scores[n]) for n, k in kept.items()}


def weights_left(
    shapes: Mapping[str, Sequence[int]], channels: Sequence[Channels], kept: Kept
) -> int:
    """How many weights of layers of these `shapes` (by parameter name) stay with these channels."""
    sizes = {name: list(shape) for name, shape in shapes.items()}
    for c in channels:
        for layer in c.writers:
            sizes[f"{layer}.weight"][0] = int(kept[c.name].sum())
        for layer, _, sources in c.readers:
            sizes[f"{layer}.weight"][1] -= int((~kept[c.name])[sources].sum())
    return sum(torch.Size(size).numel() for size in sizes.values())


def masks(model: nn.Module, channels: Sequence[Channels], kept: Kept) -> Masks:
    """The removal as masks of the big network: a removed channel's filters, and the weights that
    read it."""
    found = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(model).items()}
    for c in channels:
        gone = (~kept[c.name]).to(next(iter(found.values())).device)
        for layer in c.writers:
            found[f"{layer}.weight"][gone] = False
        for layer, features, sources in c.readers:
            at = gone[sources.to(gone.device)]
            found[f"{layer}.weight"][:, features.to(gone.device)[at]] = False
    return found


@torch.no_grad()
def silence(model: nn.Module, channels: Sequence[Channels], kept: Kept) -> None:
    """Set all that makes the removed channels to zero, in place: the network computes what it
    computes without them, at its old size."""
    apply(model, masks(model, channels, kept))
    for c in channels:
        for parameter in c.parameters(model):
            parameter[(~kept[c.name]).to(parameter.device)] = 0


def remove(
    model: nn.Module, channels: Sequence[Channels], kept: Kept, shape: Sequence[int]
) -> nn.Module:
    """A copy of the model without the channels that are not kept: the filters that made them, their
    BatchNorm entries, and the inputs of the layers that read them. shape: of an image (C, H, W)."""
    small = copy.deepcopy(model)
    graph = finding.graph(small, shape)
    for c in channels:
        gone = (~kept[c.name]).nonzero().flatten().tolist()
        if gone:
            writer = small.get_submodule(c.name)
            conv = not isinstance(writer, nn.Linear)
            prune = (
                torch_pruning.prune_conv_out_channels
                if conv
                else torch_pruning.prune_linear_out_channels
            )
            graph.get_pruning_group(writer, prune, gone).prune()
    device = next(small.parameters()).device
    return small.to(memory_format=environment.memory_format(device))


def _best(score: Tensor) -> Tensor:
    return torch.zeros(len(score), dtype=torch.bool).index_fill_(0, score.argmax(), True)
