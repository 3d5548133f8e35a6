"""The parameters of a lottery ticket, and what they mean: densities of its levels, rewinding."""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import TYPE_CHECKING

from common.base.errors import ConfigurationError, shown
from common.models import INITIALISATIONS
from common.pruning.schedule import density_after
from common.runs.options import MOST, Option, Trial, one_of, whole_from

if TYPE_CHECKING:
    from common.runs.experiment import Experiment

SHARE = 0.2  # of what is left goes in a level, unless told; Frankle and Carbin 2019
RETRAIN = {
    "rewind_weights": "the weights of the rewinding point, trained from there on",
    "rewind_learning_rate": "the trained weights, the learning rates from the rewinding point on",
    "fine_tune": "the trained weights, at the last learning rate",
    "reinit": "weights drawn anew in every level, trained from the start",
}


def densities(sparsity: float, levels: int | None) -> list[float]:
    """The share of weights left after each level, the last of them 1 - sparsity.

    levels: how many, all removing the same share of what is left. None: levels of 20 percent, as
    many as come nearest, of which the last ends at the target. None are needed for sparsity 0.
    """
    left = 1 - sparsity
    if left == 1:
        return []
    if levels is not None:
        return [density_after(level, levels, left, "exponential") for level in range(1, levels + 1)]
    number = max(1, round(math.log(left) / math.log(1 - SHARE)))
    return [(1 - SHARE) ** level for level in range(1, number)] + [left]


def read_rewind(name: str, value: object) -> object:
    """Epochs (0, 2, 0.5) or iterations (`"500it"`); ConfigurationError for anything else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}it", value):
        return 0 if int(value[:-2]) == 0 else f"{int(value[:-2])}it"
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 <= value <= MOST:
        raise ConfigurationError(
            f"{name}={shown(value)} is neither a number of epochs (0, 2, 0.5) nor one of "
            'iterations ("500it")'
        )
    return int(value) if value % 1 == 0 else float(value)


def rewind_step(value: object, per_epoch: int) -> int:
    """The rewinding point in iterations, with `per_epoch` of them in an epoch."""
    return int(value[:-2]) if isinstance(value, str) else round(value * per_epoch)


def check(experiment: Experiment) -> None:
    """Raises ConfigurationError where a ticket's parameters do not go together."""
    rewind, retrain = experiment.options["rewind_epoch"], experiment.options["retrain"]
    if experiment.pretrain_epochs:
        raise ConfigurationError(
            f"pretrain_epochs={experiment.pretrain_epochs}: a ticket is pruned after training "
            "anyway; rewind_epoch says how far it goes back"
        )
    if rewind and retrain == "reinit":
        raise ConfigurationError(
            f"rewind_epoch={rewind!r}: retrain='reinit' draws new weights and has nothing to "
            "rewind to; leave rewind_epoch at 0"
        )
    if rewind and not isinstance(rewind, str):
        check_step(experiment, rewind, experiment.epochs)


def check_step(experiment: Experiment, step: float, total: float) -> None:
    """Raises ConfigurationError if the rewinding point leaves nothing of the training."""
    if step and step >= total:
        raise ConfigurationError(
            f"rewind_epoch={experiment.options['rewind_epoch']!r} leaves nothing to train: it must "
            f"come before the end of {experiment.epochs} epochs"
        )


def all_epochs(experiment: Experiment) -> float:
    """Of the dense training and those of all levels."""
    rewind = experiment.options["rewind_epoch"]
    left = experiment.epochs - (0 if isinstance(rewind, str) else rewind)
    levels = densities(experiment.sparsity, experiment.options["levels"])
    return experiment.epochs + len(levels) * left


TRIAL = Trial(
    options=(
        Option("levels", None, whole_from(1)),
        Option("rewind_epoch", 0, read_rewind),
        Option("retrain", "rewind_weights", one_of(RETRAIN)),
        Option("init", None, one_of(INITIALISATIONS)),
    ),
    check=check,
    epochs=all_epochs,
)
