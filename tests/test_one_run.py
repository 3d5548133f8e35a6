"""A run in its notebook: what it shows, says, and is compared with."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from common import plots
from common.datasets import DATASETS, Dataset
from common.results import run_folder, schema
from common.runs import record
from common.runs import run as run_module
from common.runs.experiment import configure
from common.runs.network import Network
from common.runs.run import Run
from common.training.callbacks import History
from common.training.protocols import PROTOCOLS


def pruned(tmp_path, method="magnitude", **parameters) -> Run:
    given = {"epochs": 0, "device": "cpu", "results_dir": tmp_path, **parameters}
    run = Run(configure(method, **given))
    run.score()
    run.prune()
    return run


def darkest(figure) -> int:
    """Of its pixels, as it is shown; 255 is white."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return int(np.asarray(Image.open(picture).convert("L")).min())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["SNIP", "grasp", "synflow", "random"])
def test_no_figure_costs_a_run_in_which_nothing_is_left(tmp_path, capsys, method):
    run = pruned(tmp_path, method, sparsity=0.9999999)
    layers = run.layers()
    assert capsys.readouterr().out.startswith("Note: no weight is left in 6 of 6 layers (conv1_1, ")
    draw = plots.drawing(run)
    first, mask = next(iter(run.masks.items()))
    for figure in (
        draw(plots.score_histograms, run.scores),
        draw(plots.layer_densities, layers),
        draw(plots.mask_image, mask, first),
        draw(plots.scores_by_layer_size, layers),
        draw(plots.predicted_densities, layers, [0.0] * 6),
        draw(plots.concentration, run.scores, run.masks),
        draw(plots.training_curves, run.train()),
    ):
        assert darkest(figure) < 200
    run.save()
    assert run_folder.is_done(run.experiment.folder)


def test_what_cannot_be_drawn_says_so_in_its_place(tmp_path):
    def fail(numbers, method=""):
        raise ValueError(f"Axis limits of {method} cannot be {numbers}")

    figure = plots.drawing(pruned(tmp_path, "SNIP"))(fail, float("nan"))
    assert figure.texts[0].get_text() == "No figure: ValueError: Axis limits of SNIP cannot be nan"


def test_without_training_there_are_words_in_place_of_empty_axes(tmp_path):
    run = pruned(tmp_path)
    figure = plots.training_curves(run.train())
    assert not figure.axes
    assert figure.texts[0].get_text().startswith("Not trained: ")
    summary = run.save()
    epochs = run.epochs().assign(run_id=run.experiment.run_id, method="magnitude")
    assert not plots.training_curves(epochs, summary).axes
    assert [axes.get_xlabel() for axes in plots.cost(summary).axes] == ["Scoring and masking (s)"]


def write_other(run: Run, accuracy: float, method: str = "random", **changes: object) -> None:
    """A finished run beside this one."""
    other = dataclasses.replace(run.experiment, method=method, **changes)
    row = run.summary() | {"run_id": other.run_id, "method": method, "test_accuracy": accuracy}
    other.folder.mkdir(parents=True)
    run_folder.write_csv(other.folder / "summary.csv", [row], schema.SUMMARY)


def test_a_run_ends_beside_dense_and_random_of_the_same_setting(tmp_path):
    run = pruned(tmp_path, "SNIP", sparsity=0.75, ablation="shuffle")
    run.history = History([dict.fromkeys(schema.EPOCHS, 0) | {"test_accuracy": 66.25}])
    run.save()
    alone = plots.outcome(run)
    assert "**66.2 %** of the test images are recognised, with 75 % of" in alone.sentence
    assert "without any training; no run to compare that with is at hand." in alone.sentence
    assert alone.picture is None
    write_other(run, 72.0, "magnitude", ablation="none", sparsity=0.0)
    write_other(run, 73.0, "magnitude", ablation="none", sparsity=0.0, seed=1)
    write_other(run, 66.0, ablation="none")
    write_other(run, 10.0, ablation="none", pretrain_epochs=3)  # these are of another setting
    write_other(run, 10.0, ablation="none", sparsity=0.7)
    write_other(run, 10.0, ablation="none", variant="erk")
    write_other(run, 67.0, "SNIP", ablation="none")
    found = plots.outcome(run)
    assert "; dense 72.5 (2 runs), random 66.0 (1 run), unmodified 67.0 (1 run). " in found.sentence
    (axes,) = found.picture.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        *("SNIP, mask shuffled", "dense", "random", "unmodified")
    ]


def test_rounds_are_told_while_they_are_scored(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(run_module, "REPORT_SECONDS", -1)
    monkeypatch.setattr(run_folder, "write_progress", lambda folder, stage, *_: told.append(stage))
    pruned(tmp_path, "synflow")
    assert told == ["score", *(f"round {step}/100" for step in range(1, 101))]


def test_the_last_accuracy_and_the_best_are_two(tmp_path):
    run = pruned(tmp_path)
    accuracies = (10.0, 90.0, 80.0, 70.0)
    rows = [dict.fromkeys(schema.EPOCHS, 0) | {"test_accuracy": value} for value in accuracies]
    told = record.summary(
        run.experiment, run.conditions, run.layers(), run.masks, History(rows), prune_seconds=1.0
    )
    assert (told["test_accuracy"], told["best_test_accuracy"]) == (70.0, 90.0)


def first_epoch(name: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, labels) as a run of the seed sees them, of a made-up data set called `name`; labels
    are the images' places."""
    channels, height, width = DATASETS[name].shape
    numbers = np.random.default_rng(0).integers(1, 256, (64, height, width, channels), np.uint8)
    images, places = torch.from_numpy(numbers), torch.arange(64)
    plain = torch.zeros(channels), torch.full((channels,), 1 / 255)
    data = Dataset(DATASETS[name], images, places, images[:1], places[:1], *plain)
    batches, _ = Network("small_vgg", data, PROTOCOLS["seed"], seed).loaders(32)
    seen = [torch.cat(part) for part in zip(*batches, strict=True)]
    return seen[0].permute(0, 2, 3, 1).round().to(torch.uint8) != images[seen[1]], seen[1]


@pytest.mark.parametrize("name", DATASETS)
def test_photographs_are_augmented_and_digits_are_not(name):
    assert PROTOCOLS["seed"].augment
    changed, _ = first_epoch(name, seed=0)
    assert bool(changed.any()) == DATASETS[name].natural


def test_the_order_of_the_batches_is_the_seeds():
    orders = [first_epoch("digits", seed)[1] for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
