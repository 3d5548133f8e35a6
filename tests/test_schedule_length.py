"""The study of short trainings: what it reads, what it computes, and that its words follow."""

from __future__ import annotations

import itertools
import math

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from helpers import caption, execute_notebook, left_titles, outputs

from common.base.errors import ConfigurationError
from common.base.paths import ROOT
from common.results import reference
from common.results.collected import Collected, write_collected
from common.results.schema import EPOCHS, LAYERS, SUMMARY
from common.results.statistics import mean_interval
from common.studies import schedule_length as study
from common.studies import schedule_length_plots as figures
from common.studies import schedule_length_words as words
from common.sweep import grid

NOTEBOOK = ROOT / "trials" / "schedule_length" / "schedule_length.ipynb"
LENGTHS, SEEDS = [2, 4, 8, 15, 30], [0, 1, 2]
common = {
    **{"variant": "", "protocol": "budget", "dataset": "cifar10", "model": "resnet20"},
    **{"sparsity": 0.9, "prune_seconds": 0.0, "images_per_second": 500.0, "torch_version": "2"},
    **{"device": "cpu: made up", "code_version": "0123456789ab"},
}
NOISE = (-0.2, 0.3, -0.1)  # what a seed adds to the effect of shuffling


def made_up(lengths=LENGTHS, seeds=SEEDS, gain=lambda method, epochs: 0.0, **columns):
    """Runs of all procedures: methods apart by 1 point (SynFlow ahead, random last), seeds by 5;
    shuffling adds `gain`, and NOISE."""
    rows = []
    for epochs, seed, (method, ablation) in itertools.product(lengths, seeds, study.PROCEDURES):
        accuracy = 60 + study.METHODS.index(method) + 5 * seed + epochs / 10
        if ablation == "shuffle":
            accuracy += gain(method, epochs) + NOISE[seed]
        rows.append(
            {**common, "run_id": f"{ablation}-{epochs}-{seed}", "method": method}
            | {"ablation": ablation, "seed": seed, "epochs": epochs}
            | {"test_accuracy": round(accuracy, 2), "train_seconds": 120.0 * epochs, **columns}
        )
    return pd.DataFrame(rows)


def fades(method, epochs):
    """GraSP gains much by shuffling, and less and less of it."""
    return 12 / epochs if method == "grasp" and epochs < 15 else 0.0


def write(runs, folder):
    """As `collect` finds the tables of a grid; columns that no one reads here are zeros."""
    runs = runs.reindex(columns=SUMMARY).fillna(0)
    keys = runs[["method", "run_id"]]
    rest = [keys.assign(**dict.fromkeys(columns, 0)) for columns in (EPOCHS, LAYERS)]
    write_collected(Collected(runs, *rest), folder)


@pytest.fixture
def home(tmp_path):
    """Both grids, complete."""
    runs = made_up(gain=fades)
    fifteen = runs["epochs"] == 15
    write(runs[~fifteen], tmp_path / "schedule_length")
    others = made_up([15], [0], sparsity=0.98), made_up([15], [0], variant="iterative")
    others = [part.assign(run_id=part["run_id"] + f"-{n}") for n, part in enumerate(others)]
    dense = runs[fifteen].iloc[:1].assign(run_id="magnitude", method="magnitude", sparsity=0.0)
    write(pd.concat([runs[fifteen], dense, *others]), tmp_path / "cifar10")
    return tmp_path


# Reading


def test_the_fifteen_epochs_come_from_the_other_grid_and_no_run_counts_twice(home):
    runs = study.read_runs(home, lengths=LENGTHS, seeds=SEEDS)
    assert len(runs) == len(LENGTHS) * len(SEEDS) * len(study.PROCEDURES)
    assert study.missing(runs, LENGTHS, SEEDS).empty
    write(made_up(gain=fades), home / "schedule_length")  # the 15 epochs were run here as well
    again = study.read_runs(home, lengths=LENGTHS, seeds=SEEDS)
    assert len(again) == len(runs)


