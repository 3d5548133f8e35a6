"""A batch of stub runs in a process of its own: `python tests/sweep_stub.py` (see `main`).

The sweep under test is the real one; only the notebook is a stub without torch, so that a test that
kills and restarts batches takes seconds. A run's behaviour is one of its parameters, see NOTEBOOK.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from pathlib import Path

import nbformat
from rich.console import Console

from common.base.files import write_probe
from common.sweep import report
from common.sweep.dask.cluster import Cluster
from common.sweep.loop import Sweep
from common.sweep.plan import Job
from common.sweep.pool import Local
from common.sweep.slots import slots

PARAMETERS = 'folder = ""\nbehaviour = "finish"\nseconds = 0.0'
NOTEBOOK = """
import json, os, subprocess, time
from pathlib import Path

folder = Path(folder)
with open(folder / "executions", "a") as file:
    file.write(f"{os.getpid()}\\n")
progress = {"stage": "train", "epoch": 1, "epochs": 2, "test_accuracy": 12.5, "updated": 0}
(folder / "progress.json").write_text(json.dumps(progress))
if behaviour == "daemon":  # something that would outlive the kernel
    subprocess.Popen(["sleep", "600"], start_new_session=True)
time.sleep(seconds)
if behaviour == "fail":
    raise ValueError("nothing is left\\nof this network")
if behaviour == "die":
    os.kill(os.getpid(), 9)
if behaviour == "crowded":  # enough memory only for one alone, at the second try
    others = list(folder.parent.glob("*/busy"))
    if others or len((folder / "executions").read_text().splitlines()) == 1:
        raise MemoryError(f"with {len(others)} others")
if behaviour == "busy":
    (folder / "busy").write_text("")
    time.sleep(1)
    (folder / "busy").unlink()
if behaviour == "large":
    (folder / "epochs.csv").write_text("0" * 2**18)
if behaviour != "forget":
    (folder / "summary.csv").write_text("run_id\\n")
"""


def write_notebook(path: Path) -> Path:
    """The stub at `path`."""
    cell = nbformat.v4.new_code_cell
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=[cell(PARAMETERS, metadata={"tags": ["parameters"]}), cell(NOTEBOOK)],
        metadata={"kernelspec": kernel},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def make_jobs(root: Path, notebook: Path, behaviours: list[tuple[str, float]]) -> list[Job]:
    """One job for every (behaviour, seconds)."""
    jobs = []
    for number, (behaviour, seconds) in enumerate(behaviours):
        folder = root / "stub" / f"run{number}"
        parameters = {"folder": str(folder), "behaviour": behaviour, "seconds": seconds}
        jobs.append(Job("stub", folder.name, folder, notebook, parameters))
    return jobs


def main() -> int:
    """Sweep as told on the command line: root, notebook, workers (how many, or the address of a
    scheduler), [[behaviour, seconds], ...], and the seconds of a time budget if there is one."""
    # The tests may have been started with these ignored (nohup, a shell's &), which is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    root, notebook = Path(sys.argv[1]), Path(sys.argv[2])
    workers, behaviours = sys.argv[3], json.loads(sys.argv[4])
    console = Console(width=200)
    jobs = make_jobs(root, notebook, behaviours)
    deadline = time.monotonic() + float(sys.argv[5]) if len(sys.argv) > 5 else math.inf
    root.mkdir(exist_ok=True)
    since = write_probe(root)
    local = workers.isdigit()
    pool = Local(slots(["cpu"], int(workers))) if local else Cluster(workers, root)
    ended = Sweep(jobs, since, console, deadline).run(pool)
    report.show_failures(ended.failed, console)
    print(f"done {ended.done}, failed {len(ended.failed)}, left {len(ended.unfinished)}")
    print(f"out of time: {ended.out_of_time}, trouble: {ended.trouble}")
    return ended.status


if __name__ == "__main__":
    sys.exit(main())
