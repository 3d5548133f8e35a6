"""Figures say what the tables say. All tables here are made up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import caption, execute_notebook, left_titles, legend, outputs
from matplotlib.collections import LineCollection, PolyCollection

from common import plots
from common.base.errors import ConfigurationError
from common.base.paths import ROOT
from common.plots import style
from common.results import collected, reference

METHODS = ["random", "magnitude", "SNIP", "grasp", "synflow"]
SIZES = {"conv1": 432, "conv2": 9216, "linear": 640}


def made_up(
    methods=("SNIP", "synflow"),
    ablations=("none", "invert"),
    sparsities=(0.5, 0.9),
    seeds=(0, 1, 2),
    dense=True,
    **columns,
):
    """(summary, epochs, layers) as they are collected; inverted SynFlow has collapsed."""
    generator = np.random.default_rng(0)
    shared = {
        **{"variant": "", "protocol": "quick", "dataset": "cifar10", "model": "vgg16", "epochs": 2},
        **{"device": "cpu: made up", "code_version": "abc1234", "prune_seconds": 0.5},
        **{"train_seconds": 10.0, "images_per_second": 1000.0},
        **columns,
    }
    points = [(m, a, s, r) for m in methods for a in ablations for s in sparsities for r in seeds]
    points += [(methods[0], "none", 0.0, seed) for seed in seeds if dense]
    summary, epochs, layers = [], [], []
    for method, ablation, sparsity, seed in points:
        cut = method == "synflow" and ablation == "invert"
        accuracy = 10.0 if cut else 95 - 10 * sparsity + generator.normal()
        run = {"method": method, "run_id": f"{ablation}-{sparsity}-{seed}"}
        summary.append(
            {**run, "ablation": ablation, "sparsity": sparsity, "seed": seed, **shared}
            | {"test_accuracy": accuracy, "best_test_accuracy": accuracy + 0.5}
            | {"layers_collapsed": int(cut)}
        )
        for epoch in range(3):
            values = {
                "test_accuracy": 10 + epoch * (accuracy - 10) / 2,
                "train_loss": 2 - epoch / 2,
            }
            epochs.append({**run, "epoch": epoch, **values})
        for number, (layer, size) in enumerate(SIZES.items()):
            kept = 0 if cut and not number else round(size * (1 - sparsity))
            density = {"size": size, "kept": kept, "density": kept / size}
            layers.append({**run, "layer": layer, **density, "score_mean": 1e6 / size})
    return pd.DataFrame(summary), pd.DataFrame(epochs), pd.DataFrame(layers)


def lines(axes):
    """The data of an axes' lines: [(x, y)]."""
    return [tuple(np.asarray(part, dtype=float) for part in line.get_data()) for line in axes.lines]


def has_line(axes, x, y):
    return any(len(a) == len(x) and np.allclose(a, x) and np.allclose(b, y) for a, b in lines(axes))


def has_curve(axes, x, y):
    """A line at about these x: lines with bars stand side by side."""
    return any(
        len(a) == len(x) and np.allclose(a, x, rtol=0.12) and np.allclose(b, y)
        for a, b in lines(axes)
    )


def bars(axes, along=1):
    """The ends of an axes' upright bars (along=0: of its level ones): [(low, high)]."""
    found = [c for c in axes.collections if isinstance(c, LineCollection)]
    return [tuple(segment[:, along]) for c in found for segment in c.get_segments()]


def interval(values):
    """The 95 percent t-interval of three."""
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
    return np.mean(values) - half, np.mean(values) + half


def titles(figure):
    return [axes.get_title() or axes.get_title(loc="left") for axes in figure.axes]


def panel(figure, title):
    return figure.axes[titles(figure).index(title)]


def test_lines_of_accuracy_are_means_over_seeds_at_the_weights_removed():
    summary, _, _ = made_up()
    figure = plots.accuracy_by_ablation(summary)
    for method, title in (("SNIP", "SNIP"), ("synflow", "SynFlow")):
        for ablation in ("none", "invert"):
            rows = summary[(summary["method"] == method) & (summary["ablation"] == ablation)]
            means = [rows[rows["sparsity"] == s]["test_accuracy"].mean() for s in (0.5, 0.9)]
            assert has_curve(panel(figure, title), [50, 90], means)
    together = plots.methods_together(summary, ["invert"])
    assert has_curve(together.axes[0], [50, 90], [10, 10])


