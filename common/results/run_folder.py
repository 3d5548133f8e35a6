"""A run's folder and its CSVs: written whole or not at all. `collected` reads them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.base.errors import ConfigurationError
from common.base.files import make_writable, write_atomically

MASKS = "masks.safetensors"  # of the pruned network before training; older results lack it
SHARING = "TRIALS_RUNS_PER_GPU"  # in the environment of a run that a batch has started

_ADVICE = "choose a results_dir that you may write to"


def is_done(folder: Path) -> bool:
    """Whether the run in `folder` is finished: summary.csv is there, which is written last."""
    return os.path.isfile(folder / "summary.csv")


def check(folder: Path) -> None:
    """Raise ConfigurationError unless `folder` could be made and written, as far as can be seen
    without writing."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.exists(place))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        why = "may not be written" if nearest.is_dir() else "is no folder"
        raise ConfigurationError(f"{folder} cannot be written ({nearest} {why}); {_ADVICE}")


def prepare(folder: Path) -> Path | None:
    """Make `folder` ready for a run; returns where an earlier finished result of it went, if any.

    A finished result is moved to `<folder>.<n>` beside it, never overwritten. Raises
    ConfigurationError if the folder cannot be written.
    """
    moved = None
    if is_done(folder):
        n = 1
        while (moved := folder.with_name(f"{folder.name}.{n}")).exists():
            n += 1
        try:
            folder.rename(moved)
        except OSError as error:
            raise ConfigurationError(
                f"{folder} cannot be moved aside ({error.strerror}); {_ADVICE}"
            ) from error
    make_writable(folder, _ADVICE)
    return moved


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write `content` as JSON, whole or not at all."""
    text = json.dumps(content, indent=2, default=str)
    write_atomically(path, lambda p: p.write_text(text + "\n", encoding="utf-8"))


def write_csv(path: Path, rows: Iterable[Mapping[str, object]], columns: Iterable[str]) -> None:
    """Write rows with exactly these columns, in this order, whole or not at all."""
    import pandas as pd

    columns = list(columns)
    rows = list(rows)
    for row in rows:
        if set(row) != set(columns):
            raise ValueError(f"{path.name}: columns differ: {sorted(set(row) ^ set(columns))}")
    table = pd.DataFrame(rows, columns=columns)
    write_atomically(path, lambda p: table.to_csv(p, index=False))


def note_captured(folder: Path, captured: bool | str) -> None:
    """Write into run.json whether the steps of training are replayed from a CUDA graph: true,
    false, or why that failed. Of several trainings it is the last, or the first that failed."""
    path = folder / "run.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known = about.get("captured")
    if about and known != captured and not isinstance(known, str):
        write_json(path, {**about, "captured": captured})


def why_not_captured(folder: Path) -> str | None:
    """Why the run in `folder` trained without the CUDA graph that it tried; None if it had one, or
    tried none."""
    try:
        captured = json.loads((folder / "run.json").read_text(encoding="utf-8"))["captured"]
    except (OSError, ValueError, KeyError):
        return None
    return captured if isinstance(captured, str) else None


def write_progress(
    folder: Path, stage: str, epoch: int, epochs: int, accuracy: float | None
) -> None:
    """Write how far the run in `folder` is (progress.json)."""
    state = {
        "stage": stage,
        "epoch": epoch,
        "epochs": epochs,
        "test_accuracy": accuracy,
        "updated": time.time(),
    }
    write_json(folder / "progress.json", state)


def read_progress(folder: Path) -> dict | None:
    """What `write_progress` last wrote of the run in `folder`; None where that cannot be read."""
    try:
        told = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        return told if {"stage", "epoch", "epochs", "test_accuracy"} <= set(told) else None
    except (OSError, ValueError, TypeError):
        return None


def checkpoint(folder: Path) -> Path:
    """Where the run in `folder` keeps its checkpoint while it trains."""
    return folder / "checkpoint.pt"