def test_the_two_grids_are_what_the_notebook_asks_for():
    folder, methods = ROOT / "trials" / "grids", [*reference.METHODS]
    runs = []
    for name in study.GRIDS:
        for _, run in grid.find(name, folder, methods).runs():
            plain = {"ablation": "none", "epochs": 15}
            runs.append({**plain, **{key: run[key] for key in run if key != "protocol"}})
    found = pd.DataFrame(runs)
    found = found[found["sparsity"] == common["sparsity"]]
    written = {}
    exec(nbformat.read(NOTEBOOK, as_version=4).cells[2].source, written)
    assert study.missing(found, written["lengths"], written["seeds"]).empty


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": "vgg16"}, "no run with .*model='vgg16'.*hold .*model='resnet20'.*lengths="),
        ({"dataset": "digits"}, "dataset='digits'.*hold dataset='cifar10'"),
        ({"protocol": "nonsense"}, "protocol='nonsense'.*hold .*protocol='budget'"),
        ({"sparsity": 0.6}, r"sparsity=0\.6.*hold .*sparsity=0\.9.*sparsity=0\.98"),
        ({"lengths": [5]}, r"lengths=\[5\].*hold .*lengths=\[2, 4, 8, 15, 30\]"),
        ({"seeds": [7]}, r"seeds=\[7\].*hold .*seeds=\[0, 1, 2\]"),
        ({"lengths": 4}, "lengths=4 is not a list"),
        ({"seeds": []}, r"seeds=\[\] is not a list"),
        ({"sparsity": "high"}, "sparsity='high' is not a number"),
    ],
)
def test_what_the_tables_do_not_hold_is_one_error_that_says_what_they_do(home, wrong, said):
    with pytest.raises(ConfigurationError, match=said):
        study.read_runs(home, **{"lengths": LENGTHS, "seeds": SEEDS, **wrong})


def test_without_any_run_the_error_says_how_to_make_them(tmp_path):
    (tmp_path / "schedule_length").mkdir()
    (tmp_path / "schedule_length" / "steps.csv").write_text("not a run\n")
    with pytest.raises(ConfigurationError, match="trials run schedule_length"):
        study.read_runs(tmp_path, lengths=LENGTHS, seeds=SEEDS)


def test_the_runs_that_are_missing_are_named():
    runs = made_up([2, 8], [0, 1])
    gone = (runs["epochs"] == 8) & (runs["seed"] == 1) & (runs["method"] == "synflow")
    found = study.missing(runs[~gone], [2, 8], [0, 1])
    assert found.to_dict("records") == [
        {"epochs": 8, "seed": 1, "method": "synflow", "ablation": ablation}
        for ablation in ("none", "shuffle")
    ]
    assert "**2 of 28 runs are missing**: 2 with 8 epochs." in words.absent(
        runs[~gone], [2, 8], [0, 1]
    )
    assert "all 14 with 30 epochs" in words.absent(runs, [2, 8, 30], [0, 1])


# Computing


def test_the_effect_of_shuffling_is_that_of_the_pairs_at_each_length():
    found = study.shuffling(made_up(gain=fades)).set_index(["method", "epochs"])
    noise = mean_interval(NOISE)
    assert found.loc[("grasp", 4), "mean"] == pytest.approx(3 + noise.mean)
    assert found.loc[("grasp", 4), "low"] == pytest.approx(3 + noise.low)
    assert found.loc[("SNIP", 30), "mean"] == pytest.approx(noise.mean)
    assert set(found["n"]) == {3}
    assert set(found.index.get_level_values("method")) == {"SNIP", "grasp", "synflow"}


def test_the_change_of_an_effect_is_taken_seed_by_seed():
    found = study.change_of_shuffling(made_up(gain=fades)).set_index(["method", "epochs"])
    # What seeds add to an effect is the same at every length here, and falls out.
    assert found.loc[("grasp", 2), ["mean", "low", "high"]].tolist() == pytest.approx([6, 6, 6])
    assert found.loc["SNIP", "mean"].abs().max() < 1e-9
    assert 30 not in found.index.get_level_values("epochs")


def test_methods_are_compared_with_random_pruning_of_the_same_seed():
    found = study.against_random(made_up()).set_index(["method", "epochs"])
    means = [found.loc[(method, 8), "mean"] for method in study.METHODS[1:]]
    assert means == pytest.approx([1, 2, 3])


def test_the_order_agrees_with_itself_and_is_reversed_where_it_is():
    runs = made_up([2, 30])
    short = runs["epochs"] == 2
    runs.loc[short, "test_accuracy"] = 150 - runs.loc[short, "test_accuracy"]
    found = study.order(runs)
    assert found["agreement"].tolist() == pytest.approx([-1, 1])
    assert found["seeds"].tolist() == [3, 3]
    # A length that lacks a method has no order.
    lacking = runs[~short | (runs["method"] != "grasp")]
    assert study.order(lacking).index.tolist() == [30]


def test_scatter_is_pooled_over_what_was_run():
    found = study.scatter(made_up(gain=fades))
    assert found["pairs"].tolist() == pytest.approx([np.std(NOISE, ddof=1)] * 5)
    plain = study.scatter(made_up().query("ablation == 'none'"))
    assert plain["runs"].tolist() == pytest.approx([5.0] * 5)  # 60, 65 and 70
    assert plain["pairs"].isna().all()
    assert study.scatter(made_up(seeds=[0])).isna().all(axis=None)


def test_an_expected_interval_is_that_of_replicates_with_this_scatter():
    values = [1.0, 2.5, 4.0, 3.0]
    expected = mean_interval(values).half_width
    assert study.half_width(np.std(values, ddof=1), 4) == pytest.approx(expected)
    assert math.isnan(study.half_width(1.0, 1))


