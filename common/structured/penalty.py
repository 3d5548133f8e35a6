"""Group lasso, and the proximal step that makes it exact.

    Ω(θ) = λ Σ_g ω_g ‖θ_g‖₂        (Yuan and Lin 2006, eq. 2.1; Wen et al. 2016, 1608.03665, eq. 3)

A channel's group holds everything that makes it: its filter, the bias, BatchNorm's weight and bias;
in a residual network the filters of all m layers that write to it, and then ω = √m, so that every
filter counts alike. With a group for the filter alone BatchNorm would undo the penalty: the loss
does not depend on the norm of a filter that is normalised, its gradient grows as 1 / norm, and none
ever arrives at zero. With groups of a single weight the penalty is the lasso, the unstructured
kind; there ω = 1 / √n for a filter of n weights, so that one λ means the same to both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.pruning.parameters import prunable
from common.structured.channels import Channels


@dataclass(frozen=True)
class Groups:
    """Groups of one layer: group i is entry i of each of the `tensors` (views of parameters)."""

    name: str
    weight: float
    tensors: Sequence[Tensor]

    def norms(self) -> Tensor:
        """‖θ_g‖ / ω, (groups,); of a channel the root mean square over the filters that make it."""
        each = [
            torch.linalg.vector_norm(t, dim=tuple(range(1, t.dim()))) if t.dim() > 1 else t.abs()
            for t in self.tensors
        ]
        return torch.linalg.vector_norm(torch.stack(each), dim=0) / self.weight

    def scale(self, factors: Tensor) -> None:
        """Multiply group i by `factors[i]`, in place."""
        for tensor in self.tensors:
            tensor.mul_(factors.view(-1, *[1] * (tensor.dim() - 1)))


def channel_groups(model: nn.Module, channels: Sequence[Channels]) -> list[Groups]:
    """A group for every channel."""
    return [
        Groups(c.name, len(c.writers) ** 0.5, [p.detach() for p in c.parameters(model)])
        for c in channels
    ]


def weight_groups(model: nn.Module) -> list[Groups]:
    """A group for every prunable weight."""
    return [
        # Flat views in the order of memory, whatever that is.
        Groups(name.removesuffix(".weight"), w[0].numel() ** -0.5, [_flat(w.detach())])
        for name, w in prunable(model).items()
    ]


class Penalty:
    """Ω of groups of parameters, and the steps that make it smaller, in place.

    strength: λ. proximal: whether `step` is the proximal step or that of the subgradient.
    """

    def __init__(self, groups: Sequence[Groups], strength: float, proximal: bool = True) -> None:
        self.groups, self.strength, self.proximal = groups, strength, proximal

    @torch.no_grad()
    def value(self) -> float:
        """Ω."""
        return self.strength * sum(float(g.norms().sum()) * g.weight**2 for g in self.groups)

    @torch.no_grad()
    def norms(self) -> dict[str, Tensor]:
        """Norms of all groups by layer, on the CPU (`Groups.norms`)."""
        return {g.name: g.norms().cpu() for g in self.groups}

    @torch.no_grad()
    def step(self, size: float) -> None:
        """The penalty's part of a step of descent of length `size`, after the loss's part.

        Proximal: θ_g <- argmin_x ‖x - θ_g‖² / 2 + size λ ω ‖x‖ = max(0, 1 - size λ ω / ‖θ_g‖) θ_g,
        group soft-thresholding (Parikh and Boyd 2014, section 6.5.1). What would cross zero stops
        there, exactly, and nothing is divided by a norm of zero. The subgradient's step is the same
        without the max: around zero it goes back and forth by its own length and never arrives.
        """
        threshold = size * self.strength
        for group in self.groups:
            norms = group.norms()
            away = norms > (threshold if self.proximal else 0)
            group.scale(torch.where(away, 1 - threshold / norms, 0.0))


def _flat(weight: Tensor) -> Tensor:
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return (weight.permute(0, 2, 3, 1) if last else weight).view(-1)
