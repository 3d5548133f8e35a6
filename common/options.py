"""What a trial has beyond a method: parameters of its own, and how they go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.pruning.methods import Method
from common.values import Read

if TYPE_CHECKING:
    from common.experiment import Experiment


@dataclass(frozen=True)
class Option:
    """A parameter that one trial has beyond those of all.

    default: its value where None or "" is given. read: (name, value) -> the value as it counts, or
    ConfigurationError (`common.values` has the usual ones). An option called like a field of
    `Protocol` replaces it; None there is what the protocol says.
    """

    name: str
    default: object
    read: Read


@dataclass(frozen=True)
class Trial:
    """What a trial has beyond a method.

    scored_by: the method whose scores and variants are also its own. variants: those that it has
    itself, where they are others.
    check: raises ConfigurationError where values do not go together.
    epochs: those of all its trainings together, which is what a run's time goes by.
    """

    options: tuple[Option, ...]
    scored_by: str = "magnitude"
    check: Callable[[Experiment], None] = lambda experiment: None
    epochs: Callable[[Experiment], float] = lambda experiment: experiment.epochs
    variants: Mapping[str, Method] | None = None
