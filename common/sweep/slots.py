"""How many runs at a time, and what each of them sees of the machine."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from common.base.errors import ConfigurationError

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_LOOK = """
import json, torch
print(json.dumps([torch.cuda.mem_get_info(n)[0] for n in range(torch.cuda.device_count())]))
"""
SHARE = 0.9  # of the memory that is free
MOST = 4  # runs on one GPU, where nobody says how many
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Large tensors on a CPU: from memory that is kept, in huge pages, not asked of the system anew each
# time. A tenth of ResNet-20's step, to the same bit. Only glibc reads it.
_ALLOCATION = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        **{"hugetlb": 1, "top_pad": 1 << 28},
        **{"mmap_threshold": 1 << 30, "trim_threshold": 1 << 30},
    }.items()
)


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time: the environment variables that give it its share, and how many
    processes share the run, a GPU each."""

    environment: dict[str, str]
    processes: int = 1

    @property
    def gpu(self) -> str | None:
        """The GPU that its run sees, as CUDA_VISIBLE_DEVICES calls it."""
        return self.environment.get("CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Gpu:
    """name: what CUDA_VISIBLE_DEVICES would call it; free: bytes of its memory."""

    name: str
    free: float


def slots(
    devices: Iterable[str],
    jobs: int | None = None,
    per_gpu: int | None = None,
    memory: float = 0.0,
    processes: int = 1,
) -> list[Slot]:
    """The places that this machine has for runs on `devices` (values of the parameter).

    On every GPU `per_gpu`; else as many as make `jobs` in all; else as many as have `memory` bytes
    each and a core. On a CPU `jobs`; else one with all threads. Both given: no more than `jobs` in
    all. processes: of each run, a GPU each, or a part of the cores. Raises ConfigurationError for a
    `per_gpu` without a GPU, or fewer GPUs than a run has processes.
    """
    anywhere = set(devices) <= {"auto", "cuda"}
    gpus = find_gpus() if anywhere else []
    if per_gpu and not gpus:
        raise ConfigurationError("--per-gpu: there is no GPU for these runs; use --jobs")
    if processes > 1:
        return _shared(gpus, jobs, per_gpu, processes)
    even = math.ceil((jobs or 0) / max(len(gpus), 1))
    shares = [per_gpu or even or _fitting(gpu, memory, cores() // len(gpus)) for gpu in gpus]
    # The first run on every GPU comes before the second on any.
    names = [
        gpu.name
        for n in range(max(shares, default=0))
        for gpu, share in zip(gpus, shares, strict=True)
        if n < share
    ][:jobs]
    number = len(names) or jobs or 1
    shared = _threads(number)
    if names:
        return [Slot({**shared, "CUDA_VISIBLE_DEVICES": name}) for name in names]
    shared["GLIBC_TUNABLES"] = os.environ.get("GLIBC_TUNABLES", _ALLOCATION)
    return [Slot(shared) for _ in range(number)]


def _shared(gpus: list[Gpu], jobs: int | None, per_gpu: int | None, processes: int) -> list[Slot]:
    """Places for runs that take several GPUs each."""
    if per_gpu:
        raise ConfigurationError(f"--per-gpu: with gpus: {processes} a run has its GPUs to itself")
    if gpus and len(gpus) < processes:
        raise ConfigurationError(f"gpus: {processes}, but this machine has {len(gpus)}")
    most = len(gpus) // processes or 1
    number = min(jobs or most, most)
    shared = _threads(number * processes)
    taken = [gpus[processes * n : processes * (n + 1)] for n in range(number)]
    visible = [",".join(gpu.name for gpu in some) for some in taken]
    return [
        Slot({**shared, "CUDA_VISIBLE_DEVICES": names} if names else shared, processes)
        for names in visible
    ]


def _threads(number: int) -> dict[str, str]:
    """Each one's share of the cores, of so many."""
    # What the caller chose for one library holds for all: two that differ get in each other's way.
    chosen = [os.environ[name] for name in _THREADS if name in os.environ]
    threads = chosen[0] if chosen else str(max(1, cores() // number))
    return {name: threads for name in _THREADS if name not in os.environ}


def _fitting(gpu: Gpu, memory: float, cores: int) -> int:
    """Runs for which the GPU has memory, and the machine a core each to feed it."""
    fitting = int(SHARE * gpu.free // memory) if memory else 1
    return max(1, min(fitting, cores, MOST))


def cores() -> int:
    """The processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def find_gpus() -> list[Gpu]:
    """The GPUs that torch sees, and could run on.

    A child process looks: this one never touches a GPU, whose memory its runs need.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and not (shutil.which("nvidia-smi") or any(map(os.path.exists, _DRIVERS))):
        return []
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LOOK], capture_output=True, text=True
    )
    free = json.loads(child.stdout) if child.returncode == 0 else []
    names = visible.split(",") if visible else [str(n) for n in range(len(free))]
    return [Gpu(*found) for found in zip(names, free, strict=False)]
