"""Colab and Kaggle, simulated: GPUs that torch has no code for, a repository that cannot be
written, a working folder with a quota, no network."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import kaggle_machine
import nbformat
import pandas as pd
import pytest
import torch
from helpers import execute_notebook

from common.base import bootstrap, environment
from common.base.errors import ConfigurationError
from common.commands import doctor
from common.datasets import folders
from common.results.archive import pack
from common.runs.experiment import configure
from common.studies import tables
from common.sweep import execute

ROOT = Path(__file__).resolve().parent.parent


# GPUs


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((6, 0), ["sm_75", "sm_80", "sm_86", "sm_90", "compute_90"], False),  # P100, recent build
        ((6, 0), ["sm_50", "sm_60", "sm_70"], True),  # P100, a build for CUDA 12.6
        ((7, 5), ["sm_75", "sm_80"], True),
        ((8, 9), ["sm_75", "sm_80", "sm_90"], True),  # L4 runs its major version's code
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),  # PTX is compiled for what comes later
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a", "compute_90a"], False),
    ],
)
def test_which_gpus_a_build_has_code_for(capability, architectures, fits):
    assert environment.has_code_for(capability, architectures) is fits


@pytest.fixture
def p100(monkeypatch):
    """Two of them, and a torch for newer GPUs."""
    seen = {
        "is_available": True,
        "device_count": 2,
        "get_arch_list": ["sm_75", "sm_90"],
        "get_device_capability": (6, 0),
        "get_device_name": "Tesla P100-PCIE-16GB",
    }
    for name, answer in seen.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.version, "hip", None)


@pytest.mark.usefixtures("p100")
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_a_gpu_without_code_is_an_error_that_names_another(device):
    with pytest.raises(
        ConfigurationError, match=r"no code for Tesla P100.*6\.0.*T4 x2.*device=cpu"
    ):
        environment.resolve_device(device)
    assert environment.resolve_device("cpu").type == "cpu"


@pytest.mark.usefixtures("p100")
def test_the_set_up_and_the_doctor_say_so_too(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bootstrap, "install_missing", lambda: None)
    bootstrap.prepare()
    assert capsys.readouterr().out == "", "this is no hosted machine"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    bootstrap.prepare()
    said = capsys.readouterr().out
    assert said.count("no code for Tesla P100") == 1
    assert "T4 x2" in said
    found = [finding for finding in doctor.examine(tmp_path) if "P100" in finding.text]
    assert [finding.topic for finding in found] == ["GPU", "GPU"]
    assert all(finding.fatal for finding in found)


# A repository that cannot be written


def test_results_go_to_the_working_folder_where_the_repository_cannot_be_written(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != ROOT)
    assert configure("random").results_dir == tmp_path / "results" / "notebooks"
    assert tables.folder("inversion", recompute=True) == tmp_path / "results" / "inversion"
    assert tables.folder("inversion", recompute=False) == ROOT / "figures/results/inversion"


def test_runs_look_for_data_where_the_sweep_downloaded_it(monkeypatch, tmp_path):
    monkeypatch.delenv("TRIALS_DATA", raising=False)
    monkeypatch.setattr(folders, "DATA", tmp_path / "data")
    assert "TRIALS_DATA" not in execute._environment({}, "mark", "scratch")
    (tmp_path / "data").mkdir()
    assert execute._environment({}, "mark", "scratch")["TRIALS_DATA"] == str(tmp_path / "data")
    monkeypatch.setenv("TRIALS_DATA", "elsewhere")
    assert execute._environment({}, "mark", "scratch")["TRIALS_DATA"] == "elsewhere"


@pytest.fixture
def kaggle(tmp_path):
    """`run(size, command)` on a machine like Kaggle's that has the suite attached; what it leaves
    in its working folder lies in `working`."""
    if not kaggle_machine.AVAILABLE:
        pytest.skip("this system lets no user make namespaces")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        source, target = ROOT / name, tmp_path / "input" / "pruning" / name
        if source.is_file() and source.suffix not in (".png", ".svg"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    variables = {**os.environ, "KAGGLE_KERNEL_RUN_TYPE": "Batch", "OMP_NUM_THREADS": "1"}

    class Machine:
        working = tmp_path / "working"

        def run(self, size, *command):
            return kaggle_machine.run(
                tmp_path / "input", self.working, size, list(command), env=variables
            )

        def papermill(self, size, notebook, output, **parameters):
            papermill = [sys.executable, "-m", "papermill", "--no-progress-bar"]
            given = [word for name, value in parameters.items() for word in ("-p", name, value)]
            return self.run(size, *papermill, f"/kaggle/input/pruning/{notebook}", output, *given)

    return Machine()


@pytest.mark.slow
def test_a_notebook_of_the_attached_suite_without_network(kaggle):
    notebook = "trials/magnitude/magnitude.ipynb"
    done = kaggle.papermill(50_000_000, notebook, "out.ipynb", epochs="1", device="cpu")
    assert done.returncode == 0, done.stderr
    (summary,) = kaggle.working.glob("results/notebooks/magnitude/*/summary.csv")
    assert pd.read_csv(summary)["epochs"].tolist() == [1]


@pytest.mark.slow
def test_a_full_working_folder_leaves_no_half_result(kaggle, tmp_path):
    notebook, output = "trials/magnitude/magnitude.ipynb", str(tmp_path / "out.ipynb")
    done = kaggle.papermill(2 * 4096, notebook, output, epochs="0", device="cpu")
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert list(kaggle.working.rglob("run.json")), "it had begun"
    assert not list(kaggle.working.rglob("summary.csv"))
    assert not list(kaggle.working.rglob(".*.csv.*"))


# A grid from a browser tab


def test_the_archive_is_the_folder_without_checkpoints(tmp_path):
    run = tmp_path / "quick" / "SNIP" / "one"
    run.mkdir(parents=True)
    for name in ("summary.csv", "run.json", "notebook.ipynb", "checkpoint.pt", ".summary.csv.7"):
        (run / name).write_text(name)
    (tmp_path / "quick" / "summary.csv").touch()
    for _ in range(2):  # it does not pack itself
        archive = pack(tmp_path / "quick")
        assert archive == tmp_path / "quick.zip"
        assert zipfile.ZipFile(archive).namelist() == [
            "quick/SNIP/one/notebook.ipynb",
            "quick/SNIP/one/run.json",
            "quick/SNIP/one/summary.csv",
            "quick/summary.csv",
        ]


TINY = "method=magnitude ablation=none epochs=0 device=cpu sparsity="


def said(path):
    """All that an executed notebook printed or displayed as text."""
    outputs = [
        o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])
    ]
    return "".join(str(o.get("text") or o.get("data", {}).get("text/plain")) for o in outputs)


@pytest.mark.slow
def test_a_grid_in_two_sessions_on_kaggle(kaggle, tmp_path):
    notebook, size = "trials/run_all.ipynb", 100_000_000
    done = kaggle.papermill(size, notebook, "out.ipynb", parameters=f"{TINY}0.5", grid="quick")
    assert done.returncode == 0, done.stderr
    first = said(kaggle.working / "out.ipynb")
    assert "1/1 done" in first
    assert "The quick grid can run here" not in first, "100 MB are too little"
    names = zipfile.ZipFile(kaggle.working / "results" / "quick.zip").namelist()
    ends = {Path(name).name for name in names}
    assert {"summary.csv", "run.json", "notebook.ipynb", "accuracy.png", "accuracy.svg"} <= ends
    assert "checkpoint.pt" not in ends
    # The next session finds the first one's output among its inputs.
    (tmp_path / "input" / "earlier").mkdir()
    kaggle.working.rename(tmp_path / "input" / "earlier" / "output")
    done = kaggle.papermill(size, notebook, "out.ipynb", parameters=f"{TINY}0.5,0.9", grid="quick")
    assert done.returncode == 0, done.stderr
    second = said(kaggle.working / "out.ipynb")
    assert "Done in an earlier session, whose results were found: 1" in second
    assert "2/2 done" in second
    assert len(pd.read_csv(kaggle.working / "results" / "quick" / "summary.csv")) == 2


@pytest.mark.slow
def test_run_all_goes_on_to_the_download_when_a_run_fails(tmp_path):
    grid = tmp_path / "broken.yaml"
    grid.write_text("runs:\n  - {method: magnitude, epochs: 0, device: 'cuda:7'}\n")
    output = tmp_path / "out.ipynb"
    given = {"grid": str(grid), "results_dir": str(tmp_path / "results")}
    execute_notebook(ROOT / "trials" / "run_all.ipynb", output, **given)
    text = said(output)
    assert "device='cuda:7' is not there" in text
    assert "No run is finished yet." in text
    assert (tmp_path / "results" / "broken.zip").is_file()
