"""The ablations of Frankle et al. 2021: does it matter which weights, which values, which order?

Each is one function at one point of a run: on the scores of every round, on the final masks, or on
the weights that the masks meet. Ablations of different kinds combine with `+`. Their names are
known without torch: a function that needs it imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.base.errors import ConfigurationError, shown, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from common.pruning.masks import Masks
    from common.pruning.scores import Initialise, Scores


def invert(scores: Scores) -> Scores:
    """The opposite end of the ranking: keep the lowest scores. The order of a signed score reverses
    by negation; 1/score would reverse neither signs nor zeros."""
    return {name: -score for name, score in scores.items()}


def shuffle(masks: Masks, generator: torch.Generator) -> Masks:
    """Permute every layer's mask at random: the density of each layer stays, the choice of weights
    does not."""
    return {
        name: _permuted(mask.reshape(-1), generator).view(mask.shape)
        for name, mask in masks.items()
    }


def shuffle_network(masks: Masks, generator: torch.Generator) -> Masks:
    """One permutation over all prunable weights: the layerwise densities go as well (Tanaka et al.
    2020, app. 11)."""
    import torch

    flat = _permuted(torch.cat([mask.reshape(-1) for mask in masks.values()]), generator)
    parts = flat.split([mask.numel() for mask in masks.values()])
    return {n: p.view(m.shape).clone() for (n, m), p in zip(masks.items(), parts, strict=True)}


def reinit(model: nn.Module, initialise: Initialise, generator: torch.Generator) -> None:
    """Draw the whole network anew from its own initialisation; the masks stay."""
    initialise(model, generator)


@dataclass(frozen=True)
class Ablation:
    """What an ablation acts on (`scores`, `masks` or `weights`) and its function."""

    acts_on: str
    apply: Callable


ABLATIONS: dict[str, Ablation] = {
    "none": Ablation("none", lambda: None),
    "shuffle": Ablation("masks", shuffle),
    "reinit": Ablation("weights", reinit),
    "invert": Ablation("scores", invert),
    "shuffle_network": Ablation("masks", shuffle_network),
}


def parse(ablation: str) -> Mapping[str, Callable]:
    """`"shuffle+reinit"` -> {what each acts on: its function}. Raises ConfigurationError for
    an unknown name or two that act on the same, of which only one could show."""
    names = [name.strip() for name in str(ablation).split("+")]
    for name in names:
        if name not in ABLATIONS:
            raise unknown("ablation", name, ABLATIONS)
    found: dict[str, Callable] = {}
    for name in names:
        acts_on = ABLATIONS[name].acts_on
        if acts_on in found or (acts_on == "none" and len(names) > 1):
            raise ConfigurationError(
                f"ablation={shown(ablation)} combines names that do not go together; "
                "combine at most one each of: invert; shuffle or shuffle_network; reinit"
            )
        found[acts_on] = ABLATIONS[name].apply
    return found


def _permuted(flat: Tensor, generator: torch.Generator) -> Tensor:
    import torch

    return flat[torch.randperm(flat.numel(), generator=generator).to(flat.device)]
