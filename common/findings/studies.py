"""What the studies and the trials around pruning at initialization say."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from common import datasets, plots, reference
from common.findings.wording import (
    Compared,
    Finding,
    Published,
    Question,
    Quotes,
    answer,
    listed,
    powers,
)
from common.plots import style, tables
from common.plots.comparison import each_interval
from common.plots.tickets import LOOKS
from common.statistics import LEVEL, Interval, paired_differences
from common.studies import layer_collapse
from common.tickets.levels import collect_levels

# Of the study of layer collapse: method, rounds, images of each class.
LINES = {
    ("synflow", 100, 0): "SynFlow",
    ("synflow", 1, 0): "SynFlow in a single round",
    ("SNIP", 1, 10): "SNIP",
    ("magnitude", 1, 0): "magnitude",
    ("grasp", 1, 10): "GraSP",
    ("random", 1, 0): "random pruning",
}


def collapse(published: Published) -> Iterator[Finding]:
    """How far each method prunes before a layer has no weight left."""
    if not published.has("layer_collapse"):
        return
    summary = published.study("layer_collapse", "summary")
    quotes = Quotes("collapse", "results/layer_collapse/summary")
    critical = layer_collapse.critical(summary).assign(exponent=lambda t: np.log10(t["reached"]))
    lines = critical.set_index(["method", "iterations", "images_per_class"])[
        "exponent"
    ].sort_index()
    told = [
        f"{name} {powers(quotes, f'critical exponent: {name}', lines.loc[[key]])}"
        for key, name in LINES.items()
    ]
    most = powers(quotes, "highest exponent", [math.log10(layer_collapse.maximum(summary))])
    step = powers(quotes, "step", [np.diff(np.unique(summary["exponent"])).min()])
    seeds = quotes.number("seeds", summary["seed"].nunique())
    network = tables.network_name(*summary[["model", "dataset"]].iloc[0])
    yield quotes.finding(
        f"{network}, {seeds} seeds, compressions in steps of {step}: the highest at which every "
        f"layer still has a weight is for {listed(told)}. No method can pass {most}."
    )


def inversion(published: Published) -> Iterator[Finding]:
    """What inversion does to magnitude pruning, and three faults of an earlier reproduction."""
    if not published.has("inversion"):
        return
    outcomes = published.study("inversion", "outcomes")
    signal = published.study("inversion", "signal")
    sparsest = outcomes["sparsity"].max()
    yield _below_epsilon(signal, sparsest)
    yield _other_epsilon(published.study("inversion", "signal_training"), sparsest)
    source = "results/inversion/outcomes"
    quotes = Quotes("inversion/empty_list", source)
    never = outcomes[(outcomes["procedure"] == "empty_list") & (outcomes["sparsity"] == sparsest)]
    kept, of = (quotes.span(name, never[name]) for name in ("kept", "prunable"))
    removed = quotes.number("sparsity", 100 * sparsest, "g")
    yield quotes.finding(
        f'Its SynFlow pruned nothing: at "{removed} percent sparsity" {kept} of {of} weights were '
        "kept."
    )
    quotes = Quotes("inversion/batchnorm_pruned", source)
    pruned = outcomes[(outcomes["procedure"] == "batchnorm") & (outcomes["method"] == "SNIP")]
    pruned = pruned[pruned["sparsity"] == tables.nearest(pruned["sparsity"])]
    silent = quotes.span("layers_silent", pruned["layers_silent"])
    layers = signal.loc[signal["model"] == pruned["model"].iloc[0], "layer"].nunique()
    seeds = quotes.number("seeds", pruned["seed"].nunique())
    removed = quotes.number("sparsity", 100 * pruned["sparsity"].iloc[0], "g")
    yield quotes.finding(
        f"BatchNorm's weights were among those that it pruned, which silences {silent} of "
        f"{quotes.number('layers', layers)} layers under inverted SNIP with {removed}% removed "
        f"({seeds} seeds)."
    )
    yield _reciprocal(published.study("inversion", "rounds"))


def _below_epsilon(signal: pd.DataFrame, sparsity: float) -> Finding:
    quotes = Quotes("inversion/below_epsilon", "results/inversion/signal")
    inverted = (signal["method"] == "magnitude") & (signal["procedure"] == "inverted")
    part = signal[inverted & (signal["sparsity"] == sparsity)]
    part = part.assign(below=part["variance"] < part["epsilon"])
    told = []
    for model, layers in part.groupby("model", sort=False):
        below = quotes.span(f"layers below, {model}", layers.groupby("seed")["below"].sum())
        of = quotes.number(f"layers, {model}", layers["layer"].nunique())
        told.append(f"{below} of {of} layers of {reference.MODELS.get(model, model)}")
    removed = quotes.number("sparsity", 100 * sparsity, "g")
    epsilon = powers(quotes, "log10 of epsilon", np.log10(part["epsilon"]), ".0f")
    networks = part.drop_duplicates(["model", "seed"])
    whole = (networks["layers_collapsed"] == 0).sum()
    whole = quotes.number("networks without an empty layer", whole)
    return quotes.finding(
        f"With {removed}% removed, inverted magnitude pruning leaves weights so small that the "
        f"variance at BatchNorm's inputs (the channels' median) is below its epsilon of {epsilon} "
        f"in {listed(told)}, though {whole} of these {quotes.number('networks', len(networks))} "
        "networks have no empty layer."
    )


def _other_epsilon(training: pd.DataFrame, sparsity: float) -> Finding:
    """Both accuracies: fitting the training images says nothing of others."""
    quotes = Quotes("inversion/other_epsilon", "results/inversion/signal_training")
    inverted = (training["method"] == "magnitude") & (training["procedure"] == "inverted")
    part = training[inverted & (training["sparsity"] == sparsity)]
    part = part[part["step"] == part["step"].max()].set_index("treatment")
    other, plain = part.loc["epsilon"], part.loc["none"]
    images, classes = int(other["test_images"]), datasets.DATASETS[other["dataset"]].classes
    right = round(other["test_accuracy"] * images / 100)
    exact = stats.binomtest(right, images, 1 / classes).proportion_ci(LEVEL)
    interval = Interval(other["test_accuracy"], 100 * exact.low, 100 * exact.high, images)
    guessing = interval.low <= 100 / classes <= interval.high
    quotes.number("test_images", images)
    low, high = (quotes.number(f"{end} end", at, ".1f") for end, at in
                 (("lower", interval.low), ("upper", interval.high)))  # fmt: skip
    reached = quotes.number("test_accuracy", interval.mean, ".1f", n=images)
    trained = [quotes.number("train_accuracy", r["train_accuracy"], ".1f") for r in (other, plain)]
    epsilon = powers(quotes, "log10 of epsilon", [math.log10(other["epsilon"])], ".0f")
    level = quotes.number("level", 100 * LEVEL, "g")
    return quotes.finding(
        f"With an epsilon of {epsilon} the same "
        f"{tables.network_name(other['model'], other['dataset'])} is right on {trained[0]} percent "
        f"of its training images after {quotes.number('step', other['step'])} steps, without on "
        f"{trained[1]}; on test images it is {'still at' if guessing else 'above'} chance, "
        f"{reached} percent ({level} percent interval {low} to {high}). That is one seed."
    )


def _reciprocal(rounds: pd.DataFrame) -> Finding:
    quotes = Quotes("inversion/reciprocal", "results/inversion/rounds")
    last = rounds[rounds["round"] == rounds["round"].max()]
    exponent = last["exponent"].min()
    last = last[last["exponent"] == exponent].set_index("procedure")["conv1_1"]
    size = quotes.number("weights of conv1_1", rounds.loc[rounds["round"] == 0, "conv1_1"].max())
    return quotes.finding(
        f"At compression {powers(quotes, 'exponent', [exponent])} that procedure leaves "
        f"{quotes.span('conv1_1, reciprocal', last.loc[['reciprocal']])} of the first layer's "
        f"{size} weights, an inversion {quotes.span('conv1_1, inverted', last.loc[['inverted']])}."
    )


def tickets(published: Published) -> Iterator[Finding]:
    """Lottery tickets, in the form that is the default, against shuffled and redrawn ones."""
    if not published.has("lottery_ticket"):
        return
    for runs in plots.settings(published.summary("lottery_ticket")).values():
        numbers = plots.ablation_effects(runs[runs["variant"] == ""])
        network = tables.network_name(*runs[["model", "dataset"]].iloc[0])
        for ablation, subject in (
            ("shuffle", "shuffling a ticket's mask within its layers"),
            ("reinit", "redrawing a ticket's weights"),
        ):
            part = numbers[numbers["ablation"] == ablation]
            compared = [
                Compared(
                    f"{style.percent(row['sparsity'])} removed",
                    interval,
                    {"method": "lottery_ticket", "ablation": ablation, "sparsity": row["sparsity"]},
                )
                for row, interval in zip(part.to_dict("records"), each_interval(part), strict=True)
            ]
            if compared:
                key = f"tickets/{runs['dataset'].iloc[0]}/{ablation}"
                quotes = Quotes(key, "results/lottery_ticket/summary")
                question = Question(subject, "helps at", "hurts at", "at")
                yield quotes.finding(answer(question, {f"On {network}": compared}, quotes, network))


def initialisation(published: Published) -> Iterator[Finding]:
    """How the weights of a lottery ticket were first drawn, against Kaiming normal."""
    if not published.has("initialisation"):
        return
    levels = collect_levels(published.folder / "initialisation")
    last = levels[levels["final"]].assign(variant="", method=lambda table: table["init"])
    last["sparsity"] = last["sparsity"].round(3)
    subject = "drawing a ticket's weights otherwise than Kaiming normal"
    question = Question(subject, "helps with", "hurts with", "with")
    for (dataset, model), runs in last.groupby(["dataset", "model"]):
        network = tables.network_name(model, dataset)
        numbers = paired_differences(runs, ["method"], ["kaiming_normal"])
        asked: dict[str, list[Compared]] = {}
        for row, interval in zip(numbers.to_dict("records"), each_interval(numbers), strict=True):
            scheme, at = row["method"], {"sparsity": row["sparsity"]}
            where = f"On {network}, with {style.percent(row['sparsity'])} removed"
            about = {"method": "lottery_ticket", "variant": scheme, **at}
            one = Compared(LOOKS["init"][scheme][0], interval, about)
            asked.setdefault(where, []).append(one)
        quotes = Quotes(f"initialisation/{dataset}", "results/initialisation/levels")
        yield quotes.finding(answer(question, asked, quotes, network))
