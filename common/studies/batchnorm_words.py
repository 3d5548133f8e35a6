"""Where BatchNorm stops helping, in words put together from the tables."""

from __future__ import annotations

import pandas as pd

from common import datasets
from common.plots.style import method_label, percent
from common.results.reference import MODELS
from common.results.statistics import accuracy_interval
from common.results.words import counted, listed, spread
from common.studies.batchnorm import TINY, summary

TREATMENTS = {
    "none": "as it is",
    "epsilon": f"with an epsilon of {TINY:g}",
    "rescaled": "with its layers rescaled",
}
_CASE = ["method", "procedure", "sparsity"]


def silenced(variances: pd.DataFrame) -> pd.DataFrame:
    """What inverted masks leave, lowest to highest over seeds. variances: signal.csv."""
    rows = _inverted(variances)
    kept, logits, alone = "weights in the last layer", "logits' std", f"with ε = {TINY:g}"
    table = pd.DataFrame(
        {
            ("network", ""): rows["model"].map(MODELS),
            ("method", ""): rows["method"].map(method_label),
            ("removed", ""): rows["sparsity"].map(percent),
            "layers below ε": rows["layers_below"],
            "of": rows["layers"],
            kept: rows["output_kept"],
            logits: rows["logits_std"],
            alone: rows["logits_std_tiny_epsilon"],
        }
    )
    forms = {logits: "{:.0e}", alone: "{:.0e}"}
    keys = [("network", ""), ("method", ""), ("removed", "")]
    grouped = table.groupby(keys, sort=False)
    told = {
        name: grouped[name].apply(spread, form=forms.get(name, "{:,}"))
        for name in table.columns
        if name not in keys
    }
    return pd.DataFrame(told).rename_axis(["network", "method", "removed"])


def limits(variances: pd.DataFrame) -> str:
    """Which inverted masks leave nothing that BatchNorm could lift; a Markdown list."""
    every, lines = _inverted(variances), []
    for method, rows in every.groupby("method", sort=False):
        below = _where(rows, rows["layers_below"] == rows["layers"])
        cut = _where(rows, rows["output_kept"] == 0)
        own = variances[(variances["method"] == method) & (variances["procedure"] == "inverted")]
        told = []
        if below:
            told.append(f"the variance is below ε in every layer of {below}")
        else:
            most = rows.loc[rows["layers_below"].idxmax()]
            lowest = own.loc[own["variance"] > 0, "variance"].min()
            told.append(
                f"never below ε in every layer, at most in {most['layers_below']} of "
                f"{most['layers']}; the lowest variance above zero is {lowest:.1g}"
            )
        if cut:
            told.append(f"the last layer has no weight left in {cut}")
        lines.append(f"- **{method_label(method)}**: {'; '.join(told)}.")
    return "\n".join(lines)


def emptied(variances: pd.DataFrame) -> str:
    """Where most channels of a layer are empty although nothing is inverted."""
    rows = variances[(variances["procedure"] == "unmodified") & (variances["variance"] == 0)]
    keys = ["model", "sparsity", "method"]
    told = [
        f"{method_label(method)} in {MODELS[model]} at {percent(sparsity)} ("
        + f"{spread(part.groupby('seed').size())} of its layers)"
        for (model, sparsity, method), part in rows.groupby(keys, sort=False)
    ]
    return f"It is zero without inversion too: {listed(told)}." if told else ""


def treated_table(treated: pd.DataFrame) -> pd.DataFrame:
    """The end of each short training: images right, in percent, and whether guessing would do as
    well. treated: signal_training.csv."""
    rows = _ends(treated)
    index = pd.MultiIndex.from_arrays(
        [
            *(rows["method"].map(method_label), rows["procedure"], rows["sparsity"].map(percent)),
            rows["treatment"].map(TREATMENTS),
        ],
        names=["method", "scores", "removed", "trained"],
    )
    told = {
        name: [f"{a:.1f} ({v})" for a, v in rows[[column, verdict]].itertuples(index=False)]
        for name, column, verdict in (
            ("training images", "train_accuracy", "train_verdict"),
            ("test images", "test_accuracy", "test_verdict"),
        )
    }
    return pd.DataFrame(told, index=index)


def cause(treated: pd.DataFrame) -> str:
    """What another epsilon, or other scales, make of the masks that were trained in several ways; a
    Markdown list. treated: signal_training.csv."""
    lines = []
    for (method, procedure, sparsity), part in _ends(treated).groupby(_CASE, sort=False):
        if len(part) > 1:
            label = f"{method_label(method)} {procedure}, {percent(sparsity)} removed"
            told = [f"{TREATMENTS[row['treatment']]} {_told(row)}" for _, row in part.iterrows()]
            lines.append(f"- **{label}**: {'; '.join(told)}.")
    return "\n".join(lines) or "No mask was trained in more than one way at these sparsities."


def _inverted(variances: pd.DataFrame) -> pd.DataFrame:
    rows = summary(variances)
    return rows[rows["procedure"] == "inverted"]


def _where(rows: pd.DataFrame, holds: pd.Series) -> str:
    """`ResNet-20 at 98% (3 of 3 seeds)`: where it holds in some seed."""
    found = rows.assign(holds=holds).groupby(["model", "sparsity"], sort=False)["holds"]
    told = [
        f"{MODELS[model]} at {percent(sparsity)} ({part.sum()} of {counted(len(part), 'seed')})"
        for (model, sparsity), part in found
        if part.any()
    ]
    return listed(told) if told else ""


def _ends(treated: pd.DataFrame) -> pd.DataFrame:
    """The last record of each training, with a verdict on its accuracies: above, at or below
    chance. Its training images are those of the steps since the record before."""
    steps = sorted(treated["step"].unique())
    last = treated[treated["step"] == steps[-1]] if steps else treated
    rows = last.assign(train_verdict="", test_verdict="")
    for at, row in rows.iterrows():
        chance = 100 / datasets.DATASETS[row["dataset"]].classes
        seen = (steps[-1] - steps[-2]) * row["batch_size"]
        rows.loc[at, "train_verdict"] = _verdict(row["train_accuracy"], seen, chance)
        rows.loc[at, "test_verdict"] = _verdict(row["test_accuracy"], row["test_images"], chance)
    return rows


def _verdict(accuracy: float, images: int, chance: float) -> str:
    found = accuracy_interval(accuracy, images)
    if found.low > chance:
        return "above chance"
    return "at chance" if found.high >= chance else "below chance"


def _told(row: pd.Series) -> str:
    """`above chance on training images (18.9 percent), at chance on test images (9.5)`."""
    train, test = f"{row['train_accuracy']:.1f} percent", f"{row['test_accuracy']:.1f}"
    if row["train_verdict"] == row["test_verdict"]:
        return f"{row['test_verdict']} on training and on test images ({train} and {test})"
    return (
        f"{row['train_verdict']} on training images ({train}), {row['test_verdict']} on test "
        f"images ({test})"
    )
