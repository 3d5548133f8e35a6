"""What the figures need of the result tables: grouping, joining, and the caption's facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
from pandas.io.formats.style import Styler

from common.base.errors import ConfigurationError, unknown
from common.plots.style import ABLATIONS, ordered
from common.results.reference import DATASETS, METHODS, MODELS
from common.results.statistics import MATCHED, intervals

# What makes two runs one experiment with other seeds: never averaged across these.
SETTING = ("dataset", "model", "protocol", "epochs")
ACCURACY_LABEL = "Test accuracy, last epoch (%)"


def prepared(summary: pd.DataFrame, columns: Iterable[str] = ()) -> pd.DataFrame:
    """A copy of the summary with empty variants and ablations named and equal sparsities equal.

    Raises ConfigurationError if there is no run, or a column is missing.
    """
    needed = ["method", "sparsity", *columns]
    if missing := [name for name in needed if name not in summary]:
        raise ConfigurationError(f"summary: no column {', '.join(missing)}")
    if summary.empty:
        raise ConfigurationError("summary: no finished run to draw")
    runs = summary.copy()
    for column, default in (("variant", ""), ("ablation", "none")):
        values = runs[column] if column in runs else pd.Series(default, runs.index)
        runs[column] = values.astype(object).where(values.notna(), default).astype(str)
    runs["sparsity"] = runs["sparsity"].round(9)
    return runs


def network_name(model: str, dataset: str) -> str:
    """`ResNet-20, CIFAR-10`."""
    return f"{MODELS.get(model, model)}, {DATASETS.get(dataset, dataset)}"


def one_network(summary: pd.DataFrame) -> None:
    """Raises ConfigurationError if the runs are of several data sets or models."""
    for column in ("dataset", "model"):
        values = sorted(summary[column].astype(str).unique())
        if len(values) > 1:
            raise ConfigurationError(
                f"{column}: one figure shows one {column}, not {', '.join(values)}; "
                "draw each part of plots.settings(summary)"
            )


def settings(summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The summary in parts that may be averaged over seeds: each of one data set, model, protocol
    and number of epochs; the part with most runs first. Keys name the part, for a file or heading.
    """
    runs = prepared(summary, SETTING)
    varying = [name for name in SETTING if runs[name].nunique() > 1] or ["dataset", "model"]
    parts = {}
    for key, part in runs.groupby(varying):
        named = dict(zip(varying, key, strict=True))
        if "epochs" in named:
            named["epochs"] = f"{named['epochs']}epochs"
        parts["-".join(map(str, named.values()))] = part
    return dict(sorted(parts.items(), key=lambda item: -len(item[1])))


def is_dense(runs: pd.DataFrame) -> pd.Series:
    """Which runs removed nothing: the dense network, whatever their method and ablation."""
    return runs["sparsity"] == 0


