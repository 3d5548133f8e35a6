"""What a function changes that is not its own, and in which of its lines."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import nn

# What is found changed -> what helps.
CURES = {
    "weights": "changes {names}: work on copies, or put back what was there",
    "statistics": "changes {names}, as a forward pass in train mode does: loss_gradients(model, "
    "context.batches) of common.pruning.scores passes copies, and so does torch.func."
    "functional_call(model, (weights, buffers), images)",
    "modes": "leaves the model in another mode: `with in_mode(model, training=False):` of "
    "common.pruning.scores puts it back",
    "flags": "leaves requires_grad of {names} otherwise than it was: put it back, or detach copies",
    "gradients": "leaves gradients in {names}: torch.autograd.grad(loss, weights) leaves none",
    "hooks": "leaves hooks on the model: keep what register_..._hook returns, and remove() it",
    "torch": "draws from torch's global generator: pass generator=context.generator, which belongs "
    "to the run's seed",
    "numpy": "draws from numpy's global generator: numpy.random.default_rng(context.generator."
    "initial_seed()) belongs to the run's seed",
    "random": "draws from Python's global generator: random.Random(context.generator."
    "initial_seed()) belongs to the run's seed",
}


class Watch:
    """A context in which the lines of the file `path` are followed; afterwards `faults()` says what
    they left changed of the model and of the global generators."""

    def __init__(self, model: nn.Module, path: Path) -> None:
        self._model, self._path = model, str(path)
        self._before = self._last = state(model)
        self._lines: dict[tuple[str, str], int] = {}
        self._line = 0

    def __enter__(self) -> Watch:
        self._trace = sys.gettrace()
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(self._trace)
        self._look()

    def faults(self) -> dict[str, tuple[int, str]]:
        """Aspect of CURES -> (the line that first changed it, what is wrong and what helps)."""
        found = {}
        for aspect, now in self._last.items():
            before = self._before[aspect]
            names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
            if names:
                line = min(self._lines.get((aspect, name), 0) for name in names)
                shown = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
                found[aspect] = line, CURES[aspect].format(names=shown)
        return found

    def _enter_frame(self, frame: FrameType, event: str, argument: object) -> Callable | None:
        return self._step if frame.f_code.co_filename == self._path else None

    def _step(self, frame: FrameType, event: str, argument: object) -> Callable:
        self._look()
        self._line = frame.f_lineno
        return self._step

    def _look(self) -> None:
        now = state(self._model)
        for aspect, values in now.items():
            for name, value in values.items():
                if value != self._before[aspect].get(name):
                    self._lines.setdefault((aspect, name), self._line)
        self._last = now


def state(model: nn.Module) -> Mapping[str, Mapping[str, object]]:
    """Aspect of CURES -> name -> a value that is another where anything has changed."""
    parameters = dict(model.named_parameters())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = dict(model.named_modules())
    return {
        "weights": {name: _sum(p) for name, p in parameters.items()},
        "statistics": {name: _sum(buffer) for name, buffer in model.named_buffers()},
        "modes": {name: module.training for name, module in modules.items()},
        "flags": {name: p.requires_grad for name, p in parameters.items()},
        "gradients": {name: p.grad is None or _sum(p.grad) for name, p in parameters.items()},
        "hooks": {
            name: sum(len(getattr(module, hook)) for hook in hooks)
            for name, module in modules.items()
        },
        "torch": {"state": _sum(torch.get_rng_state())},
        "numpy": {"state": str(np.random.get_state()[1:3])},
        "random": {"state": hash(random.getstate())},
    }


def _sum(tensor: torch.Tensor) -> int:
    values = tensor.detach().contiguous().view(-1)
    return zlib.crc32(values.view(torch.uint8).numpy()) if values.numel() else 0