def test_an_hour_holds_what_fits_into_it():
    found = study.an_hour(made_up([2, 15, 30]), [500, 5000])
    assert found[500]["minutes"].tolist() == pytest.approx([4, 30, 60])
    assert found[500]["seeds"].tolist() == [7, 1, 0]
    assert found[5000]["seeds"].tolist() == [75, 10, 5]
    assert found[500]["interval"].isna().tolist() == [False, True, True]
    assert list(study.an_hour(made_up([2])).columns.levels[0]) == [500, 2000, 8000]
    for wrong in (500, [], ["fast"], [0]):
        with pytest.raises(ConfigurationError, match="images_per_second"):
            study.an_hour(made_up([2]), wrong)


def test_what_others_saw_is_their_rows_subtracted():
    table = pd.read_csv(reference.FOLDER / "schedules.csv")
    snip = table.query("method == 'SNIP' and model == 'VGG-19' and sparsity == 0.9")
    snip = snip.query("dataset == 'CIFAR-10'").dropna(subset="epoch")
    both = snip.pivot(index="epoch", columns="ablation", values="test_accuracy")
    found = study.published_shuffling().query("model == 'vgg19' and sparsity == 0.9")
    found = found[found["method"] == "SNIP"].set_index("epoch")["difference"]
    assert found.to_dict() == pytest.approx((both["shuffle"] - both["none"]).to_dict())
    assert list(found.index) == [4, 12, 25, 160]


def test_others_methods_are_compared_with_the_mean_of_their_random_runs():
    rows = reference.along_training("neuder2026").query("sparsity == 0.9 and epoch == 4")
    accuracy = rows.groupby("method")["test_accuracy"].agg(["mean", "size"])
    assert accuracy.loc["random", "size"] == 2
    found = study.published_against_random().query("sparsity == 0.9 and epoch == 4")
    difference = found.set_index("method")["difference"]
    expected = accuracy.loc["grasp", "mean"] - accuracy.loc["random", "mean"]
    assert difference["grasp"] == pytest.approx(expected)
    assert set(difference.index) == {"SNIP", "grasp", "synflow"}


# Words


def differences(*rows):
    names = ["method", "epochs", "mean", "low", "high", "n"]
    return pd.DataFrame(rows, columns=names)


def test_verdicts_name_the_lengths_and_what_chance_would_do():
    nan = math.nan
    rows = [("grasp", e, 3.0, 1.0, 5.0, 3) for e in (2, 4)] + [("grasp", 30, 0.1, nan, nan, 1)]
    said = words.verdicts(differences(*rows), words.SHUFFLING)
    assert "**GraSP**: gains by shuffling after 2 and 4 epochs; fewer than 3 seeds after 30" in said
    assert "0.1 of 2 intervals" in said
    assert "nothing to compare" in words.verdicts(differences(), words.SHUFFLING)


@pytest.fixture(scope="module")
def steps():
    return study.stepwise()


def test_what_four_epochs_had_suggested_is_in_the_committed_rows(steps):
    said = words.suggested(steps)
    rows = steps[(steps["epochs"] == 4) & (steps["sparsity"] == 0.9)]
    accuracy = rows.set_index(["method", "ablation"])["test_accuracy"]
    gain = (accuracy.xs("shuffle", level=1) - accuracy.xs("none", level=1)).dropna()
    assert gain.min() > 0, "shuffling helps, it says"
    assert gain.idxmax() == accuracy.xs("none", level=1).idxmin() == "grasp"
    assert f"{round(gain.max(), 2):.1f} points (GraSP" in said
    assert "GraSP is the last of the four" in said
    assert set(steps["protocol"]) == {"frankle2021"}


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (lambda epochs: 12 / epochs if epochs < 30 else 0.0, "after 30, no gain is found"),
        (lambda epochs: 3.0, "after 30, the gain is still there"),
        (lambda epochs: 3.0 - epochs / 5, "after 30, it has become a loss"),
    ],
)
def test_what_became_of_the_gain_follows_from_the_longest_training(steps, gain, said):
    runs = made_up(gain=lambda method, epochs: gain(epochs) if method == "grasp" else 0.0)
    assert said in words.taken_back(runs, steps)
    assert "too few seeds to tell" in words.taken_back(runs[runs["seed"] == 0], steps)


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ((60, 61, 62, 63), "it is not the last"),
        ((60, 61, 50, 63), "it is the last still"),
        ((60.1, 61, 60, 63), "that it is the last is not shown"),
    ],
)
def test_the_place_of_the_last_follows_from_pairs(steps, accuracies, said):
    runs = made_up([30])
    at = dict(zip(study.METHODS, accuracies, strict=True))
    # Seeds scatter by more than 0.1 point and by less than 1, and each method in its own way.
    wobble = [math.sin(3 * s + 5 * len(m)) / 8 for s, m in runs[["seed", "method"]].to_numpy()]
    runs["test_accuracy"] = runs["method"].map(at) + wobble
    assert said in words.taken_back(runs, steps)


