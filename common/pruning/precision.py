"""Scoring in whole float32, and what is summed in float64.

On A100, H100 and their like torch lets cuDNN's convolutions round float32 inputs to TF32's 10 bits,
and matrix products where a program asks for it. A training bears that. A ranking does not: of the
weights that SNIP or GraSP keep at high sparsity, several percent would be others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from common.base import environment

_HAS_PRECISIONS = hasattr(torch.backends.cudnn, "conv")  # from torch 2.9 on


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Inside, no convolution or matrix product in float32 has less than its 24 bits; afterwards the
    process's settings are as they were. Also a decorator: `@full_float32()`.

    Torch has two interfaces to the same settings. Its libraries read both, and some raise
    RuntimeError where they contradict each other: both are set, and both restored.
    """
    convolutions = _agreed(lambda: torch.backends.cudnn.allow_tf32)
    products = _agreed(torch.get_float32_matmul_precision)
    settings = _settings()
    before = [setting.fp32_precision for setting in settings]
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def double(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, on the CPU where its device has none."""
    return tensor.to(environment.float64_device(tensor.device)).double()


def _settings() -> list:
    """What has a precision of its own in torch's newer interface; CPUs round too where asked to."""
    if not _HAS_PRECISIONS:
        return []
    cuda, cpu = torch.backends.cudnn, torch.backends.mkldnn
    return [cuda.conv, cuda.rnn, torch.backends.cuda.matmul, cpu.conv, cpu.rnn, cpu.matmul]


def _agreed(read: Callable[[], bool | str]) -> bool | str | None:
    """A setting of the older interface; None where only the newer one was used."""
    try:
        return read()
    except RuntimeError:
        return None
