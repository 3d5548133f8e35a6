"""levels.csv: what every level of a ticket came to, and those of many runs in one table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from common.base.errors import ConfigurationError
from common.base.version import code_version
from common.pruning import Masks, kept
from common.results.collected import collect
from common.training.callbacks import History


def row(level: int, masks: Masks, history: History, per_epoch: int, skipped: int) -> dict:
    """A level's row: columns as `schema.LEVELS`; level 0 is the dense network.

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
        "layers_collapsed": sum(not mask.any() for mask in masks.values()),
        "train_seconds": history.seconds,
        "code_version": code_version(),
    }


def collect_levels(root: Path) -> pd.DataFrame:
    """The levels of every finished lottery ticket below `root`, or, where there are no runs, the
    table that was collected there.

    Columns: those of the table `levels` of `schema.FURTHER`, and `final`: whether the level is the
    run's last. Raises ConfigurationError if there is nothing to collect.
    """
    found = collect(root).more
    if "levels" not in found:
        raise ConfigurationError(f"{root}: no finished lottery ticket, and no levels.csv")
    return found["levels"]


def beside_ablations(levels: pd.DataFrame) -> pd.DataFrame:
    """Of many runs' levels those of tickets found in rounds and rewound to their weights, of the
    networks on which masks were shuffled or weights redrawn as well."""
    found = levels[(levels["retrain"] == "rewind_weights") & (levels["levels"] != 1)]
    ablations = found.groupby(["dataset", "model", "protocol"])["ablation"].transform("nunique")
    return found[ablations > 1]