def methods(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """(method, variant) of the pruned runs, in the suite's order."""
    pairs = set(zip(runs["method"], runs["variant"], strict=True))
    return [
        (name, variant)
        for name in ordered((m for m, _ in pairs), METHODS)
        for variant in sorted(v for m, v in pairs if m == name)
    ]


def ablations(runs: pd.DataFrame) -> list[str]:
    """The ablations of the pruned runs, in the suite's order."""
    return ordered(runs.loc[~is_dense(runs), "ablation"], ABLATIONS)


def of(runs: pd.DataFrame, method: tuple[str, str], ablation: str | None = None) -> pd.DataFrame:
    """The rows of one (method, variant), of one ablation if named."""
    rows = runs[(runs["method"] == method[0]) & (runs["variant"] == method[1])]
    return rows if ablation is None else rows[rows["ablation"] == ablation]


def curve(runs: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """Per sparsity, ascending: mean of `statistic`, low and high of its 95 percent t-interval over
    the runs (nan for one), and their number n."""
    return intervals(runs.sort_values("sparsity"), ["sparsity"], statistic)


def joined(part: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of `epochs` or `layers` with their run's variant, ablation, sparsity and seed."""
    keys = ["method", "run_id"]
    runs = summary[[*keys, "variant", "ablation", "sparsity", "seed"]]
    rows = part.drop(columns=[c for c in runs if c in part and c not in keys])
    rows = rows.merge(runs, on=keys, how="inner", validate="many_to_one")
    if rows.empty:
        raise ConfigurationError("no layers or epochs belong to the runs of the summary")
    return rows


def single_run(table: pd.DataFrame, name: str, method: str) -> pd.DataFrame:
    """One run's layers or epochs with the columns that a join would have given it.

    method: its folder's name, unless the table has it. Raises ConfigurationError if it is empty.
    """
    if table.empty:
        raise ConfigurationError(f"{name}: the table is empty, nothing to draw")
    method = table.get("method", method)
    return table.assign(method=method, variant="", ablation="none", sparsity=0.0)


def nearest(sparsities: pd.Series, wanted: float = 0.9) -> float:
    """The sparsity of pruned runs nearest to the one at which methods are usually compared."""
    pruned = sorted(s for s in sparsities.unique() if s > 0)
    return min(pruned, key=lambda s: abs(s - wanted)) if pruned else 0.0


def spread(values: Iterable[float], count: int = 4) -> list[float]:
    """At most `count` of the distinct values, ascending, evenly spread over their order."""
    found = sorted(set(values))
    if len(found) <= count:
        return found
    return [found[round(place * (len(found) - 1) / (count - 1))] for place in range(count)]


def check_ablation(pruned: pd.DataFrame, ablation: str) -> None:
    """Raises ConfigurationError if pruned runs exist, but none with `ablation`."""
    if len(pruned) and ablation not in set(pruned["ablation"]):
        raise unknown("ablation", ablation, ablations(pruned))


def one_accuracy(summary: pd.DataFrame) -> pd.DataFrame:
    """The runs of one data set and model, prepared, and one of each seed; raises ConfigurationError
    if they are not."""
    runs = prepared(summary, ["dataset", "model", "seed", "test_accuracy"])
    one_network(runs)
    cell = [name for name in MATCHED if name in runs]
    if (again := runs[runs.duplicated(cell)]).size:
        told = ", ".join(
            f"{name} {value}" for name, value in again[cell].iloc[0].items() if value != ""
        )
        raise ConfigurationError(
            f"summary: several runs of {told}; seeds are the replicates, so runs that differ in "
            "something else need figures of their own"
        )
    return runs


def cell(values: pd.Series) -> str:
    """`mean ± std (n)`, the sample standard deviation only of several."""
    spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread} ({len(values)})"


def caption(summary: pd.DataFrame) -> str:
    """The caption's first line: data set, model, protocol, runs and seeds, hardware, code.

    A value that differs between runs is called mixed and listed.
    """

    def value(column: str, names: dict[str, str] | None = None) -> str:
        if column not in summary:
            return f"{column} unknown"
        found = [str(v) for v in summary[column].dropna().unique()]
        found = sorted({(names or {}).get(v, v) for v in found})
        if len(found) > 1:
            shown = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
            return f"{column} mixed ({shown})"
        return found[0] if found else f"{column} unknown"

    epochs, code = value("epochs"), value("code_version")
    return "; ".join(
        [
            f"{value('model', MODELS)} on {value('dataset', DATASETS)}",
            f"protocol {value('protocol')}"
            + (f", {epochs} epoch{'s' * (epochs != '1')}" if epochs.isdigit() else f", {epochs}"),
            _counted(summary),
            value("device", one_wording(summary.get("device", ()))),
            code if code.startswith("code_version") else f"code {code}",
        ]
    )


def one_wording(devices: Iterable[str]) -> dict[str, str]:
    """Device -> the device as it is named today; older tables say `1 threads`."""
    return {name: name.replace(", 1 threads", ", 1 thread") for name in map(str, devices)}


def _counted(summary: pd.DataFrame) -> str:
    """`80 runs, 3 seeds (0, 1, 2)`."""
    runs = f"{len(summary)} run{'s' * (len(summary) != 1)}"
    if "seed" not in summary:
        return runs
    seeds = sorted(int(seed) for seed in summary["seed"].dropna().unique())
    shown = ", ".join(map(str, seeds)) if len(seeds) <= 5 else f"{seeds[0]} … {seeds[-1]}"
    return f"{runs}, " + (f"seed {shown}" if len(seeds) == 1 else f"{len(seeds)} seeds ({shown})")


def key_value_table(rows: Mapping[str, object] | pd.DataFrame) -> Styler:
    """Name and value, a row each, nothing cut short; of a mapping or of a table's only row."""
    if isinstance(rows, pd.DataFrame):
        rows = rows.iloc[0].to_dict()
    table = pd.DataFrame({"": {name: _readable(value) for name, value in rows.items()}})
    left = [{"selector": "th, td", "props": "text-align: left; vertical-align: top"}]
    return table.style.set_table_styles(left).hide(axis="columns")


def _readable(value: object) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