def test_bars_are_intervals_of_the_mean_over_seeds_and_stand_side_by_side():
    summary, _, _ = made_up()
    axes = panel(plots.accuracy_by_ablation(summary), "SNIP")
    cells = summary.query("method == 'SNIP' and sparsity > 0").groupby(["ablation", "sparsity"])
    expected = [interval(values) for _, values in cells["test_accuracy"]]
    assert np.allclose(sorted(bars(axes)), sorted(expected))
    starts = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "D")]
    assert len(set(starts)) == len(starts) == 2
    text = caption(plots.accuracy_by_ablation(summary))
    assert "bars: its 95 percent t-interval, grey for the dense network; dots: single" in text
    dense = summary[summary["sparsity"] == 0]["test_accuracy"]
    (band,) = axes.patches
    assert tuple(band.get_bbox().intervaly) == pytest.approx(interval(dense))


def test_one_seed_has_no_bar_and_its_place_at_the_weights_removed():
    summary, _, _ = made_up(seeds=(4,))
    figure = plots.accuracy_by_ablation(summary)
    means = summary.query("method == 'SNIP' and ablation == 'none' and sparsity > 0")
    assert has_line(panel(figure, "SNIP"), [50, 90], means["test_accuracy"])
    assert bars(panel(figure, "SNIP")) == []
    assert "interval" not in caption(figure)
    some = made_up()[0].query("ablation == 'none' or seed == 0")
    assert "one seed has no bar" in caption(plots.accuracy_by_ablation(some))


def test_many_points_share_a_band():
    sparsities = tuple(round(0.1 * k, 1) for k in range(1, 10))
    summary, _, _ = made_up(sparsities=sparsities, dense=False)
    axes = panel(plots.accuracy_by_ablation(summary), "SNIP")
    assert bars(axes) == []
    (first, *_) = (c for c in axes.collections if isinstance(c, PolyCollection))
    values = summary.query("method == 'SNIP' and ablation == 'invert' and sparsity == 0.1")
    edges = [y for x, y in first.get_paths()[0].vertices if np.isclose(x, 10)]
    assert (min(edges), max(edges)) == pytest.approx(interval(values["test_accuracy"]))


def test_every_run_lies_within_the_limits_and_axes_are_labelled():
    summary, _, _ = made_up(METHODS, sparsities=(0.3, 0.9, 0.999))
    figure = plots.accuracy_by_ablation(summary)
    full = [panel(figure, style.method_label(method)) for method in METHODS]
    for axes in full:
        low, high = axes.get_ylim()
        assert low <= 0
        assert high >= 100
        left, right = axes.get_xlim()
        assert left < 30
        assert 99.9 < right < 100
    assert full[0].get_ylabel() == "Test accuracy, last epoch (%)"
    assert "Weights removed (%)" in {axes.get_xlabel() for axes in figure.axes}


def test_methods_with_an_ablation_have_a_panel_and_random_pruning_a_line_in_each():
    ablated = made_up(["SNIP", "synflow"])[0]
    plain = made_up(["random", "ntk_sap"], ("none",), dense=False)[0]
    plain["test_accuracy"] = 33.0
    figure = plots.accuracy_by_ablation(pd.concat([ablated, plain], ignore_index=True))
    assert [title for title in titles(figure) if title] == ["SNIP", "SynFlow", "NTK-SAP"]
    for title in ("SNIP", "SynFlow", "NTK-SAP"):
        assert has_curve(panel(figure, title), [50, 90], [33, 33])
    assert "random pruning" in legend(figure)
    assert "39 runs" in caption(figure), "27 of the two, 6 of random pruning, 6 of NTK-SAP"
    alone = plots.accuracy_by_ablation(plain)
    assert [title for title in titles(alone) if title] == ["Random", "NTK-SAP"]


def test_random_pruning_stands_beside_the_ablations_of_others():
    runs = pd.concat([made_up(["SNIP"])[0], made_up(["random"], ("none",), dense=False)[0]])
    figure = plots.methods_together(runs.reset_index(drop=True), ["invert"])
    assert legend(figure)[:2] == ["Random, unmodified", "SNIP"]
    whole = made_up(["SNIP", "random"])[0]
    figure = plots.methods_together(whole, ["none", "invert"])
    assert legend(figure)[:2] == ["Random", "SNIP"]
    for title, ablation in (("unmodified", "none"), ("scores inverted", "invert")):
        for method in ("SNIP", "random"):
            rows = whole[(whole["method"] == method) & (whole["ablation"] == ablation)]
            means = rows[rows["sparsity"] > 0].groupby("sparsity")["test_accuracy"].mean()
            assert has_curve(figure.axes[left_titles(figure).index(title)], [50, 90], means)


