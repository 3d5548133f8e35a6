"""Many runs of filter pruning beside each other: what each has left, and what that saves."""

from __future__ import annotations

import pandas as pd

from common.base.errors import ConfigurationError
from common.results.schema import DENSE, LATENCIES
from common.runs import registry
from common.runs.filter_settings import VARIANTS


def runs(summary: pd.DataFrame) -> pd.DataFrame:
    """The runs of filter_lasso in a collected summary, with further columns.

    variant: without the options that a collected one has as well (`+penalty-0.1`). options: those
    in words, but none that all runs have, and not `compare`, which is about another network.
    removed, saved: the weights, and the multiply-adds, in percent. A mask's zeros are multiplied
    like any other number, so it saves none.
    """
    found, variants, options = _read(summary)
    everywhere = set.intersection(*(set(own.items()) for own in options)) if options else set()
    words = [
        ", ".join(_in_words(*o) for o in own.items() if o not in everywhere or o[0] == "penalty")
        for own in options
    ]
    found = found.assign(variant=variants, options=words)
    saved = 100 * (1 - found["flops_sparse"] / found["flops_dense"])
    masked = [VARIANTS[name].removed == "weights" for name in found["variant"]]
    return found.assign(
        removed=100 * found["sparsity_actual"],
        saved=saved.mask(pd.Series(masked, found.index, dtype=bool), 0.0),
    )


def sparse_epochs(summary: pd.DataFrame) -> set[str]:
    """How long the runs of filter_lasso trained before anything was removed."""
    _, _, options = _read(summary)
    return {own.get("sparse_epochs", "the protocol's") for own in options}


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


def _read(summary: pd.DataFrame) -> tuple[pd.DataFrame, list[str], list[dict[str, str]]]:
    """The runs of filter_lasso, and of each its variant and its options but `compare`."""
    found = summary[summary["method"] == "filter_lasso"]
    read = [registry.read_label("filter_lasso", label) for label in found["variant"].fillna("")]
    options = [{k: v for k, v in own.items() if k != "compare"} for _, own in read]
    return found, [variant for variant, _ in read], options


def _in_words(name: str, value: str) -> str:
    value = value.replace("_", " ")
    return f"λ = {value}" if name == "penalty" else f"{name.replace('_', ' ')} {value}"
