"""What grids of methods and ablations say: methods against random pruning, ablations against the
unmodified method, and the order of methods against a published one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from common import datasets, plots, reference
from common.findings.wording import Compared, Finding, Published, Question, Quotes, answer, listed
from common.plots import style, tables
from common.plots.comparison import each_interval
from common.statistics import LEVEL, mean_interval

BESIDE = ("mnist",)  # grids beside the one that the figures show
QUESTIONS = {
    "random": Question(
        "random pruning", "is beaten by", "beats", alone="between random pruning and"
    ),
    "shuffle": Question("shuffling the mask within its layers"),
    "reinit": Question("redrawing the weights"),
    "invert": Question("inverting the scores"),
}


def questions(published: Published) -> Iterator[Finding]:
    """`QUESTIONS` to the grid that the figures show, and, under keys such as
    `mnist/lenet_300_100/shuffle`, to those beside it."""
    for grid in (published.grid, *BESIDE):
        if not published.has(grid) or (grid in BESIDE and grid == published.grid):
            continue
        beside = grid != published.grid
        for runs in plots.settings(published.summary(grid)).values():
            model = runs["model"].iloc[0]
            network = reference.MODELS.get(model, model) if beside else ""
            for question in QUESTIONS:
                key = f"{grid}/{model}/{question}" if beside else question
                if found := _of_grid(runs, key, grid, question, network):
                    yield found


def _of_grid(
    runs: pd.DataFrame, key: str, grid: str, question: str, network: str = ""
) -> Finding | None:
    """What one part of a grid says to one of `QUESTIONS`, sparsity by sparsity; None if that was
    not run. network: whose weights are removed, where that has to be said."""
    compared = _compared(runs, question)
    if not compared:
        return None
    whose = f" of {network}" if network else ""
    asked = {f"With {style.percent(s)}{whose} removed": part for s, part in compared.items()}
    quotes = Quotes(key, f"results/{grid}/summary")
    return quotes.finding(answer(QUESTIONS[question], asked, quotes, network))


def _compared(runs: pd.DataFrame, question: str) -> dict[float, list[Compared]]:
    """The methods that a question is asked about, by sparsity."""
    if question == "random":
        numbers = plots.random_compared(runs)
    else:
        numbers = plots.ablation_effects(runs)
        numbers = numbers[numbers["ablation"] == question]
    runs = tables.prepared(runs)
    found: dict[float, list[Compared]] = {}
    for sparsity, part in numbers.groupby("sparsity"):
        found[sparsity] = []
        for row, interval in zip(part.to_dict("records"), each_interval(part), strict=True):
            about = {name: row[name] for name in ("method", "variant", "ablation", "sparsity")}
            name = _name(row["method"], row["variant"])
            cut = () if question == "random" else _cut(runs, about)
            found[sparsity].append(Compared(name, interval, about, cut))
    return found


def _cut(runs: pd.DataFrame, about: Mapping[str, object]) -> tuple[float, ...]:
    """The accuracies of ablated runs none of which has a path left, though their mask had one."""

    def same(about: Mapping[str, object]) -> pd.DataFrame:
        return runs[(runs[list(about)] == list(about.values())).all(axis=1)]

    ablated, plain = same(about), same({**about, "ablation": "none"})
    if (ablated["effective_sparsity"] < 1).any() or (plain["effective_sparsity"] == 1).all():
        return ()
    return tuple(ablated["test_accuracy"])


def _name(method: str, variant: str = "") -> str:
    """A method in the midst of a sentence."""
    name = reference.METHODS.get(method, method)
    return f"{name} ({variant.replace('_', ' ')})" if variant else name


def setting(published: Published) -> Iterator[Finding]:
    """What the figures and tables show, and what the dense network reaches."""
    runs = published.summary(published.grid)
    first, source = runs.iloc[0], f"results/{published.grid}/summary"
    quotes = Quotes("setting", source)
    epochs = quotes.number("epochs", first["epochs"])
    number, seeds = quotes.number("runs", len(runs)), runs["seed"].nunique()
    replicates = "one seed" if seeds == 1 else f"{quotes.number('seeds', seeds)} seeds"
    network = tables.network_name(first["model"], first["dataset"])
    yield quotes.finding(
        f"{network[0].upper()}{network[1:]}, {epochs} epochs (protocol `{first['protocol']}`), "
        f"{replicates}, {number} runs."
    )
    quotes = Quotes("reading", source)
    chance = quotes.number("chance", 100 / datasets.DATASETS[first["dataset"]].classes, "g")
    level = quotes.number("level", 100 * LEVEL, "g")
    if seeds == 1:
        yield quotes.finding(
            "One seed is no replicate: no difference between its runs is a finding. With more "
            f"seeds, {level} percent t-intervals would say which are. Guessing is right in "
            f"{chance} percent."
        )
    else:
        yield quotes.finding(
            "Seeds are replicates: ± is half of the "
            f"{level} percent t-interval over as many seeds as stand in parentheses. Differences "
            "are paired, seed by seed, and ▲ or ▼ stands where their interval excludes zero; no "
            f"difference was found elsewhere. Guessing is right in {chance} percent."
        )
    dense = runs[tables.is_dense(runs)]
    if len(dense):
        quotes = Quotes("dense", source)
        reached = mean_interval(dense.groupby("seed")["test_accuracy"].mean())
        about = {"sparsity": 0.0, "method": "dense"}
        number = quotes.interval("test_accuracy", reached, f"{reached.mean:.2f}", **about)
        counted = "one seed" if reached.n == 1 else f"{reached.n} seeds"
        yield quotes.finding(f"The dense network reaches {number} percent ({counted}).")


def order(published: Published) -> Iterator[Finding]:
    """How far our order of methods is the published one."""
    if not published.source:
        return
    runs = published.summary(published.grid)
    theirs = reference.curves(published.source, *runs[["dataset", "model"]].iloc[0])
    found = plots.orders_compared(plots.beside_published(runs, theirs))
    found = found[found["rho"].notna()]
    if found.empty:
        return
    quotes = Quotes("order", f"results/{published.grid}/summary")
    told, alike = [], []
    for row in found.to_dict("records"):
        at = {"sparsity": row["sparsity"]}
        removed = style.percent(row["sparsity"])
        rho = quotes.number("Spearman's rho", row["rho"], ".2f", n=row["n"], **at)
        p = quotes.number("permutation p", row["p"], ".2f", n=row["n"], **at)
        told.append(f"{rho} with {removed} removed (p = {p}, {row['n']} methods)")
        if row["p"] < 1 - LEVEL:
            alike.append(removed)
    best = found.loc[found["n"].idxmax()]
    least = quotes.number("least possible p", best["least_p"], ".2f", n=best["n"])
    verdict = f"alike beyond chance with {listed(alike)}" if alike else "not alike beyond chance"
    name = reference.SOURCES[published.source].name
    yield quotes.finding(
        f"Between the order of methods here and that of {name}, Spearman's ρ is {listed(told)}: "
        f"{verdict}. So few methods say little: {best['n']} in the very same order have p = "
        f"{least}."
    )