def test_methods_without_an_ablation_share_the_last_panel():
    plain = made_up(["random", "ntk_sap", "prospr"], ("none",), dense=False)[0]
    plain.loc[plain["method"] == "prospr", "test_accuracy"] = 44.0
    runs = pd.concat([made_up(["SNIP"])[0], plain], ignore_index=True)
    figure = plots.accuracy_by_ablation(runs)
    assert [title for title in titles(figure) if title] == ["SNIP", "NTK-SAP, ProsPr"]
    assert has_curve(panel(figure, "NTK-SAP, ProsPr"), [50, 90], [44, 44])
    assert not has_curve(panel(figure, "SNIP"), [50, 90], [44, 44])
    assert {"NTK-SAP", "ProsPr", "random pruning", "dense network"} <= set(legend(figure))


def paired(**differences):
    """Runs of SNIP in seeds 10 points apart, and ablations that differ by so much from it."""
    rows = []
    for ablation, values in {"none": (0, 0, 0), **differences}.items():
        runs = made_up(["SNIP"], (ablation,), (0.9,), range(len(values)), dense=False)[0]
        rows.append(runs.assign(test_accuracy=50 + 10 * runs["seed"] + list(values)))
    return pd.concat(rows, ignore_index=True)


def test_effects_are_drawn_with_their_interval_and_filled_where_it_excludes_zero():
    figure = plots.effects(paired(shuffle=(1, 2, 6), reinit=(2, 3, 4), invert=(-40, -41, -42)))
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["SNIP", "mask shuffled", "weights redrawn", "scores inverted"]
    marks = {}
    for line in axes.lines[:-1]:  # the last one stands at zero
        (x,), (y,) = line.get_data()
        marks[labels[int(y)]] = x, line.get_markerfacecolor() != "white"
    assert marks["mask shuffled"] == (3, False)
    assert marks["weights redrawn"] == (3, True)
    x, filled = marks["scores inverted"]
    assert -axes.get_xlim()[1] < x < -8
    assert filled
    assert "−41.00 ± 2.48" in [text.get_text() for text in axes.texts]
    assert np.allclose(bars(axes, along=0), [interval((1, 2, 6)), interval((2, 3, 4))])
    assert "Of 3 intervals 2 exclude zero; about 0.15 would by chance alone." in caption(figure)
    assert "no difference found" in " ".join(legend(figure))


def test_an_effect_of_one_seed_is_drawn_as_carrying_nothing():
    figure = plots.effects(paired(shuffle=(3,)))
    assert legend(figure) == ["one seed, which carries nothing"]
    assert not figure.axes[0].collections
    assert "interval" not in caption(figure)
    for draw in (plots.effects, plots.against_random):
        with pytest.raises(ConfigurationError, match="no two runs of one seed"):
            draw(paired())


def test_methods_are_drawn_against_random_pruning_at_four_sparsities_at_most():
    sparsities = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
    runs = made_up(["random", "SNIP", "grasp"], ("none", "shuffle"), sparsities)[0]
    figure = plots.against_random(runs)
    assert left_titles(figure) == [f"{s}% removed" for s in (10, 50, 70, 90)]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["SNIP", "GraSP"]
    assert "36 runs" in caption(figure), "3 methods, 4 sparsities, 3 seeds"


@pytest.mark.parametrize(("dataset", "chance"), [("cifar10", 10), ("cifar100", 1)])
def test_chance_and_the_dense_network_are_levels(dataset, chance):
    summary, _, _ = made_up(dataset=dataset)
    figure = plots.accuracy_by_ablation(summary)
    dense = summary[summary["sparsity"] == 0]["test_accuracy"].mean()
    for axes in figure.axes:
        assert has_line(axes, [0, 1], [chance, chance])
        assert has_line(axes, [0, 1], [dense, dense])
    assert f"chance ({chance}%)" in legend(figure)
    without = plots.accuracy_by_ablation(made_up(dense=False)[0])
    assert "dense network" not in legend(without)


