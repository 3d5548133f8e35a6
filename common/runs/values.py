"""Reading a parameter's value: one clear error, or the value as it counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real

from common.base.errors import ConfigurationError, unknown

Read = Callable[[str, object], object]  # (name, value) -> the value as it counts


def text(value: object, default: str) -> str:
    """The value as text, or the default where it is not given (None or "")."""
    return default if value is None or value == "" else str(value)


def whole(name: str, value: object, least: int) -> int | None:
    """A whole number of at least `least`, or None where it is not given."""
    if value is None or value == "":
        return None
    if not isinstance(value, Real) or isinstance(value, bool) or value % 1 != 0:
        raise ConfigurationError(f"{name}={value!r} is not a whole number (None: the protocol's)")
    if value < least:
        raise ConfigurationError(f"{name}={value!r} is below {least}")
    return int(value)


def whole_from(least: int) -> Read:
    """Reads a whole number of at least `least`."""
    return lambda name, value: whole(name, value, least)


def number_in(low: float, high: float = math.inf) -> Read:
    """Reads a number from `low` to `high`, both included."""

    def read(name: str, value: object) -> float:
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not low <= value <= high or math.isinf(value):
            limit = f"from {low:g} on" if math.isinf(high) else f"from {low:g} to {high:g}"
            raise ConfigurationError(f"{name}={value!r} is not a number {limit}")
        return float(value)

    return read


def one_of(choices: Iterable[str]) -> Read:
    """Reads one of these names, which it has as `choices`."""
    choices = tuple(choices)

    def read(name: str, value: object) -> str:
        if value not in choices:
            raise unknown(name, value, choices)
        return str(value)

    read.choices = choices
    return read
