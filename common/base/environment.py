"""Where a run happens: device, precision, versions, and who is looking."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from common.base.errors import ConfigurationError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PACKAGES = ("torch", "torchvision", "torchbearer", "numpy", "pandas", "papermill")


def resolve_device(name: str) -> torch.device:
    """`auto` -> the first GPU, or the CPU.

    Raises ConfigurationError if the device is not there, or is a GPU that this torch build has no
    code for.
    """
    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        device = torch.device("cuda:0" if torch.cuda.is_available() else mps)
    else:
        device = torch.device(name)
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= there:
        raise ConfigurationError(
            f"device={name!r} is not there: this torch sees "
            f"{torch.cuda.device_count() if torch.cuda.is_available() else 'no'} CUDA device(s); "
            "device='auto' takes what there is"
        )
    problem = unsupported_gpu_reason(device.index or 0) if device.type == "cuda" else None
    if problem:
        raise ConfigurationError(f"device={name!r}: {problem}")
    return device


def unsupported_gpu_reason(gpu: int) -> str | None:
    """Why this torch build cannot compute on a CUDA device, and what to choose instead; None if it
    can. Recent builds have no code for older GPUs, such as Kaggle's P100."""
    architectures, capability = torch.cuda.get_arch_list(), torch.cuda.get_device_capability(gpu)
    if torch.version.hip or has_code_for(capability, architectures):
        return None
    version = ".".join(map(str, capability))
    return (
        f"torch {torch.__version__} has no code for {torch.cuda.get_device_name(gpu)} (compute "
        f"capability {version}), only for {', '.join(architectures)}. Choose another accelerator "
        "(on Kaggle: T4 x2 in place of P100), or a torch build that has code for it (builds for "
        "CUDA 12.8 and later have none for the P100), or compute on the processor: device=cpu"
    )


def has_code_for(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a torch build for `architectures` (sm_75, compute_90 ...) runs on a GPU.

    Machine code runs on later minor versions of its major one; PTX (compute_) on everything later;
    what is specific to an architecture (sm_90a) on that alone.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
        if match is None:
            continue
        kind, version, own = match[1], (int(match[2]), int(match[3])), match[4] == "a"
        if own and version == capability:
            return True
        if not own and version <= capability and (kind == "compute" or version[0] == capability[0]):
            return True
    return False


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` -> the fastest arithmetic that the device is good at.

    bfloat16 where the hardware has it (CPUs with AVX512-BF16 or AMX, GPUs of compute capability 8.0
    and later), float16 on GPUs with tensor cores but without bfloat16 (V100, T4), else float32.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return (
            "bfloat16" if capability >= (8, 0) else "float16" if capability >= (7, 0) else "float32"
        )
    if device.type == "cpu" and {"avx512_bf16", "amx_bf16"} & _cpu_flags():
        return "bfloat16"
    return "float32"


def hardware(device: torch.device) -> str:
    """The device's name for people, its type first: `cuda: NVIDIA H100 80GB HBM3`,
    `cpu: AMD EPYC, 2 threads`."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "mps":
        return "mps: Apple GPU"
    threads = torch.get_num_threads()
    name = _cpu_info("model name") or platform.machine()
    return f"cpu: {name}, {threads} thread{'s' if threads > 1 else ''}"


def versions() -> dict[str, str]:
    """Of Python and the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def memory_format(device: torch.device) -> torch.memory_format:
    """How images and the weights of convolutions lie in memory on a device.

    channels_last, the quicker one, but on Apple's GPUs: there the backward pass of BatchNorm is
    wrong or fails on it (pytorch issue 175189).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def float64_device(device: torch.device) -> torch.device:
    """Where float64 is computed of what lies on `device`: there, but Apple's GPUs have none."""
    return torch.device("cpu") if device.type == "mps" else device


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given; a clock read before would tell nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def person_watches() -> bool:
    """Whether a progress bar has someone to look at it: a terminal, or a notebook run by hand.

    A Jupyter front end allows the kernel to ask for input, papermill does not.
    """
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stderr.isatty()


def _cpu_info(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _cpu_flags() -> set[str]:
    return set(_cpu_info("flags").split())
