"""The small network in a file of its own, which runs without this suite."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import inspect
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from common.base.errors import ConfigurationError
from common.base.files import write_atomically
from common.base.seeding import generator
from common.pruning.scores import in_mode


def export(model: nn.Module, path: Path, shape: Sequence[int]) -> None:
    """Write `model` for inference on any number of images of `shape` (C, H, W), by torch.export:
    its computation and its weights (`.pt2`). `torch.export.load(path).module()` has it again."""
    ready, images = _ready(model, shape)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(ready, (images,), dynamic_shapes=({0: batch},))
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomically(path, lambda p: p.write_bytes(content.getvalue()))


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """What `export` wrote, ready to be called with images (B, C, H, W)."""
    return torch.export.load(path).module()


def check_export(model: nn.Module, path: Path, shape: Sequence[int]) -> dict[str, object]:
    """What a file holds, loaded again, beside the network that it was written from.

    parameters: in the file. largest_difference: of the outputs for three images of noise.
    """
    ready, _ = _ready(model, shape)
    images = torch.randn(3, *shape, generator=generator(0, "exported network"))
    program = torch.export.load(path)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "parameters": sum(p.numel() for p in program.parameters()),
        "largest_difference": largest_difference(program.module(), ready, images),
    }


@torch.no_grad()
def largest_difference(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Between the outputs of two networks in eval mode for `images`."""
    outputs = []
    for network in (one, other):
        # An exported program has one mode, and refuses to be asked for another.
        exported = isinstance(network, torch.fx.GraphModule)
        with contextlib.nullcontext() if exported else in_mode(network, training=False):
            outputs.append(network(images))
    return float((outputs[0] - outputs[1]).abs().max())


def has_onnx() -> bool:
    """Whether ONNX can be written: two packages that the suite does not require, and a torch whose
    exporter takes any number of images (2.6 or later)."""
    able = "dynamic_shapes" in inspect.signature(torch.onnx.export).parameters
    return able and all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript"))


def export_onnx(model: nn.Module, path: Path, shape: Sequence[int]) -> None:
    """Write `model` as ONNX. Raises ConfigurationError where that cannot be done."""
    if not has_onnx():
        raise ConfigurationError(
            "writing ONNX takes torch 2.6 or later and two more packages: "
            "pip install onnx onnxscript"
        )
    ready, images = _ready(model, shape)
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        ready, (images,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    write_atomically(path, lambda p: program.save(str(p)))


def _ready(model: nn.Module, shape: Sequence[int]) -> tuple[nn.Module, Tensor]:
    """A copy on the CPU in eval mode, and images to trace it with: two, since one would count as
    the only number there is."""
    ready = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
    return ready, torch.zeros(2, *shape)
