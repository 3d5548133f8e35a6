"""From scores to masks, and masks onto the model.

A mask is a boolean tensor per parameter name, True where the weight is kept. Selection is exact:
the number kept is what was asked for, whatever the ties, and ties are broken at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.base.errors import ConfigurationError, shown
from common.pruning import memory
from common.pruning.parameters import check_model, prunable

Masks = dict[str, Tensor]

# Below this many scores a plain selection is quicker than a sample and a bracket.
_SMALL = 1 << 17
_SAMPLE = 1 << 15
# Up to this many weights masks are multiplied by as numbers, which take 4 MB then.
_AS_NUMBERS = 1 << 20


class NonFiniteScoresError(ValueError):
    """A score is NaN or infinite, so that no ranking means anything."""


def select(
    scores: Mapping[str, Tensor],
    keep: int | Mapping[str, int],
    generator: torch.Generator,
    candidates: Masks | None = None,
) -> Masks:
    """Masks of the highest scores: `keep` over all layers together, or `keep[name]` in each layer.

    Only candidates (all weights where None) can be kept. Ties at the threshold are broken at random
    from `generator`. Raises NonFiniteScoresError naming the layer if a score is NaN or infinite.
    """
    for name, score in scores.items():
        _require_finite(name, score)
    if isinstance(keep, int):
        chosen = candidates and [candidates[name] for name in scores]
        kept = _select(list(scores.values()), keep, generator, chosen)
        return dict(zip(scores, kept, strict=True))
    return {
        name: _select([s], keep[name], generator, candidates and [candidates[name]])[0]
        for name, s in scores.items()
    }


def apply(model: nn.Module, masks: Masks) -> None:
    """Set the pruned weights to zero, in place. Call it after every optimizer step: momentum and
    weight decay would revive them. Raises ConfigurationError where masks do not fit the model."""
    check_model(model)
    weights = dict(model.named_parameters())
    check_fit(weights, masks)
    multiply([(weights[name], mask) for name, mask in masks.items()])


def paired(weights: Mapping[str, Tensor], masks: Masks) -> list[tuple[Tensor, Tensor]]:
    """(weight, mask) of every mask, for `multiply` in every step. Raises ConfigurationError where
    they do not fit.

    On a CPU the masks of a small network become numbers of the weights' type: no step has to
    convert them. Those of a large one stay booleans, a quarter of the memory.
    """
    check_fit(weights, masks)
    pairs = [(weights[name], mask) for name, mask in masks.items()]
    small = sum(mask.numel() for mask in masks.values()) <= _AS_NUMBERS
    if small and all(weight.device.type == "cpu" for weight, _ in pairs):
        return [(weight, mask.to(weight.dtype)) for weight, mask in pairs]
    return pairs


@torch.no_grad()
def multiply(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Multiply weights by their masks, in place; what `apply` does once it has checked."""
    if pairs and pairs[0][1].dtype == pairs[0][0].dtype:
        torch._foreach_mul_(*map(list, zip(*pairs, strict=True)))
        return
    for pair in pairs:
        for weight, mask in memory.parts(*pair):
            # A CPU multiplies by a tensor of the same type several times faster than by booleans.
            weight.mul_(mask.to(weight.dtype) if weight.device.type == "cpu" else mask)


def check_fit(weights: Mapping[str, Tensor], masks: Masks, device: bool = True) -> None:
    """Raises ConfigurationError unless every mask is one, and has a weight of its name, shape and
    device."""
    check_masks(masks)
    for name, mask in masks.items():
        if name not in weights:
            under = f"{name}_orig" in weights
            raise ConfigurationError(
                f"the masks do not fit the model: it has no parameter {name!r}"
                + (", which torch.nn.utils.prune masks already" if under else "")
            )
        weight = weights[name]
        if mask.shape != weight.shape:
            raise ConfigurationError(
                f"the masks do not fit the model: {name} is {tuple(weight.shape)}, "
                f"its mask {tuple(mask.shape)}"
            )
        if device and mask.device != weight.device:
            raise ConfigurationError(
                f"the mask of {name} is on {mask.device}, the weight on {weight.device}: "
                "masks = like_weights(model, masks) moves them"
            )


