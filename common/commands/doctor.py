"""What this machine has, and whether the quick grid could run on it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from common.base import environment
from common.base.errors import ConfigurationError
from common.base.files import make_writable
from common.base.version import CODE_VERSION, code_version
from common.datasets import DATASETS, SOURCES, folders
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
        _code(),
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


def _gpus() -> Iterator[Finding]:
    build = f"torch {torch.__version__}"
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            yield Finding("GPU", f"{build} cannot use it: driver too old, or a build for CPUs")
        else:
            yield Finding("GPU", f"none ({build}); the CPU is enough for the quick grid")
        return
    for number in range(torch.cuda.device_count()):
        version = ".".join(map(str, torch.cuda.get_device_capability(number)))
        name = f"{torch.cuda.get_device_name(number)}, compute capability {version}; {build}"
        problem = environment.unsupported_gpu_reason(number)
        yield Finding("GPU", problem or name, fatal=problem is not None)


def _precision() -> Iterator[Finding]:
    try:
        device = environment.resolve_device("auto")
        yield Finding(
            "precision", f"auto is {environment.resolve_precision('auto', device)} on {device}"
        )
    except ConfigurationError:
        return  # the line about the GPU says why
    except RuntimeError as error:
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


def _code() -> Finding:
    try:
        version = code_version()
    except ConfigurationError as error:
        return Finding("code", str(error), fatal=True)
    if version == "unknown":
        advice = f"name the commit in {CODE_VERSION} to be able to publish its results"
        return Finding("code", f"unknown version, a tree without git; {advice}")
    told = os.environ.get(CODE_VERSION)
    return Finding("code", f"{version}{f', from {CODE_VERSION}' if told else ''}")


def _disk(root: Path) -> Finding:
    try:
        make_writable(root, "choose a folder with --results")
    except ConfigurationError as error:
        return Finding("results", str(error), fatal=True)
    free = shutil.disk_usage(root).free / 1e9
    return Finding("results", f"{root}, {free:.0f} GB free", fatal=free < LEAST_DISK)


def _data(name: str, data_dir: str | None) -> Finding:
    if name not in SOURCES:
        return Finding("data", f"{name}: comes with scikit-learn")
    source = SOURCES[name]
    try:
        folder = folders.locate(source, data_dir)
        if folder is None:
            home = folders.home(data_dir)
            if not source.downloads:
                return Finding("data", f"{name}: not here; {source.advice(home)}")
            return Finding("data", f"{name}: not here; will be downloaded to {home} when needed")
        problem = source.problem(folder)
    except ConfigurationError as error:
        return Finding("data", f"{name}: {error}")
    return Finding("data", f"{name}: {folder}{f' cannot be used: {problem}' if problem else ''}")
