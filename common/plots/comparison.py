"""Our results as tables: accuracies, what ablations change, what scores gain on random pruning, and
all of it beside published numbers.

Tables of numbers, for computing and for the CSVs, have a row for every cell: mean, low and high of
its 95 percent t-interval over seeds (both empty for one seed) and the number n of seeds.
`by_sparsity` makes of them what a page shows.
"""

from __future__ import annotations

import math

import pandas as pd

from common.plots import style, tables
from common.results.reference import Source, single_source
from common.results.statistics import (
    NUMBERS,
    Interval,
    intervals,
    paired_differences,
    rank_correlation,
)
from common.results.words import signed

CELL = (*tables.SETTING, "method", "variant", "ablation", "sparsity")
DENSE = "dense"  # what the method of the dense network is called
GAIN, LOSS = "▲", "▼"  # behind a difference whose interval excludes zero


def accuracies(summary: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies in percent: `CELL`, mean, low, high, n.

    Runs of sparsity 0 are the dense network, whatever their method, and come first; a seed counts
    once. Raises ConfigurationError for an empty summary, several networks, or several runs of one
    seed in a cell.
    """
    runs = tables.one_accuracy(summary)
    dense = runs[tables.is_dense(runs)].groupby([*tables.SETTING, "seed"])["test_accuracy"].mean()
    plain = {"method": DENSE, "variant": "", "ablation": "none", "sparsity": 0.0}
    every = pd.concat([dense.reset_index().assign(**plain), _in_order(runs)])
    return intervals(every, CELL)


def ablation_effects(summary: pd.DataFrame) -> pd.DataFrame:
    """What each ablation changes: accuracy less the unmodified method's under the same seed, in
    percentage points; `CELL`, baseline, mean, low, high, n.

    What was not run both ways under one seed has no row. Raises ConfigurationError as `accuracies`.
    """
    runs = _in_order(tables.one_accuracy(summary))
    return _differences(runs, {"ablation": "none"})


def random_compared(summary: pd.DataFrame) -> pd.DataFrame:
    """What each unmodified method has over unmodified random pruning (global, the plain variant).

    Columns, units, and errors as of `ablation_effects`.
    """
    runs = _in_order(tables.one_accuracy(summary))
    plain = runs[runs["ablation"] == "none"]
    return _differences(plain, {"method": "random", "variant": ""})


def by_sparsity(numbers: pd.DataFrame) -> pd.DataFrame:
    """A table of numbers as a page shows it: rows method x ablation, columns sparsity.

    Cells: `93.21 ± 0.42 (3)`, mean, half of the interval and n; the interval only of several seeds.
    Differences have a sign, and `▲` or `▼` behind them where the interval excludes zero. Cells that
    were not run are empty.
    """
    cell = _difference if "baseline" in numbers else _mean
    labels = {
        "method": _names(numbers),
        "ablation": [
            "" if method == DENSE else style.ablation_style(ablation)[0]
            for method, ablation in zip(numbers["method"], numbers["ablation"], strict=True)
        ],
        "cell": [cell(interval) for interval in each_interval(numbers)],
    }
    shown = numbers[["sparsity"]].assign(**labels)
    keys = ["method", "ablation"] if (numbers["ablation"] != "none").any() else ["method"]
    rows = shown.set_index(keys).index.drop_duplicates()
    wide = shown.pivot(index=keys, columns="sparsity", values="cell").reindex(rows).fillna("")
    wide.columns = pd.Index([style.percent(s) for s in wide.columns], name="removed")
    return wide


def each_interval(numbers: pd.DataFrame) -> list[Interval]:
    """The intervals of a table of numbers, row by row."""
    return [Interval(*row) for row in numbers[list(NUMBERS)].itertuples(index=False, name=None)]


def with_width(interval: Interval, number: str) -> str:
    """`number ± half of the interval`, or of one seed the number alone."""
    known = not math.isnan(interval.half_width)
    return f"{number} ± {interval.half_width:.2f}" if known else number


def beside_published(summary: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Ours and one source's accuracies at the sparsities that both have.

    reference: rows of one source for the summary's data set and model (`reference.curves`). `CELL`,
    our mean, low, high and n, what is `published` as a mean of so many `replicates` (both percent,
    empty where they do not say), the `difference` (ours less theirs, points) and what differs in
    the conditions, the `likely_reason`. Random pruning over the whole network, which keeps about
    equal shares of the layers, is compared with their uniform one. Raises ConfigurationError for
    several sources or networks.
    """
    source = single_source(reference)
    ours = accuracies(summary)
    if tables.of(reference, ("random", "")).empty:
        reference = reference.replace({"variant": {"uniform": ""}})
    keys = ["method", "variant", "ablation", "sparsity"]
    theirs = reference.assign(sparsity=reference["sparsity"].round(9))
    theirs = theirs.rename(columns={"test_accuracy": "published"})
    both = ours.merge(theirs[[*keys, "published", "replicates"]], on=keys)
    return both.assign(
        difference=both["mean"] - both["published"],
        likely_reason=_reasons(both, source),
    )


def published_table(both: pd.DataFrame) -> pd.DataFrame:
    """What `beside_published` found as a page shows it."""
    return pd.DataFrame(
        {
            "method": _names(both),
            "ablation": [style.ablation_style(name)[0] for name in both["ablation"]],
            "removed": both["sparsity"].map(style.percent).to_list(),
            "here": list(map(_mean, each_interval(both))),
            "published": both["published"].map("{:.2f}".format).to_list(),
            "difference": [signed(value, 2) for value in both["difference"]],
            "likely reason": both["likely_reason"].to_list(),
        }
    )


def orders_compared(both: pd.DataFrame) -> pd.DataFrame:
    """How far the order of the unmodified methods is the published one, sparsity by sparsity.

    both: of `beside_published`. The columns of a setting, sparsity, the number n of methods that
    both have, Spearman's rho with its permutation p, least_p, the p that n methods in the same
    order would have, and the methods from best to worst, `here` and `published`.
    """
    unmodified = both[both["ablation"] == "none"]
    rows = []
    for key, part in unmodified.groupby([*tables.SETTING, "sparsity"]):
        found = rank_correlation(part["mean"].to_list(), part["published"].to_list())
        orders = [
            ", ".join(_names(part.sort_values(column, ascending=False, kind="stable")))
            for column in ("mean", "published")
        ]
        rows.append((*key, found.n, found.rho, found.p, found.least_p, *orders))
    columns = ("n", "rho", "p", "least_p", "here", "published")
    return pd.DataFrame(rows, columns=[*tables.SETTING, "sparsity", *columns])


def orders_table(orders: pd.DataFrame) -> pd.DataFrame:
    """What `orders_compared` found as a page shows it."""

    def number(value: float) -> str:
        return "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−")

    return pd.DataFrame(
        {
            "removed": orders["sparsity"].map(style.percent),
            "methods": orders["n"],
            "Spearman's ρ": orders["rho"].map(number),
            "p": orders["p"].map(number),
            "least possible p": orders["least_p"].map(number),
            "here, from the best": orders["here"],
            "published": orders["published"],
        }
    )


