"""How many runs at a time, and what each of them sees of the machine."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from common.errors import ConfigurationError

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_own = threading.local()


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time: the environment variables that give it its share."""

    environment: dict[str, str]


def slots(
    devices: Iterable[str], jobs: int | None = None, per_gpu: int | None = None
) -> list[Slot]:
    """The places that this machine has for runs on `devices` (values of the parameter).

    One for every GPU (or `per_gpu`), or one with all threads on a CPU; `jobs` in total if given.
    """
    anywhere = set(devices) <= {"auto", "cuda"}
    gpus = find_gpus() if anywhere else []
    if per_gpu and not gpus:
        raise ConfigurationError("--per-gpu: there is no GPU for these runs; use --jobs")
    number = jobs or len(gpus) * (per_gpu or 1) or 1
    threads = str(max(1, cores() // number))
    shared = {name: threads for name in _THREADS if name not in os.environ}
    return [
        Slot({**shared, **({"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} if gpus else {})})
        for n in range(number)
    ]


def cores() -> int:
    """The processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def find_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES would call each GPU that torch sees.

    A child process looks: this one never touches a GPU, whose memory its runs need.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and not (shutil.which("nvidia-smi") or any(map(os.path.exists, _DRIVERS))):
        return []
    code = "import torch; print(torch.cuda.device_count())"
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    count = int(child.stdout) if child.returncode == 0 else 0
    return visible.split(",")[:count] if visible else [str(n) for n in range(count)]


def local_executor(places: list[Slot]) -> ThreadPoolExecutor:
    """An executor of one thread for each slot; see `environment`."""
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in places:
        free.put(slot)

    def take() -> None:
        _own.slot = free.get_nowait()

    return ThreadPoolExecutor(len(places), thread_name_prefix="run", initializer=take)


def environment() -> dict[str, str]:
    """The variables of this thread's slot; none where the executor is not a local one."""
    slot = getattr(_own, "slot", None)
    return slot.environment if slot else {}
