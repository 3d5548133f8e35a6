"""The errors that end a command with one line: bad input, a notebook that fails."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 100  # characters of a value that an error repeats


class ConfigurationError(ValueError):
    """Input that cannot be run. The message names the input, its value and what would be right."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it: the message, for where it was raised is no news to a reader."""
        return [f"{type(self).__name__}: {self}"]


def shown(value: object) -> str:
    """The value as an error names it: written out, but never at length."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def unknown(name: str, value: object, choices: Iterable[str]) -> ConfigurationError:
    """The error for a `value` of parameter `name` that is none of `choices`; lists them."""
    choices = list(choices)
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(shown(value).strip("'").lower(), lower, n=1)
    hint = f" (did you mean {lower[near[0]]!r}?)" if near else ""
    return ConfigurationError(
        f"{name}={shown(value)} is not known{hint}; choose from: {', '.join(choices)}"
    )


class NotebookError(RuntimeError):
    """A notebook that was executed for what it shows failed."""
