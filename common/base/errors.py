"""The errors that end a command with one line: bad input, a notebook that fails."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigurationError(ValueError):
    """Input that cannot be run. The message names the input, its value and what would be right."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it: the message, for where it was raised is no news to a reader."""
        return [f"{type(self).__name__}: {self}"]


def unknown(name: str, value: object, choices: Iterable[str]) -> ConfigurationError:
    """The error for a `value` of parameter `name` that is none of `choices`; lists them."""
    choices = list(choices)
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(value).lower(), lower, n=1)
    hint = f" (did you mean {lower[near[0]]!r}?)" if near else ""
    return ConfigurationError(
        f"{name}={value!r} is not known{hint}; choose from: {', '.join(choices)}"
    )


class NotebookError(RuntimeError):
    """A notebook that was executed for what it shows failed."""
