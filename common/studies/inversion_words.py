"""What inversion does, and what its three faults did, in words put together from the tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from common import datasets
from common.plots.style import method_label, percent
from common.results.reference import METHODS as NAMES
from common.results.statistics import accuracy_interval
from common.results.words import counted, listed, spread
from common.studies.inversion_curves import layers_of
from common.studies.inversion_plots import PROCEDURES
from common.studies.layer_collapse import first_collapsed
from common.studies.layer_collapse_plots import line_labels

# Inversion


def complements(table: pd.DataFrame) -> str:
    """How far masks and inverted masks are complements. table: complement.csv."""
    tied = [f"{NAMES[m]} {spread(part['tied'])}" for m, part in table.groupby("method", sort=False)]
    others = int(table["in_both_untied"].max())
    removed = percent(table["sparsity"].iloc[0])
    return (
        f"With {removed} of {spread(table['prunable'])} weights removed, a method's mask and its "
        "inverted mask are complements, but for the weights whose score equals the threshold, "
        f"among which each draws lots: {listed(tied)}. "
        + (f"Up to {others:,} other weights are in both." if others else "No other is in both.")
    )


def first_emptied(sweep: pd.DataFrame) -> str:
    """Which layer each inverted method empties first, and at which of the compressions measured; a
    Markdown list. sweep: sweep.csv."""
    lines = []
    for line, label in line_labels(sweep).items():
        part = sweep[(sweep[["method", "iterations", "images_per_class"]] == line).all(axis=1)]
        seeds = part["seed"].nunique()
        dead = pd.concat(first_collapsed(rows) for _, rows in part.groupby("seed"))
        if dead.empty:
            lines.append(f"- **{label}**: none ({counted(seeds, 'seed')}).")
            continue
        sets = dead["layers"].value_counts()
        names = " or ".join(
            name + f" ({counted(number, 'seed')})" * (len(sets) > 1)
            for name, number in sets.items()
        )
        at = spread(np.log10(dead["compression"].astype(float)), "$10^{{{:.4g}}}$")
        lines.append(f"- **{label}**: {names}, at {at} ({len(dead)} of {counted(seeds, 'seed')}).")
    return "\n".join(lines)


def imbalance(rounds: pd.DataFrame) -> str:
    """How much higher the first layer's weights score than the largest layer's, by conservation."""
    sizes = rounds.loc[rounds["round"] == 0, layers_of(rounds)].iloc[0]
    first = sizes.index[0]
    return (
        f"Every layer's scores have the same sum, so the {sizes[first]:,} weights of {first} score "
        f"{sizes.max() / sizes[first]:,.0f} times as high, on the average, as the "
        f"{sizes.max():,} of the largest layer."
    )


def rounds_told(rounds: pd.DataFrame) -> str:
    """What SynFlow's last two rounds leave of the first layer, inverted properly and by 1/S; a
    Markdown list. rounds: rounds.csv."""
    first, lines = layers_of(rounds)[0], []
    for exponent, part in rounds.groupby("exponent"):
        told = []
        for procedure, label in (("inverted", "properly inverted"), ("reciprocal", "by 1/S")):
            left = part[part["procedure"] == procedure]
            left = left.pivot(index="seed", columns="round", values=first)
            empty = (left == 0).all()
            if empty.iloc[-1]:
                told.append(f"{label} none from round {empty.index[~empty].max() + 1} on")
            else:
                ends = [f"{spread(left[at])} after round {at}" for at in left.columns[-2:]]
                told.append(f"{label} {listed(ends)}")
        removed = percent(round(1 - 10.0**-exponent, 3))
        lines.append(f"- $10^{{{exponent:g}}}$ ({removed} removed): {'; '.join(told)}.")
    size, seeds = rounds.loc[rounds["round"] == 0, first].iloc[0], rounds["seed"].nunique()
    head = f"What is left of the {size:,} weights of {first} ({counted(seeds, 'seed')}):"
    return "\n".join([head, "", *lines])


# Its three faults


def empty_list(outcomes: pd.DataFrame, sparsity: float) -> str:
    """What fault 1 pruned. outcomes: outcomes.csv."""
    rows = _of(outcomes, "empty_list", sparsity)
    return (
        f"Asked to remove {percent(sparsity)}, {_names(rows)} keeps {spread(rows['kept'])} of "
        f"{spread(rows['prunable'])} weights ({counted(len(rows), 'seed')}). The check counts "
        f"{spread(rows['counted_kept'])} of {spread(rows['counted_total'])} and "
        f"{'passes' if rows['check_passed'].all() else 'does not always pass'}."
    )


def silent(outcomes: pd.DataFrame, layers: pd.DataFrame, sparsity: float) -> str:
    """What fault 2 left, beside a proper inversion; a Markdown list. layers: layers.csv."""
    lines = []
    for method, rows in _of(outcomes, "batchnorm", sparsity).groupby("method", sort=False):
        own = layers[(layers["method"] == method) & (layers["sparsity"] == sparsity)]
        faulty, proper = (own[own["procedure"] == name] for name in ("batchnorm", "inverted"))
        seeds = faulty.groupby("seed")
        number = seeds["norms"].agg(lambda counts: (counts > 0).sum())
        lines.append(
            f"- **{method_label(method)}**: {spread(seeds['norms_kept'].sum())} of "
            f"{spread(seeds['norms'].sum())} BatchNorm weights are left, none in "
            f"{spread(rows['layers_silent'])} of {spread(number)} layers; a gradient arrives in "
            f"{_reached(faulty)}. Properly inverted: in {_reached(proper)}."
        )
    return "\n".join(lines)


def silent_layers(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Layers without a BatchNorm weight under fault 2, lowest to highest over seeds: rows methods,
    columns shares removed."""
    rows = outcomes[outcomes["procedure"] == "batchnorm"]
    rows = rows.assign(
        method=rows["method"].map(method_label), removed=rows["sparsity"].map(percent)
    )
    table = rows.groupby(["method", "removed"])["layers_silent"].apply(spread)
    return table.unstack("removed")


