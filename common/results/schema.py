"""The tables that a run leaves: their columns, and what a table of many runs says of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

# For pandas.read_csv: numbers come back as they were written, to the last digit, which from its
# version 3 on is the default.
EXACT = {} if int(pd.__version__.split(".")[0]) >= 3 else {"float_precision": "round_trip"}

SUMMARY = (
    *("run_id", "method", "variant", "ablation", "protocol", "dataset", "model", "sparsity"),
    *("sparsity_actual", "compression", "seed", "epochs", "test_accuracy", "best_test_accuracy"),
    *("train_accuracy", "test_loss", "layers_collapsed", "effective_sparsity"),
    *("parameters_prunable", "parameters_kept", "flops_dense", "flops_sparse", "prune_seconds"),
    *("train_seconds", "images_per_second", "device", "precision", "torch_version"),
    *("code_version", "started_at"),
)
EPOCHS = (
    *("epoch", "learning_rate", "train_loss", "train_accuracy", "test_loss"),
    *("test_accuracy", "seconds"),
)
LAYERS = (
    *("layer", "kind", "shape", "size", "kept", "density", "score_mean", "score_std", "flops"),
)

# Of lottery_ticket: a row per level, level 0 the dense network.
LEVELS = (
    *("level", "sparsity", "parameters_kept", "test_accuracy", "best_test_accuracy", "test_loss"),
    *("early_stop_epoch", "early_stop_iteration", "early_stop_accuracy", "layers_collapsed"),
    *("train_seconds", "code_version"),
)

# Of filter_lasso: what is left of each layer, and what the networks cost.
SHAPES = ("layer", "channels", "shape_before", "shape", "filters", "filters_kept", "vanished")
SIZES = ("parameters", "parameters_nonzero", "flops", "flops_nonzero", "file_bytes")
LATENCY_BATCHES = (1, 128)  # images
LATENCIES = tuple(f"latency_ms_{batch}" for batch in LATENCY_BATCHES)
COST = ("device", "network", "accuracy", "accuracy_fine_tuned", *SIZES, "file_bytes_gzip")
COST += LATENCIES
DENSE, SMALL, MASKED = "trained, whole", "filters removed", "unstructured mask"  # networks

RUN = ("method", "run_id")


@dataclass(frozen=True)
class Table:
    """A table that every run of a trial leaves beside those of all runs, and that is collected.

    name: of the file, without `.csv`; no other trial has one of that name. columns: of the file.
    key_columns: those that the rows of many runs have before, beginning with method and run_id.
    read_keys: the content of a run.json -> their values, by name. text: the columns of either kind
    that hold text. derive: the table of many runs -> the same with what follows from all its rows.
    """

    name: str
    columns: tuple[str, ...]
    text: tuple[str, ...]
    key_columns: tuple[str, ...] = RUN
    read_keys: Callable[[Mapping], Mapping[str, object]] = dict
    derive: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows


# Of runs on a thousand classes or more: the test images whose class is among the five likeliest.
TOP5 = Table("top5", ("epoch", "test_top5"), text=RUN)

_TICKET = (*RUN, "variant", "ablation", "protocol", "dataset", "model", "seed", "epochs")
_TICKET_OPTIONS = ("levels", "rewind_epoch", "retrain", "init")
_TICKET_KEYS = (*_TICKET, *_TICKET_OPTIONS, "batch_size", "device")


def _ticket_keys(about: Mapping) -> dict[str, object]:
    """What a table of levels says of a ticket; init is the scheme in use, also where the protocol
    chose it."""
    known = {**about["parameters"], **{name: about[name] for name in (*RUN, "device")}}
    known["init"] = about["hyperparameters"]["init"]
    return {name: known[name] for name in _TICKET_KEYS}


def _with_final(levels: pd.DataFrame) -> pd.DataFrame:
    """The levels of many runs with the column `final`: whether a level is its run's last."""
    last = levels.groupby("run_id")["level"].transform("max")
    return levels.assign(final=levels["level"] == last)


# Method -> the further tables of its runs. (filter_lasso's sparse.csv and filters.csv stay with the
# runs: all that share a training have the same ones.)
FURTHER: dict[str, tuple[Table, ...]] = {
    "lottery_ticket": (
        Table(
            "levels",
            LEVELS,
            text=(*_TICKET[:-2], *_TICKET_OPTIONS[1:], "device", "code_version"),
            key_columns=_TICKET_KEYS,
            read_keys=_ticket_keys,
            derive=_with_final,
        ),
    ),
    "filter_lasso": (
        Table("shapes", SHAPES, text=(*RUN, "layer", "channels", "shape_before", "shape")),
        Table("cost", COST, text=(*RUN, "device", "network")),
    ),
}
