"""What only a GPU can show: its masks against the CPU's, captured steps against eager ones."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings

import pytest
import torch

from common import datasets
from common.base.seeding import generator
from common.datasets import Loader
from common.models import build, initialise
from common.pruning import METHODS, kept, prune
from common.results.run_folder import write_json
from common.training import cuda_graphs, loop
from common.training.protocols import PROTOCOLS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SHAPE, IMAGES = (3, 32, 32), 100
# Of the weights kept, the share that is the same. Scores of gradients are sums in another order.
SAME = {"magnitude": 0.999, "synflow": 0.999, "random": 1.0}
EPOCHS = 3
HYPER = dataclasses.replace(PROTOCOLS["quick"], epochs=EPOCHS, milestones=(1, 2))


def network(device, name="vgg16", shape=SHAPE):
    model = build(name, shape, 10)
    initialise(model, "kaiming_normal", "ones", generator(0, "initial weights"))
    return model.to(device, memory_format=torch.channels_last)


@pytest.mark.parametrize("sparsity", [0.9, 0.98])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_masks_are_the_cpus(method, sparsity, monkeypatch):
    rounds = min(METHODS[method][""].iterations, 10)
    fewer = dataclasses.replace(METHODS[method][""], iterations=rounds)
    monkeypatch.setitem(METHODS[method], "", fewer)
    images = torch.randn(IMAGES, *SHAPE, generator=generator(0, "images"))
    labels = torch.arange(IMAGES) % 10

    def masks(device):
        def redraw(model, stream):
            initialise(model, "kaiming_normal", "ones", stream)

        batches = [(images.to(device), labels.to(device))] * (4 if method == "prospr" else 1)
        return prune(network(device), method, sparsity, batches=batches, initialise=redraw)

    ours, theirs = masks("cpu"), {n: mask.cpu() for n, mask in masks("cuda").items()}
    both = sum(int((mask & theirs[name]).sum()) for name, mask in ours.items())
    assert kept(ours) == kept(theirs)
    assert both / kept(ours) >= SAME.get(method, 0.99)


def trained(precision, folder=None, captured=True):
    """(weights before, weights after, last row) of digits on a small network."""
    data = datasets.load("digits").to("cuda")
    model = network("cuda", "small_vgg", (1, 8, 8))
    masks = prune(model, "magnitude", 0.5)
    before = copy.deepcopy(model.state_dict())
    train_data = Loader(data.train_images, data.train_labels, data.mean, data.std, 64, seed=0)
    test_data = Loader(data.test_images, data.test_labels, data.mean, data.std, 100)
    torch.cuda.synchronize()
    history = loop.train(
        *(model, masks, train_data, test_data, HYPER, EPOCHS, precision),
        **{"folder": folder, "captured": captured},
    )
    assert not any(model.get_parameter(name)[~mask].any() for name, mask in masks.items())
    return before, model.state_dict(), history.rows[-1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_captured_steps_do_what_eager_ones_do(precision, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_graphs, "FEWEST_STEPS", 1)
    write_json(tmp_path / "run.json", {"run_id": "a run"})
    before, eager, row = trained(precision, captured=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="training goes on without a CUDA graph")
        _, replayed, other = trained(precision, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["captured"] is True
    # Sums in an order of their own every time grow apart as training goes on, no further than this.
    change = sum(float((eager[n].double() - w.double()).square().sum()) for n, w in before.items())
    error = sum(float((eager[n].double() - w.double()).square().sum()) for n, w in replayed.items())
    assert error <= 0.2**2 * change
    assert other["train_loss"] == pytest.approx(row["train_loss"], rel=0.1)
    assert min(row["test_accuracy"], other["test_accuracy"]) > 80


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("captured", [False, True])
def test_no_step_waits(precision, captured, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "FEWEST_STEPS", 1)
    take_steps = loop._Trial._take_steps

    def watched(self, state, batches, metrics):
        # The first epoch captures, which compares and so waits.
        torch.cuda.set_sync_debug_mode("error" if watched.epochs else "default")
        watched.epochs += 1
        try:
            take_steps(self, state, batches, metrics)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    watched.epochs = 0
    monkeypatch.setattr(loop._Trial, "_take_steps", watched)
    trained(precision, captured=captured)
    assert watched.epochs == EPOCHS
