"""From scores to masks, and masks onto the model.

A mask is a boolean tensor per parameter name, True where the weight is kept. Selection is exact:
the number kept is what was asked for, whatever the ties, and ties are broken at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from common.errors import ConfigurationError
from common.pruning.parameters import prunable

Masks = dict[str, Tensor]

# Below this many scores a plain selection is quicker than a sample and a bracket.
_SMALL = 1 << 17
_SAMPLE = 1 << 16


class NonFiniteScoresError(ValueError):
    """A score is NaN or infinite, so that no ranking means anything."""


def keep_count(total: int, sparsity: float) -> int:
    """How many of `total` weights remain when the fraction `sparsity` is removed."""
    return round((1 - sparsity) * total)


def density_after(step: int, steps: int, density: float, schedule: str) -> float:
    """The density after round `step` of `steps` (1-based) on the way from 1 to `density`.

    `exponential`: density^(step/steps), every round removes the same share of what is left
    (Tanaka et al. 2020, alg. 1); `linear`: every round removes the same number.
    """
    if step == steps:
        return density
    if schedule == "exponential":
        return density ** (step / steps)
    if schedule == "linear":
        return 1 - (1 - density) * step / steps
    raise ValueError(f"schedule={schedule!r} is not known; choose from: exponential, linear")


def select(
    scores: Mapping[str, Tensor],
    keep: int | Mapping[str, int],
    generator: torch.Generator,
    candidates: Masks | None = None,
) -> Masks:
    """Masks of the highest scores: `keep` over all layers together, or `keep[name]` in each layer.

    scores: {name: tensor}, overwritten where `candidates` is False. Only candidates can be kept.
    Ties at the threshold are broken at random from `generator`. Raises NonFiniteScoresError naming
    the layer if a score is NaN or infinite.
    """
    for name, score in scores.items():
        _require_finite(name, score)
    if candidates is not None:
        for name, score in scores.items():
            score.masked_fill_(~candidates[name].to(score.device), -math.inf)
    if isinstance(keep, int):
        kept = _select(list(scores.values()), keep, generator)
        return dict(zip(scores, kept, strict=True))
    return {name: _select([s], keep[name], generator)[0] for name, s in scores.items()}


def apply(model: nn.Module, masks: Masks) -> None:
    """Set the pruned weights to zero, in place. Call it after every optimizer step: momentum and
    weight decay would revive them. Raises ConfigurationError where masks do not fit the model."""
    if not masks:
        return
    weights = dict(model.named_parameters())
    check_fit(weights, masks)
    with torch.no_grad():
        torch._foreach_mul_([weights[name] for name in masks], list(masks.values()))


def check_fit(weights: Mapping[str, Tensor], masks: Masks, device: bool = True) -> None:
    """Raises ConfigurationError unless every mask has a weight of its name, shape and device."""
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


def like_weights(model: nn.Module, masks: Masks) -> Masks:
    """The masks on the weights' device and in their memory layout, where applying is quickest.
    Raises ConfigurationError where they do not fit the model."""
    weights = prunable(model)
    check_fit(weights, masks, device=False)
    return {
        name: torch.empty_like(weights[name], dtype=torch.bool).copy_(mask)
        for name, mask in masks.items()
    }


def kept(masks: Masks) -> int:
    """The number of weights kept."""
    return sum(int(mask.sum()) for mask in masks.values())


def _require_finite(name: str, score: Tensor) -> None:
    # NaN passes through the extremes, so one reduction sees every kind of non-finite value.
    low, high = torch.aminmax(score) if score.numel() else (score.sum(), score.sum())
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = int((~torch.isfinite(score)).sum())
        raise NonFiniteScoresError(
            f"{bad} of {score.numel()} scores of {name} are NaN or infinite; "
            "a mask from them would mean nothing"
        )


def _select(scores: Sequence[Tensor], keep: int, generator: torch.Generator) -> list[Tensor]:
    total = sum(score.numel() for score in scores)
    if not 0 <= keep <= total:
        raise ValueError(f"cannot keep {keep} of {total} weights")
    if keep == 0:
        return [torch.zeros_like(score, dtype=torch.bool) for score in scores]
    threshold = _kth_largest([_flat(score) for score in scores], keep, generator)
    if threshold == -math.inf:
        raise ValueError(f"cannot keep {keep} weights: fewer are left to choose from")
    masks = [score > threshold for score in scores]
    missing = keep - sum(int(mask.sum()) for mask in masks)
    ties = [(score == threshold).nonzero() for score in scores]
    lengths = [len(tie) for tie in ties]
    chosen = torch.zeros(sum(lengths), dtype=torch.bool)
    chosen[torch.randperm(len(chosen), generator=generator)[:missing]] = True
    for mask, tie, take in zip(masks, ties, chosen.split(lengths), strict=True):
        mask[tie[take.to(tie.device)].unbind(1)] = True
    return masks


def _flat(score: Tensor) -> Tensor:
    """All values in one dimension, in the order of memory: no copy for channels_last tensors."""
    last = score.dim() == 4 and score.is_contiguous(memory_format=torch.channels_last)
    return (score.permute(0, 2, 3, 1) if last else score).reshape(-1)


def _kth_largest(flat: Sequence[Tensor], k: int, generator: torch.Generator) -> Tensor:
    """The k-th largest value of all the 1-D tensors together, exactly.

    A random sample brackets the value; one pass counts what lies above the bracket, and only what
    lies inside is ranked (Floyd and Rivest 1975). Where the sample misleads, everything is ranked.
    """
    flat = [f for f in flat if len(f)]
    total = sum(len(f) for f in flat)
    if total > _SMALL:
        picks = [
            f[
                torch.randint(len(f), (-(-_SAMPLE * len(f) // total),), generator=generator).to(
                    f.device
                )
            ]
            for f in flat
        ]
        sample = torch.cat(picks).sort(descending=True).values
        expected = k / total * len(sample)
        # Four standard deviations of the rank that the value has in the sample.
        slack = 4 * math.sqrt(max(expected * (1 - k / total), 1)) + 4
        first, last = math.floor(expected - slack), math.ceil(expected + slack)
        high = sample[first] if first >= 0 else torch.full_like(sample[0], math.inf)
        low = sample[last] if last < len(sample) else torch.full_like(sample[0], -math.inf)
        above = sum(int((f > high).sum()) for f in flat)
        inside = torch.cat([f[(f >= low) & (f <= high)] for f in flat])
        if above < k <= above + len(inside):
            return _rank(inside, k - above)
    return _rank(torch.cat(flat), k)


def _rank(values: Tensor, k: int) -> Tensor:
    return values.kthvalue(len(values) - k + 1).values
