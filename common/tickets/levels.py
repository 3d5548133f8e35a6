"""levels.csv: what every level of a ticket came to, and those of many runs in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from common import environment
from common.callbacks import History
from common.errors import ConfigurationError
from common.files import EXACT, write_atomically
from common.pruning import Masks, diagnostics, kept
from common.results import is_done

LEVELS = (
    "level",
    "sparsity",
    "parameters_kept",
    "test_accuracy",
    "best_test_accuracy",
    "test_loss",
    "early_stop_epoch",
    "early_stop_iteration",
    "early_stop_accuracy",
    "layers_collapsed",
    "train_seconds",
    "code_version",
)
# What a table of many runs says of each, before its levels.
RUN = ("method", "run_id", "variant", "ablation", "protocol", "dataset", "model", "seed", "epochs")
OPTIONS = ("levels", "rewind_epoch", "retrain", "init")
ABOUT = ("batch_size", "device")


def row(level: int, masks: Masks, history: History, per_epoch: int, skipped: int) -> dict:
    """A level's row: columns as `LEVELS`; level 0 is the dense network.

    Early stopping is where the test loss is lowest, counted from the level's first training step;
    an epoch has `per_epoch` iterations, the first one `skipped` fewer.
    """
    rows = history.rows
    size = sum(mask.numel() for mask in masks.values())
    stop = min(rows[1:] or rows, key=lambda one: one["test_loss"])
    return {
        "level": level,
        "sparsity": 1 - kept(masks) / size,
        "parameters_kept": kept(masks),
        "test_accuracy": rows[-1]["test_accuracy"],
        "best_test_accuracy": max(one["test_accuracy"] for one in rows),
        "test_loss": rows[-1]["test_loss"],
        "early_stop_epoch": stop["epoch"],
        "early_stop_iteration": max(stop["epoch"] * per_epoch - skipped, 0),
        "early_stop_accuracy": stop["test_accuracy"],
        "layers_collapsed": len(diagnostics.collapsed_layers(masks)),
        "train_seconds": history.seconds,
        "code_version": environment.code_version(),
    }


def collect_levels(root: Path) -> pd.DataFrame:
    """The levels of every finished lottery ticket below `root`, or, where there are no runs, the
    table that `write_levels` left there.

    Columns: `RUN`, `OPTIONS` (init: the scheme in use, also where the protocol chose it), `ABOUT`,
    `LEVELS`, and `final`: whether the level is the run's last. Raises ConfigurationError if there
    is nothing to collect.
    """
    found = [path.parent for path in sorted(root.glob("lottery_ticket/*/levels.csv"))]
    tables = [_of_run(folder) for folder in found if is_done(folder)]
    if tables:
        return _as_text(pd.concat(tables, ignore_index=True))
    if not (root / "levels.csv").is_file():
        raise ConfigurationError(f"{root}: no finished lottery ticket, and no levels.csv")
    return _as_text(pd.read_csv(root / "levels.csv", dtype={"rewind_epoch": str}, **EXACT))


def write_levels(table: pd.DataFrame, root: Path) -> None:
    """Write `root`/levels.csv, whole or not at all."""
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(root / "levels.csv", lambda path: table.to_csv(path, index=False))


def _of_run(folder: Path) -> pd.DataFrame:
    about: Mapping = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    parameters = about["parameters"]
    table = pd.read_csv(folder / "levels.csv", **EXACT)
    known = {**parameters, **{name: about[name] for name in ("method", "run_id", "device")}}
    known["init"] = about["hyperparameters"]["init"]
    first = {name: known[name] for name in (*RUN, *OPTIONS, *ABOUT)}
    return table.assign(**first, final=table["level"] == table["level"].max())[
        [*first, *LEVELS, "final"]
    ]


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    table["variant"] = table["variant"].fillna("")
    return table.astype({"variant": str, "rewind_epoch": str})
