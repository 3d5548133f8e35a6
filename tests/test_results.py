"""Results: whole or not at all, in the contract's columns, and collected without the damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from common import results
from common.errors import ConfigurationError
from common.results import EPOCHS, LAYERS, SUMMARY

# The contract's columns, once more.
CONTRACT = {
    "summary": "run_id, method, variant, ablation, protocol, dataset, model, sparsity, "
    "sparsity_actual, compression, seed, epochs, test_accuracy, best_test_accuracy, "
    "train_accuracy, test_loss, layers_collapsed, effective_sparsity, parameters_prunable, "
    "parameters_kept, flops_dense, flops_sparse, prune_seconds, train_seconds, images_per_second, "
    "device, precision, torch_version, code_version, started_at",
    "epochs": "epoch, learning_rate, train_loss, train_accuracy, test_loss, test_accuracy, seconds",
    "layers": "layer, kind, shape, size, kept, density, score_mean, score_std, flops",
}
TEXT = {"method", "variant", "ablation", "protocol", "dataset", "model", "device", "precision"}
TEXT |= {"run_id", "torch_version", "code_version", "started_at", "layer", "kind", "shape"}


def row(columns, **values):
    return {name: values.get(name, "text" if name in TEXT else 1.5) for name in columns}


def write_run(root, method="SNIP", run_id="a_sparsity0.5_epochs2", **values):
    """A finished run of two epochs and two layers."""
    folder = root / method / run_id
    folder.mkdir(parents=True)
    results.write_json(folder / "run.json", {"run_id": run_id})
    first = row(EPOCHS, epoch=0, train_loss=None, train_accuracy=None)
    results.write_csv(folder / "epochs.csv", [first, row(EPOCHS, epoch=1)], EPOCHS)
    results.write_csv(folder / "layers.csv", [row(LAYERS, layer=n) for n in "ab"], LAYERS)
    summary = row(SUMMARY, method=method, run_id=run_id, variant="", **values)
    results.write_csv(folder / "summary.csv", [summary], SUMMARY)
    return folder


def test_columns_are_the_contracts():
    for name, columns in (("summary", SUMMARY), ("epochs", EPOCHS), ("layers", LAYERS)):
        assert ", ".join(columns) == CONTRACT[name]


# Writing


def test_a_csv_has_its_columns_in_order(tmp_path):
    results.write_csv(tmp_path / "x.csv", [{"b": 1, "a": None}, {"a": 2.5, "b": 3}], ("a", "b"))
    assert (tmp_path / "x.csv").read_text() == "a,b\n,1\n2.5,3\n"
    assert os.listdir(tmp_path) == ["x.csv"]


@pytest.mark.parametrize("wrong", [{"a": 1}, {"a": 1, "b": 2, "c": 3}])
def test_a_row_with_other_columns_is_an_error_and_writes_nothing(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"x\.csv: columns differ"):
        results.write_csv(tmp_path / "x.csv", [{"a": 1, "b": 2}, wrong], ("a", "b"))
    assert not list(tmp_path.iterdir())


def test_numbers_come_back_as_they_were(tmp_path):
    values = [0.1 + 0.2, 1e-300, 1 / 3, 2**53, float("inf")]
    results.write_csv(tmp_path / "x.csv", [{"seconds": value} for value in values], ["seconds"])
    table = pd.read_csv(tmp_path / "x.csv", float_precision="round_trip")
    assert table["seconds"].tolist() == values


@pytest.mark.parametrize("before", [None, "old"])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "summary.csv"
    if before:
        path.write_text(before)

    def fail(temporary):
        temporary.write_text("half of")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results.write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == (["summary.csv"] if before else [])
    assert not before or path.read_text() == before


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("ne")
        assert path.read_text() == "old"
        temporary.write_text("new")

    results.write_atomically(path, write)
    assert path.read_text() == "new"


def test_a_file_takes_its_place_in_one_step_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")

    def fail(source, target):
        assert Path(source).read_text() == "new"
        raise OSError("the machine went down")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="went down"):
        results.write_atomically(tmp_path / "x", lambda path: path.write_text("new"))
    assert (tmp_path / "x").read_text() == "old"


def test_progress_is_json_for_an_onlooker(tmp_path):
    results.report(tmp_path, "train", 3, 80, 71.5)
    state = json.loads((tmp_path / "progress.json").read_text())
    assert state.pop("updated") > 0
    assert state == {"stage": "train", "epoch": 3, "epochs": 80, "test_accuracy": 71.5}


# The folder of a run


def test_prepare_makes_the_folder_and_keeps_what_is_unfinished(tmp_path):
    folder = tmp_path / "grid" / "SNIP" / "run"
    assert results.prepare(folder) is None
    (folder / "checkpoint.pt").write_text("half-way")
    assert results.prepare(folder) is None
    assert os.listdir(folder) == ["checkpoint.pt"]


def test_prepare_moves_a_finished_result_aside_and_overwrites_none(tmp_path):
    folder = tmp_path / "run"
    for number in (1, 2, 3):
        results.prepare(folder)
        (folder / "summary.csv").write_text(f"result {number}")
        assert results.is_done(folder)
    moved = results.prepare(folder)
    assert moved == tmp_path / "run.3"
    assert not list(folder.iterdir())
    assert not results.is_done(folder)
    for number in (1, 2, 3):
        kept = tmp_path / f"run.{number}" / "summary.csv"
        assert kept.read_text() == f"result {number}"


@pytest.mark.parametrize("where", ["under a file", "in a folder of the kernel's"])
def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path, where):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "results" if where == "under a file" else "/proc/self/results"
    folder = tmp_path / folder
    with pytest.raises(ConfigurationError) as caught:
        results.prepare(folder)
    assert str(caught.value).startswith(f"results_dir: {folder} cannot be written (")
    assert "choose a folder that you may write to" in str(caught.value)


# Collecting


def test_finished_runs_are_collected(tmp_path):
    write_run(tmp_path, "SNIP", "b", test_accuracy=90.0)
    write_run(tmp_path, "SNIP", "a", test_accuracy=91.0)
    write_run(tmp_path, "grasp", "a", test_accuracy=92.0)
    found = results.collect(tmp_path)
    assert not found.left_out
    assert tuple(found.summary.columns) == SUMMARY
    assert tuple(found.epochs.columns) == ("method", "run_id", *EPOCHS)
    assert tuple(found.layers.columns) == ("method", "run_id", *LAYERS)
    assert found.summary[["method", "run_id", "test_accuracy"]].values.tolist() == [
        ["SNIP", "a", 91.0],
        ["SNIP", "b", 90.0],
        ["grasp", "a", 92.0],
    ]
    assert len(found.epochs) == len(found.layers) == 6
    assert found.summary["variant"].tolist() == ["", "", ""]  # text, not NaN
    assert found.epochs["train_loss"].isna().tolist() == [True, False] * 3


def test_text_that_looks_like_a_number_or_like_nothing_stays_text(tmp_path):
    write_run(tmp_path, run_id="r", code_version="123456789012", ablation="none", dataset="NA")
    summary = results.collect(tmp_path).summary.loc[0]
    assert summary[["code_version", "ablation", "dataset"]].tolist() == [
        *("123456789012", "none", "NA")
    ]


def damage(folder, kind):
    match kind:
        case "unfinished":
            (folder / "summary.csv").unlink()
        case "no epochs":
            (folder / "epochs.csv").unlink()
        case "empty":
            (folder / "layers.csv").write_text("")
        case "no rows":
            (folder / "epochs.csv").write_text(",".join(EPOCHS) + "\n")
        case "two rows":
            lines = (folder / "summary.csv").read_text().splitlines()
            (folder / "summary.csv").write_text("\n".join([*lines, lines[1]]))
        case "other columns":
            (folder / "layers.csv").write_text("layer,kind\na,b\n")
        case "binary":
            (folder / "summary.csv").write_bytes(b"\xff\xfe\x00\x80")
        case "no number":
            text = (folder / "epochs.csv").read_text()
            (folder / "epochs.csv").write_text(text.replace("1.5", "1.?"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("unfinished", "unfinished: no summary.csv"),
        ("no epochs", "damaged: no epochs.csv"),
        ("empty", "damaged: layers.csv: "),
        ("no rows", "damaged: epochs.csv has other columns or no rows"),
        ("two rows", "damaged: summary.csv has not exactly one row"),
        ("other columns", "damaged: layers.csv has other columns"),
        ("binary", "damaged: summary.csv"),
        ("no number", "damaged: epochs.csv has no numbers in learning_rate"),
    ],
)
def test_damaged_runs_are_left_out_with_the_reason(tmp_path, kind, reason):
    write_run(tmp_path, run_id="good")
    bad = write_run(tmp_path, run_id="bad")
    damage(bad, kind)
    found = results.collect(tmp_path)
    assert found.summary["run_id"].tolist() == ["good"]
    assert set(found.epochs["run_id"]) == set(found.layers["run_id"]) == {"good"}
    ((folder, why),) = found.left_out
    assert folder == bad
    assert why.startswith(reason)


def test_results_moved_aside_are_left_out(tmp_path):
    folder = write_run(tmp_path, run_id="run", test_accuracy=1.0)
    moved = results.prepare(folder)
    with pytest.raises(ConfigurationError, match=r"no finished run.*1 unfinished or damaged"):
        results.collect(tmp_path)
    write_run(tmp_path, run_id="other")
    found = results.collect(tmp_path)
    assert found.summary["run_id"].tolist() == ["other"]
    assert found.left_out == [(moved, "superseded: an earlier result of run, moved aside")]


def test_a_finished_run_counts_even_without_its_run_json(tmp_path):
    (write_run(tmp_path) / "run.json").unlink()
    assert len(results.collect(tmp_path).summary) == 1


@pytest.mark.parametrize("name", ["nothing", "not/there"])
def test_nothing_to_collect(tmp_path, name):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigurationError, match=f"{name} holds no finished run"):
        results.collect(tmp_path / name)


def test_collected_tables_are_read_again(tmp_path):
    write_run(tmp_path / "runs", run_id="a", test_accuracy=1 / 3)
    write_run(tmp_path / "runs", run_id="b", images_per_second=None)
    found = results.collect(tmp_path / "runs")
    results.write_collected(found, tmp_path / "published")
    again = results.collect(tmp_path / "published")
    for name in ("summary", "epochs", "layers"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))
    assert not again.left_out
