"""Where the suite lies, and where what it makes goes.

The suite is a clone of the repository (`pip install -e .` included), or what `pip install .` has
put into site-packages: common/, trials/ and what the figures read.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.base.errors import ConfigurationError

NAME = "pruning-at-initialization"  # the project's, as pip and clones have it
ROOT = Path(__file__).resolve().parents[2]
CLONE = (ROOT / "pyproject.toml").is_file()
TRIALS = ROOT / "trials"
GRIDS = TRIALS / "grids"


def require_clone(root: Path = ROOT) -> None:
    """Raises ConfigurationError where the suite is an installed copy, which nobody commits."""
    if not (root / "pyproject.toml").is_file():
        raise ConfigurationError(f"{root} is an installed copy: do this in a clone")


def workplace() -> Path:
    """Where results and downloads go unless told otherwise: the repository, or the working folder
    where there is none (an installed copy lies in site-packages) or it cannot be written (attached
    to Kaggle as a data set, shared by others)."""
    return ROOT if CLONE and os.access(ROOT, os.W_OK) else Path.cwd()


def default_results() -> Path:
    """Where results lie unless told otherwise: results/ in the `workplace`."""
    return workplace() / "results"
