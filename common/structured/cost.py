"""What a network costs: parameters, multiply-adds, bytes on disk, and measured time."""

from __future__ import annotations

import copy
import gzip
import time
from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import save
from torch import nn

from common.base import environment
from common.pruning.diagnostics import multiply_adds
from common.pruning.parameters import prunable
from common.pruning.scores import in_mode

ROUNDS, LEAST_ROUNDS, SECONDS = 50, 5, 5.0


def size(model: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """Of a network for images of `shape` (C, H, W): counted as it is computed and stored, and again
    without the weights that are zero.

    parameters, parameters_nonzero: of all kinds. flops, flops_nonzero: multiply-adds for one image.
    file_bytes, file_bytes_gzip: of the weights as a safetensors file, and compressed.
    """
    flops, weights = multiply_adds(model, shape), prunable(model)
    state = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    content = save(state)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_nonzero": sum(int(p.count_nonzero()) for p in model.parameters()),
        "flops": sum(flops.values()),
        # Every weight of a layer is used equally often.
        "flops_nonzero": sum(
            flops[name] // w.numel() * int(w.count_nonzero()) for name, w in weights.items()
        ),
        "file_bytes": len(content),
        "file_bytes_gzip": len(gzip.compress(content, 6)),
    }


def copies(models: Mapping[str, nn.Module], device: torch.device) -> dict[str, nn.Module]:
    """The models on a device, in the memory layout that is quickest there."""
    layout = environment.memory_format(device)
    return {n: copy.deepcopy(m).to(device, memory_format=layout) for n, m in models.items()}


@torch.inference_mode()
def latency(
    models: Mapping[str, nn.Module], shape: Sequence[int], batch: int, device: torch.device
) -> dict[str, float]:
    """Milliseconds of a forward pass of `batch` images, {name: ms}, in float32.

    The networks, which are on the device, take turns, 5 to 50 times within some 5 seconds. What
    counts is each one's quickest pass: whatever else the machine does only adds to it.
    """
    images = torch.zeros(batch, *shape, device=device).to(
        memory_format=environment.memory_format(device)
    )
    times: dict[str, list[float]] = {name: [] for name in models}
    started = time.perf_counter()
    for round_ in range(-2, ROUNDS):  # two to warm up
        if round_ >= LEAST_ROUNDS and time.perf_counter() - started > SECONDS:
            break
        for name, model in models.items():
            with in_mode(model, training=False):
                environment.synchronize(device)
                before = time.perf_counter()
                model(images)
                environment.synchronize(device)
            if round_ >= 0:
                times[name].append(1000 * (time.perf_counter() - before))
    return {name: min(found) for name, found in times.items()}
