"""Collecting: all finished runs in one table each, and every other one named with the reason."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from pandas.api.types import is_numeric_dtype

from common.base.errors import ConfigurationError
from common.results import run_folder
from common.results.collected import collect, write_collected
from common.results.schema import EPOCHS, LAYERS, SUMMARY

TEXT = {"method", "variant", "ablation", "protocol", "dataset", "model", "device", "precision"}
TEXT |= {"run_id", "torch_version", "code_version", "started_at", "layer", "kind", "shape"}


def row(columns, **values):
    return {name: values.get(name, "text" if name in TEXT else 1.5) for name in columns}


def write_run(root, method="SNIP", run_id="a_sparsity0.5_epochs2", **values):
    """A finished run of two epochs and two layers."""
    folder = root / method / run_id
    folder.mkdir(parents=True)
    run_folder.write_json(folder / "run.json", {"run_id": run_id})
    first = row(EPOCHS, epoch=0, train_loss=None, train_accuracy=None)
    run_folder.write_csv(folder / "epochs.csv", [first, row(EPOCHS, epoch=1)], EPOCHS)
    run_folder.write_csv(folder / "layers.csv", [row(LAYERS, layer=n) for n in "ab"], LAYERS)
    values = {"variant": "", "sparsity": 0.5, **values}
    summary = row(SUMMARY, method=method, run_id=run_id, **values)
    run_folder.write_csv(folder / "summary.csv", [summary], SUMMARY)
    return folder


def test_finished_runs_are_collected(tmp_path):
    write_run(tmp_path, "SNIP", "b", test_accuracy=90.0)
    write_run(tmp_path, "SNIP", "a", test_accuracy=91.0)
    write_run(tmp_path, "grasp", "a", test_accuracy=92.0)
    found = collect(tmp_path)
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
    summary = collect(tmp_path).summary.loc[0]
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
            (folder / "summary.csv").write_text("\n".join([*lines, lines[1], ""]))
        case "other columns":
            (folder / "layers.csv").write_text("layer,kind\na,b\n")
        case "binary":
            (folder / "summary.csv").write_bytes(b"\xff\xfe\x00\x80")
        case "broken off":
            text = (folder / "layers.csv").read_text()
            (folder / "layers.csv").write_text(text[:-3])
        case "half a row":
            text = (folder / "epochs.csv").read_text()
            (folder / "epochs.csv").write_text(text.rpartition(",")[0] + "\n")
        case "no number":
            text = (folder / "epochs.csv").read_text()
            (folder / "epochs.csv").write_text(text.replace("1.5", "1.?"))
        case "no finite number":
            text = (folder / "epochs.csv").read_text()
            (folder / "epochs.csv").write_text(text.replace("1.5", "1e9999999999"))
        case "another sparsity":
            text = (folder / "summary.csv").read_text()
            (folder / "summary.csv").write_text(text.replace("bad", "a_sparsity0.25_seed0"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("unfinished", "unfinished: no summary.csv"),
        ("no finite number", "damaged: epochs.csv has no numbers in learning_rate"),
        ("another sparsity", "damaged: summary.csv has sparsity 0.5, not 0.25"),
        ("no epochs", "damaged: no epochs.csv"),
        ("empty", "damaged: layers.csv: "),
        ("no rows", "damaged: epochs.csv has other columns or no rows"),
        ("two rows", "damaged: summary.csv has not exactly one row"),
        ("other columns", "damaged: layers.csv has other columns"),
        ("binary", "damaged: summary.csv"),
        ("broken off", "damaged: layers.csv breaks off"),
        ("half a row", "damaged: epochs.csv breaks off"),
        ("no number", "damaged: epochs.csv has no numbers in learning_rate"),
    ],
)
def test_damaged_runs_are_left_out_with_the_reason(tmp_path, kind, reason):
    write_run(tmp_path, run_id="good")
    bad = write_run(tmp_path, run_id="bad")
    damage(bad, kind)
    found = collect(tmp_path)
    assert found.summary["run_id"].tolist() == ["good"]
    assert set(found.epochs["run_id"]) == set(found.layers["run_id"]) == {"good"}
    ((folder, why),) = found.left_out
    assert folder == bad
    assert why.startswith(reason)


def test_results_moved_aside_are_left_out(tmp_path):
    folder = write_run(tmp_path, run_id="run", test_accuracy=1.0)
    moved = run_folder.prepare(folder)
    with pytest.raises(ConfigurationError, match=r"no finished run.*1 unfinished, damaged or"):
        collect(tmp_path)
    write_run(tmp_path, run_id="other")
    found = collect(tmp_path)
    assert found.summary["run_id"].tolist() == ["other"]
    assert found.left_out == [(moved, "superseded: an earlier result of run, moved aside")]


def test_a_copy_of_a_run_is_left_out(tmp_path):
    folder = write_run(tmp_path, run_id="run")
    shutil.copytree(folder, tmp_path / "SNIP" / "a copy")
    found = collect(tmp_path)
    assert found.summary["run_id"].tolist() == ["run"]
    assert found.left_out == [
        (tmp_path / "SNIP" / "a copy", f"duplicate: the same run as {folder}")
    ]
    assert len(found.epochs) == len(found.layers) == 2


def test_a_renamed_folder_is_still_its_run(tmp_path):
    write_run(tmp_path, run_id="run").rename(tmp_path / "SNIP" / "other name")
    assert collect(tmp_path).summary["run_id"].tolist() == ["run"]


def test_runs_that_are_not_the_grids_are_left_out_by_name(tmp_path):
    own = write_run(tmp_path)
    strays = [write_run(tmp_path, run_id="a_sparsity0.5_seed7"), write_run(tmp_path, "synflow2")]
    found = collect(tmp_path, only={("SNIP", own.name)})
    assert found.summary["run_id"].tolist() == [own.name]
    assert [folder for folder, _ in found.left_out] == strays
    assert all(reason.startswith("none of the grid's runs") for _, reason in found.left_out)


def test_runs_of_another_code_version_are_left_out_on_demand(tmp_path):
    write_run(tmp_path, run_id="old", code_version="0123456789ab")
    write_run(tmp_path, run_id="mixed", code_version="feedbeef0123+")
    write_run(tmp_path, run_id="new", code_version="feedbeef0123")
    assert len(collect(tmp_path).summary) == 3
    found = collect(tmp_path, code_version="feedbeef")
    assert found.summary["run_id"].tolist() == ["mixed", "new"]
    assert found.left_out == [(tmp_path / "SNIP" / "old", "other code version: 0123456789ab")]
    with pytest.raises(ConfigurationError, match=r"3 unfinished, .* left out, as \w+: other code"):
        collect(tmp_path, code_version="abc")


def test_several_damaged_among_many(tmp_path):
    for number in range(6):
        write_run(tmp_path, run_id=f"run{number}")
    kinds = {1: "no number", 3: "binary", 4: "no number"}
    for number, kind in kinds.items():
        damage(tmp_path / "SNIP" / f"run{number}", kind)
    found = collect(tmp_path)
    assert found.summary["run_id"].tolist() == ["run0", "run2", "run5"]
    assert [folder.name for folder, _ in found.left_out] == ["run1", "run3", "run4"]
    assert all(is_numeric_dtype(found.epochs[name]) for name in EPOCHS)


def test_a_finished_run_counts_even_without_its_run_json(tmp_path):
    (write_run(tmp_path) / "run.json").unlink()
    assert len(collect(tmp_path).summary) == 1


@pytest.mark.parametrize("name", ["nothing", "not/there"])
def test_nothing_to_collect(tmp_path, name):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigurationError, match=f"{name} holds no finished run"):
        collect(tmp_path / name)


def test_collected_tables_are_read_again(tmp_path):
    write_run(tmp_path / "runs", run_id="a", test_accuracy=1 / 3)
    write_run(tmp_path / "runs", run_id="b", images_per_second=None)
    found = collect(tmp_path / "runs")
    write_collected(found, tmp_path / "published")
    again = collect(tmp_path / "published")
    for name in ("summary", "epochs", "layers"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))
    assert not again.left_out
