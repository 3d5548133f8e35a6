"""What this machine has, and whether the quick grid could run on it."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from common import environment
from common.datasets import DATASETS, SOURCES, folders
from common.errors import ConfigurationError
from common.sweep.plan import check_writable
from common.sweep.slots import cores

LEAST_DISK = 1  # GB; the quick grid takes far less, but a full disk is no place to start


@dataclass(frozen=True)
class Finding:
    """One line. fatal: the quick grid could not run."""

    topic: str
    text: str
    fatal: bool = False


def examine(root: Path, data_dir: str | None = None) -> list[Finding]:
    """Everything worth knowing before a batch with results under `root`."""
    return [
        Finding(
            "Python", f"{platform.python_version()}, {sys.executable}", sys.version_info < (3, 10)
        ),
        Finding("processor", f"{environment.hardware(torch.device('cpu'))} of {cores()} cores"),
        *_gpus(),
        *_precision(),
        *_kernel(),
        _disk(root),
        *(_data(name, data_dir) for name in DATASETS),
    ]


def show(findings: Sequence[Finding], console: Console) -> bool:
    """Print the findings; returns whether the quick grid could run here."""
    for finding in findings:
        mark = "[red]✗[/red]" if finding.fatal else "·"
        console.print(f"{mark} {finding.topic:<10} {escape(finding.text)}", soft_wrap=True)
    ready = not any(finding.fatal for finding in findings)
    verdict = "[green]The quick grid can run here.[/green]" if ready else "See ✗ above first."
    console.print(verdict)
    return ready


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


def _gpus() -> Iterator[Finding]:
    build = f"torch {torch.__version__}"
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            yield Finding("GPU", f"{build} cannot use it: driver too old, or a build for CPUs")
        else:
            yield Finding("GPU", f"none ({build}); the CPU is enough for the quick grid")
        return
    architectures = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(number)
        version = ".".join(map(str, capability))
        name = f"{torch.cuda.get_device_name(number)}, compute capability {version}"
        if torch.version.hip or has_code_for(capability, architectures):
            yield Finding("GPU", f"{name}; {build}")
        else:
            yield Finding("GPU", _without_code(name, build, architectures), fatal=True)


def _without_code(name: str, build: str, architectures: Sequence[str]) -> str:
    return (
        f"{name}: {build} has no code for it (only for {', '.join(architectures)}). Choose another "
        "accelerator (on Kaggle: T4 x2 in place of P100), or a torch build that has code for it "
        "(builds for CUDA 12.8 and later have none for the P100), or run with -p device=cpu"
    )


def _precision() -> Iterator[Finding]:
    try:
        device = environment.resolve_device("auto")
        yield Finding(
            "precision", f"auto is {environment.resolve_precision('auto', device)} on {device}"
        )
    except (ConfigurationError, RuntimeError) as error:
        yield Finding("precision", str(error), fatal=True)


def _kernel() -> Iterator[Finding]:
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError as error:
        yield Finding("kernel", f"{error}; pip install -r requirements.txt", fatal=True)
        return
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
        yield Finding("kernel", f"python3 ({spec.display_name})")
    except NoSuchKernel:
        yield Finding("kernel", "no Jupyter kernel python3; pip install ipykernel", fatal=True)


def _disk(root: Path) -> Finding:
    try:
        check_writable(root)
    except ConfigurationError as error:
        return Finding("results", str(error), fatal=True)
    free = shutil.disk_usage(root).free / 1e9
    return Finding("results", f"{root}, {free:.0f} GB free", fatal=free < LEAST_DISK)


def _data(name: str, data_dir: str | None) -> Finding:
    if name not in SOURCES:
        return Finding("data", f"{name}: comes with scikit-learn")
    source = SOURCES[name]
    try:
        folder = folders.find(source.folder, data_dir)
        if folder is None:
            home = folders.home(data_dir)
            return Finding("data", f"{name}: not here; will be downloaded to {home} when needed")
        problem = source.problem(folder)
    except ConfigurationError as error:
        return Finding("data", f"{name}: {error}")
    return Finding("data", f"{name}: {folder}{f' cannot be used: {problem}' if problem else ''}")
