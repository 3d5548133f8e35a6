"""levels.csv, of a run and of many: what its columns are."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from common.runs.options import Table

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


def tell(about: Mapping) -> dict[str, object]:
    """`RUN`, `OPTIONS` and `ABOUT` of a run; init is the scheme in use, also where the protocol
    chose it."""
    known = {
        **about["parameters"],
        **{name: about[name] for name in ("method", "run_id", "device")},
    }
    known["init"] = about["hyperparameters"]["init"]
    return {name: known[name] for name in (*RUN, *OPTIONS, *ABOUT)}


def with_final(levels: pd.DataFrame) -> pd.DataFrame:
    """The levels of many runs with the column `final`: whether a level is its run's last."""
    last = levels.groupby("run_id")["level"].transform("max")
    return levels.assign(final=levels["level"] == last)


TABLE = Table(
    "levels",
    LEVELS,
    text=(*RUN[:-2], *OPTIONS[1:], "device", "code_version"),
    first=(*RUN, *OPTIONS, *ABOUT),
    tell=tell,
    derive=with_final,
)