def test_runs_with_a_collapsed_layer_are_crossed():
    figure = plots.accuracy_by_ablation(made_up()[0])

    def crosses(title):
        found = [line for line in panel(figure, title).lines if line.get_marker() == "x"]
        return sum(len(line.get_xdata()) for line in found)

    assert crosses("SNIP") == 0
    assert crosses("SynFlow") == 6  # 2 sparsities x 3 seeds
    assert "a layer has collapsed" in legend(figure)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [METHODS, ["grasp"], ["ours", "SNIP"]])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_any_set_of_methods_and_seeds_draws(methods, seeds):
    summary, epochs, layers = made_up(methods, ("none",), (0.9,), seeds, dense=False)
    plots.accuracy_by_ablation(summary)
    plots.methods_together(summary)
    plots.layer_densities(layers, summary)
    plots.scores_by_layer_size(layers, summary)
    plots.training_curves(epochs, summary)
    plots.cost(summary)
    assert plots.by_sparsity(plots.accuracies(summary)).shape == (len(methods), 1)


def test_variants_are_methods_of_their_own():
    plain, other = made_up(["synflow"], ("none",))[0], made_up(["synflow"], ("none",))[0]
    other = other.assign(variant="one_shot", test_accuracy=50.0)
    figure = plots.accuracy_by_ablation(pd.concat([plain, other]))
    assert has_line(panel(figure, "SynFlow (one shot)"), [50, 90], [50, 50])
    assert not has_line(panel(figure, "SynFlow"), [50, 90], [50, 50])


def test_captions_count_runs_and_seeds_and_call_what_differs_mixed():
    summary, _, _ = made_up()
    text = caption(plots.accuracy_by_ablation(summary))
    assert text.startswith(
        "VGG-16 on CIFAR-10; protocol quick, 2 epochs; 27 runs, 3 seeds (0, 1, 2); "
        "cpu: made up; code abc1234."
    )
    one = made_up(["SNIP"], ("none",), (0.9,), (7,), dense=False)[0]
    assert "1 run, seed 7;" in caption(plots.accuracy_by_ablation(one))
    summary.loc[0, ["code_version", "device"]] = ["def5678+", "cuda: made up"]
    summary.loc[0, "epochs"] = 160
    text = caption(plots.cost(summary))
    assert "code_version mixed (abc1234, def5678+)" in text
    assert "device mixed (cpu: made up, cuda: made up)" in text
    assert "epochs mixed (160, 2)" in text


def test_the_table_holds_independent_means():
    summary, _, _ = made_up()
    numbers = plots.accuracies(summary)
    values = summary.query("method == 'SNIP' and ablation == 'invert' and sparsity == 0.9")
    values = values["test_accuracy"].to_numpy()
    mean, spread = values.sum() / 3, np.sqrt(((values - values.mean()) ** 2).sum() / 2)
    half = 4.302653 * spread / np.sqrt(3)  # t(0.975; 2)
    row = numbers.query("method == 'SNIP' and ablation == 'invert' and sparsity == 0.9").iloc[0]
    assert tuple(row[["mean", "low", "high"]]) == pytest.approx((mean, mean - half, mean + half))
    table = plots.by_sparsity(numbers)
    assert table.loc[("SNIP", "scores inverted"), "90%"] == f"{mean:.2f} ± {half:.2f} (3)"
    assert table.loc[("SynFlow", "scores inverted"), "50%"] == "10.00 ± 0.00 (3)"
    assert table.loc[("Dense network", ""), "90%"] == ""
    assert list(table.columns) == ["0%", "50%", "90%"]
    assert list(table.index)[:2] == [("Dense network", ""), ("SNIP", "unmodified")]
    single = plots.by_sparsity(plots.accuracies(made_up(seeds=(0,))[0]))
    assert single.loc[("SynFlow", "scores inverted"), "50%"] == "10.00 (1)"


def test_the_dense_network_counts_a_seed_once_whatever_method_it_was_run_by():
    summary, _, _ = made_up()
    again = summary[summary["sparsity"] == 0].assign(method="synflow")
    numbers = plots.accuracies(pd.concat([summary, again.assign(test_accuracy=0.0)]))
    (row,) = numbers[numbers["sparsity"] == 0].to_dict("records")
    dense = summary[summary["sparsity"] == 0]["test_accuracy"]
    assert (row["method"], row["n"], row["mean"]) == ("dense", 3, pytest.approx(dense.mean() / 2))