def reciprocals(outcomes: pd.DataFrame, sparsity: float) -> str:
    """What the masks of fault 3 share with the method's own; a Markdown list."""
    lines = []
    for method, rows in _of(outcomes, "reciprocal", sparsity).groupby("method", sort=False):
        own = outcomes[outcomes["method"] == method]
        proper = _of(own, "inverted", sparsity)["overlap"]
        lines.append(
            f"- **{method_label(method)}**: of what 1/S keeps, the method keeps "
            f"{spread(rows['overlap'], '{:.0%}')} itself; of what −S keeps, "
            f"{spread(proper, '{:.0%}')} ({counted(len(rows), 'seed')})."
        )
    return "\n".join([*lines, f"\nMasks drawn by lot would share {percent(1 - sparsity)}."])


def checks(outcomes: pd.DataFrame) -> str:
    """How often the reproduction's check passed."""
    passed = outcomes[outcomes["check_passed"]]
    broken = (passed["layers_silent"] + passed["layers_collapsed"] > 0).sum()
    return (
        f"The check passes for {len(passed)} of {len(outcomes)} masks; {broken} of these leave a "
        "layer without weights, or without BatchNorm weights."
    )


def learners(training: pd.DataFrame) -> str:
    """Which short trainings end above chance, by the test images; a Markdown list."""
    last = training[training["step"] == training["step"].max()]
    images = int(last["test_images"].iloc[0])
    chance = 100 / datasets.DATASETS[last["dataset"].iloc[0]].classes
    low = [accuracy_interval(accuracy, images).low for accuracy in last["test_accuracy"]]
    last = last.assign(learns=pd.Series(low, last.index) > chance)
    told = {True: [], False: []}
    for (method, learns), part in last.groupby(["method", "learns"], sort=False):
        names = [PROCEDURES[p][0].removeprefix("fault: ") for p in part["procedure"]]
        accuracies = [f"{a:.1f}" for a in part["test_accuracy"]]
        pairs = ", ".join(map(" ".join, zip(names, accuracies, strict=True)))
        told[learns].append(f"{method_label(method)} ({pairs})")
    return "\n".join(
        (
            f"After {last['step'].iloc[0]} steps, in percent of {images:,} test images:\n",
            f"- above chance ({chance:g}): {'; '.join(told[True]) or 'none'};",
            f"- not above it: {'; '.join(told[False]) or 'none'}.",
        )
    )


def _of(outcomes: pd.DataFrame, procedure: str, sparsity: float) -> pd.DataFrame:
    return outcomes[(outcomes["procedure"] == procedure) & (outcomes["sparsity"] == sparsity)]


def _names(rows: pd.DataFrame) -> str:
    return listed(dict.fromkeys(rows["method"].map(NAMES)))


def _reached(layers: pd.DataFrame) -> str:
    """`14 of 14 layers`: those that a gradient reaches, by seed."""
    reached = layers.assign(reached=layers["gradient_norm"] > 0).groupby("seed")["reached"]
    return f"{spread(reached.sum())} of {spread(reached.size())} layers"