def test_runs_of_another_network_take_nothing_back(steps):
    said = words.taken_back(made_up(dataset="digits", model="small_vgg"), steps)
    assert said == "The runs above (small VGG, Digits, 90% removed) do not speak to that."


def test_advice_is_there_whatever_runs_there_are(steps):
    whole = words.advice(made_up(gain=fades), steps)
    told = "GraSP's after 2, 4 and 8 epochs differ from the one after 30; after 15 none"
    assert told in whole
    longer = made_up([60]).query("ablation == 'none'")  # nothing there is shuffled yet
    assert told in words.advice(pd.concat([made_up(gain=fades), longer]), steps)
    assert "The same 4 epochs" in whole
    lone = words.advice(made_up([2], [0]), steps)
    assert whole.count("\n- **") == lone.count("\n- **") == 3
    assert "nan" not in lone
    assert "The same 4 epochs" not in lone
    stepwise = words.advice(made_up(protocol="frankle2021"), steps)
    assert "The same 4 epochs" not in stepwise


# Figures


def drawn(axes, colour):
    """x and y of the line in this colour with most points."""
    of = [line for line in axes.lines if line.get_color() == colour]
    line = max(of, key=lambda line: len(line.get_xdata()))
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def test_effects_are_drawn_at_their_lengths_with_intervals():
    runs = made_up(gain=fades)
    effects = study.shuffling(runs)
    figure = figures.shuffling_against_length(runs, effects, study.published_shuffling())
    ours, *theirs = figure.axes
    x, y = drawn(ours, figures.style.colour("grasp"))
    rows = effects[effects["method"] == "grasp"]
    assert np.allclose(y, rows["mean"])
    assert np.allclose(x / rows["epochs"], 1, atol=0.1)
    assert len(ours.containers) == 3, "a set of intervals a method"
    titles = ["ResNet-20, CIFAR-10", "ResNet-32 (width 32-64-128)", "VGG-19"]
    assert left_titles(figure) == titles
    assert not any(axes.containers for axes in theirs), "single runs have no intervals"
    assert list(ours.get_xticks()) == LENGTHS
    for part in ("105 runs of 2, 4, 8, 15, 30 epochs", "3 seeds", "one run each", "cpu: made up"):
        assert part in caption(figure)


def test_one_seed_is_drawn_without_an_interval_and_a_long_interval_is_cut():
    runs = made_up([2, 4], [0])
    published = study.published_against_random()
    published = published[published["sparsity"] == 0.9]
    figure = figures.methods_against_length(runs, study.against_random(runs), published)
    assert not any(len(bars.lines[2][0].get_segments()) for bars in figure.axes[0].containers)
    assert "SynFlow (one shot) at 90% removed, -45.2 to -34.2 points" in caption(figure)
    assert "cut where they leave" not in caption(figure)
    two = study.against_random(made_up([2, 4], [0, 1])).assign(low=-500.0, high=500.0)
    figure = figures.methods_against_length(runs, two, published)
    assert "cut where they leave the panel" in caption(figure)
    assert figure.axes[0].get_ylim()[0] > -30


# The notebook


def executed(home, tmp_path, **parameters):
    """How many pictures the notebook shows, and what it says."""
    made = execute_notebook(NOTEBOOK, tmp_path / "out.ipynb", results_dir=str(home), **parameters)
    return len(outputs(made, "image/png")), "\n".join(outputs(made, "text/markdown"))


@pytest.mark.slow
def test_the_notebook_tells_complete_tables(home, tmp_path):
    pictures, said = executed(home, tmp_path)
    assert pictures == 2
    assert "All 105 runs" in said
    assert "after 30, no gain is found" in said
    assert "nan" not in said


@pytest.mark.slow
def test_the_notebook_tells_what_there_is_of_incomplete_tables(tmp_path):
    part = pd.concat([made_up([1, 2], [0, 1]), made_up([4], [0]).iloc[:4]])
    part = part.assign(protocol="quick", dataset="digits", model="small_vgg")
    write(part, tmp_path / "schedule_length")
    asked = {"protocol": "quick", "dataset": "digits", "model": "small_vgg"}
    pictures, said = executed(tmp_path, tmp_path, **asked, lengths=[1, 2, 4], images_per_second=[9])
    assert pictures == 2
    assert "runs are missing" in said
    assert "do not speak to that" in said
    with pytest.raises(papermill.PapermillExecutionError, match="hold dataset='digits'"):
        executed(tmp_path, tmp_path)