def test_two_runs_of_a_seed_are_no_replicates():
    summary, _, _ = made_up()
    twice = pd.concat([summary, summary.iloc[:1].assign(precision="float32")])
    told = "several runs of .*method SNIP, ablation none, sparsity 0.5, seed 0; seeds are the repl"
    for draw in (plots.accuracies, plots.ablation_effects, plots.accuracy_by_ablation):
        with pytest.raises(ConfigurationError, match=told):
            draw(twice)


def test_layer_densities_and_the_crosses_of_collapsed_layers():
    summary, _, layers = made_up()
    unmodified = plots.layer_densities(layers, summary)
    assert has_line(panel(unmodified, "90% removed"), [0, 1, 2], [43 / 432, 922 / 9216, 64 / 640])
    assert "no weight left in the layer" not in legend(unmodified)
    inverted = plots.layer_densities(layers, summary, "invert")
    assert "no weight left in the layer" in legend(inverted)
    axes = panel(inverted, "90% removed")
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert list(cross.get_xdata()) == [0]
    assert 0 < cross.get_ydata()[0] < 0.1  # in the strip at the axis' lower edge
    low, high = axes.get_ylim()
    assert low < 64 / 640
    assert high > 1
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == list(SIZES)


def test_one_run_and_very_deep_networks_draw_their_layers():
    _, epochs, layers = made_up()
    first = layers["run_id"] == layers["run_id"].iloc[0]
    one = layers[first & (layers["method"] == "SNIP")].drop(columns=["method", "run_id"])
    figure = plots.layer_densities(one, method="SNIP")
    assert has_line(figure.axes[0], [0, 1, 2], [0.5, 0.5, 0.5])
    plots.scores_by_layer_size(one)
    plots.training_curves(epochs[epochs["run_id"] == epochs["run_id"].iloc[0]])
    plots.training_curves(epochs[:1].assign(train_loss=np.nan))  # a run of no epochs
    deep = pd.concat([one.assign(layer=one["layer"] + f".{i}") for i in range(40)])
    axes = plots.layer_densities(deep).axes[0]
    assert len(axes.lines[0].get_xdata()) == 120
    assert len(axes.get_xticks()) <= style.NAMED


def test_at_most_four_sparsities_are_shown():
    summary, _, layers = made_up(sparsities=(0.1, 0.3, 0.5, 0.7, 0.8, 0.9))
    shown = titles(plots.layer_densities(layers, summary))
    assert len(shown) == 4
    assert shown[0] == "10% removed"
    assert shown[-1] == "90% removed"


def test_mean_scores_lie_on_the_line_of_equal_sums():
    summary, _, layers = made_up()
    figure = plots.scores_by_layer_size(layers, summary)
    line = panel(figure, "SynFlow").lines[-1]
    assert np.allclose(line.get_xdata() * line.get_ydata(), 1e6)
    signed = layers.assign(score_mean=-layers["score_mean"])
    assert any("negative" in text for text in legend(plots.scores_by_layer_size(signed, summary)))


def test_training_curves_are_means_over_the_seeds_nearest_to_the_sparsity():
    summary, epochs, _ = made_up()
    axes = plots.training_curves(epochs, summary, sparsity=0.8).axes[0]
    final = summary.query("method == 'SNIP' and ablation == 'none' and sparsity == 0.9")
    mean = final["test_accuracy"].mean()
    assert has_line(axes, [1, 2], [5 + mean / 2, mean])
    _, band, _ = axes.collections  # the dense network's, SNIP's, SynFlow's
    heights = band.get_paths()[0].vertices[:, 1]
    for seen, expected in ((heights.max(), "max"), (heights[heights > 60].min(), "min")):
        assert seen == pytest.approx(final["test_accuracy"].agg(expected))


def test_trainings_that_coincide_are_drawn_side_by_side_each_with_its_mark():
    summary, epochs, _ = made_up(["SNIP", "synflow"], ("none",), (0.9,), (0,), dense=False)
    same = epochs.assign(test_accuracy=10.0, train_loss=2.3)
    for axes in plots.training_curves(same, summary).axes:
        first, second = axes.lines
        heights = [line.get_transform().transform((1, 2))[1] for line in (first, second)]
        assert heights[1] - heights[0] > 1
        assert (first.get_marker(), second.get_marker()) == ("s", "D")
        assert axes.get_xlim()[1] > 2
        low, high = axes.get_ylim()
        assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= 3