def markdown(table: pd.DataFrame) -> str:
    """The table as GitHub writes it, its index (if it has names) in the first columns."""
    if any(table.index.names):
        table = table.reset_index()
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """The pruned runs by method, ablation and sparsity, in the suite's order."""
    runs = runs[~tables.is_dense(runs)]
    parts = [
        tables.of(runs, method, ablation).sort_values("sparsity")
        for method in tables.methods(runs)
        for ablation in tables.ablations(tables.of(runs, method))
    ]
    return pd.concat(parts) if parts else runs


def _differences(runs: pd.DataFrame, baseline: dict[str, str]) -> pd.DataFrame:
    """Paired differences to what has the values of `baseline`, which its first one names."""
    found = paired_differences(runs, list(baseline), list(baseline.values()))
    name = next(iter(baseline.values()))
    return found[list(CELL)].assign(baseline=name).join(found[list(NUMBERS)])


def _names(numbers: pd.DataFrame) -> list[str]:
    return [
        "Dense network" if method == DENSE else style.method_label(method, variant)
        for method, variant in zip(numbers["method"], numbers["variant"], strict=True)
    ]


def _mean(interval: Interval) -> str:
    return f"{with_width(interval, f'{interval.mean:.2f}')} ({interval.n})"


def _difference(interval: Interval) -> str:
    mark = (GAIN if interval.mean > 0 else LOSS) if interval.excludes_zero else ""
    return f"{with_width(interval, signed(interval.mean, 2))} ({interval.n}) {mark}".rstrip()


def _reasons(both: pd.DataFrame, source: Source | None) -> list[str]:
    """For every row of both: another schedule, another number of runs."""
    found = []
    for epochs, count, theirs in zip(both["epochs"], both["n"], both["replicates"], strict=True):
        other = source and source.epochs is not None and epochs != source.epochs
        reasons = [f"{epochs} epochs, theirs {source.epochs}"] if other else []
        if pd.notna(theirs) and count < theirs:
            reasons.append(f"{count} run{'s' * (count > 1)}, theirs {theirs:.0f}")
        found.append("; ".join(reasons))
    return found
