"""One job from claim to result. Any `concurrent.futures` executor may call `execute`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.base.paths import ROOT
from common.datasets import folders
from common.results.run_folder import is_done
from common.sweep import claims
from common.sweep.plan import Job
from common.sweep.processes import MARK, kill_marked

POLL = 0.1  # seconds
GRACE = 3.0  # seconds that a worker has to end by itself
# What torch, CUDA's libraries, Python and C++ say; and what is seen of a process that the
# operating system killed to get its memory back.
_MEMORY = re.compile(
    r"out of memory|OutOfMemory|MemoryError|can't allocate memory|Cannot allocate memory"
    r"|ALLOC_FAILED|bad_alloc|Kernel died|ended by SIGKILL"
)


class Stop(Protocol):
    """What tells a run to end: a threading.Event, or a look at a cluster's scheduler."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class Outcome:
    """What came of a job: done, failed (with the error's last line), stopped, or `elsewhere`:
    another sweep is at it. seconds: if we did it from its start."""

    state: str
    error: str | None = None
    seconds: float | None = None

    @property
    def short_of_memory(self) -> bool:
        """Whether it failed, and for lack of memory as far as can be seen."""
        return self.state == "failed" and bool(_MEMORY.search(self.error or ""))


def execute(
    job: Job,
    since: float = 0.0,
    stop: Stop | None = None,
    environment: Mapping[str, str] | None = None,
    processes: int = 1,
) -> Outcome:
    """Do the job, unless it is done or someone else is at it, and say what came of it.

    A failure recorded after the file time `since` counts; an earlier one is tried again. When
    `stop` is set, the run and everything it started are ended. environment: variables that give
    the run its share of the machine; processes: how many share the run, a GPU each.
    """
    if is_done(job.folder):
        return Outcome("done")
    job.folder.mkdir(parents=True, exist_ok=True)
    claim = claims.take(job.folder)
    if claim is None:
        return Outcome("elsewhere")
    earlier = claim.previous
    if is_done(job.folder):  # between our look and our claim
        claim.withdraw()
        return Outcome("done")
    if earlier and earlier.state == "failed" and earlier.changed >= since:
        claim.withdraw()
        return Outcome("failed", earlier.error)
    beat = _every(claims.BEAT, claim.beat)
    try:
        if earlier and earlier.state == "running":  # abandoned; what it started may live on
            kill_marked(str(earlier.path))
        for leftover in ("progress.json", "error.txt"):  # of an earlier attempt
            (job.folder / leftover).unlink(missing_ok=True)
        ended = run_notebook(
            job.notebook,
            job.folder / "notebook.ipynb",
            job.parameters,
            mark=str(claim.path),
            started=claim.shared_with,
            environment=environment,
            carry_on=lambda: beat() and not (stop and stop.is_set()),
            processes=processes,
        )
    except Exception as error:  # no memory for a process, no space for its files ...
        ended = Outcome("failed", f"{type(error).__name__}: {error}")
    if ended is None and not is_done(job.folder):
        ended = Outcome("failed", "the notebook ended without writing summary.csv")
    if ended is None:
        seconds = claim.end("done")
        return Outcome("done", seconds=None if earlier else seconds)
    claim.end(ended.state, ended.error)
    return ended


def run_notebook(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, object],
    mark: str,
    started: Callable[[int], None] = lambda pid: None,
    carry_on: Callable[[], bool] = lambda: True,
    environment: Mapping[str, str] | None = None,
    processes: int = 1,
) -> Outcome | None:
    """Execute a notebook in a process of its own, or in several; None if it ran to its end, else
    what happened.

    Beside `output`: log.txt, and error.txt with the traceback if it failed. `started` is told the
    process id; when `carry_on` returns False everything is ended. Nothing is left running: all that
    it starts inherits `mark`, by which it is found, and which no other process may have.
    """
    error = output.with_name("error.txt")
    stopped = False
    with (
        tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as scratch,
        open(output.with_name("log.txt"), "wb") as log,
    ):
        task = {
            "notebook": str(notebook),
            "output": str(output),
            "parameters": dict(parameters),
            "error": str(error),
            "scratch": scratch,
            "parent": os.getpid(),
            "processes": processes,
        }
        process = _start(task, log, _environment(environment or {}, mark, scratch))
        try:
            started(process.pid)
            while process.poll() is None and not stopped:
                time.sleep(POLL)
                stopped = not carry_on()
        finally:
            _end(process, mark)
    if process.returncode == 0 and not stopped:
        return None
    if stopped or process.returncode == 128 + signal.SIGTERM:  # a batch system asks all to end
        return Outcome("stopped")
    return Outcome("failed", _reason(error, process.returncode))


def _environment(share: Mapping[str, str], mark: str, scratch: str) -> dict[str, str]:
    """Of a run: its share of the machine, our data folder (its working folder is another); nothing
    of this user's IPython."""
    data = {"TRIALS_DATA": str(folders.DATA)} if folders.DATA.is_dir() else {}
    own = {MARK: mark, "IPYTHONDIR": scratch, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return {**data, **kept, **share, **own}


def _start(task: dict, log: object, environment: dict[str, str]) -> subprocess.Popen:
    """A session of its own: the terminal's Ctrl-C is for the sweep, which ends its workers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "common.sweep.worker"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )
    with suppress(BrokenPipeError), process.stdin as pipe:  # it died: its exit status will tell
        pipe.write(json.dumps(task).encode())
    return process


def _end(process: subprocess.Popen, mark: str) -> None:
    """End the worker, gently first, and then whatever it left behind."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    kill_marked(mark)


def _reason(error: Path, status: int) -> str:
    """The last line of what went wrong."""
    with suppress(OSError, IndexError):
        return error.read_text(encoding="utf-8").rstrip().splitlines()[-1]
    if status < 0:
        memory = "; the machine may be short of memory" if status == -signal.SIGKILL else ""
        return f"the run was ended by {signal.Signals(-status).name}{memory}"
    return f"the worker ended with exit status {status}; see log.txt"


def _every(seconds: float, call: Callable[[], bool]) -> Callable[[], bool]:
    """`call`, but no more often than that; between calls the last answer holds."""
    last, answer = time.monotonic(), True

    def limited() -> bool:
        nonlocal last, answer
        if time.monotonic() - last >= seconds:
            last, answer = time.monotonic(), call()
        return answer

    return limited