def test_cost_is_seconds_and_epochs_of_training_on_one_device():
    summary = made_up(["SNIP"], ("none",), (0.9,), (0, 1), dense=False)[0]
    summary.loc[1, ["device", "train_seconds"]] = ["cuda: made up", 1.0]
    figure = plots.cost(summary)
    assert left_titles(figure)[::2] == ["cpu: made up", "cuda: made up"]
    for pair, share in ((figure.axes[:2], 0.5 / (10 / 2)), (figure.axes[2:], 0.5 / (1 / 2))):
        assert [axes.lines[0].get_xdata()[0] for axes in pair] == [0.5, share]


def test_a_shown_picture_keeps_its_most_frequent_colours():
    from PIL import Image

    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    hues = [tuple(int(hue[i : i + 2], 16) for i in (1, 3, 5)) for hue in style.COLOURS.values()]
    for row, hue in enumerate(hues):
        pixels[row] = hue
    reduced = style.fewer_colours(Image.fromarray(pixels), 32)
    assert (reduced.mode, len(reduced.getcolors())) == ("P", 32)
    assert (np.asarray(reduced.convert("RGB"))[: len(hues)] == pixels[: len(hues)]).all()


def test_runs_of_other_networks_share_no_figure_but_are_told_apart():
    both = pd.concat([made_up()[0], made_up(dataset="cifar100", seeds=(0,))[0]])
    with pytest.raises(ConfigurationError, match=r"dataset: .*cifar10, cifar100"):
        plots.accuracy_by_ablation(both)
    parts = plots.settings(both)
    assert {name: len(part) for name, part in parts.items()} == {"cifar10": 27, "cifar100": 9}
    longer = plots.settings(pd.concat([made_up()[0], made_up(epochs=160)[0]]))
    assert sorted(longer) == ["160epochs", "2epochs"]


@pytest.mark.parametrize("draw", [plots.accuracy_by_ablation, plots.cost, plots.accuracies])
def test_nothing_to_draw_is_one_clear_error(draw):
    with pytest.raises(ConfigurationError, match="no finished run"):
        draw(made_up()[0].iloc[:0])


def test_unknown_names_list_the_choices():
    summary, _, _layers = made_up()
    with pytest.raises(ConfigurationError, match=r"ablation='shuffle'.*none, invert"):
        plots.methods_together(summary, ["none", "shuffle"])
    with pytest.raises(ConfigurationError, match="tanaka2020, "):
        reference.curves("tanaka", "cifar10", "vgg16")


def test_score_histograms_count_every_score():
    generator = torch.Generator().manual_seed(0)
    scores = {
        "a.weight": torch.randn(40, 50, generator=generator),
        "b.weight": torch.cat([torch.zeros(30), torch.rand(70, generator=generator)]),
    }
    figure = plots.score_histograms(scores, "grasp")
    notes = {text.get_text() for text in figure.axes[0].texts}
    assert notes == {f"{100 * (scores['a.weight'] < 0).double().mean():.3g}% negative", "30% zero"}
    assert caption(figure) == "2 layers, 2,100 scores."
    line = plots.score_histograms(scores, sparsity=0.75).axes[0].lines[-1]
    below = (
        torch.cat([s.flatten().abs() for s in scores.values()])
        <= 1.0001 * 10 ** line.get_xdata()[0]
    )
    assert below.double().mean() == pytest.approx(0.75)
    layer = plots.one_run._Layer("b", scores["b.weight"])
    edges = np.linspace(-1.0, 0.0, plots.one_run.BINS + 1)
    assert layer.histogram(edges, torch.ones(100, dtype=torch.bool)).sum() == 70


def test_score_histograms_of_many_layers_and_of_bad_scores():
    generator = torch.Generator().manual_seed(0)
    scores = {f"layer{i}": torch.rand(20, generator=generator) * 10.0**i for i in range(30)}
    upper = plots.score_histograms(scores).axes[0]
    medians = [float(np.median(np.log10(score.numpy()))) for score in scores.values()]
    assert has_line(upper, range(30), medians)
    with pytest.raises(ConfigurationError, match=r"layer1.*not finite"):
        plots.score_histograms(scores | {"layer1": torch.tensor([1.0, float("inf")])})
    with pytest.raises(ConfigurationError, match="zero"):
        plots.score_histograms({"a": torch.zeros(5)})


