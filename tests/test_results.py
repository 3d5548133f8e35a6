"""Results: whole or not at all, in the contract's columns, and collected without the damaged."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from common.base import version
from common.base.errors import ConfigurationError
from common.base.version import code_version
from common.results import run_folder
from common.results.schema import EPOCHS, EXACT, LAYERS, SUMMARY
from common.runs import experiment
from common.runs.experiment import configure

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


def test_columns_are_the_contracts():
    for name, columns in (("summary", SUMMARY), ("epochs", EPOCHS), ("layers", LAYERS)):
        assert ", ".join(columns) == CONTRACT[name]


# Writing


def test_a_csv_has_its_columns_in_order(tmp_path):
    run_folder.write_csv(tmp_path / "x.csv", [{"b": 1, "a": None}, {"a": 2.5, "b": 3}], ("a", "b"))
    assert (tmp_path / "x.csv").read_text() == "a,b\n,1\n2.5,3\n"
    assert os.listdir(tmp_path) == ["x.csv"]


@pytest.mark.parametrize("wrong", [{"a": 1}, {"a": 1, "b": 2, "c": 3}])
def test_a_row_with_other_columns_is_an_error_and_writes_nothing(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"x\.csv: columns differ"):
        run_folder.write_csv(tmp_path / "x.csv", [{"a": 1, "b": 2}, wrong], ("a", "b"))
    assert not list(tmp_path.iterdir())


def test_numbers_come_back_as_they_were(tmp_path):
    values = [0.1 + 0.2, 1e-300, 1 / 3, 2**53, float("inf")]
    run_folder.write_csv(tmp_path / "x.csv", [{"seconds": value} for value in values], ["seconds"])
    table = pd.read_csv(tmp_path / "x.csv", **EXACT)
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
        run_folder.write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == (["summary.csv"] if before else [])
    assert not before or path.read_text() == before


def test_a_file_takes_its_place_in_one_step_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")

    def fail(source, target):
        assert Path(source).read_text() == "new"
        raise OSError("the machine went down")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="went down"):
        run_folder.write_atomically(tmp_path / "x", lambda path: path.write_text("new"))
    assert (tmp_path / "x").read_text() == "old"


def test_progress_is_json(tmp_path):
    run_folder.write_progress(tmp_path, "train", 3, 80, 71.5)
    state = json.loads((tmp_path / "progress.json").read_text())
    assert state.pop("updated") > 0
    assert state == {"stage": "train", "epoch": 3, "epochs": 80, "test_accuracy": 71.5}


# The folder of a run


def test_prepare_makes_the_folder_and_keeps_what_is_unfinished(tmp_path):
    folder = tmp_path / "grid" / "SNIP" / "run"
    assert run_folder.prepare(folder) is None
    (folder / "checkpoint.pt").write_text("half-way")
    assert run_folder.prepare(folder) is None
    assert os.listdir(folder) == ["checkpoint.pt"]


def test_prepare_moves_a_finished_result_aside_and_overwrites_none(tmp_path):
    folder = tmp_path / "run"
    for number in (1, 2, 3):
        run_folder.prepare(folder)
        (folder / "summary.csv").write_text(f"result {number}")
        assert run_folder.is_done(folder)
    moved = run_folder.prepare(folder)
    assert moved == tmp_path / "run.3"
    assert not list(folder.iterdir())
    assert not run_folder.is_done(folder)
    for number in (1, 2, 3):
        kept = tmp_path / f"run.{number}" / "summary.csv"
        assert kept.read_text() == f"result {number}"


@pytest.mark.parametrize("where", ["under a file", "in a folder of the kernel's"])
def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path, where):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "results" if where == "under a file" else "/proc/self/results"
    folder = tmp_path / folder
    with pytest.raises(ConfigurationError) as caught:
        run_folder.prepare(folder)
    assert str(caught.value).startswith(f"{folder} cannot be written (")
    assert "choose a results_dir that you may write to" in str(caught.value)


def test_the_code_version_is_the_commit_and_marks_changed_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    monkeypatch.setattr(version, "ROOT", tmp_path)
    version_now = code_version.__wrapped__  # not the cache
    assert version_now() == "unknown"
    path = tmp_path / "trials/grasp/grasp.ipynb"
    for name in ("common/a.py", "trials/grasp/grasp.ipynb", "trials/grasp/rendered.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    cell = nbformat.v4.new_code_cell("scores = run.score()")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    commit = git("rev-parse", "--short=12", "HEAD")
    (tmp_path / "README.md").write_text("no code")
    (tmp_path / "trials/grasp/rendered.ipynb").write_text("executed")
    assert version_now() == commit
    # Run and saved, which is no change of the code; then changed.
    cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="0.5")], 7
    about = {"widgets": {"application/vnd.jupyter.widget-state+json": {"state": {"a": 1}}}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=about), path)
    assert version_now() == commit
    cell.source += "  # twice"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert version_now() == f"{commit}+"
    git("checkout", "trials/grasp/grasp.ipynb")
    (tmp_path / "common/b.py").write_text("new")
    assert version_now() == f"{commit}+"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The code is a copy in a folder of someone's repository, which ignores it."""
    home, copy = tmp_path / "home", tmp_path / "home" / "copy"
    copy.mkdir(parents=True)
    (home / ".gitignore").write_text("copy\n")
    (copy / "common").mkdir()
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "theirs"]):
        subprocess.run(["git", *who, *command], cwd=home, check=True)
    monkeypatch.setattr(version, "ROOT", copy)
    monkeypatch.delenv("TRIALS_CODE_VERSION", raising=False)
    return copy


