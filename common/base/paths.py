"""Where the repository lies, and where what it makes goes."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRIALS = ROOT / "trials"
GRIDS = TRIALS / "grids"


def workplace() -> Path:
    """Where results and downloads go unless told otherwise: the repository, or the working folder
    where the repository cannot be written (attached to Kaggle as a data set, shared by others)."""
    return ROOT if os.access(ROOT, os.W_OK) else Path.cwd()