def test_mask_images_show_kernels_or_channels():
    first = torch.zeros(8, 3, 3, 3, dtype=torch.bool)
    first[0, 1, 2, 2] = True
    figure = plots.mask_image(first, "conv1.weight")
    assert len(figure.axes) == 3
    pixels = [np.nansum(axes.images[0].get_array()) for axes in figure.axes]
    assert pixels == [0, 1, 0]
    assert "1 of 216 weights kept" in caption(figure)
    assert "Without any weight: 7 output and 2 input channels" in caption(figure)
    wide = torch.zeros(200, 10, dtype=torch.bool)
    wide[:100] = True
    centre = plots.mask_image(wide).axes[1]
    image = centre.images[0].get_array()
    assert image.shape == (128, 10)
    assert np.isclose(image.mean(), 0.5)
    assert image[0].min() == 1
    assert image[-1].max() == 0
    with pytest.raises(ConfigurationError, match=r"\(5,\)"):
        plots.mask_image(torch.ones(5, dtype=torch.bool))


def test_saving_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path):
    summary, _, _ = made_up()
    figure = plots.accuracy_by_ablation(summary)
    written = [path.read_bytes() for path in plots.save(figure, tmp_path, "accuracy")]
    assert [path.read_bytes() for path in plots.save(figure, tmp_path, "accuracy")] == written
    again = plots.save(plots.accuracy_by_ablation(summary), tmp_path / "new", "accuracy")
    assert [path.read_bytes() for path in again] == written
    assert sorted(p.name for p in tmp_path.iterdir()) == ["accuracy.png", "accuracy.svg", "new"]
    assert b"<dc:date>" not in written[1]


