"""Tensors in the order in which their values lie in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_PART = 1 << 17


def flat(tensor: Tensor) -> Tensor:
    """All values in one dimension, in the order of memory: no copy for channels_last tensors."""
    return (tensor.permute(0, 2, 3, 1) if _channels_last(tensor) else tensor).reshape(-1)


def unflat(values: Tensor, like: Tensor) -> Tensor:
    """`flat` undone: a view of the shape of the tensor that was flattened."""
    if _channels_last(like):
        n, c, h, w = like.shape
        return values.view(n, h, w, c).permute(0, 3, 1, 2)
    return values.view(like.shape)


def parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same values of all the tensors, part after part, small enough for a CPU's cache
    and for temporaries to stay below malloc's mmap threshold, so that there are no page faults.

    Tensors whose values do not lie in the same order come whole, and those of other devices, where
    every part is a kernel's launch.
    """
    first = tensors[0]
    dense = first.is_contiguous() or _channels_last(first)
    if (
        first.device.type == "cpu"
        and dense
        and all(tensor.stride() == first.stride() for tensor in tensors)
    ):
        yield from zip(*(flat(tensor).split(_PART) for tensor in tensors), strict=True)
    else:
        yield tensors


def _channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