def check_masks(masks: Masks) -> None:
    """Raises ConfigurationError unless these are masks, whatever they are for."""
    if not isinstance(masks, Mapping):
        raise ConfigurationError(f"masks are a dictionary, name -> tensor, not {shown(masks)}")
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.is_meta:
            what = f"{mask.dtype} on {mask.device}" if isinstance(mask, Tensor) else shown(mask)
            raise ConfigurationError(
                f"the mask of {name} is {what}; a mask is a torch.bool tensor with values"
            )


def like_weights(model: nn.Module, masks: Masks) -> Masks:
    """The masks on the weights' device and in their memory layout, where applying is quickest.
    Raises ConfigurationError where they do not fit the model."""
    weights = prunable(model)
    check_fit(weights, masks, device=False)
    return {name: _like(weights[name], mask) for name, mask in masks.items()}


def kept(masks: Masks) -> int:
    """The number of weights kept. Raises ConfigurationError for what are no masks."""
    check_masks(masks)
    return sum(int(mask.sum()) for mask in masks.values())


def _require_finite(name: str, score: Tensor) -> None:
    # NaN and infinities pass through a sum, the quickest look at all values; so may an overflow.
    if math.isfinite(float(score.sum())):
        return
    if bad := int((~torch.isfinite(score)).sum()):
        raise NonFiniteScoresError(
            f"{bad} of {score.numel()} scores of {name} are NaN or infinite; "
            "a mask from them would mean nothing"
        )


def _select(
    scores: Sequence[Tensor],
    keep: int,
    generator: torch.Generator,
    candidates: Sequence[Tensor] | None,
) -> list[Tensor]:
    """A random sample brackets the threshold; one pass takes what lies above the bracket, and only
    what lies inside is ranked (Floyd and Rivest 1975). Where the sample misleads, everything is."""
    total = sum(score.numel() for score in scores)
    if not 0 <= keep <= total:
        raise ValueError(f"cannot keep {keep} of {total} weights")
    if keep == 0:
        return [torch.zeros_like(score, dtype=torch.bool) for score in scores]
    flat = [memory.flat(score) for score in scores]
    allowed: list[Tensor | None] = [None] * len(scores)
    if candidates is not None:
        allowed = [memory.flat(_like(s, c)) for s, c in zip(scores, candidates, strict=True)]
    parts = _around(flat, allowed, keep, *_bracket(flat, allowed, keep, generator))
    if parts is None:  # the sample misled
        parts = _around(flat, allowed, keep, -math.inf, math.inf)
    if parts is None:
        raise ValueError(f"cannot keep {keep} weights: fewer are left to choose from")
    values = [f.index_select(0, inside) for f, (_, inside) in zip(flat, parts, strict=True)]
    missing = keep - sum(_count(taken) for taken, _ in parts)
    (threshold,) = _rank(torch.cat(values), missing)
    ties = []
    for (taken, inside), value in zip(parts, values, strict=True):
        better = inside.index_select(0, _places(value > threshold))
        taken.index_fill_(0, better, True)
        missing -= len(better)
        ties.append(inside.index_select(0, _places(value == threshold)))
    masks = [memory.unflat(taken, s) for s, (taken, _) in zip(scores, parts, strict=True)]
    _keep_at_random(masks, ties, missing, generator)
    return masks


def _around(
    flat: Sequence[Tensor],
    allowed: Sequence[Tensor | None],
    keep: int,
    low: Tensor | float,
    high: Tensor | float,
) -> list[tuple[Tensor, Tensor]] | None:
    """`_split` of every layer; None where the `keep`-th largest does not lie in [low, high]."""
    parts = [_split(f, may, low, high) for f, may in zip(flat, allowed, strict=True)]
    missing = keep - sum(_count(taken) for taken, _ in parts)
    return parts if 0 < missing <= sum(len(inside) for _, inside in parts) else None


