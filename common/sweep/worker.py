"""The child process of one run: `python -m common.sweep.worker`, its task as JSON on stdin.

The task: notebook, output, parameters, error (the file for a traceback), scratch (a folder that is
removed afterwards), parent (process id), processes: more than one share the run's trainings (see
`common.training.parallel`). Then torchrun starts as many of this module, the task in a file; each
executes the notebook, and only the first one's output and results are kept.
Exit status: 0 the notebook ran to its end, 1 it failed and `error` says how.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from common.base.files import write_atomically
from common.sweep.processes import MARK, end_with_parent, kill_marked

ANSI = re.compile(r"\x1b\[[0-9;]*m")
START = 600  # seconds that a kernel may take to start where much else runs; a dead one is noticed
LONGEST_SOCKET_PATH = 100  # in characters; the operating system's limit is 107, macOS's 103


def write_text(path: str, text: str) -> None:
    """Write a file that is there in full or, if we are killed meanwhile, as it was before."""
    write_atomically(Path(path), lambda whole: whole.write_text(text, encoding="utf-8"))


def execute(task: dict) -> None:
    """Execute the task's notebook; the output is saved after every cell, whole each time."""
    # jsonschema compiles a grammar for a check that no notebook needs: most of the import time.
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill
    from jupyter_client import AsyncKernelManager
    from papermill.iorw import LocalHandler, papermill_io
    from traitlets import default

    class Kernel(AsyncKernelManager):
        """This very Python, reached through socket files: ports could be taken by a neighbour."""

        @default("connection_file")
        def _connection_file(self) -> str:
            return str(Path(task["scratch"], "kernel.json"))

        @default("transport")
        def _transport(self) -> str:
            return "ipc" if len(self.connection_file) < LONGEST_SOCKET_PATH else "tcp"

        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            return [
                *(sys.executable, "-Xfrozen_modules=off", "-m", "common.sweep.kernel"),
                *("-f", self.connection_file, "--HistoryManager.enabled=False"),
            ]

    class Whole(LocalHandler):
        def write(self, buf: str, path: str) -> None:
            write_text(path, buf)

    papermill_io.register(task["output"], Whole())
    papermill.execute_notebook(
        _literal(task["notebook"]),
        _literal(task["output"]),
        parameters=task["parameters"],
        progress_bar=False,
        stdout_file=sys.stdout,
        stderr_file=sys.stdout,
        kernel_manager_class=Kernel,
        start_timeout=START,
        shutdown_kernel="immediate",  # the results are on disk; nothing to wait for
    )


def _literal(path: str) -> str:
    """The path as papermill is to be told it, which fills parameters in where it sees braces."""
    return path.replace("{", "{{").replace("}", "}}")


def describe(error: Exception) -> str:
    """The traceback as text, without colours; the last line says what went wrong."""
    cell = getattr(error, "traceback", None)  # papermill's: what the cell printed
    text = "\n".join(cell) if cell else "".join(traceback.format_exception(error))
    return ANSI.sub("", text).rstrip() + "\n"


def share(task: dict) -> int:
    """Have torchrun start the task's processes; returns the exit status."""
    path = Path(task["scratch"], "task.json")
    path.write_text(json.dumps(task | {"parent": None}), encoding="utf-8")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
    command = [*torchrun, str(task["processes"]), "-m", "common.sweep.worker", str(path)]
    return int(subprocess.run(command).returncode != 0)


def own_part(path: str) -> dict:
    """The task of one of several processes: a GPU of its own, and all but the first throw away what
    they write."""
    task = json.loads(Path(path).read_text(encoding="utf-8")) | {"processes": 1}
    rank, gpus = int(os.environ["RANK"]), os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.split(",")[rank]
    scratch = Path(task["scratch"], str(rank))
    scratch.mkdir()
    task |= {"scratch": str(scratch), "parent": os.getppid()}
    if rank:
        task["output"] = str(scratch / "notebook.ipynb")
        task["parameters"]["results_dir"] = str(scratch)
    return task


def main() -> int:
    task = own_part(sys.argv[1]) if sys.argv[1:] else json.load(sys.stdin)

    def stop(signum: int, frame: object) -> None:
        if not sys.argv[1:]:  # else torchrun asks; kernels end with their workers
            kill_marked(os.environ[MARK], spare=[os.getpid()])
        shutil.rmtree(task["scratch"], ignore_errors=True)
        os._exit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
    end_with_parent(task["parent"], signal.SIGTERM)
    if task["processes"] > 1:
        return share(task)
    try:
        execute(task)
    except Exception as error:
        if not Path(task["error"]).exists():  # of several processes the first to fail says why
            write_text(task["error"], describe(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
