"""Batches that fail, are killed, stopped and shared; on real processes and a stub notebook."""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import psutil
import pytest
import sweep_stub

from common.base.paths import ROOT
from common.sweep import claims, earlier, execute, processes

PATIENCE = 60  # seconds; an upper limit for a loaded machine, never waited for

slow = pytest.mark.slow


@dataclass
class Batch:
    """Sweeps of one grid of stubs, as processes that can be found again by their environment."""

    root: Path
    notebook: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(
        self,
        *behaviours: tuple[str, float],
        workers: int = 2,
        budget: float | None = None,
        largest_file: int = resource.RLIM_INFINITY,
    ) -> subprocess.Popen:
        """budget: seconds; largest_file: bytes, beyond which writing fails as on a full disk."""
        arguments = [self.root, self.notebook, workers, json.dumps(behaviours)]
        arguments += [] if budget is None else [budget]
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE)
        return subprocess.Popen(
            [sys.executable, sweep_stub.__file__, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "STUB_MARK": self.mark, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=functools.partial(limit, (largest_file, largest_file)),
        )

    def run(self, *behaviours: tuple[str, float], **options: float) -> tuple[int, str]:
        process = self.start(*behaviours, **options)
        output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, output

    def folder(self, number: int) -> Path:
        return self.root / "stub" / f"run{number}"

    def executions(self, number: int) -> int:
        file = self.folder(number) / "executions"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def is_done(self, number: int) -> bool:
        return (self.folder(number) / "summary.csv").exists()

    def processes(self) -> list[psutil.Process]:
        """Every living process that descends from a sweep of this batch."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("STUB_MARK") == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def contents(self, number: int) -> dict[str, tuple[int, bytes]]:
        """Times and contents of the run's files."""
        files = [path for path in self.folder(number).iterdir() if path.is_file()]
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    made = Batch(tmp_path / "results", sweep_stub.write_notebook(tmp_path / "stub" / "stub.ipynb"))
    yield made
    for process in made.processes():  # after a failed test
        process.kill()


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def names(batch: Batch) -> list[str]:
    found = []
    for process in batch.processes():
        with suppress(psutil.Error):
            found.append(process.name())
    return found


@slow
def test_a_failing_run_stops_no_other_and_is_tried_again(batch: Batch) -> None:
    status, output = batch.run(("fail", 0), ("finish", 0), ("finish", 0))
    assert status == 1
    assert [batch.is_done(n) for n in range(3)] == [False, True, True]
    assert "of this network" in output
    assert os.path.relpath(batch.folder(0) / "notebook.ipynb", ROOT) in output
    assert "done 2, failed 1, left 0" in output
    error = (batch.folder(0) / "error.txt").read_text()
    assert error.endswith("ValueError: nothing is left\nof this network\n")
    assert "\x1b" not in error
    cells = nbformat.read(batch.folder(0) / "notebook.ipynb", 4).cells
    assert any(o.output_type == "error" for c in cells for o in c.get("outputs", []))

    finished = [batch.contents(n) for n in (1, 2)]
    status, output = batch.run(("finish", 0), ("finish", 0), ("finish", 0))
    assert status == 0, output
    assert "done 3, failed 0, left 0" in output
    assert [batch.executions(n) for n in range(3)] == [2, 1, 1]
    assert not (batch.folder(0) / "error.txt").exists()
    assert [batch.contents(n) for n in (1, 2)] == finished


@slow
def test_a_dead_kernel_and_a_missing_result_are_failures(batch: Batch) -> None:
    status, output = batch.run(("die", 0), ("forget", 0), ("finish", 0))
    assert status == 1
    assert "done 1, failed 2" in output
    assert "Kernel died" in output
    assert "without writing summary.csv" in output
    # A kernel may have been killed for its memory: it is tried again.
    assert [batch.executions(n) for n in range(3)] == [2, 1, 1]


@slow
def test_what_dies_for_lack_of_memory_is_tried_again_alone(batch: Batch) -> None:
    status, output = batch.run(("crowded", 0), *[("busy", 0)] * 3)
    assert status == 0, output
    assert "MemoryError: with" in output
    assert "tried again alone" in output
    assert [batch.executions(n) for n in range(4)] == [2, 1, 1, 1]
    assert "done 4, failed 0, left 0" in output


@slow
def test_without_others_lack_of_memory_is_a_failure(batch: Batch) -> None:
    status, output = batch.run(("crowded", 0), workers=1)
    assert status == 1
    assert "MemoryError: with 0 others" in output
    assert batch.executions(0) == 1


@slow
def test_a_time_budget_starts_only_what_should_end_in_time(batch: Batch) -> None:
    done = batch.folder(0)
    done.mkdir(parents=True)
    (done / "summary.csv").write_text("run_id\n")
    attempt = {"state": "done", "seconds": 1000.0}
    (done / "attempt-1.json").write_text(json.dumps(attempt))
    half = batch.folder(2)  # 30 of its 1000 seconds are left to do
    half.mkdir()
    (half / "checkpoint.pt").write_text("")
    progress = {"stage": "train", "epoch": 97, "epochs": 100, "test_accuracy": None}
    (half / "progress.json").write_text(json.dumps(progress))
    status, output = batch.run(*[("finish", 0)] * 4, budget=500)
    assert status == 0
    assert [batch.executions(n) for n in range(4)] == [0, 0, 1, 0]
    assert "done 2, failed 0, left 2" in output
    assert "out of time: True" in output


@slow
def test_a_time_budget_stops_what_is_under_way(batch: Batch) -> None:
    status, output = batch.run(("finish", 600), ("daemon", 600), ("finish", 0), budget=10)
    assert status == 0
    assert "done 0, failed 0, left 3" in output
    assert batch.processes() == []
    assert claims.last(batch.folder(0)).state == "stopped"


@slow
def test_where_nothing_can_be_written_any_more_the_sweep_gives_up(batch: Batch) -> None:
    behaviours = [("finish", 0), ("large", 0), *[("finish", 0)] * 3]
    status, output = batch.run(*behaviours, workers=1, largest_file=100_000)
    assert status == 1
    assert "nothing can be written" in output
    assert "done 1, failed 0, left 4" in output
    assert [batch.executions(n) for n in range(5)] == [1, 1, 0, 0, 0]
    assert not batch.is_done(1)
    status, output = batch.run(*behaviours, workers=1)
    assert status == 0, output
    assert [batch.executions(n) for n in range(5)] == [1, 2, 1, 1, 1]


@slow
def test_braces_in_a_path_are_no_parameters(tmp_path: Path) -> None:
    home = tmp_path / "{seed} {}"
    notebook = sweep_stub.write_notebook(home / "stub" / "stub.ipynb")
    (job,) = sweep_stub.make_jobs(home / "results", notebook, [("finish", 0)])
    assert execute.execute(job).state == "done"


@slow
def test_a_killed_worker_takes_its_kernel_along_and_the_batch_goes_on(batch: Batch) -> None:
    sweep = batch.start(("daemon", 600), ("finish", 0), workers=1)
    wait_for(lambda: batch.executions(0))
    worker = next(p for p in batch.processes() if "common.sweep.worker" in p.cmdline())
    worker.kill()
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1
    assert "ended by SIGKILL" in output
    assert batch.is_done(1)
    assert not batch.is_done(0)
    assert batch.processes() == []


@slow
def test_a_run_that_is_told_to_end_is_done_again(batch: Batch) -> None:
    sweep = batch.start(("finish", 2), workers=1)
    wait_for(lambda: batch.executions(0))
    worker = next(p for p in batch.processes() if "common.sweep.worker" in p.cmdline())
    worker.terminate()  # as when a batch system ends all processes of a job
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 0, output
    assert batch.executions(0) == 2


@slow
def test_a_killed_sweep_leaves_nothing_behind_and_can_be_continued(batch: Batch) -> None:
    sweep = batch.start(("finish", 0), ("daemon", 600), ("finish", 600), ("finish", 0))
    wait_for(lambda: batch.is_done(0) and batch.executions(1) and batch.executions(2))
    finished = batch.contents(0)
    sweep.kill()
    sweep.wait()
    wait_for(lambda: batch.processes() == [])
    assert [batch.is_done(n) for n in range(4)] == [True, False, False, False]
    for notebook in batch.root.glob("*/*/notebook.ipynb"):
        nbformat.read(notebook, 4)  # whole, however early the end came

    status, output = batch.run(*[("finish", 0)] * 4)
    assert status == 0, output
    assert [batch.executions(n) for n in range(4)] == [1, 2, 2, 1]
    assert batch.contents(0) == finished


@slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_sweep_ends_everything(batch: Batch, signum: signal.Signals) -> None:
    sweep = batch.start(("daemon", 600), ("finish", 600), ("finish", 0))
    wait_for(lambda: batch.executions(0) and batch.executions(1))
    sweep.send_signal(signum)
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 128 + signum
    assert "done 0, failed 0, left 3" in output
    assert batch.processes() == []
    assert claims.last(batch.folder(0)).state == "stopped"
    assert not any(batch.is_done(n) for n in range(3))


@slow
def test_two_sweeps_share_the_work(batch: Batch) -> None:
    behaviours = [("finish", 0.3)] * 5 + [("fail", 0.3)]
    sweeps = [batch.start(*behaviours) for _ in range(2)]
    outputs = [sweep.communicate(timeout=PATIENCE)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [1, 1], outputs
    assert all("done 5, failed 1, left 0" in output for output in outputs)
    assert [batch.executions(n) for n in range(6)] == [1] * 6


@slow
def test_a_sweep_takes_over_what_another_left_unfinished(batch: Batch) -> None:
    first = batch.start(("finish", 600), workers=1)
    wait_for(lambda: batch.executions(0))
    second = batch.start(("finish", 0), workers=1)
    time.sleep(3)  # it finds the run under way and waits
    assert batch.executions(0) == 1
    first.kill()
    first.wait()
    output, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, output
    assert batch.executions(0) == 2


@slow
def test_what_outlived_everything_else_ends_when_the_batch_goes_on(batch: Batch) -> None:
    sweep = batch.start(("daemon", 600))
    wait_for(lambda: "sleep" in names(batch))
    for process in batch.processes():
        if process.name() != "sleep":
            process.kill()
    sweep.wait()
    wait_for(lambda: names(batch) == ["sleep"])
    status, output = batch.run(("finish", 0))
    assert status == 0, output
    assert batch.processes() == []


@slow
def test_what_a_run_leaves_running_is_ended(batch: Batch) -> None:
    status, output = batch.run(("daemon", 0))
    assert status == 0, output
    assert batch.processes() == []


def test_a_run_is_claimed_once(tmp_path: Path) -> None:
    claim = claims.take(tmp_path)
    assert claims.take(tmp_path) is None
    assert claim.beat()
    claim.end("failed", "ValueError: no")
    attempt = claims.last(tmp_path)
    assert (attempt.number, attempt.state, attempt.error) == (1, "failed", "ValueError: no")
    assert claims.take(tmp_path).path.name == "attempt-2.json"


def test_a_claim_holds_as_long_as_its_worker(tmp_path: Path) -> None:
    claim = claims.take(tmp_path)
    worker = subprocess.Popen(["sleep", "600"])
    claim.shared_with(worker.pid)
    content = json.loads(claim.path.read_text())
    content["processes"][0]["pid"] = 2**22 + 1  # the sweep is gone
    claim.path.write_text(json.dumps(content))
    assert claims.take(tmp_path) is None
    worker.kill()  # not waited for: a zombie is dead
    wait_for(lambda: claims.take(tmp_path))
    worker.wait()


def test_a_claim_on_another_machine_holds_while_it_is_fresh(tmp_path: Path) -> None:
    claim = claims.take(tmp_path)
    content = json.loads(claim.path.read_text())
    claim.path.write_text(json.dumps({**content, "machine": "elsewhere"}))
    assert claims.take(tmp_path) is None
    old = time.time() - claims.ABANDONED - 1
    os.utime(claim.path, (old, old))
    taken = claims.take(tmp_path)
    assert taken.path.name == "attempt-2.json"
    assert not claim.beat(), "the first owner must learn that it lost the run"
    assert taken.beat()


def test_a_half_written_claim_counts_until_it_is_old(tmp_path: Path) -> None:
    file = tmp_path / "attempt-1.json"
    file.write_text("")
    assert claims.take(tmp_path) is None
    os.utime(file, (1, 1))
    assert claims.take(tmp_path) is not None


def test_a_reused_process_id_is_another_process() -> None:
    own = processes.identity(os.getpid())
    assert processes.alive(own)
    assert not processes.alive({**own, "created": own["created"] - 3600})


def test_a_claim_ends_whatever_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trouble(*arguments: object, **options: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(execute, "run_notebook", trouble)
    (job,) = sweep_stub.make_jobs(tmp_path, tmp_path / "stub.ipynb", [("finish", 0)])
    assert execute.execute(job).error == "RuntimeError: can't start new thread"
    assert claims.last(job.folder).state == "failed", "or nobody could ever do it again"


def test_a_failure_counts_in_the_sweep_that_saw_it(tmp_path: Path) -> None:
    (job,) = sweep_stub.make_jobs(tmp_path, tmp_path / "missing.ipynb", [("finish", 0)])
    job.folder.mkdir(parents=True)
    claims.take(job.folder).end("failed", "ValueError: no")
    outcome = execute.execute(job, since=0.0)
    assert (outcome.state, outcome.error) == ("failed", "ValueError: no")
    assert claims.last(job.folder).number == 1, "no second attempt"


def finished(folder: Path, text: str = "run_id\n") -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "summary.csv").write_text(text)


def test_results_of_an_earlier_session_are_taken_over(tmp_path: Path) -> None:
    notebook = tmp_path / "stub.ipynb"
    jobs = sweep_stub.make_jobs(tmp_path / "results" / "quick", notebook, [("finish", 0)] * 4)
    inputs = tmp_path / "input"
    first = inputs / "notebooks" / "someone" / "a-run" / "suite" / "results" / "quick" / "stub"
    finished(first / "run0")
    (first / "run1").mkdir()
    (first / "run1" / "checkpoint.pt").write_text("half")
    finished(inputs / "later" / "quick" / "stub" / "run1", "newer\n")
    (first / "run2").mkdir()
    (first / "run2" / "checkpoint.pt").write_text("half")
    (first / "run3").mkdir()  # it did not get as far as a checkpoint
    finished(jobs[0].folder, "own\n")
    assert earlier.take_over(jobs, inputs) == 1
    assert (jobs[0].folder / "summary.csv").read_text() == "own\n"
    assert (jobs[1].folder / "summary.csv").read_text() == "newer\n"
    assert (jobs[2].folder / "checkpoint.pt").read_text() == "half"
    assert not jobs[3].folder.exists()
    assert [path.name for path in (tmp_path / "results" / "quick").iterdir()] == ["stub"]
    assert earlier.take_over(jobs, tmp_path / "nowhere") == 0
