"""A run's CSVs: written whole or not at all, and collected again."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from common.errors import ConfigurationError
from common.files import write_atomically

SUMMARY = (
    "run_id",
    "method",
    "variant",
    "ablation",
    "protocol",
    "dataset",
    "model",
    "sparsity",
    "sparsity_actual",
    "compression",
    "seed",
    "epochs",
    "test_accuracy",
    "best_test_accuracy",
    "train_accuracy",
    "test_loss",
    "layers_collapsed",
    "effective_sparsity",
    "parameters_prunable",
    "parameters_kept",
    "flops_dense",
    "flops_sparse",
    "prune_seconds",
    "train_seconds",
    "images_per_second",
    "device",
    "precision",
    "torch_version",
    "code_version",
    "started_at",
)
EPOCHS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "seconds",
)
LAYERS = (
    "layer",
    "kind",
    "shape",
    "size",
    "kept",
    "density",
    "score_mean",
    "score_std",
    "flops",
)
# Columns of text, in which an empty cell is an empty string.
_TEXT_COLUMNS = (
    *("run_id", "method", "variant", "ablation", "protocol", "dataset", "model", "device"),
    *("precision", "torch_version", "code_version", "started_at", "layer", "kind", "shape"),
)
_TEXT = dict.fromkeys(_TEXT_COLUMNS, str)


def is_done(folder: Path) -> bool:
    """Whether the run in `folder` is finished: summary.csv is there, which is written last."""
    return (folder / "summary.csv").is_file()


def prepare(folder: Path) -> Path | None:
    """Make `folder` ready for a run; returns where an earlier finished result of it went, if any.

    A finished result is moved to `<folder>.<n>` beside it, never overwritten. Raises
    ConfigurationError if the folder cannot be written.
    """
    moved = None
    try:
        if is_done(folder):
            n = 1
            while (moved := folder.with_name(f"{folder.name}.{n}")).exists():
                n += 1
            folder.rename(moved)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"results_dir: {folder} cannot be written ({error.strerror}); "
            "choose a folder that you may write to"
        ) from error
    return moved


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write `content` as JSON, whole or not at all."""
    text = json.dumps(content, indent=2, default=str)
    write_atomically(path, lambda p: p.write_text(text + "\n", encoding="utf-8"))


def write_csv(path: Path, rows: Iterable[Mapping[str, object]], columns: Iterable[str]) -> None:
    """Write rows with exactly these columns, in this order, whole or not at all."""
    columns = list(columns)
    rows = list(rows)
    for row in rows:
        if set(row) != set(columns):
            raise ValueError(f"{path.name}: columns differ: {sorted(set(row) ^ set(columns))}")
    table = pd.DataFrame(rows, columns=columns)
    write_atomically(path, lambda p: table.to_csv(p, index=False))


def report(folder: Path, stage: str, epoch: int, epochs: int, accuracy: float | None) -> None:
    """Tell an onlooker how far the run in `folder` is (progress.json)."""
    state = {
        "stage": stage,
        "epoch": epoch,
        "epochs": epochs,
        "test_accuracy": accuracy,
        "updated": time.time(),
    }
    write_json(folder / "progress.json", state)


def reported(folder: Path) -> dict | None:
    """What `report` last told of the run in `folder`; None if there is nothing to be read."""
    try:
        told = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        return told if {"stage", "epoch", "epochs", "test_accuracy"} <= set(told) else None
    except (OSError, ValueError, TypeError):
        return None


def checkpoint(folder: Path) -> Path:
    """Where the run in `folder` keeps its checkpoint while it trains."""
    return folder / "checkpoint.pt"


@dataclass(frozen=True)
class Collected:
    """One table each from all finished runs, and what was left out: (folder, why).

    epochs and layers have the run's method and run_id before their own columns.
    """

    summary: pd.DataFrame
    epochs: pd.DataFrame
    layers: pd.DataFrame
    left_out: list[tuple[Path, str]]


def collect(root: Path) -> Collected:
    """Read every finished run below `root` (<method>/<run_id>/); where there is no run at all, the
    tables that `write_collected` left there.

    Runs that are unfinished, damaged or superseded are left out and listed with the reason. Raises
    ConfigurationError if there is nothing at all to collect.
    """
    summaries, epochs, layers, left_out = [], [], [], []
    files = (path for name in ("run.json", "summary.csv") for path in root.glob(f"*/*/{name}"))
    folders = sorted({path.parent for path in files})
    tables = [root / f"{name}.csv" for name in ("summary", "epochs", "layers")]
    if not folders and all(path.is_file() for path in tables):
        return Collected(*map(_read, tables), left_out=[])
    for folder in folders:
        try:
            run = _read_run(folder)
        except (OSError, ValueError) as error:
            left_out.append((folder, str(error)))
            continue
        for tables, table in zip((summaries, epochs, layers), run, strict=True):
            tables.append(table)
    if not summaries:
        raise ConfigurationError(
            f"{root} holds no finished run (<method>/<run_id>/summary.csv)"
            + (f"; {len(left_out)} unfinished or damaged" if left_out else "")
        )
    joined = [pd.concat(tables, ignore_index=True) for tables in (summaries, epochs, layers)]
    return Collected(*joined, left_out=left_out)


def write_collected(collected: Collected, folder: Path) -> None:
    """Write the three tables into `folder`; summary.csv last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("epochs", "layers", "summary"):
        table = getattr(collected, name)
        write_atomically(
            folder / f"{name}.csv", lambda p, table=table: table.to_csv(p, index=False)
        )


def _read(path: Path) -> pd.DataFrame:
    table = pd.read_csv(
        path, dtype=_TEXT, keep_default_na=False, na_values=[""], float_precision="round_trip"
    )
    text = [name for name in table.columns if name in _TEXT]
    table[text] = table[text].fillna("")
    return table


def _read_run(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The run's three tables; ValueError with the reason if they are not whole."""
    if not is_done(folder):
        raise ValueError("unfinished: no summary.csv")
    tables = []
    for name, columns in (("summary", SUMMARY), ("epochs", EPOCHS), ("layers", LAYERS)):
        path = folder / f"{name}.csv"
        if not path.is_file():
            raise ValueError(f"damaged: no {name}.csv")
        try:
            table = _read(path)
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"damaged: {name}.csv: {error}") from error
        if tuple(table.columns) != columns or not len(table):
            raise ValueError(f"damaged: {name}.csv has other columns or no rows")
        wrong = [c for c in columns if c not in _TEXT and not is_numeric_dtype(table[c])]
        if wrong:
            raise ValueError(f"damaged: {name}.csv has no numbers in {', '.join(wrong)}")
        tables.append(table)
    summary, epochs, layers = tables
    if len(summary) != 1:
        raise ValueError("damaged: summary.csv has not exactly one row")
    method, run_id = summary.loc[0, "method"], summary.loc[0, "run_id"]
    if run_id != folder.name:
        raise ValueError(f"superseded: an earlier result of {run_id}, moved aside")
    for table in (epochs, layers):
        table.insert(0, "run_id", run_id)
        table.insert(0, "method", method)
    return summary, epochs, layers
