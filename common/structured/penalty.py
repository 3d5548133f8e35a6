"""Group lasso, the proximal step that makes it exact, and training with it.

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

import numpy as np
import torch
import torchbearer
from torch import Tensor, nn
from torchbearer.callbacks import Callback

from common.pruning.memory import flat
from common.pruning.parameters import prunable
from common.structured.channels import Channels
from common.training.protocols import Protocol

SNAPSHOTS = 40
QUANTILES = {"norm_min": 0, "norm_q25": 0.25, "norm_median": 0.5, "norm_q75": 0.75, "norm_max": 1}
PENALTY = ("penalty", "groups", "vanished", *QUANTILES)


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
        Groups(name.removesuffix(".weight"), w[0].numel() ** -0.5, [flat(w.detach())])
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


def step_length(learning_rate: float, momentum: float) -> float:
    """How far a constant gradient moves a weight in one step of SGD with momentum, in the long run.

    The penalty has no momentum. Its steps have this length, so that the training settles where the
    loss's gradient and the penalty's are in balance: at a minimum of loss + Ω with the λ it has.
    """
    return learning_rate / (1 - momentum)


def descent(hyper: Protocol, epochs: int, steps: int) -> float:
    """The sum of all `step_length`s of a training with `steps` steps an epoch."""
    # The rate of an epoch's middle step is the mean of all its steps', whichever the schedule.
    middle = (steps - 1) / (2 * steps)
    rates = (hyper.learning_rate_at(epoch + middle) for epoch in range(epochs))
    return steps * sum(step_length(rate, hyper.momentum) for rate in rates)


def default_strength(penalty: Penalty, total: float) -> float:
    """The λ that brings a group to zero in half of the training, if no gradient holds it.

    The norm of such a group falls by λ for every unit of the `total` descent.
    """
    mean = float(torch.cat(list(penalty.norms().values())).mean())
    return 2 * mean / total if total else 0.0


class Shrink(Callback):
    """Takes the penalty's step after every optimizer step, and records it after every epoch.

    rows: {epoch, *PENALTY} from epoch 0, before training, on. snapshots: {epoch: norms by layer},
    of at most SNAPSHOTS epochs besides the first.
    """

    def __init__(self, penalty: Penalty, hyper: Protocol, epochs: int) -> None:
        super().__init__()
        self.penalty, self.hyper = penalty, hyper
        shown = np.linspace(0, epochs, min(epochs, SNAPSHOTS) + 1).round()
        self.shown = {int(epoch) for epoch in shown}
        self.rows: list[dict[str, float]] = []
        self.snapshots: dict[int, dict[str, Tensor]] = {}
        self._record(0)

    def on_step_training(self, state) -> None:
        rate = state[torchbearer.OPTIMIZER].param_groups[0]["lr"]
        self.penalty.step(step_length(rate, self.hyper.momentum))

    def on_end_epoch(self, state) -> None:
        self._record(state[torchbearer.EPOCH] + 1)

    def state_dict(self) -> dict:
        """What a checkpoint needs of it."""
        return {"rows": self.rows, "snapshots": self.snapshots}

    def load_state_dict(self, state_dict: dict) -> Shrink:
        """Go on from a checkpoint."""
        self.rows, self.snapshots = list(state_dict["rows"]), dict(state_dict["snapshots"])
        return self

    def _record(self, epoch: int) -> None:
        norms = self.penalty.norms()
        every = torch.cat(list(norms.values())).numpy()
        levels = np.quantile(every, list(QUANTILES.values()))
        row = {
            "penalty": self.penalty.value(),
            "groups": len(every),
            "vanished": (every == 0).sum(),
        }
        row |= dict(zip(QUANTILES, levels, strict=True))
        self.rows.append({"epoch": epoch, **{name: float(v) for name, v in row.items()}})
        # A network has too many weights to keep every one's norm.
        if epoch in self.shown and every.size < 100_000:
            self.snapshots[epoch] = norms
