"""Sweeps on a Dask cluster: a real scheduler, real workers on loopback, and the stub notebook."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import distributed
import psutil
import pytest
import sweep_stub
from test_sweep import Batch, wait_for

from common.base.errors import ConfigurationError
from common.base.paths import ROOT
from common.sweep import claims
from common.sweep.dask import remote, workers
from common.sweep.dask.cluster import Cluster
from common.sweep.dask.workers import Workers
from common.sweep.processes import MARK

PATIENCE = 120  # seconds; an upper limit for a loaded machine, never waited for
# What a machine with GPUs would answer, for a machine that has none.
PRELOAD = """
import os, sys
sys.path.insert(0, {root!r})
from common.sweep import slots
names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
slots.find_gpus = lambda: [slots.Gpu(name, 1e9) for name in names]
"""

slow = pytest.mark.slow


@dataclasses.dataclass
class Dask(Batch):
    """A scheduler and its workers, which carry the mark of the batch; and sweeps there."""

    address: str = ""

    def __post_init__(self) -> None:
        self.file = self.root.parent / "scheduler.json"
        host = ("--host", "127.0.0.1")
        self.scheduler = self._run("scheduler", *host, "--port", "0", "--no-show", "--no-dashboard")
        wait_for(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]

    def add(self, *options: str, **environment: str) -> psutil.Process:
        """Start a worker and wait for it."""
        with distributed.Client(self.address, set_as_default=False) as client:
            known = set(client.nthreads())
            process = self._run("worker", "--host", "127.0.0.1", *options, **environment)
            wait_for(lambda: set(client.nthreads()) - known)
        return psutil.Process(process.pid)

    def start(self, *behaviours: tuple[str, float]) -> subprocess.Popen:
        return super().start(*behaviours, workers=self.address)

    def runs(self) -> list[psutil.Process]:
        """Every living process that a run started."""
        found = []
        for process in self.processes():
            try:
                if MARK in process.environ():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def machine(self, number: int) -> int:
        """The process of the worker that last claimed a run."""
        content = json.loads(claims.last(self.folder(number)).path.read_text())
        return content["processes"][0]["pid"]

    def _run(self, what: str, *options: str, **environment: str) -> subprocess.Popen:
        with open(self.root.parent / "dask.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", what, "--scheduler-file", str(self.file), *options],
                cwd=self.root.parent,
                env={**os.environ, "STUB_MARK": self.mark, **environment},
                stdout=log,
                stderr=log,
            )


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    stub = sweep_stub.write_notebook(tmp_path / "stub" / "stub.ipynb")
    made = Dask(tmp_path / "results", stub)
    yield made
    for process in made.processes():
        process.kill()


def finished(sweep: subprocess.Popen) -> tuple[int, str]:
    output, _ = sweep.communicate(timeout=PATIENCE)
    return sweep.returncode, output


def wait_in(sweep: subprocess.Popen, what: Callable[[], object]) -> None:
    wait_for(lambda: what() or sweep.poll() is not None)
    assert sweep.poll() is None, finished(sweep)


def lose(worker: psutil.Process) -> None:
    """What happens to a machine that loses power: nobody there says goodbye."""
    for process in [worker, *worker.children()]:
        process.kill()


@slow
def test_a_cluster_and_a_local_sweep_share_the_work(dask: Dask) -> None:
    for _ in range(2):
        dask.add("--nthreads", "1")
    behaviours = [("finish", 0.3)] * 5 + [("fail", 0), ("daemon", 0)]
    sweeps = [dask.start(*behaviours), Batch.start(dask, *behaviours, workers=1)]
    outputs = [finished(sweep) for sweep in sweeps]
    assert [status for status, _ in outputs] == [1, 1], outputs
    assert all("done 6, failed 1, left 0" in output for _, output in outputs)
    assert "of this network" in outputs[0][1]
    assert [dask.executions(number) for number in range(7)] == [1] * 7
    assert dask.runs() == []
    assert not list(dask.root.glob(".*")), "what the workers were tested with"


@slow
@pytest.mark.parametrize(
    ("option", "signum"), [("--nanny", signal.SIGKILL), ("--no-nanny", signal.SIGTERM)]
)
def test_another_worker_does_the_run_of_a_lost_one(
    option: str, signum: signal.Signals, dask: Dask
) -> None:
    both = [dask.add("--nthreads", "1", option) for _ in range(2)]
    sweep = dask.start(("daemon", 5), ("daemon", 5), ("finish", 0))
    wait_in(sweep, lambda: dask.executions(0) and dask.executions(1))
    first = dask.machine(0)
    lost = next(one for one in both if first in [p.pid for p in (one, *one.children())])
    if signum == signal.SIGKILL:
        lose(lost)
    else:  # Slurm's scancel reaches all processes of a job
        for process in [lost, *lost.children(recursive=True)]:
            process.terminate()
    status, output = finished(sweep)
    assert status == 0, output
    assert [dask.executions(number) for number in range(3)] == [2, 1, 1]
    assert dask.machine(0) != first
    assert dask.runs() == []


@slow
def test_a_sweep_waits_for_workers_and_takes_new_ones(dask: Dask) -> None:
    lost = dask.add("--nthreads", "1")
    sweep = dask.start(("finish", 3), ("finish", 0))
    wait_in(sweep, lambda: dask.executions(0))
    lose(lost)
    wait_for(lambda: dask.runs() == [])
    dask.add("--nthreads", "1")
    status, output = finished(sweep)
    assert status == 0, output
    assert [dask.executions(number) for number in range(2)] == [2, 1]


@slow
def test_runs_end_with_their_sweep_and_the_workers_stay(dask: Dask) -> None:
    dask.add("--nthreads", "2")
    for signum in (signal.SIGTERM, signal.SIGKILL):
        sweep = dask.start(("daemon", 600), ("finish", 600), ("finish", 0))
        wait_in(sweep, lambda: len(dask.runs()) >= 4)  # two runs: each a worker and a kernel
        sweep.send_signal(signum)
        finished(sweep)
        if signum == signal.SIGTERM:
            assert sweep.returncode == 128 + signum
            assert dask.runs() == [], "the sweep waits for the end of its runs"
        wait_for(lambda: dask.runs() == [])
        wait_for(lambda: claims.last(dask.folder(0)).state == "stopped")
        assert not any(dask.is_done(number) for number in range(3))
    status, output = finished(dask.start(*[("finish", 0)] * 3))
    assert status == 0, output


@slow
def test_a_sweep_gives_up_when_the_scheduler_dies(dask: Dask) -> None:
    dask.add("--nthreads", "1")
    sweep = dask.start(("daemon", 600), ("finish", 0))
    wait_in(sweep, lambda: dask.executions(0))
    dask.scheduler.kill()
    status, output = finished(sweep)
    assert status == 1
    assert f"the scheduler at {dask.address} is gone" in output
    assert "Traceback" not in output
    wait_for(lambda: dask.runs() == [])


@slow
def test_every_run_sees_a_gpu_of_its_own(dask: Dask, tmp_path: Path) -> None:
    fake = tmp_path / "fake_gpus.py"
    fake.write_text(PRELOAD.format(root=str(ROOT)))
    # The first like a worker of dask-cuda, whose own GPU comes first of those it sees.
    for gpus, visible in ((1, "3,4,5"), (2, "GPU-a,GPU-b")):
        options = ("--nthreads", "2", "--resources", f"GPU={gpus}", "--preload", str(fake))
        dask.add(*options, CUDA_VISIBLE_DEVICES=visible)
    sweep = dask.start(*[("finish", 600)] * 5)
    wait_in(sweep, lambda: sum(dask.executions(number) for number in range(5)) == 3)
    kernels = [
        psutil.Process(int((dask.folder(number) / "executions").read_text()))
        for number in range(5)
        if dask.executions(number)
    ]
    seen = sorted(kernel.environ()["CUDA_VISIBLE_DEVICES"] for kernel in kernels)
    assert seen == ["3", "GPU-a", "GPU-b"]
    sweep.terminate()
    assert finished(sweep)[0] == 128 + signal.SIGTERM
    assert dask.runs() == []


@slow
def test_a_run_short_of_memory_is_tried_again_alone_on_a_machine(dask: Dask) -> None:
    dask.add("--nthreads", "2")
    status, output = finished(dask.start(("crowded", 0), ("busy", 0), ("finish", 0)))
    assert status == 0, output
    assert dask.executions(0) == 2


@slow
def test_a_run_that_its_workers_do_not_survive_fails(
    dask: Dask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    worker = dask.add("--nthreads", "1")
    sweep = dask.start(("finish", 600))
    wait_in(sweep, lambda: dask.executions(0))
    lose(worker)
    status, output = finished(sweep)
    assert status == 1
    assert "1 workers were lost with it, the last at tcp://127.0.0.1:" in output


@slow
def test_without_workers_nothing_starts(dask: Dask) -> None:
    dask.root.mkdir()
    with pytest.raises(ConfigurationError, match="no workers yet; start some with `dask worker"):
        Cluster(dask.address, dask.root)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "foo://there:1"])
def test_an_unreachable_scheduler_is_one_error(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "TIMEOUT", 0.5)
    with pytest.raises(ConfigurationError, match=f"--scheduler {address}: no Dask scheduler"):
        Cluster(address, tmp_path)


def test_without_the_package_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigurationError, match=r"pip install -r requirements-cluster\.txt"):
        Cluster("tcp://127.0.0.1:8786", tmp_path)


HERE = {"packages": {"python": "3.11.7.final.0", "distributed": "2026.8.0"}}
OTHER = {"packages": {"python": "3.12.1.final.0", "distributed": "2026.8.0"}}


class Client:
    """Stands in for a Dask client; its workers look around in this process.

    announced: the GPUs of each worker. versions: where not ours. differently: what is found on a
    worker that would not be found here, or the error of looking.
    """

    def __init__(self, **announced: int) -> None:
        self.announced = announced
        self.versions: dict[str, dict] = {}
        self.differently: dict[str, dict | Exception] = {}
        self.examined: list[str] = []

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.announced, 2)

    def get_versions(self) -> dict:
        found = {one: self.versions.get(one, HERE) for one in ["scheduler", *self.announced]}
        return {"client": HERE, "scheduler": found.pop("scheduler"), "workers": found}

    def run(self, function: object, packed: bytes, workers: list[str], on_error: str) -> dict:
        self.examined += workers
        answers = {}
        for one in workers:
            resources = {"GPU": self.announced[one]} if self.announced[one] else {}
            state = SimpleNamespace(nthreads=2, total_resources=resources)
            different = self.differently.get(one, {})
            if isinstance(different, Exception):
                answers[one] = different
            else:
                found = remote.look(SimpleNamespace(state=state), *pickle.loads(packed))
                answers[one] = dataclasses.replace(found, **different)
        return answers


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    remote._gpus.cache_clear()
    monkeypatch.setattr(remote.slots, "find_gpus", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield
    remote._gpus.cache_clear()


@pytest.mark.parametrize(
    ("different", "problem"),
    [
        ({"imported": "0"}, "has imported another version of .*common/sweep; start it"),
        ({"read": "0"}, "sees another version of .* than is here; let all share one folder"),
        ({"trouble": "is not there"}, "results is not there; choose a folder .* with --results"),
        (
            ModuleNotFoundError("No module named 'common'"),
            "cannot import .*No module named 'common'",
        ),
        ({"announced": 1}, "announces GPU=1, but torch sees 0 there"),
        ({"gpus": ["0", "1"]}, "announces no GPU, but torch sees 2 there; .* --resources GPU=2"),
    ],
)
def test_an_unfit_worker_is_named_with_what_would_be_right(
    different: dict | Exception, problem: str, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    root.mkdir()
    client = Client(a=0, b=0)
    client.differently["b"] = different
    found = Workers(client, root, gpu_wanted=True)
    problems = found.look(first=True)
    assert list(problems) == ["b"]
    assert re.search(problem, problems["b"])
    assert list(found.fit) == ["a"]
    assert (found.places(), len(found.machines())) == (2, 1)
    assert found.look() == {}, "what is known is not said again"
    assert client.examined == ["a", "b"]


def test_other_versions_are_named_before_any_code_is_sent(tmp_path: Path) -> None:
    client = Client(a=0, b=0)
    client.versions["b"] = OTHER
    problems = Workers(client, tmp_path, gpu_wanted=False).look(first=True)
    assert re.match(r"has Python 3\.12 and distributed .*, here is Python 3\.11", problems["b"])
    assert client.examined == ["a"]
    client.versions["scheduler"] = OTHER
    with pytest.raises(ConfigurationError, match=r"the scheduler has Python 3\.12 and"):
        Workers(client, tmp_path, gpu_wanted=False).look(first=True)


def test_another_folder_of_the_same_name_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SHARED", 0.2)
    here, there = tmp_path / "here", tmp_path / "there"
    worker = SimpleNamespace(state=SimpleNamespace(nthreads=1, total_resources={}))
    assert remote.look(worker, there, "sign", False).trouble == "is not there"
    here.mkdir()
    there.mkdir()
    (here / "sign").touch()
    assert remote.look(worker, here, "sign", False).trouble is None
    assert remote.look(worker, there, "sign", False).trouble == "is another folder there than here"


def test_what_the_first_workers_have_decides_between_gpu_and_cpu(tmp_path: Path) -> None:
    client = Client(a=1)
    client.differently["a"] = {"gpus": ["0"], "machine": "one"}
    found = Workers(client, tmp_path, gpu_wanted=True)
    assert found.look(first=True) == {}
    assert (found.gpu, found.places()) == (True, 1)
    client.announced["b"] = 0
    client.announced["c"] = 1
    client.differently["c"] = {"gpus": ["0"], "machine": "two"}
    assert list(found.look()) == ["b"], "its runs would be done on a CPU"
    assert found.places() == 2
    del client.announced["a"]
    assert found.look() == {}
    assert (found.gpu, found.places()) == (True, 1)


def test_two_workers_on_one_gpu_are_noticed(tmp_path: Path) -> None:
    client = Client(a=1, b=1)
    client.differently = {one: {"gpus": ["0", "1"]} for one in "ab"}
    problems = Workers(client, tmp_path, gpu_wanted=True).look(first=True)
    assert "would use the same GPU" in problems["b"]
    client.differently["b"]["visible"] = "1"
    assert Workers(client, tmp_path, gpu_wanted=True).look(first=True) == {}


def test_runs_for_the_cpu_ask_for_no_gpu(tmp_path: Path) -> None:
    client = Client(a=1)
    found = Workers(client, tmp_path, gpu_wanted=False)
    assert found.look(first=True) == {}
    assert (found.gpu, found.places()) == (False, 2)
