"""Many runs of filter pruning beside each other: what each has left, and what that saves."""

from __future__ import annotations

import re

import pandas as pd

from common.errors import ConfigurationError
from common.structured.columns import DENSE, LATENCIES
from common.structured.settings import VARIANTS


def runs(summary: pd.DataFrame) -> pd.DataFrame:
    """The runs of filter_lasso in a collected summary, with further columns.

    variant: without the options that a collected one has as well (`+penalty-0.1`). penalty: λ as
    text, "" for the default. weights, work: those left, and
    the multiply-adds that are carried out, in percent. A mask's zeros are multiplied like any other
    number, so all its work stays.
    """
    found = summary[summary["method"] == "filter_lasso"]
    first = found["variant"].fillna("").str.split("+").str[0]
    found = found.assign(variant=first.where(first.isin(list(VARIANTS)), ""))
    work = 100 * found["flops_sparse"] / found["flops_dense"]
    masked = [VARIANTS[name].removed == "weights" for name in found["variant"]]
    return found.assign(
        penalty=[option(run_id, "penalty") for run_id in found["run_id"]],
        weights=100 * (1 - found["sparsity_actual"]),
        work=work.mask(pd.Series(masked, found.index, dtype=bool), 100.0),
    )


def latencies(cost: pd.DataFrame) -> pd.DataFrame:
    """Of a collected cost.csv, a row per run and device (the index): the latencies of what the run
    made, a smaller network or a mask, in percent of the whole network's, which took turns with it.
    """
    of = ["run_id", "device"]
    whole = cost[cost["network"] == DENSE].set_index(of)[[*LATENCIES]]
    # Behind a smaller network stands a mask that it is compared with.
    made = cost[cost["network"] != DENSE].drop_duplicates(of).set_index(of)[[*LATENCIES]]
    return 100 * made / whole


def change(summary: pd.DataFrame, cost: pd.DataFrame) -> pd.Series:
    """Accuracy gained or lost by every run of filter_lasso, in points, by run_id: against the whole
    network of the same seed that was trained without a penalty, for the L1 norm's baseline.

    Raises ConfigurationError where there is no such network.
    """
    whole = cost[cost["network"] == DENSE].drop_duplicates("run_id").set_index("run_id")["accuracy"]
    found = runs(summary)
    plain = found[found["variant"] == "l1_filter"].drop_duplicates("seed")
    base = found["seed"].map(plain.set_index("seed")["run_id"]).map(whole)
    if base.isna().any():
        raise ConfigurationError("summary: no run of variant l1_filter for every seed")
    return (found["test_accuracy"] - base).set_axis(found["run_id"])


def option(run_id: str, name: str) -> str:
    """The value of a trial's option as it stands in a run's name; empty for the default."""
    found = re.search(rf"_{name}-([0-9A-Za-z.+-]+)", run_id)
    return found[1] if found else ""
