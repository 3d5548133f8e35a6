"""Files that are whole or not there, and whether any can be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from common.base.errors import ConfigurationError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` a file beside `path` and put it in its place in one step, on disk before its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_probe(folder: Path, size: int = 0) -> float:
    """Write a file of `size` bytes into `folder` and remove it; returns the time that it had.

    That time is by the clock that gives files there their times, maybe another machine's. Raises
    OSError if nothing can be written.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe") as file:
        file.write(bytes(size))
        file.flush()
        return os.fstat(file.fileno()).st_mtime


def make_writable(folder: Path, advice: str) -> float:
    """Make `folder` and prove it writable; returns the time of a file there (`write_probe`).

    Raises ConfigurationError, which ends in `advice`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return write_probe(folder)
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be written ({error.strerror}); {advice}"
        ) from error
