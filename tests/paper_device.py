"""A device on paper: tensors of the CPU that say they lie elsewhere, for tests without a GPU.

Inside `on_paper` a tensor that is moved to the device stays where it is and says it is there. Then
refused is what Apple's GPUs lack or get wrong (float64, channels_last), and what no GPU does: one
operation on tensors of two devices. What makes the CPU wait for a device is counted.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
MOVES = (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.copy_, torch.Tensor.type)
WAITS = {
    *("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu"),
    *("nonzero", "masked_select", "unique", "equal", "allclose"),
}


class There(torch.Tensor):
    """A tensor on the device on paper."""

    device_on_paper = torch.device("mps")

    def __deepcopy__(self, memo):
        copied = self.detach().clone()
        wants = self.requires_grad
        return nn.Parameter(copied, wants) if isinstance(self, nn.Parameter) else copied

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function == torch.Tensor.device.__get__:
            return There.device_on_paper
        if function == torch.Tensor.is_cuda.__get__:
            return There.device_on_paper.type == "cuda"
        given = tree_leaves((args, kwargs))
        leaves = _away(function, given)
        if not leaves and function not in MOVES:
            _refuse_two_devices(function, given)
        with torch._C.DisableTorchFunctionSubclass():
            arguments, options = tree_map(_here, (args, kwargs))
            result = function(*arguments, **options)
            if leaves:
                return result.as_subclass(torch.Tensor).clone()
        if any(result is one for one in given):  # in place
            return result
        return tree_map(lambda one: _there(one, function), result)


class OnPaper(TorchFunctionMode):
    """Moves tensors to the device, makes them there, and counts what waits for it: `waits`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        given = tree_leaves((args, kwargs))
        tensors = [one for one in given if isinstance(one, There)]
        picks = name in ("__getitem__", "__setitem__", "index_put_")
        by_mask = picks and any(getattr(one, "dtype", None) is torch.bool for one in given[1:])
        if tensors and (name in WAITS or by_mask or _away(function, given)):
            self.waits.append(name)
        wanted = [one for one in given if _is_device(one)]
        if wanted and function is not torch.device:
            arguments, options = tree_map(_here, (args, kwargs))
            return tree_map(lambda one: _there(one, function), function(*arguments, **options))
        return function(*args, **kwargs)


@contextlib.contextmanager
def on_paper(device: str, monkeypatch):
    """`OnPaper` for a device of that name, which the suite then finds."""
    from common.base import environment

    monkeypatch.setattr(There, "device_on_paper", torch.device(device))
    monkeypatch.setattr(environment, "resolve_device", lambda name: There.device_on_paper)
    monkeypatch.setattr(environment, "synchronize", lambda device: None)
    monkeypatch.setattr(nn.Module, "to", _move)
    with OnPaper() as mode:
        yield mode


def _move(module: nn.Module, *given, **options) -> nn.Module:
    """nn.Module.to: its own keeps the parameters, and with them their type."""
    for owner in module.modules():
        for name, weight in owner._parameters.items():
            if weight is not None:
                moved = weight.detach().to(*given, **options)
                owner._parameters[name] = nn.Parameter(moved, weight.requires_grad)
        for name, buffer in owner._buffers.items():
            owner._buffers[name] = buffer.to(*given, **options)
    return module


def _is_device(value: object) -> bool:
    named = isinstance(value, str) and value.split(":")[0] == There.device_on_paper.type
    return named or (isinstance(value, torch.device) and value == There.device_on_paper)


def _away(function, given: list) -> bool:
    """Whether the call brings a tensor to the CPU."""
    moved = function in (torch.Tensor.to, torch.empty_like, torch.zeros_like, torch.ones_like)
    return function is torch.Tensor.cpu or (moved and (CPU in given or "cpu" in given))


def _here(value: object) -> object:
    return CPU if _is_device(value) else value


def _there(value: object, function: object) -> object:
    if not isinstance(value, torch.Tensor) or value.device.type == "meta":
        return value
    name = getattr(function, "__name__", function)
    if There.device_on_paper.type == "mps":
        if value.dtype is torch.float64:
            raise TypeError(f"{name}: MPS has no float64")
        last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
        if last and not value.is_contiguous() and value._base is None:
            raise TypeError(f"{name}: channels_last, which is wrong on MPS")
    return value if isinstance(value, There) else value.as_subclass(There)


def _refuse_two_devices(function, given: list) -> None:
    for one in given:
        if isinstance(one, torch.Tensor) and not isinstance(one, There) and one.dim():
            raise TypeError(f"{getattr(function, '__name__', function)}: tensors of two devices")
