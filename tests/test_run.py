"""Whole runs on digits: the three tables, their numbers, and that they come out the same again."""

from __future__ import annotations

import copy
import json

import pandas as pd
import pytest
import torch
from helpers import assert_same_tables, carry_out, tables, untimed

from common import datasets, plots
from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.models import initialise
from common.pruning import METHODS, prunable, prune
from common.pruning.diagnostics import effective_masks, multiply_adds
from common.results import run_folder
from common.results.collected import collect
from common.results.schema import EPOCHS, LAYERS, SUMMARY
from common.runs.experiment import PARAMETERS, configure
from common.runs.run import Run
from common.training import callbacks, loop

PRUNABLE = 97_552  # of small_vgg on digits


def configured(tmp_path, method="magnitude", **parameters):
    return configure(
        method, **{"epochs": 1, "device": "cpu", "results_dir": tmp_path, **parameters}
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_every_method(tmp_path, method):
    run = carry_out(configured(tmp_path, method, sparsity=0.8))
    folder = run.experiment.folder
    assert folder == tmp_path / method / run.experiment.run_id
    found = tables(folder)
    for name, columns in (("summary", SUMMARY), ("epochs", EPOCHS), ("layers", LAYERS)):
        assert tuple(found[name].columns) == columns
    # What was needed on the way is gone.
    assert sorted(path.name for path in folder.iterdir()) == [
        *("epochs.csv", "layers.csv", "masks.safetensors", "run.json", "summary.csv")
    ]
    (summary,) = found["summary"].to_dict("records")
    layers, epochs = found["layers"], found["epochs"]
    kept = round(0.2 * PRUNABLE)
    assert summary["parameters_prunable"] == layers["size"].sum() == PRUNABLE
    assert summary["parameters_kept"] == layers["kept"].sum() == kept
    assert summary["sparsity_actual"] == pytest.approx(1 - kept / PRUNABLE)
    assert summary["compression"] == pytest.approx(PRUNABLE / kept)
    assert (layers["density"] == layers["kept"] / layers["size"]).all()
    assert (summary["method"], summary["sparsity"], summary["epochs"]) == (method, 0.8, 1)
    assert epochs["epoch"].tolist() == [0, 1]
    assert summary["test_accuracy"] == epochs["test_accuracy"].iloc[-1]
    assert summary["best_test_accuracy"] == epochs["test_accuracy"].max()
    assert summary["train_accuracy"] == epochs["train_accuracy"].iloc[-1]
    assert summary["test_loss"] == epochs["test_loss"].iloc[-1]
    assert summary["images_per_second"] > 0
    assert summary["prune_seconds"] > 0
    # The network on disk is the network in memory.
    for (name, weight), row in zip(
        prunable(run.model).items(), layers.to_dict("records"), strict=True
    ):
        assert row["layer"] == name.removesuffix(".weight")
        assert row["shape"] == "x".join(str(n) for n in weight.shape)
        assert row["kind"] == ("Linear" if weight.dim() == 2 else "Conv2d")
        assert int((weight != 0).sum()) <= row["kept"] == int(run.masks[name].sum())
        score = run.scores[name].double()
        assert row["score_mean"] == pytest.approx(float(score.mean()), rel=1e-5, abs=1e-12)
        spread = float((score - score.mean()).square().mean().sqrt())
        assert row["score_std"] == pytest.approx(spread, rel=1e-4)
    flops = multiply_adds(run.model, (1, 8, 8))
    assert summary["flops_dense"] == sum(flops.values()) == layers["flops"].sum()
    sparse = sum(flops[n] * float(mask.float().mean()) for n, mask in run.masks.items())
    assert summary["flops_sparse"] == pytest.approx(sparse, rel=1e-5)
    effective = effective_masks(run.model, run.masks, (1, 8, 8))
    share = sum(int(mask.sum()) for mask in effective.values()) / PRUNABLE
    assert summary["effective_sparsity"] == pytest.approx(1 - share)
    assert summary["layers_collapsed"] == (layers["kept"] == 0).sum()


def test_no_epochs_prunes_and_reports(tmp_path):
    run = carry_out(configured(tmp_path, "synflow", sparsity=0.99, epochs=0))
    plots.training_curves(run.epochs())  # a figure of one point
    found = tables(run.experiment.folder)
    (summary,) = found["summary"].to_dict("records")
    assert summary["parameters_kept"] == round(0.01 * PRUNABLE)
    assert found["epochs"]["epoch"].tolist() == [0]
    assert summary["train_seconds"] < 1
    assert pd.isna(summary["train_accuracy"])
    assert pd.isna(summary["images_per_second"])
    assert collect(tmp_path).summary["epochs"].tolist() == [0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("SNIP", {"ablation": "shuffle+reinit", "pretrain_epochs": 1}),
        ("synflow", {"ablation": "invert"}),
        ("random", {"variant": "erk", "seed": 3, "precision": "bfloat16"}),
    ],
)
def test_the_same_parameters_give_the_same_tables(tmp_path, method, parameters):
    once = carry_out(configured(tmp_path / "one", method, **parameters))
    torch.manual_seed(99)  # the global generator has no say
    again = carry_out(configured(tmp_path / "two", method, **parameters))
    assert_same_tables(untimed(once.experiment.folder), untimed(again.experiment.folder))
    assert all(
        torch.equal(value, again.model.state_dict()[name])
        for name, value in once.model.state_dict().items()
    )


