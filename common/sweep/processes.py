"""Processes that must not outlive the one that needs them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

MARK = "TRIALS_RUN"  # environment variable that everything a run starts inherits
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, signum: int = signal.SIGKILL) -> None:
    """Have the kernel send this process `signum` when its parent (process id `parent`) dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it died before we could ask
        sys.exit(f"process {parent} is gone")


def marked(mark: str, spare: Iterable[int] = ()) -> list[psutil.Process]:
    """The living processes that inherited `mark`, whatever session or parent they have by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid not in spare
                and process.environ().get(MARK) == mark
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.Error, OSError):  # gone, or someone else's
            continue
    return found


def kill_marked(mark: str, spare: Iterable[int] = (), patience: float = 5.0) -> None:
    """Kill every process that inherited `mark`, and those they start meanwhile."""
    deadline = time.monotonic() + patience
    while (left := marked(mark, spare)) and time.monotonic() < deadline:
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(left, timeout=0.2)


def machine() -> str:
    """Where process ids mean the same: this host, since this boot, in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def identity(pid: int) -> dict:
    """What tells this process from a later one with the same id."""
    return {"pid": pid, "created": psutil.Process(pid).create_time()}


def alive(process: dict) -> bool:
    """Whether the process of an `identity` taken on this machine lives (a zombie does not)."""
    try:
        found = psutil.Process(process["pid"])
        # The creation time is derived from the wall clock, which may be set meanwhile.
        same = abs(found.create_time() - process["created"]) < 5
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
