"""The registry: a method is a score with a schedule and a scope, under the name of its folder.

Adding one: write its score (scores.py, or a file of its own), add a line here, put a notebook into
`trials/<name>/`. Scores are imported when they are called: the registry is read without torch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.base import deferred
from common.base.errors import ConfigurationError, unknown
from common.pruning.distributions import DISTRIBUTIONS
from common.pruning.schedule import SCHEDULES

if TYPE_CHECKING:
    from torch import nn

    from common.pruning.scores import Context, ScoreFunction, Scores

scores = deferred.Module("common.pruning.scores")
ntk_sap = deferred.Module("common.pruning.ntk_sap")
prospr = deferred.Module("common.pruning.prospr")
phew = deferred.Module("common.pruning.phew")

PROSPR_STEPS = 3  # a batch for each of them and one for the loss; sources in prospr.py


@dataclass(frozen=True)
class Method:
    """How a network is pruned.

    score: what a weight is worth; whatever it computes, it does so in `full_float32`, and what it
    returns is its own: not a weight, and without a graph.
    iterations: rounds of scoring and pruning; schedule: densities on the way (`exponential`,
    `linear`); scope: `global` or a distribution (`uniform`, `erk`, `smart_ratio`).
    revive: whether a later round may bring a pruned weight back.
    images_per_class: how many scoring images of each class it needs; 0 = none.
    training_batches: or how many class-balanced batches of the size that one trains with.
    needs_shape: whether it needs the shape of an input to make its own.
    graphs: how many forward passes over the scoring images it keeps in memory at a time, for the
    GPU's sake. origin: of a method from outside, its file and the beginning of its hash.

    Raises ConfigurationError for a number of rounds or images, a schedule or a scope that is none.
    """

    score: ScoreFunction
    iterations: int = 1
    schedule: str = "exponential"
    scope: str = "global"
    revive: bool = False
    images_per_class: int = 0
    training_batches: int = 0
    needs_shape: bool = False
    graphs: int = 1
    origin: str = ""

    def __post_init__(self) -> None:
        for name, choices in (("schedule", SCHEDULES), ("scope", ("global", *DISTRIBUTIONS))):
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        for name, least in (("iterations", 1), ("images_per_class", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigurationError(f"{name}={value!r} is not a whole number from {least} on")
        # Here, so that nobody who writes a score need think of it.
        object.__setattr__(self, "score", _safely(self.score))

    @property
    def needs_images(self) -> bool:
        """Whether it scores on images and labels."""
        return bool(self.images_per_class or self.training_batches)


def _safely(score: ScoreFunction) -> ScoreFunction:
    @functools.wraps(score, assigned=("__name__",))
    def scored(model: nn.Module, context: Context) -> Scores:
        from common.pruning.precision import full_float32
        from common.pruning.scores import apart

        with full_float32():
            return apart(score(model, context), model)

    return scored


# Method -> variant -> Method; "" is the method as published.
METHODS: dict[str, dict[str, Method]] = {
    "random": {
        "": Method(scores.random),
        "uniform": Method(scores.random, scope="uniform"),
        "erk": Method(scores.random, scope="erk"),
        "smart_ratio": Method(scores.random, scope="smart_ratio"),
    },
    "magnitude": {
        "": Method(scores.magnitude),
        "uniform": Method(scores.magnitude, scope="uniform"),
    },
    "SNIP": {
        "": Method(scores.snip, images_per_class=10),
        "iterative": Method(scores.snip, iterations=100, images_per_class=10),
        "force": Method(scores.force, iterations=100, revive=True, images_per_class=10),
    },
    "grasp": {
        "": Method(scores.grasp, images_per_class=10, graphs=3),
        "absolute": Method(scores.grasp_absolute, images_per_class=10, graphs=3),
    },
    "synflow": {
        "": Method(scores.synflow, iterations=100, needs_shape=True),
        "one_shot": Method(scores.synflow, needs_shape=True),
        "l2": Method(scores.synflow_l2, iterations=100, needs_shape=True),
        "linear": Method(scores.synflow, iterations=100, schedule="linear", needs_shape=True),
    },
    "ntk_sap": {
        "": Method(ntk_sap.ntk_sap, iterations=20, needs_shape=True, graphs=3),
        "single_pass": Method(
            ntk_sap.ntk_sap_single_pass, iterations=100, needs_shape=True, graphs=3
        ),
    },
    "phew": {
        "": Method(phew.phew),
    },
    "igq": {
        "": Method(scores.random, scope="igq"),
        "magnitude": Method(scores.magnitude, scope="igq"),
    },
    "prospr": {
        "": Method(prospr.prospr, training_batches=PROSPR_STEPS + 1, graphs=5),
        "first_order": Method(
            prospr.prospr_first_order, training_batches=PROSPR_STEPS + 1, graphs=5
        ),
    },
}
