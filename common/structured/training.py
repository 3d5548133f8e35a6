"""Training with a penalty: its step after every optimizer step, and what is recorded of it."""

from __future__ import annotations

import numpy as np
import torch
import torchbearer
from torch import Tensor
from torchbearer.callbacks import Callback

from common.structured.penalty import Penalty
from common.training.protocols import Protocol

SNAPSHOTS = 40
QUANTILES = {"norm_min": 0, "norm_q25": 0.25, "norm_median": 0.5, "norm_q75": 0.75, "norm_max": 1}
PENALTY = ("penalty", "groups", "vanished", *QUANTILES)


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
        flat = torch.cat(list(norms.values())).numpy()
        levels = np.quantile(flat, list(QUANTILES.values()))
        row = {"penalty": self.penalty.value(), "groups": len(flat), "vanished": (flat == 0).sum()}
        row |= dict(zip(QUANTILES, levels, strict=True))
        self.rows.append({"epoch": epoch, **{name: float(v) for name, v in row.items()}})
        # A network has too many weights to keep every one's norm.
        if epoch in self.shown and flat.size < 100_000:
            self.snapshots[epoch] = norms
