"""What Apple's GPUs lack, refused on a CPU: float64, and channels_last, which is wrong there."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from paper_device import on_paper
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common import datasets
from common.base import environment
from common.models import build
from common.plots.one_run import concentration
from common.pruning import METHODS, prunable
from common.pruning.diagnostics import gradient_norm
from common.pruning.ntk_sap import ntk_trace
from common.runs.experiment import configure
from common.runs.run import Run
from common.structured import channels, cost, removal
from common.training import loop
from common.training.protocols import PROTOCOLS

MPS, CPU = torch.device("mps"), torch.device("cpu")


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


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_run_needs_nothing_that_the_device_lacks(method, tmp_path, monkeypatch):
    """Scores, masks, a training, diagnostics and tables, on a device that refuses; and its masks
    and layers are the CPU's."""
    settings = {"sparsity": 0.5, "epochs": 1, "results_dir": tmp_path}
    rounds = min(METHODS[method][""].iterations, 2)
    fewer = dataclasses.replace(METHODS[method][""], iterations=rounds)
    monkeypatch.setitem(METHODS[method], "", fewer)
    expected = Run(configure(method, device="cpu", precision="float32", **settings))
    expected.prune()
    with on_paper("mps", monkeypatch), NoChannelsLast():
        run = Run(configure(method, device="mps", **settings))
        masks = run.prune()
        run.train()
        run.save()
        assert len(concentration(run.scores, masks).axes) == 1
        batches = [datasets.scoring_batch(run.network.data, 1, 0, "mps")]
        assert gradient_norm(run.model, batches, masks) > 0
        if method == "ntk_sap":
            assert min(ntk_trace(run.model, run.context, masks, passes=1).values()) >= 0
        assert {mask.device for mask in masks.values()} == {MPS}
        there = {name: mask.cpu() for name, mask in masks.items()}
    same = [float((there[name] == mask).double().mean()) for name, mask in expected.masks.items()]
    # NTK-SAP's depend on the memory layout: 0.87 between those of a CPU, at the least.
    assert min(same) > (0.8 if method == "ntk_sap" else 0.99)


def test_the_device_refuses(monkeypatch):
    with on_paper("mps", monkeypatch):
        x = torch.rand(2, 3, 4, 4).to(MPS)
        assert x.device == MPS
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(TypeError, match="channels_last"):
            x.clone(memory_format=torch.channels_last)
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.ones(4)
        assert x.cpu().double().device == CPU


@pytest.mark.parametrize(("device", "precision"), [("mps", "float32"), ("cuda", "float16")])
def test_a_step_waits_for_nothing(device, precision, monkeypatch):
    """However many steps an epoch has, the device is waited for as often."""
    scaler, waits = torch.amp.GradScaler, []
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: scaler("cpu"))
    with on_paper(device, monkeypatch) as mode:
        data = datasets.load("digits").to(device)
        statistics = (data.mean, data.std)
        for images in (128, 320):
            model = build("small_vgg", (1, 8, 8), 10).to(device)
            masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in prunable(model).items()}
            part = (data.train_images[:images], data.train_labels[:images])
            test = datasets.Loader(data.test_images, data.test_labels, *statistics, 100)
            train_data = datasets.Loader(*part, *statistics, 64, seed=0)
            mode.waits.clear()
            hyper = PROTOCOLS["quick"]
            loop.train(model, masks, train_data, test, hyper, 1, precision, captured=False)
            # The scaler is a CPU's here, and takes to it what it is told.
            waits.append(sorted(name for name in mode.waits if name != "to" or device == "mps"))
    assert waits[0] == waits[1] != []


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
