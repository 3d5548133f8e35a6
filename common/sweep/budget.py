"""A time budget as people write it: 11h30m."""

from __future__ import annotations

import re

from common.base.errors import ConfigurationError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds(text: str) -> float:
    """`11h30m`, `1d`, `90m`, `1.5h`, `45s` -> seconds. Raises ConfigurationError."""
    compact = text.replace(" ", "").lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", compact)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != compact or total <= 0:
        raise ConfigurationError(
            f"time budget {text!r}: write hours, minutes or seconds, such as 11h30m, 90m or 45s"
        )
    return total
