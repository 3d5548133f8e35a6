"""What a trial has beyond a method: parameters of its own, and how they go together."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from common.base.errors import ConfigurationError, shown, unknown

if TYPE_CHECKING:
    from common.runs.experiment import Experiment

Read = Callable[[str, object], object]  # (name, value) -> the value as it counts
MOST = 10**6  # epochs, images of a batch, runs at a time: more is a slip


def text(value: object, default: str) -> str:
    """The value as text, or the default where it is not given (None or "")."""
    if value is None or value == "":
        return default
    return value if isinstance(value, str) else shown(value)


def path(name: str, value: object) -> str | None:
    """A folder's path, `~` read as a shell does, or None where it is not given."""
    if value is None or value == "":
        return None
    if not isinstance(value, (str, Path)) or "\0" in str(value):
        raise ConfigurationError(f"{name}={shown(value)} is not the path of a folder")
    return os.path.expanduser(value)


def whole(name: str, value: object, least: int, most: int = MOST) -> int | None:
    """A whole number from `least` to `most`, or None where it is not given."""
    if value is None or value == "":
        return None
    if not _number(value) or value % 1 != 0:
        raise ConfigurationError(f"{name}={shown(value)} is not a whole number")
    if not least <= value <= most:
        limit = f"below {least}" if value < least else f"above {most:,}"
        raise ConfigurationError(f"{name}={shown(value)} is {limit}")
    return int(value)


def whole_from(least: int) -> Read:
    """Reads a whole number of at least `least`."""
    return lambda name, value: whole(name, value, least)


def number_in(low: float, high: float = math.inf) -> Read:
    """Reads a number from `low` to `high`, both included."""

    def read(name: str, value: object) -> float:
        if not _number(value) or not low <= value <= min(high, sys.float_info.max):
            limit = f"from {low:g} on" if math.isinf(high) else f"from {low:g} to {high:g}"
            raise ConfigurationError(f"{name}={shown(value)} is not a number {limit}")
        return float(value) + 0.0  # -0.0 is 0

    return read


def list_of(read: Read) -> Read:
    """Reads a list of one or more of what `read` reads."""

    def read_all(name: str, value: object) -> list:
        if not isinstance(value, (list, tuple)) or not value or None in value or "" in value:
            raise ConfigurationError(
                f"{name}={shown(value)} is not a list of values, such as [1, 2]"
            )
        return [read(name, one) for one in value]

    return read_all


def one_of(choices: Iterable[str]) -> Read:
    """Reads one of these names, which it has as `choices`."""
    choices = tuple(choices)

    def read(name: str, value: object) -> str:
        if value not in choices:
            raise unknown(name, value, choices)
        return str(value)

    read.choices = choices
    return read


def _number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class Option:
    """A parameter that one trial has beyond those of all.

    default: its value where None or "" is given. read: (name, value) -> the value as it counts, or
    ConfigurationError (the usual ones stand above). An option called like a field of
    `Protocol` replaces it; None there is what the protocol says.
    """

    name: str
    default: object
    read: Read


@dataclass(frozen=True)
class Trial:
    """What a trial has beyond a method.

    scored_by: the method whose scores and variants are also its own. variants: the names of its
    own, where they are others; it scores alike in all of them.
    check: raises ConfigurationError where values do not go together.
    epochs: those of all its trainings together, which is what a run's time goes by.
    """

    options: tuple[Option, ...]
    scored_by: str = "magnitude"
    check: Callable[[Experiment], None] = lambda experiment: None
    epochs: Callable[[Experiment], float] = lambda experiment: experiment.epochs
    variants: tuple[str, ...] = ()
