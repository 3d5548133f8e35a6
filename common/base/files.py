"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

# For pandas.read_csv: numbers come back as they were written, to the last digit, which from its
# version 3 on is the default.
EXACT = {} if int(pd.__version__.split(".")[0]) >= 3 else {"float_precision": "round_trip"}


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """`write` a file beside `path` and put it in its place in one step, on disk before its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