def test_a_figure_shows_itself_once_and_registers_nowhere(monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell
    from matplotlib import pyplot

    shown = []
    shell = InteractiveShell.instance()
    monkeypatch.setattr(shell.display_pub, "publish", lambda data, **_: shown.append(set(data)))
    try:
        figure = plots.cost(made_up()[0])
        assert shell.display_formatter.format(figure) == ({}, {})  # it displays itself
    finally:
        InteractiveShell.clear_instance()
    assert shown == [{"image/png", "text/plain"}]
    assert pyplot.get_fignums() == []


def test_published_curves_are_the_rows_of_the_file():
    table = pd.read_csv(reference.FOLDER / "published.csv")
    ours = reference.curves("tanaka2020", "cifar10", "vgg16")
    theirs = table[
        (table["source"] == "tanaka2020")
        & (table["dataset"] == "CIFAR-10")
        & (table["model"] == "VGG-16")
    ]
    assert len(ours) == len(theirs) == 85
    grasp = theirs[theirs["method"] == "GraSP"].sort_values("sparsity")
    mine = ours[ours["method"] == "grasp"]
    assert list(mine["test_accuracy"]) == list(grasp["test_accuracy"])
    assert list(mine["sparsity"]) == list(grasp["sparsity"])
    assert set(ours["source"]) == {"tanaka2020"}
    assert reference.curves("comp6258", "cifar100", "vgg16").empty
    assert set(reference.SOURCES) == set(table["source"])


def test_accuracies_along_a_training_are_the_rows_of_the_file():
    table = pd.read_csv(reference.FOLDER / "schedules.csv")
    assert set(reference.SCHEDULES) == set(table["source"])
    rows = reference.along_training("neuder2026")
    snip = rows.query("method == 'SNIP' and sparsity == 0.9").set_index("epoch")["test_accuracy"]
    theirs = table.query("source == 'neuder2026' and method == 'SNIP' and sparsity == 0.9")
    assert snip.to_dict() == dict(zip(theirs["epoch"], theirs["test_accuracy"], strict=True))
    assert set(rows["model"]) == {"resnet20"}
    assert set(zip(rows["method"], rows["variant"], strict=True)) == {
        *(("random", ""), ("SNIP", ""), ("grasp", ""), ("synflow", "one_shot"))
    }
    # Runs in mixed precision are left out: two of random pruning at most.
    assert rows.groupby(["method", "sparsity", "epoch"]).size().max() == 2
    with pytest.raises(ConfigurationError, match="choose from: epfl2020, neuder2026"):
        reference.along_training("tanaka2020")


def test_a_training_of_epfl2020_has_its_shuffled_counterpart():
    rows = reference.along_training("epfl2020")
    run = ["dataset", "model", "method", "sparsity", "epoch"]
    assert not rows.duplicated([*run, "ablation"]).any()
    shuffled = rows[rows["ablation"] == "shuffle"][run]
    assert len(shuffled.merge(rows[rows["ablation"] == "none"][run])) == len(shuffled)
    assert {"cifar10", "cifar100"} == set(rows["dataset"])
    assert {"vgg19", "ResNet-32 (width 32-64-128)"} == set(rows["model"])
    grasp = rows[rows["method"] == "grasp"]
    assert set(grasp["epoch"]) == set(grasp["epochs_budget"]) == {160}


def test_the_reversed_grasp_of_the_first_version_counts_as_inverted():
    rows = reference.curves("tanaka2020-v1", "cifar10", "vgg16")
    assert set(rows[rows["method"] == "grasp"]["ablation"]) == {"invert"}
    assert set(rows[rows["method"] != "grasp"]["ablation"]) == {"none"}


@pytest.mark.slow
def test_reference_curves_are_grey_named_cautioned_and_of_one_source():
    summary, _, _ = made_up(METHODS)
    theirs = reference.curves("comp6258", "cifar10", "vgg16")
    figure = plots.accuracy_by_ablation(summary, theirs)
    rows = theirs.query("method == 'SNIP' and ablation == 'none' and sparsity > 0")
    x, y = 100 * rows["sparsity"], rows["test_accuracy"]
    assert has_line(panel(figure, "SNIP"), x, y)
    assert not has_line(panel(figure, "GraSP"), x, y)
    assert "student reproduction (comp6258)" in legend(figure)
    assert "its SynFlow points are dense networks" in caption(figure)
    tanaka = reference.curves("tanaka2020", "cifar10", "vgg16")
    without = plots.methods_together(summary, ["invert"], tanaka)  # they show no inversion
    assert "Tanaka et al. 2020" not in legend(without)
    assert "Grey" not in caption(without)
    mixed = pd.concat([theirs, tanaka])
    for draw in (plots.accuracy_by_ablation, plots.methods_together):
        with pytest.raises(ConfigurationError, match="comp6258 and tanaka2020"):
            draw(summary, reference=mixed)
        with pytest.raises(ConfigurationError, match=r"model: .*resnet20"):
            draw(summary, reference=theirs.assign(model="resnet20"))


def test_colours_differ_and_unknown_methods_keep_theirs():
    hues = [style.colour(method) for method in METHODS]
    assert len(set(hues)) == len(METHODS)
    assert style.colour("ours") == style.colour("ours") not in hues


def run_notebook(folder, **parameters):
    given = {"grid": "made_up", "results_dir": str(folder), "output_dir": str(folder / "out")}
    source = ROOT / "figures" / "figures.ipynb"
    return execute_notebook(source, folder / "executed.ipynb", **given, **parameters)


@pytest.mark.slow
@pytest.mark.parametrize("small", [False, True])
def test_the_figures_notebook_draws_and_saves_everything(tmp_path, small):
    parts = [made_up(METHODS), made_up(dataset="cifar100")]
    if small:
        parts = [made_up(["grasp"], ("none",), (0.9,), (0,), dense=False)]
    tables_ = (pd.concat(part, ignore_index=True) for part in zip(*parts, strict=True))
    collected.write_collected(collected.Collected(*tables_, left_out=[]), tmp_path / "made_up")
    executed = run_notebook(tmp_path, reference=None if small else "tanaka2020")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    for name in ("accuracy", "methods", "densities", "scores", "training", "cost"):
        assert {f"{name}.png", f"{name}.svg"} <= written
    assert "results.csv" in written
    assert ("accuracy-cifar100.svg" in written) is not small
    drawn = [name for name in written if name.endswith(".png")]
    assert len(outputs(executed, "image/png")) == len(drawn), "each is shown once"


@pytest.mark.slow
def test_the_figures_notebook_says_that_there_is_nothing(tmp_path):
    (tmp_path / "made_up").mkdir()
    with pytest.raises(Exception, match=r"ConfigurationError.*holds no finished run"):
        run_notebook(tmp_path)
