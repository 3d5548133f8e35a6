"""Our results beside each other and beside published ones: tables of differences, in percentage
points of test accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from common.plots import style, tables
from common.results.reference import Source, single_source


def ablation_effects(summary: pd.DataFrame, statistic: str = "test_accuracy") -> pd.DataFrame:
    """What each ablation does to its method: rows method x ablation, columns sparsity, cells its
    accuracy less the unmodified method's (`+0.42`), means over runs, in percentage points.

    Cells without one of the two are empty. Raises ConfigurationError for an empty summary, several
    networks or an unknown statistic.
    """
    runs = tables.one_statistic(summary, statistic)
    runs = runs[~tables.is_dense(runs)]
    rows = {}
    for method in tables.methods(runs):
        means = {
            ablation: tables.of(runs, method, ablation).groupby("sparsity")[statistic].mean()
            for ablation in tables.ablations(tables.of(runs, method))
        }
        plain = means.pop("none", None)
        for ablation, mean in means.items() if plain is not None else ():
            key = style.method_label(*method), style.ablation_style(ablation)[0]
            rows[key] = (mean - plain).dropna().map("{:+.2f}".format)
    return tables.by_sparsity(rows)


def beside_published(
    summary: pd.DataFrame, reference: pd.DataFrame, statistic: str = "test_accuracy"
) -> pd.DataFrame:
    """Ours and one source's accuracies at the sparsities that both have.

    reference: rows of one source for the summary's data set and model (`reference.curves`). A row
    per method, ablation and sparsity with `removed`, `here`, `published`, `difference` (points),
    our number of `runs`, and what differs in the conditions as the `likely reason`. Random pruning
    over the whole network, which keeps about equal shares of the layers, is compared with their
    uniform one. Raises ConfigurationError for several sources or networks.
    """
    source = single_source(reference)
    ours = tables.one_statistic(summary, statistic)
    if tables.of(reference, ("random", "")).empty:
        reference = reference.replace({"variant": {"uniform": ""}})
    keys = ["method", "variant", "ablation", "sparsity"]
    here = ours.groupby(keys)[statistic].agg(["mean", "count"])
    theirs = reference.assign(sparsity=reference["sparsity"].round(9)).set_index(keys)
    both = here.join(theirs[["test_accuracy", "replicates"]], how="inner").reset_index()
    ordered = [
        tables.of(both, method, ablation).sort_values("sparsity")
        for method in tables.methods(both)
        for ablation in tables.ablations(tables.of(both, method))
    ]
    both = pd.concat(ordered) if ordered else both
    return pd.DataFrame(
        {
            "method": [
                style.method_label(*m) for m in zip(both["method"], both["variant"], strict=True)
            ],
            "ablation": [style.ablation_style(name)[0] for name in both["ablation"]],
            "removed": both["sparsity"].map(style.percent).to_list(),
            "here": both["mean"].map("{:.2f}".format).to_list(),
            "published": both["test_accuracy"].map("{:.2f}".format).to_list(),
            "difference": (both["mean"] - both["test_accuracy"]).map("{:+.2f}".format).to_list(),
            "runs": both["count"].to_list(),
            "likely reason": _reasons(both, ours["epochs"].unique(), source),
        }
    )


def _reasons(both: pd.DataFrame, epochs: Sequence[int], source: Source | None) -> list[str]:
    """For every row of both: other schedules, other numbers of runs."""
    ours = " or ".join(map(str, sorted(epochs)))
    schedule = source and source.epochs is not None and list(epochs) != [source.epochs]
    found = []
    for count, replicates in zip(both["count"], both["replicates"], strict=True):
        reasons = [f"{ours} epochs, theirs {source.epochs}"] if schedule else []
        if pd.notna(replicates) and count < replicates:
            reasons.append(f"{count} run{'s' * (count > 1)}, theirs {replicates:.0f}")
        found.append("; ".join(reasons))
    return found


def markdown(table: pd.DataFrame) -> str:
    """The table as GitHub writes it, its index (if it has names) in the first columns."""
    if any(table.index.names):
        table = table.reset_index()
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
