"""python -m trials: its commands, their errors and exit statuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.shell_completion import BashComplete
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output as io_capture

import trials.__main__ as cli
from common import datasets, models, pruning
from common.base import version
from common.base.errors import ConfigurationError
from common.base.paths import ROOT, TRIALS
from common.base.version import code_version
from common.commands import doctor
from common.results import run_folder
from common.results.schema import EPOCHS, LAYERS, SUMMARY
from common.runs.experiment import PARAMETERS, from_notebook
from common.runs.registry import names
from common.sweep import batch, claims, needs, plan, pool, slots
from common.sweep.execute import run_notebook

GRID = (
    "title: t\ndescription: d\nruns:\n- {method: [magnitude, random], sparsity: 0.9, epochs: 0}\n"
)


@pytest.fixture
def grid(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(GRID)
    return str(path)


def call(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_a_dry_run_starts_nothing(grid: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert call("run", grid, "--results", tmp_path / "out", "--dry-run", "-p", "seed=1,2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("magnitude/quick_digits")]) == 2
    assert lines[-1] == "4 runs, 0 done, 4 left; none started"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "quik"], ["'quik'", "did you mean 'quick'", "tanaka2020"]),
        (["run", "quick", "-p", "ablation=shufle"], ["error: -p ablation=", "mean 'shuffle'"]),
        (["run", "quick", "-p", "method=synfow"], ["error: -p method='synfow' is", "'synflow'"]),
        (["run", "quick", "-p", "sparsity", "0.9"], ["without a space: -p sparsity=0.9"]),
        (["notebook", "synflw"], ["'synflw'", "did you mean 'synflow'"]),
        (["notebook", "synflow", "-p", "sparsty=0.95"], ["'sparsty'", "mean 'sparsity'"]),
        (["notebook", "synflow", "-p", "model=vgg12"], ["-p model='vgg12'", "mean 'vgg1"]),
        (["notebook", "random", "-p", "levels=3"], ["error: -p levels: random has no", "lottery"]),
        (["notebook", "random", "-p", "protocol=seed", "-p", "dataset=digits"], ["random.ipynb: "]),
        (["notebook", "synflow", "-p", "seed=1,2"], ["-p seed", "one value"]),
        (["notebook", "conservation", "-p", "sparsity=0.9"], ["'sparsity'", "images_per_class"]),
        (["results", "quick", "--results", "EMPTY"], ["no finished run"]),
        (["compare", "SNIP/a", "SNIP/b"], ["'SNIP/a'", "METHOD/RUN_ID"]),
        (["run", "nowhere/mine.yaml"], ["nowhere/mine.yaml"]),
        (["run", "quick", "-p", "sparsity=1.5"], ["error: -p sparsity=1.5", "[0, 1)"]),
        (["run", "quick", "-p", "colour=red"], ["'colour'", "sparsity"]),
        (["run", "quick", "-p", "data_dir=/nowhere"], ["data_dir='/nowhere'", "no such folder"]),
        (["run", "quick", "--results", "FILE"], ["cannot be written", "--results"]),
        (
            ["run", "quick", "-p", "data_dir=~no-such-user"],
            ["data_dir='~no-such-user'", "no such folder"],
        ),
        (["run", "quick", "-p", f"data_dir={'a' * 5000}"], ["(5,002 characters): there is no"]),
        (["status", "quick", "--results", "LOOP"], ["--results 'LOOP'", "oop"]),
        (["run", "quick", "--time-budget", "soon"], ["'soon'", "11h30m"]),
        (["status", "quik"], ["did you mean 'quick'"]),
        (["collect", "quick", "--results", "EMPTY"], ["no finished run"]),
        (["figures", "quick", "--results", "EMPTY"], ["no finished run"]),
    ],
)
def test_bad_input_is_one_error_before_anything_starts(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code_version()  # asks git, once
    monkeypatch.setattr(subprocess, "Popen", None)
    (tmp_path / "FILE").write_text("")
    (tmp_path / "LOOP").symlink_to("LOOP")
    if "--results" not in arguments:
        arguments = [*arguments, "--results", "out"]
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "arguments",
    [
        *(["run", "quick", "--jobs", jobs] for jobs in ("0", "9" * 20, "١")),
        *(["run"], ["fly", "quick"], []),
    ],
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        call(*arguments)
    assert ended.value.code == 2
    assert "usage: python -m trials" in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture) -> None:
    assert call("list") == 0
    output = capsys.readouterr().out
    assert re.search(r"SNIP \(.*iterative.*\)", output)
    methods = re.findall(r"^  (\w+)", output.partition("protocols")[0], re.MULTILINE)
    assert {"random", "magnitude", "SNIP", "grasp", "synflow"} <= set(methods) <= set(names())
    for words in ("synflow", "frankle2021", "quick: .*, 41 runs", "seed: .*, 81 runs"):
        assert re.search(words, output)


SLOW_IMPORTS = ("torch", "pandas", "matplotlib", "nbformat")


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["--help"],
        ["run", "quik"],
        ["status", "quick", "-p", "method=synfow"],
        ["run", "quick", "-p", "sparsty=0.9"],
        ["notebook", "synflow", "-p", "model=vgg12"],
        ["run", "quick", "--dry-run"],
    ],
)
def test_names_need_no_slow_import(arguments: list[str], tmp_path: Path) -> None:
    """Processor time cannot be asserted on a busy machine; what takes it can."""
    script = (
        "import sys, trials.__main__ as cli\n"
        f"cli.main({arguments!r})\n"
        f"print(*set({SLOW_IMPORTS!r}) & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == ""


def test_every_deferred_name_is_there() -> None:
    for package in (pruning, models, datasets):
        assert all(hasattr(package, name) for name in package.__all__)
    assert callable(models.initialise), "a file of that name would hide it"
    for variants in pruning.METHODS.values():
        scores = [method.score.__wrapped__ for method in variants.values()]
        assert all(callable(score.load()) for score in scores)
    draws = [getattr(draw, "func", draw) for draw in models.INITIALISATIONS.values()]
    makers = [getattr(one.make, "func", one.make) for one in models.MODELS.values()]
    deferred = [function for function in (*draws, *makers) if hasattr(function, "load")]
    assert len(deferred) > 10
    assert all(callable(function.load()) for function in deferred)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("trials co", ["compare", "collect"]),
        ("trials run qu", ["quick"]),
        ("trials notebook synf", ["synflow"]),
        ("trials run quick -p sparsi", ["sparsity="]),
    ],
)
def test_a_shell_completes(words: str, completed: list[str]) -> None:
    shell = BashComplete(cli.cli, {}, "trials", cli.COMPLETE)
    *before, last = words.split()
    found = shell.get_completions(before[1:], last)
    assert [item.value for item in found] == completed


def write_run(folder: Path, accuracy: float, kept: int, **parameters: object) -> Path:
    """A finished run of one layer of eight weights."""
    folder.mkdir(parents=True)
    values = dict.fromkeys(SUMMARY, 0) | {
        **{"run_id": folder.name, "method": folder.parent.name, "ablation": "none"},
        **{"dataset": "digits", "model": "small_vgg", "protocol": "quick", "sparsity": 0.5},
        **{"test_accuracy": accuracy, "epochs": 8, "variant": "", "device": "cpu"},
    }
    values |= parameters
    run_folder.write_csv(folder / "epochs.csv", [dict.fromkeys(EPOCHS, 1)], EPOCHS)
    layer = dict.fromkeys(LAYERS, 1) | {"layer": "conv", "size": 8, "kept": kept}
    run_folder.write_csv(folder / "layers.csv", [layer | {"density": kept / 8}], LAYERS)
    about = {"method": folder.parent.name, "parameters": {"model": "small_vgg", **parameters}}
    run_folder.write_json(folder / "run.json", about)
    run_folder.write_csv(folder / "summary.csv", [values], SUMMARY)
    return folder


def test_results_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for seed, accuracy in enumerate((60.0, 62.0)):
        write_run(tmp_path / "tiny" / "SNIP" / f"seed{seed}", accuracy, 4, seed=seed)
    assert call("results", "tiny", "--results", tmp_path) == 0
    output = capsys.readouterr().out
    assert "digits-small_vgg: test accuracy (%), 2 runs, seeds: 2" in output
    assert re.search(r"SNIP +61\.00 ± 12\.71 \(2\)", output)


def test_compare_shows_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = write_run(tmp_path / "tiny" / "SNIP" / "a", 60.0, 4, seed=0)
    second = write_run(tmp_path / "tiny" / "SNIP" / "b", 62.5, 6, seed=1)
    assert call("compare", first, "SNIP/b", "--results", tmp_path) == 0
    output = capsys.readouterr().out
    assert re.search(r"seed +0 +1", output)
    assert not re.search(r"model +small_vgg", output), "the same in both"
    assert re.search(r"test_accuracy +60 +62\.5 +2\.5", output)
    assert re.search(r"conv +0\.5000 +0\.7500", output)
    assert "No overlap of masks" in output
    # Of eight weights four and six, three of them the same: 3 / 7. By chance 3/8 / (7/8) = 3 / 7.
    kept = [torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]), torch.tensor([1, 1, 1, 0, 1, 1, 1, 0])]
    for folder, mask in zip((first, second), kept, strict=True):
        pruning.save_masks({"conv.weight": mask.bool()}, folder / run_folder.MASKS)
    assert call("compare", "tiny/SNIP/a", second, "--results", tmp_path) == 0
    output = capsys.readouterr().out
    assert "No overlap" not in output
    assert re.search(r"conv +0\.5000 +0\.7500 +0\.4286 +0\.4286", output)


def test_status_tells_of_runs_with_other_parameters(
    grid: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("other", "other.1"):  # the second was moved aside for the first
        write_run(tmp_path / "out" / "tiny" / "SNIP" / name, 60.0, 4)
    assert call("status", grid, "--results", tmp_path / "out") == 0
    output = capsys.readouterr().out
    assert "0/2 done" in output
    assert re.search(r"Not counted, .*: 1 finished run in .*: SNIP/other\n", output)


def test_status_where_folders_are_something_else(
    grid: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root, jobs = batch.jobs_of(grid, [], tmp_path / "out")
    jobs[0].folder.parent.mkdir(parents=True)
    jobs[0].folder.symlink_to(jobs[0].folder.name)  # a loop
    (root / "random").write_text("no folder")
    assert call("status", grid, "--results", tmp_path / "out") == 0
    assert "0/2 done, 0 running, 0 failed, 2 left" in capsys.readouterr().out


def test_a_copied_notebooks_runs_are_no_runs_of_the_grid(
    grid: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = batch.jobs_of(grid, [], tmp_path)[1][0]
    own = write_run(run.folder, 60.0, 4, sparsity=0.9)
    stray = write_run(tmp_path / "tiny" / "magnitude_copy" / own.name, 99.0, 4, sparsity=0.9)
    assert call("collect", grid, "--results", tmp_path) == 0
    output = capsys.readouterr().out
    assert f"left out: {stray}: none of the grid's runs" in output
    assert pd.read_csv(tmp_path / "tiny" / "summary.csv")["test_accuracy"].tolist() == [60.0]
    assert call("results", grid, "--results", tmp_path) == 0
    assert "99" not in capsys.readouterr().out


def test_a_grid_that_could_not_be_published_says_so_first(
    grid: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise ConfigurationError("enough")

    monkeypatch.setattr(plan, "check_data", stop)
    for version_, warns in (("0123456789ab+", True), ("unknown", True), ("0123456789ab", False)):
        monkeypatch.setattr(batch, "code_version", lambda version_=version_: version_)
        assert call("run", grid, "--results", tmp_path) == 2
        said = f"could not be published: their code_version is {version_} "
        assert (said in capsys.readouterr().out) == warns


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"jobs": "2"}, "^jobs='2' is not a whole number"),
        ({"jobs": 0}, "^jobs=0 is below 1"),
        ({"per_gpu": -1}, "^per_gpu=-1 is below 1"),
    ],
)
def test_run_alls_numbers(options: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=says):
        batch.run("quick", results=tmp_path, **options)


def test_run_alls_parameters_are_one_text() -> None:
    assert batch.settings("method=SNIP  seed=0,1") == ["method=SNIP", "seed=0,1"]
    for wrong in (["seed=1"], None, "seed='1"):
        with pytest.raises(ConfigurationError, match="write name=value with spaces"):
            batch.settings(wrong)


def test_a_papermill_parameter_that_the_notebook_does_not_have() -> None:
    values = dict.fromkeys(PARAMETERS) | {"sparsty": 0.95}
    cells = ["", "sparsity = 0.9", "# Parameters\nsparsty = 0.95\n"]
    with pytest.raises(ConfigurationError, match=r"'sparsty'.*did you mean 'sparsity'"):
        from_notebook("synflow", {**values, "In": cells})
    assert from_notebook("synflow", {**values, "In": cells[:2]}).sparsity == 0.9
    cells[2] = "# Parameters\nsparsity = 0.95\n"
    assert from_notebook("synflow", {**values, "sparsity": 0.95, "In": cells}).sparsity == 0.95


@pytest.mark.slow
def test_one_notebook(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("-p", "epochs=0", "-p", "seed=3", "--results", tmp_path)
    assert call("notebook", "random", *arguments) == 0
    (row,) = tmp_path.glob("notebooks/random/*/summary.csv")
    assert pd.read_csv(row).loc[0, ["epochs", "seed"]].tolist() == [0, 3]
    assert row.with_name("notebook.ipynb").is_file()
    assert re.search(r"done: test accuracy \d+\.\d\d %, 0.9", capsys.readouterr().out)


@pytest.mark.slow
def test_papermill_itself_is_refused_a_misspelt_parameter(tmp_path: Path) -> None:
    notebook = TRIALS / "random" / "random.ipynb"
    given = {"sparsty": 0.95, "epochs": 0, "results_dir": str(tmp_path)}
    ended = run_notebook(notebook, tmp_path / "random.ipynb", given, mark=str(tmp_path))
    assert ended.error.startswith("ConfigurationError: parameter='sparsty' is not known (did you")


def test_in_a_notebook_a_wrong_value_is_one_line() -> None:
    shell = InteractiveShell()
    with io_capture() as shown:
        shell.run_cell("from common.runs.experiment import configure\nconfigure('synfow')")
    (line,) = [one for one in shown.stdout.splitlines() if one.strip()]
    assert line.startswith("ConfigurationError: method='synfow' is not known")


def test_status_tells_done_running_failed_and_left(
    grid: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = (grid, "--results", tmp_path / "out", "-p", "seed=1,2")
    _, jobs = batch.jobs_of(grid, ["seed=1,2"], tmp_path / "out")
    for job in jobs[:3]:
        job.folder.mkdir(parents=True)
    claims.take(jobs[0].folder).end("done")
    (jobs[0].folder / "summary.csv").write_text("")
    claims.take(jobs[1].folder)
    progress = {"stage": "train", "epoch": 3, "epochs": 8, "test_accuracy": 87.46}
    (jobs[1].folder / "progress.json").write_text(json.dumps(progress))
    claims.take(jobs[2].folder).end("failed", "ValueError: no [weights] left")
    assert call("status", *arguments) == 0
    output = capsys.readouterr().out
    assert f"running  {jobs[1].name}  epoch 3/8, 87.5 %" in output
    lines = [line.strip() for line in output.splitlines()]
    failure = lines.index(f"failed   {jobs[2].name}")
    assert lines[failure + 1] == "ValueError: no [weights] left"
    assert lines[failure + 2].endswith(f"{jobs[2].name}/log.txt")
    assert "1/4 done, 1 running, 1 failed, 1 left" in output
    assert "Expected time" in output


@pytest.mark.slow
def test_a_grid_from_run_to_tables(grid: str, tmp_path: Path) -> None:
    def trials(*arguments: object) -> str:
        command = [sys.executable, "-m", "trials", *map(str, arguments)]
        done = subprocess.run(
            [*command, "--results", str(tmp_path / "out")],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    output = trials("run", grid, "--jobs", 2)
    assert "All 2 runs are done." in output
    assert re.search(r"Magnitude  +\S", output)  # the accuracies, unasked
    assert output.rstrip().endswith(f"trials figures {grid} --results {tmp_path / 'out'}")
    assert "2/2 done, 0 running, 0 failed, 0 left" in trials("status", grid)
    trials("collect", grid)
    summary = pd.read_csv(tmp_path / "out" / "tiny" / "summary.csv")
    assert sorted(summary["method"]) == ["magnitude", "random"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*/*/*")}
    assert "All 2 runs are done." in trials("run", grid)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_doctor_finds_this_machine_fit(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert call("doctor", "--results", tmp_path) == 0
    output = capsys.readouterr().out
    for topic in ("Python", "processor", "GPU", "precision", "kernel", "results", "cifar100"):
        assert topic in output


def test_doctor_says_what_is_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert call("doctor", "--results", tmp_path / "file") == 1
    assert "cannot be written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("told", "status", "says"),
    [
        ("", 0, "unknown version, a tree without git; name the commit in TRIALS_CODE_VERSION"),
        ("0123abc", 0, "0123abc, from TRIALS_CODE_VERSION"),
        ("main", 1, "TRIALS_CODE_VERSION='main' is no commit"),
    ],
)
def test_doctor_says_of_which_commit_results_would_be(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    told: str,
    status: int,
    says: str,
) -> None:
    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setattr(doctor, "code_version", code_version.__wrapped__)
    monkeypatch.setenv("TRIALS_CODE_VERSION", told)
    assert call("doctor", "--results", tmp_path) == status
    assert says in capsys.readouterr().out


def test_doctor_finds_a_folder_of_broken_data(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert call("doctor", "--results", tmp_path, "--data-dir", tmp_path) == 0
    assert "cifar-10-batches-py cannot be used" in capsys.readouterr().out


def test_a_place_for_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [slots.Gpu("3", 16e9), slots.Gpu("GPU-5f", 16e9)]
    monkeypatch.setattr(slots, "find_gpus", lambda: gpus)
    monkeypatch.setattr(slots, "cores", lambda: 8)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    def devices(*arguments: object, **options: object) -> list[str | None]:
        return [place.gpu for place in slots.slots(*arguments, **options)]

    assert devices(["auto"]) == ["3", "GPU-5f"]
    assert devices(["auto"], per_gpu=2) == ["3", "GPU-5f"] * 2
    assert devices(["auto"], per_gpu=2, jobs=3) == ["3", "GPU-5f", "3"]
    assert devices(["cuda", "auto"], jobs=3) == ["3", "GPU-5f", "3"]
    assert devices(["auto"], jobs=1, per_gpu=2) == ["3"]
    assert devices(["cpu"]) == [None]
    assert devices(["cuda:1"]) == [None], "it says itself where it runs"
    assert slots.slots(["cpu"], jobs=3)[0].environment["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment = slots.slots(["cpu"])[0].environment
    assert "OMP_NUM_THREADS" not in environment
    assert environment["MKL_NUM_THREADS"] == "1"
    assert "GLIBC_TUNABLES" not in slots.slots(["auto"])[0].environment
    assert "mmap_threshold" in environment["GLIBC_TUNABLES"]
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert slots.slots(["cpu"])[0].environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"


@pytest.mark.parametrize(
    ("free", "cores", "shares"),
    [
        ([16e9, 16e9], 16, [3, 3]),  # 0.9 x 16 / 4
        ([16e9, 7e9], 16, [3, 1]),
        ([16e9, 16e9], 4, [2, 2]),  # two cores each
        ([1e9], 8, [1]),  # it may be too small; the run itself will tell
        ([80e9], 64, [slots.MOST]),
    ],
)
def test_runs_on_a_gpu_by_its_memory(
    free: list[float], cores: int, shares: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [slots.Gpu(str(n), memory) for n, memory in enumerate(free)]
    monkeypatch.setattr(slots, "find_gpus", lambda: gpus)
    monkeypatch.setattr(slots, "cores", lambda: cores)
    taken = [place.gpu for place in slots.slots(["auto"], memory=4e9)]
    assert [taken.count(gpu.name) for gpu in gpus] == shares


def test_a_runs_memory_is_what_autograd_keeps() -> None:
    found = needs.footprint("lenet_300_100", "mnist")
    # Per image: the inputs of the three layers, each hidden one kept by its ReLU too, the log
    # probabilities by softmax and by the loss, and the label, an int64.
    inputs, hidden, classes = 784, 300 + 100, 10
    assert found.graph == 4 * (inputs + 2 * hidden + 2 * classes) + 8
    assert found.weights == 4 * (784 * 300 + 300 * 100 + 100 * 10)
    deeper = [needs.footprint(name, "cifar10").graph for name in ("vgg11", "vgg16", "vgg19")]
    assert deeper == sorted(deeper)


def test_per_gpu_without_a_gpu(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    arguments = ("--per-gpu", 2, "-p", "device=cpu", "--results", tmp_path)
    assert call("run", "quick", *arguments) == 2
    assert "--jobs" in capsys.readouterr().err


def test_runs_short_of_memory_share_less() -> None:
    places = [slots.Slot({"CUDA_VISIBLE_DEVICES": gpu}) for gpu in ("0", "1", "0", "1")]
    fewer = pool.Local(places).retry_pool()
    assert fewer.capacity() == 2
    assert fewer.retry_pool().capacity() == 1
    assert fewer.retry_pool().retry_pool() is None
    assert pool.Local([slots.Slot({})] * 3).retry_pool().capacity() == 1
    assert pool.Local([slots.Slot({})]).retry_pool() is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("11h30m", 41400), ("1d", 86400), ("90m", 5400), ("1.5h", 5400), ("45s", 45), ("2H 5m", 7500)],
)
def test_a_time_budget(text: str, seconds: float) -> None:
    assert batch.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "12", "h", "1h30", "-1h", "0m", "1h nonsense", "m1"])
def test_what_is_no_time_budget(text: str) -> None:
    with pytest.raises(ConfigurationError, match="11h30m"):
        batch.seconds(text)
