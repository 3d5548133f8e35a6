"""A run's figures in its own notebook: in its colours, never in its way, and at the end beside the
runs that it has to be compared with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure

from common.base.paths import ROOT
from common.plots import style, tables
from common.results.schema import EXACT
from common.results.words import counted
from common.runs.experiment import Experiment
from common.runs.record import shown
from common.runs.run import Run


def drawing(run: Run) -> Callable[..., object]:
    """`draw(function, *arguments)`: the function's figure in the run's colours. What cannot be
    drawn says so in its place: no figure is worth a run."""

    def draw(function: Callable, *arguments: object, **options: object) -> object:
        if "method" in inspect.signature(function).parameters:
            options = {"method": run.experiment.method, **options}
        try:
            return function(*arguments, **options)
        except Exception as error:
            return style.sentence(f"No figure: {type(error).__name__}: {error}")

    return draw


@dataclass(frozen=True)
class Outcome:
    """A run's result, as a notebook shows it: a sentence and, where there is something to compare
    it with, a small picture."""

    sentence: str
    picture: Figure | None

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display

        display(Markdown(self.sentence))
        if self.picture:
            display(self.picture)


def outcome(run: Run) -> Outcome:
    """What the run came to, beside dense and random networks of the same setting where they are at
    hand: in its results folder, or among the published tables."""
    experiment, summary = run.experiment, run.summary()
    title = style.method_label(experiment.method, experiment.variant)
    if experiment.ablation != "none":
        title += f", {style.ablation_style(experiment.ablation)[0]}"
    found = {title: [summary["test_accuracy"]]}
    for name, like in _yardsticks(experiment).items():
        if runs := _found(like):
            found[name] = runs
    epochs = counted(experiment.epochs, "epoch")
    beside = [
        f"{name} {sum(values) / len(values):.1f} ({counted(len(values), 'run')})"
        for name, values in list(found.items())[1:]
    ]
    alone = "no run to compare that with is at hand" if experiment.sparsity else "the dense network"
    sentence = (
        f"**{summary['test_accuracy']:.1f} %** of the test images are recognised, with "
        f"{100 * summary['sparsity_actual']:.4g} % of the weights removed, "
        f"{f'after {epochs}' if experiment.epochs else 'without any training'}; "
        f"{', '.join(beside) or alone}. "
        f"The tables are in `{shown(experiment.folder)}`."
    )
    caption = (
        f"{tables.network_name(experiment.model, experiment.dataset)}; protocol "
        f"{experiment.protocol}, {epochs}; a dot each run, of which one decides nothing; this "
        f"one on {summary['device']}."
    )
    picture = _beside(found, experiment.method, caption) if beside else None
    return Outcome(sentence, picture)


def _yardsticks(experiment: Experiment) -> dict[str, Experiment]:
    """What the run is to be compared with: the same but for this. A dense network with nothing."""
    if experiment.sparsity == 0:
        return {}
    plain = replace(experiment, method="random", variant="", ablation="none", options={})
    same = {
        "dense": replace(plain, sparsity=0.0),
        "random": plain,
        "unmodified": replace(experiment, ablation="none"),
    }
    told = (experiment.method, experiment.run_id)
    return {name: one for name, one in same.items() if (one.method, one.run_id) != told}


def _found(like: Experiment) -> list[float]:
    """Test accuracies of the finished runs that are like this one, whatever their seed; a dense
    network is one whatever its method."""
    method = "*" if like.sparsity == 0 else like.method
    name = like.run_id.replace(f"_seed{like.seed}_", "_seed@_")
    same = re.compile(re.escape(name).replace("@", "[0-9]+"))
    paths = like.results_dir.glob(f"{method}/{name.replace('@', '*')}/summary.csv")
    own = [path for path in paths if same.fullmatch(path.parent.name)]
    published = ROOT.glob("figures/results/*/summary.csv")
    runs = {}
    for table in (pd.read_csv(path, **EXACT) for path in own or published):
        for row in table.to_dict("records") if "run_id" in table else ():
            if same.fullmatch(row["run_id"]) and method in ("*", row["method"]):
                runs[row["method"], row["run_id"]] = row["test_accuracy"]
    return list(runs.values())


@style.styled
def _beside(found: dict[str, list[float]], method: str, caption: str) -> Figure:
    """A row each: dots for runs, a bar at their mean."""
    figure = style.new_figure(1.0 + 0.3 * len(found), width=6.0)
    axes = figure.subplots()
    hues = {"dense": style.INK, "random": style.colour("random")}
    for height, (name, values) in enumerate(found.items()):
        hue = hues.get(name, style.colour(method))
        axes.plot(values, [height] * len(values), "o", color=hue, alpha=0.6, clip_on=False)
        mean = sum(values) / len(values)
        axes.plot([mean], [height], "|", color=hue, ms=16, mew=2.2)
        look = {"textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(f"{mean:.1f}", (max(values), height), xytext=(8, 0), **look)
    axes.set_yticks(range(len(found)), found)
    axes.set_ylim(len(found) - 0.4, -0.6)
    low, high = min(map(min, found.values())), max(map(max, found.values()))
    room = max(1.0, 0.15 * (high - low))
    axes.set_xlim(low - room, high + room)
    axes.set_xlabel("Test accuracy, last epoch (%)")
    style.write_caption(figure, caption)
    return figure