def test_a_second_run_moves_the_first_aside(tmp_path):
    first = carry_out(configured(tmp_path, epochs=0))
    folder = first.experiment.folder
    written = (folder / "summary.csv").read_bytes()
    assert first.moved is None
    second = carry_out(configured(tmp_path, epochs=0))
    assert second.moved == folder.with_name(folder.name + ".1")
    assert (second.moved / "summary.csv").read_bytes() == written
    assert_same_tables(untimed(folder), untimed(second.moved))
    assert "moved to" in second.describe()["earlier result"]


def test_making_a_run_touches_no_result(tmp_path):
    """A notebook's configure cell may be run again and again."""
    done = carry_out(configured(tmp_path, epochs=0)).experiment.folder
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        words = Run(configured(tmp_path, epochs=0, pretrain_epochs=0)).describe()
        assert words["earlier result"] == "is there, and will be moved aside"
    assert sorted(tmp_path.rglob("*")) == before
    assert run_folder.is_done(done)


def test_run_json_tells_everything_to_do_it_again(tmp_path):
    run = Run(configured(tmp_path, "SNIP", variant="iterative", epochs=0))
    run.begin()
    content = json.loads((run.experiment.folder / "run.json").read_text())
    assert content["run_id"] == run.experiment.run_id
    assert tuple(content["parameters"]) == PARAMETERS
    assert configure(content["method"], **content["parameters"]) == run.experiment
    assert content["hyperparameters"]["learning_rate"] == 0.1
    assert torch.__version__.startswith(content["versions"]["torch"])
    assert {"device", "precision", "code_version", "started_at"} <= set(content)
    assert not run_folder.is_done(run.experiment.folder)


def test_the_run_prunes_as_the_core_does(tmp_path):
    """`prune` on the same network, images and seed: the same masks."""
    run = Run(configured(tmp_path, "SNIP", ablation="invert+shuffle", seed=5))
    model = copy.deepcopy(run.model)
    before = {name: score.clone() for name, score in run.score().items()}
    run.prune()
    expected = prune(
        model, "SNIP", 0.9, batches=run.context.batches, ablation="invert+shuffle", seed=5
    )
    assert all(torch.equal(run.masks[name], expected[name]) for name in expected)
    # The scores that the notebook draws are still those of the dense network.
    assert all(torch.equal(run.scores[name], before[name]) for name in before)
    images, labels = run.context.batches[0]
    assert len(images) == 100
    assert labels.bincount().tolist() == [10] * 10


def test_initial_weights_follow_the_protocol_and_the_seed(tmp_path):
    run = Run(configured(tmp_path, seed=7))
    other = copy.deepcopy(run.model)
    initialise(other, "kaiming_normal", "ones", generator(7, "initial weights"))
    for name, value in other.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[name])


# Pruning after some training


def test_pretraining_is_the_beginning_of_the_protocols_training(tmp_path):
    """Whatever the run's own number of epochs: its weights are those of a dense network after the
    first two of the protocol's eight epochs."""
    dense = Run(configured(tmp_path / "dense", epochs=8))
    data, hyper = dense.network.data, dense.experiment.hyper
    statistics = (data.mean, data.std, hyper.batch_size)
    loop.train(
        *(dense.model, {}),
        datasets.Loader(data.train_images, data.train_labels, *statistics, seed=0),
        datasets.Loader(data.test_images, data.test_labels, *statistics),
        *(hyper, 2, "float32"),
    )
    for epochs in (0, 1, 8):
        run = Run(configured(tmp_path, pretrain_epochs=2, epochs=epochs))
        run.begin()
        for name, value in dense.model.state_dict().items():
            assert torch.equal(value, run.model.state_dict()[name]), (name, epochs)
    initial = Run(configured(tmp_path / "initial"))
    assert not torch.equal(run.model.conv1_1.weight, initial.model.conv1_1.weight)


# What cannot be run, and what was interrupted


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"data_dir": "not/there"}, "not/there"),
        ({"device": "cuda:77"}, "device='cuda:77' is not there"),
    ],
)
def test_what_cannot_be_had_is_an_error_before_anything_is_written(tmp_path, parameters, message):
    with pytest.raises(ConfigurationError, match=message):
        Run(configured(tmp_path / "results", **parameters))
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot be written.*results_dir"):
        Run(configured(tmp_path / "file"))


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_result(tmp_path, monkeypatch):
    expected = carry_out(configured(tmp_path / "straight", epochs=3))
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
    report = run_folder.write_progress

    def kill(folder, stage, epoch, *rest):
        report(folder, stage, epoch, *rest)
        if stage == "train" and epoch == 2:
            raise Killed

    monkeypatch.setattr(run_folder, "write_progress", kill)
    with pytest.raises(Killed):
        carry_out(configured(tmp_path, epochs=3))
    monkeypatch.setattr(run_folder, "write_progress", report)
    folder = configured(tmp_path, epochs=3).folder
    assert not run_folder.is_done(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("checkpoint.pt", "masks.safetensors", "progress.json", "run.json")
    ]
    assert json.loads((folder / "progress.json").read_text())["epoch"] == 2
    again = carry_out(configured(tmp_path, epochs=3))
    assert again.moved is None
    assert_same_tables(untimed(folder), untimed(expected.experiment.folder))


def test_describe_says_what_will_run(tmp_path):
    words = Run(configured(tmp_path, "SNIP", variant="force", sparsity=0.9)).describe()
    assert words["method"] == "SNIP force"
    assert words["sparsity"] == "0.9: 9,755 of 97,552 weights kept"
    assert words["data"] == "Digits: 1,437 training and 360 test images"
    assert all(isinstance(value, str) for value in words.values())
