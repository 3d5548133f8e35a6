"""Colab and Kaggle, simulated: GPUs that torch has no code for, a repository that cannot be
written, a working folder with a quota, no network."""

import os
import subprocess
import sys
from pathlib import Path

import kaggle_machine
import pandas as pd
import pytest
import torch

from common import bootstrap, environment
from common.errors import ConfigurationError
from common.experiment import configure
from common.studies import tables
from common.sweep import doctor

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


@pytest.fixture
def kaggle(tmp_path):
    """`run(size, command)` on a machine like Kaggle's that has the suite attached; what it leaves
    in its working folder lies in `working`."""
    if not kaggle_machine.AVAILABLE:
        pytest.skip("this system lets no user make namespaces")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
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
    assert not list(kaggle.working.rglob("*.part*"))