def test_another_repositorys_commit_is_not_the_code_version(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_now = code_version.__wrapped__
    assert version_now() == "unknown"
    monkeypatch.setenv("GIT_DIR", str(copied.parent / ".git"))
    assert version_now() == "unknown"
    # As above with a repository of its own: a hook of the outer one has GIT_DIR set.
    monkeypatch.delenv("GIT_DIR")
    own = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run([*own, "init", "--quiet"], cwd=copied, check=True)
    subprocess.run(
        [*own, "commit", "--quiet", "--allow-empty", "-m", "ours"], cwd=copied, check=True
    )
    expected = version_now()
    assert len(expected) == 12
    monkeypatch.setenv("GIT_DIR", str(copied.parent / ".git"))
    assert version_now() == expected
    monkeypatch.setenv("TRIALS_CODE_VERSION", expected[:7])
    assert version_now() == expected
    monkeypatch.setenv("TRIALS_CODE_VERSION", "0123456")
    with pytest.raises(ConfigurationError, match=f"but .* is at commit {expected}"):
        version_now()


def test_what_pip_fetched_from_a_repository_is_of_that_commit(copied: Path) -> None:
    about = copied / "pruning_at_initialization-1.0.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: pruning-at-initialization\nVersion: 1.0.0\n")
    assert code_version.__wrapped__() == "unknown", "from a folder or an archive"
    told = {"url": "https://github.com/me/it", "vcs_info": {"vcs": "git", "commit_id": "0a" * 20}}
    (about / "direct_url.json").write_text(json.dumps(told))
    assert code_version.__wrapped__() == "0a" * 6


@pytest.mark.usefixtures("copied")
def test_the_environment_names_the_commit_of_a_tree_without_git(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version_now = code_version.__wrapped__
    for commit in ("0123abc", "0123456789abcdef0123456789abcdef01234567"):
        monkeypatch.setenv("TRIALS_CODE_VERSION", commit)
        assert version_now() == commit
    for wrong in ("main", "0123ABC", "012345", "0" * 41, "0123abc+", "0123abc\n"):
        monkeypatch.setenv("TRIALS_CODE_VERSION", wrong)
        with pytest.raises(ConfigurationError) as caught:
            version_now()
        assert str(caught.value).startswith(f"TRIALS_CODE_VERSION={wrong!r} is no commit: give")
        monkeypatch.setattr(experiment, "code_version", version_now)
        with pytest.raises(ConfigurationError, match="is no commit"):
            configure("magnitude")
    monkeypatch.setenv("TRIALS_CODE_VERSION", "")
    assert version_now() == "unknown"
