"""What Apple's GPUs lack, refused on a CPU: float64, and channels_last, which is wrong there."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common import datasets
from common.base import environment
from common.plots.one_run import concentration
from common.pruning import METHODS, prunable
from common.pruning.diagnostics import gradient_norm
from common.pruning.ntk_sap import ntk_trace
from common.pruning.scores import Context
from common.runs.experiment import configure
from common.runs.run import Run
from common.structured import channels, cost, removal

MPS, CPU = torch.device("mps"), torch.device("cpu")
SHAPE = (3, 6, 6)


class OnMps(torch.Tensor):
    """A tensor that says it is on an Apple GPU, and cannot become float64 there."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.device.__get__:
            return MPS
        wanted = tree_leaves((args[1:], kwargs))
        if function is torch.Tensor.cpu or (function is torch.Tensor.to and CPU in wanted):
            return args[0].as_subclass(torch.Tensor)
        if function is torch.Tensor.double or torch.float64 in wanted:
            raise TypeError("MPS has no float64")
        return super().__torch_function__(function, types, args, kwargs)


class NoChannelsLast(TorchDispatchMode):
    """Refuses results that lie in memory channel by channel, where that means anything."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        # A view is no memory of its own.
        computed = not function.is_view and function.overloadpacket is not torch.ops.aten.empty_like
        for tensor in tree_leaves(result) if computed else ():
            last = isinstance(tensor, torch.Tensor) and tensor.dim() == 4
            if last and tensor.is_contiguous(memory_format=torch.channels_last):
                assert tensor.is_contiguous(), f"{function}: channels_last"
        return result


@pytest.fixture
def as_on_mps(monkeypatch):
    monkeypatch.setattr(environment, "memory_format", lambda device: torch.contiguous_format)


def test_what_is_decided_for_a_device():
    assert environment.memory_format(MPS) is torch.contiguous_format
    assert environment.float64_device(MPS) == CPU
    for name in ("cpu", "cuda", "cuda:1"):
        assert environment.memory_format(torch.device(name)) is torch.channels_last
        assert environment.float64_device(torch.device(name)) == torch.device(name)


def test_nothing_that_is_measured_of_scores_and_gradients_needs_float64_there(residual):
    masks = {n: torch.rand_like(w) < 0.5 for n, w in prunable(residual).items()}
    there = {name: mask.as_subclass(OnMps) for name, mask in masks.items()}
    with pytest.raises(TypeError, match="float64"):
        next(iter(there.values())).double()
    scores = {name: torch.rand(mask.shape) for name, mask in masks.items()}
    moved = {name: score.as_subclass(OnMps) for name, score in scores.items()}
    assert concentration(moved, there).axes[0].texts[-1].get_text() == (
        concentration(scores, masks).axes[0].texts[-1].get_text()
    )
    batches = [(torch.randn(4, *SHAPE), torch.arange(4) % 3)]
    expected = gradient_norm(residual, batches, masks)
    assert gradient_norm(residual, batches, there) == expected

    def trace(masks):
        stream = torch.Generator().manual_seed(0)
        context = Context(SHAPE, generator=stream, initialise=lambda *_: None, inputs=4)
        return ntk_trace(residual, context, masks)

    assert trace(there) == trace(masks)


@pytest.mark.usefixtures("as_on_mps")
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_run_has_no_channels_last(method, tmp_path):
    with NoChannelsLast():
        run = Run(configure(method, sparsity=0.5, epochs=0, results_dir=tmp_path, device="cpu"))
        run.method = dataclasses.replace(run.method, iterations=min(run.method.iterations, 2))
        run.prune()
        run.train()
        run.save()


@pytest.mark.usefixtures("as_on_mps")
def test_a_training_a_removal_and_a_latency_have_no_channels_last():
    data = datasets.load("digits")
    with NoChannelsLast():
        loader = datasets.Loader(
            data.train_images[:96].expand(-1, -1, -1, 3).contiguous(),
            data.train_labels[:96],
            torch.full((3,), 0.5),
            torch.full((3,), 0.5),
            32,
            augment="flip_crop",
            seed=0,
        )
        model = nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)),
        )
        for images, labels in loader:
            nn.functional.cross_entropy(model(images), labels).backward()
        found = channels.find_channels(model, (3, 8, 8))
        scores = removal.l1_norms(model, found)
        kept = removal.lowest(model, found, scores, 0.3, torch.Generator())
        small = removal.remove(model, found, kept, (3, 8, 8))
        models = cost.copies({"whole": model, "small": small}, CPU)
        assert cost.latency(models, (3, 8, 8), 4, CPU).keys() == models.keys()