def _keep_at_random(
    masks: Sequence[Tensor], ties: Sequence[Tensor], number: int, generator: torch.Generator
) -> None:
    """Set `number` of the `ties` (places in the order of memory) in the masks, in place."""
    lengths = [len(tie) for tie in ties]
    chosen = torch.zeros(sum(lengths), dtype=torch.bool)
    chosen[torch.randperm(len(chosen), generator=generator)[:number]] = True
    for mask, tie, take in zip(masks, ties, chosen.split(lengths), strict=True):
        if take.all():
            memory.flat(mask).index_fill_(0, tie, True)
            continue
        # In the order of the indices, so that the memory's order decides nothing.
        tied = torch.zeros_like(mask)
        memory.flat(tied).index_fill_(0, tie, True)
        places = tied.nonzero()
        mask[places[take.to(places.device)].unbind(1)] = True


def _bracket(
    flat: Sequence[Tensor],
    allowed: Sequence[Tensor | None],
    k: int,
    generator: torch.Generator,
) -> tuple[Tensor | float, Tensor | float]:
    """Two values that the k-th largest of all allowed ones most likely lies between."""
    total = sum(len(f) for f in flat)
    if total <= _SMALL:
        return -math.inf, math.inf
    picks = []
    for f, may in zip(flat, allowed, strict=True):
        if len(f):
            share = -(-_SAMPLE * len(f) // total)
            where = torch.randint(len(f), (share,), generator=generator).to(f.device)
            pick = f.index_select(0, where)
            picks.append(pick if may is None else pick.masked_fill_(~may[where], -math.inf))
    sample = torch.cat(picks)
    expected = k / total * len(sample)
    # Four standard deviations of the rank that the value has in the sample.
    slack = 4 * math.sqrt(max(expected * (1 - k / total), 1)) + 4
    first, last = math.floor(expected - slack), math.ceil(expected + slack)
    lower = _count(sample > -math.inf) - expected
    high, low = _rank(sample, max(first, 0) + 1, min(last + 1, len(sample)))
    # Where little goes, as in a round of many, all of that is ranked: one comparison less.
    if last >= len(sample) or lower <= expected / 16:
        low = -math.inf
    return low, high if first >= 0 else math.inf


def _split(
    flat: Tensor, may: Tensor | None, low: Tensor | float, high: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Of the allowed values: which lie above `high`, and the places of those in [low, high]."""
    above = flat > high
    if may is not None:
        above &= may
    if low == -math.inf:
        inside = ~above if may is None else above ^ may
    else:
        inside = flat >= low
        if may is not None:
            inside &= may
        inside ^= above
    return above, _places(inside)


def _count(flags: Tensor) -> int:
    """How many are True."""
    on_cpu = flags.device.type == "cpu"
    return int(np.count_nonzero(flags.numpy()) if on_cpu else flags.count_nonzero())


def _places(flags: Tensor) -> Tensor:
    """Where a 1-D boolean tensor is True. On a CPU numpy knows several times sooner than torch,
    here and in `_count`."""
    if flags.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(flags.numpy()))
    return flags.nonzero().squeeze(1)


def _like(tensor: Tensor, mask: Tensor) -> Tensor:
    """The mask on the tensor's device and in its memory layout; itself where it is so already."""
    if mask.device == tensor.device and mask.stride() == tensor.stride():
        return mask
    return torch.empty_like(tensor, dtype=torch.bool).copy_(mask)


def _rank(values: Tensor, *ranks: int) -> list[Tensor]:
    """The k-th largest for each k of `ranks`."""
    up = [len(values) - k for k in ranks]
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:
        # Several times quicker than torch's kthvalue and sort.
        parted = torch.from_numpy(np.partition(values.numpy(), up))
    else:
        parted = values.sort().values
    return [parted[place] for place in up]
