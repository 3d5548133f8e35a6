"""Training: torchbearer's loop against a plain one, bit for bit, and against being interrupted."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import assert_same
from torch import nn
from torch.nn import functional as F

from common import datasets
from common.base import environment
from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.models import build, initialise
from common.pruning import apply, prune
from common.results.run_folder import checkpoint
from common.results.schema import EPOCHS
from common.training import callbacks, steps
from common.training.loop import evaluate, train
from common.training.protocols import PROTOCOLS

EPOCH_COUNT = 4
# A rate for every epoch, written out: a tenth after the first epoch and after the third.
HYPER = dataclasses.replace(
    PROTOCOLS["quick"],
    **{"epochs": EPOCH_COUNT, "learning_rate": 0.1, "milestones": (1, 3), "weight_decay": 1e-3},
)
RATES = [0.1, 0.01, 0.01, 0.001]
LINEAR = dataclasses.replace(HYPER, schedule="linear", milestones=())


class Interrupted(Exception):
    pass


class Loader(datasets.Loader):
    """Can break down in the middle of an epoch."""

    breaks_at: tuple[int, int] | None = None  # (epoch, batch)

    def __iter__(self):
        epoch = self.epoch
        for number, batch in enumerate(super().__iter__()):
            if (epoch, number) == self.breaks_at:
                raise Interrupted
            yield batch


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture
def loaders(digits):
    def make(**options):
        """Training and test loaders; 300 images in batches of 64, the last of 44."""
        statistics = (digits.mean, digits.std)
        return (
            Loader(
                *(digits.train_images[::4][:300], digits.train_labels[::4][:300]),
                *statistics,
                **{"batch_size": 64, "seed": 0, **options},
            ),
            Loader(digits.test_images, digits.test_labels, *statistics, 100),
        )

    return make


@pytest.fixture
def pruned(network):
    """(the same model every time, its masks)."""

    def make():
        model = network("small_vgg", (1, 8, 8)).to(memory_format=torch.channels_last)
        return model, prune(model, "magnitude", 0.7)

    return make


def plain_evaluation(model, data):
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(x) for x, _ in data])
    labels = torch.cat([y for _, y in data])
    accuracy = 100 * (logits.argmax(1) == labels).double().mean()
    return float(F.cross_entropy(logits, labels)), float(accuracy)


def plain_training(model, masks, train_data, test_data, hyper):
    """The loop as everybody writes it; returns its rows of epochs.csv, timings aside."""
    options = {"momentum": 0.9, "weight_decay": hyper.weight_decay, "nesterov": hyper.nesterov}
    optimizer = torch.optim.SGD(model.parameters(), lr=1, **options)
    rows = [(0, 0, None, None, *plain_evaluation(model, test_data))]
    for epoch in range(hyper.epochs):
        losses, hits, count = 0.0, 0, 0
        model.train()
        for step, (x, y) in enumerate(train_data):
            rate = hyper.learning_rate_at(epoch + step / len(train_data))  # to the last bit
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            for name, mask in masks.items():
                model.get_parameter(name).data[~mask] = 0
            losses += loss.item() * len(y)
            hits += int((logits.argmax(1) == y).sum())
            count += len(y)
        measured = plain_evaluation(model, test_data)
        rows.append((epoch + 1, rate, losses / count, 100 * hits / count, *measured))
    return rows


def values(rows):
    return [tuple(row[name] for name in EPOCHS if name != "seconds") for row in rows]


def assert_same_state(one: nn.Module, two: nn.Module) -> None:
    other = two.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("schedule", [HYPER, LINEAR], ids=["steps", "linear"])
def test_the_loop_is_a_plain_loop_bit_for_bit(loaders, pruned, schedule, nesterov):
    model, masks = pruned()
    other = copy.deepcopy(model)
    hyper = dataclasses.replace(schedule, nesterov=nesterov)
    history = train(model, masks, *loaders(), hyper, EPOCH_COUNT, "float32")
    expected = plain_training(other, masks, *loaders(), hyper)
    # Weights, BatchNorm's statistics and its count of batches.
    assert_same_state(model, other)
    assert len(history.rows) == len(expected) == EPOCH_COUNT + 1
    for found, row in zip(values(history.rows), expected, strict=True):
        assert [value is None for value in found] == [value is None for value in row]
        numbers = zip(found, row, strict=True)
        assert all(a == pytest.approx(b, rel=1e-5) for a, b in numbers if b is not None)
    assert not any(model.get_parameter(name)[~mask].any() for name, mask in masks.items())
    assert history.images == EPOCH_COUNT * 300
    assert history.seconds >= history.step_seconds > 0
    # It has learnt something: these numbers would mean little otherwise.
    assert history.rows[-1]["test_accuracy"] > 60


def test_rows_have_the_columns_of_epochs_csv(loaders, pruned):
    history = train(*pruned(), *loaders(), HYPER, 2, "float32")
    assert all(set(row) == set(EPOCHS) for row in history.rows)
    assert [row["epoch"] for row in history.rows] == [0, 1, 2]
    assert [row["learning_rate"] for row in history.rows] == pytest.approx([0, *RATES[:2]])
    assert history.rows[0]["train_loss"] is None
    assert all(type(row["test_loss"]) is float for row in history.rows)


def test_pruned_weights_are_zero_after_every_step(loaders, pruned):
    model, masks = pruned()
    seen = []

    class Watch(Loader):
        def __iter__(self):
            for batch in super().__iter__():
                seen.append(
                    max(model.get_parameter(n)[~m].abs().max().item() for n, m in masks.items())
                )
                yield batch

    train_data, test_data = loaders()
    train_data.__class__ = Watch
    train(model, masks, train_data, test_data, HYPER, 2, "float32")
    assert len(seen) == 10
    assert set(seen) == {0.0}


def test_masks_that_do_not_fit_are_an_error_before_the_first_step(loaders, pruned):
    model, masks = pruned()
    before = copy.deepcopy(model)
    masks["linear.weight"] = masks["linear.weight"][:5]
    with pytest.raises(ConfigurationError, match=r"linear\.weight is \(10, 64\)"):
        train(model, masks, *loaders(), HYPER, 1, "float32")
    assert_same_state(model, before)


def test_momentum_would_revive_them(loaders, pruned):
    model, masks = pruned()
    train(model, {}, *loaders(), HYPER, 1, "float32")
    assert any(model.get_parameter(name)[~mask].any() for name, mask in masks.items())


def test_no_epochs(loaders, pruned):
    model, masks = pruned()
    before = copy.deepcopy(model)
    history = train(model, masks, *loaders(), HYPER, 0, "float32")
    assert_same_state(model, before)
    ((epoch, rate, *nothing, loss, accuracy),) = values(history.rows)
    assert (epoch, rate, nothing) == (0, 0, [None, None])
    assert (loss, accuracy) == pytest.approx(plain_evaluation(before, loaders()[1]), rel=1e-5)
    assert (history.images, history.step_seconds) == (0, 0)


# The traps


def test_the_network_sees_each_batch_once(loaders, pruned):
    """With torchbearer's own call a network is tried with `state` first, and again without."""
    model, masks = pruned()
    calls = []
    model.register_forward_hook(lambda module, inputs, output: calls.append(module.training))
    train(model, masks, *loaders(), HYPER, 2, "float32")
    assert calls == [False] * 4 + 2 * ([True] * 5 + [False] * 4)


@pytest.mark.parametrize("training_mode", [True, False])
@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_errors_of_the_network_come_through(loaders, pruned, error, training_mode):
    model, masks = pruned()

    def fail(module, inputs):
        if module.training == training_mode:
            raise error("of its own")

    model.register_forward_pre_hook(fail)
    with pytest.raises(error, match="of its own"):
        train(model, masks, *loaders(), HYPER, 1, "float32")


@pytest.mark.parametrize("mode", [True, False])
def test_evaluation_changes_nothing(loaders, pruned, mode):
    model, _ = pruned()
    model.train(mode)
    model.norm1_1.train(not mode)
    before = copy.deepcopy(model)
    found = evaluate(model, loaders()[1])
    assert_same_state(model, before)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    expected = plain_evaluation(before, loaders()[1])
    assert (found["test_loss"], found["test_accuracy"]) == pytest.approx(expected, rel=1e-5)


def test_the_global_generator_is_left_alone(loaders, pruned):
    state = torch.get_rng_state()
    train(*pruned(), *loaders(), HYPER, 1, "float32")
    assert torch.equal(torch.get_rng_state(), state)


# Batches larger than memory

ACCUMULATED = dataclasses.replace(HYPER, micro_batch=24)  # 64 = 24 + 24 + 16, 44 = 24 + 20


def test_without_batchnorm_an_accumulated_batch_is_the_batch(loaders, network):
    ends = []
    for hyper in (HYPER, ACCUMULATED):
        model, seen = network("lenet_300_100", (1, 8, 8)), []
        model.register_forward_hook(
            lambda module, inputs, output, seen=seen: (
                seen.append(len(output)) if module.training else None
            )
        )
        masks = prune(model, "magnitude", 0.7)
        history = train(model, masks, *loaders(), hyper, EPOCH_COUNT, "float32")
        ends.append((model, values(history.rows), max(seen)))
    (one, rows, whole), (two, accumulated, most) = ends
    assert (whole, most) == (64, 24)
    assert_same(two.state_dict(), dict(one.state_dict()), rtol=1e-4, atol=1e-6)
    for row, other in zip(rows, accumulated, strict=True):
        assert row[:2] == other[:2]
        assert [v for v in other if v is not None] == pytest.approx(
            [v for v in row if v is not None], rel=1e-4
        )


def test_batchnorm_normalises_by_what_goes_through_it_together(digits, network):
    """An accumulated step of several parts is the mean of their own steps, weighted by images."""
    images, labels = datasets.scoring_batch(digits, 4, 0, "cpu")
    model, gradients = network("small_vgg", (1, 8, 8)), {}
    for part in (slice(0, 24), slice(24, 40)):
        alone = copy.deepcopy(model)
        F.cross_entropy(alone(images[part]), labels[part]).backward()
        for name, p in alone.named_parameters():
            share = len(labels[part]) / 40 * p.grad
            gradients[name] = gradients.get(name, 0) + share
    optimizer = steps.make_optimizer(model, HYPER, "float32")
    loss, logits = steps.backward(model, optimizer, images, labels, 24)
    found = {name: p.grad for name, p in model.named_parameters()}
    assert_same(found, gradients, rtol=1e-4, atol=1e-6)
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert all(m.num_batches_tracked == 2 for m in model.modules() if isinstance(m, nn.BatchNorm2d))


# Interruption


@pytest.fixture
def checkpoints(monkeypatch):
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("breaks_at", "resumes_at"), [((0, 3), 0), ((1, 0), 1), ((2, 4), 2), ((3, 2), 3)]
)
@pytest.mark.parametrize("hyper", [LINEAR, ACCUMULATED], ids=["linear", "accumulated"])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    loaders, pruned, checkpoints, tmp_path, breaks_at, resumes_at, hyper
):
    straight, masks = pruned()
    expected = train(straight, masks, *loaders(), hyper, EPOCH_COUNT, "float32")

    model, masks = pruned()
    train_data, test_data = loaders()
    train_data.breaks_at = breaks_at
    with pytest.raises(Interrupted):
        train(model, masks, train_data, test_data, hyper, EPOCH_COUNT, "float32", folder=tmp_path)
    assert checkpoint(tmp_path).exists() == (resumes_at > 0)

    model, masks = pruned()  # a new process starts from the initial weights
    train_data, test_data = loaders()
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    history = train(
        model, masks, train_data, test_data, hyper, EPOCH_COUNT, "float32", folder=tmp_path
    )
    passes = 4 * 3 + 2 if hyper.micro_batch else 5
    assert sum(seen) == passes * (EPOCH_COUNT - resumes_at)
    assert_same_state(model, straight)
    assert values(history.rows) == values(expected.rows)
    assert history.images == expected.images
    assert history.seconds > 0


def test_dropout_follows_the_seed_and_a_resumed_training_drops_the_same(
    loaders, checkpoints, tmp_path
):
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
    )

    def trained(model: nn.Module, *data, **options) -> nn.Module:
        """Whatever torch's own generator has drawn before, which is left as it was found."""
        before = torch.random.get_rng_state()
        train(model, {}, *data or loaders(), HYPER, EPOCH_COUNT, "float32", **options)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(1)
        return model

    straight = trained(copy.deepcopy(network))
    assert_same_state(trained(copy.deepcopy(network)), straight)
    other = trained(copy.deepcopy(network), seed=1).state_dict()
    assert not torch.equal(other["1.weight"], straight.state_dict()["1.weight"])
    train_data, test_data = loaders()
    train_data.breaks_at = (2, 4)
    with pytest.raises(Interrupted):
        trained(copy.deepcopy(network), train_data, test_data, folder=tmp_path)
    assert checkpoint(tmp_path).is_file()
    assert_same_state(trained(copy.deepcopy(network), folder=tmp_path), straight)


def test_a_checkpoint_of_other_masks_is_not_used(loaders, pruned, checkpoints, tmp_path):
    model, masks = pruned()
    train(model, masks, *loaders(), HYPER, 1, "float32", folder=tmp_path)
    model, _ = pruned()
    others = prune(model, "random", 0.7)
    apply(model, others)
    straight = copy.deepcopy(model)
    train(model, others, *loaders(), HYPER, 2, "float32", folder=tmp_path)
    train(straight, others, *loaders(), HYPER, 2, "float32")
    assert_same_state(model, straight)


def test_checkpoints_are_plain_and_rare(loaders, pruned, monkeypatch, tmp_path):
    model, masks = pruned()
    train(model, masks, *loaders(), HYPER, 2, "float32", folder=tmp_path)
    assert not checkpoint(tmp_path).exists()  # two minutes have not passed
    assert callbacks.CHECKPOINT_SECONDS == 120
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
    train(model, masks, *loaders(), HYPER, 2, "float32", folder=tmp_path)
    content = torch.load(checkpoint(tmp_path), weights_only=True)
    assert [row["epoch"] for row in content["rows"]] == [0, 1, 2]
    # Only the checkpoint and the progress: no half-written file beside them.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "progress.json"]


# Precision


def test_bfloat16_ends_close_to_float32(loaders, pruned):
    model, masks = pruned()
    dtypes = set()
    model.conv2_1.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    history = train(model, masks, *loaders(), HYPER, EPOCH_COUNT, "bfloat16")
    assert dtypes == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(model.get_parameter(name)[~mask].any() for name, mask in masks.items())
    full = train(*pruned(), *loaders(), HYPER, EPOCH_COUNT, "float32")
    one, other = history.rows[-1], full.rows[-1]
    assert one["test_loss"] == pytest.approx(other["test_loss"], rel=0.1)
    assert one["test_accuracy"] == pytest.approx(other["test_accuracy"], abs=5)
    assert one["test_loss"] != other["test_loss"]


def on_the_cpu(model, hyper, precision, whole=False, fused=None):
    """The optimizer of float16 training with a gradient scaler that works here."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    # A scale is a float32: none of the learning rate's digits are lost beside it.
    rate = torch.tensor(1.0, dtype=torch.float64) if whole else 1
    momenta = {"momentum": hyper.momentum, "weight_decay": hyper.weight_decay}
    return steps.ScaledSGD(model.parameters(), scaler, whole, lr=rate, fused=fused, **momenta)


def test_scaled_gradients_make_the_same_steps(loaders, pruned, checkpoints, monkeypatch, tmp_path):
    """Scaling by a power of two and back is exact."""
    plain, masks = pruned()
    train(plain, masks, *loaders(), HYPER, EPOCH_COUNT, "float32")
    monkeypatch.setattr(steps, "make_optimizer", on_the_cpu)
    model, masks = pruned()
    train_data, test_data = loaders()
    train_data.breaks_at = (2, 1)
    arguments = (HYPER, EPOCH_COUNT, "float32")
    with pytest.raises(Interrupted):
        train(model, masks, train_data, test_data, *arguments, folder=tmp_path)
    assert torch.load(checkpoint(tmp_path), weights_only=True)["scaler"]["_growth_tracker"] == 10
    model, masks = pruned()
    train(model, masks, *loaders(), *arguments, folder=tmp_path)
    assert_same_state(model, plain)
    # The scaler went on from where it was.
    assert torch.load(checkpoint(tmp_path), weights_only=True)["scaler"]["_growth_tracker"] == 20


@pytest.mark.parametrize("fused", [None, True])
def test_a_step_whose_gradients_overflow_is_left_out(fused):
    model, plain = nn.Linear(2, 1), nn.Linear(2, 1)
    plain.load_state_dict(model.state_dict())
    optimizer = on_the_cpu(model, HYPER, "float16", fused=fused)
    other = torch.optim.SGD(plain.parameters(), 1, HYPER.momentum, weight_decay=HYPER.weight_decay)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).sum()
        (optimizer.scaler.scale(loss) * factor).backward()
        return loss

    # The first overflows, as it often does: nothing of it is left in the momentum.
    for factor in (float("inf"), 1, 1, float("inf"), 1):
        optimizer.step(closure)
        if factor == 1:
            other.zero_grad()
            plain(torch.ones(1, 2)).sum().backward()
            other.step()
        for one, two in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one, two)
    assert optimizer.scaler.get_scale() == 2.0**8


@pytest.mark.slow
def test_reduced_precision_learns_as_well(digits):
    """The fast arithmetic against the plain float32 loop with the same seeds: the 95 percent
    confidence interval of the mean difference in test accuracy lies within 0.75 percentage points
    of none (measured: -0.03 ± 0.19)."""
    statistics = (digits.mean, digits.std)
    hyper = dataclasses.replace(HYPER, epochs=3, milestones=(2,))
    fast_ones, plain_ones = [], []
    for seed in range(8):
        train_data = Loader(*(digits.train_images, digits.train_labels, *statistics, 64), seed=seed)
        test_data = Loader(digits.test_images, digits.test_labels, *statistics, 100)
        model = build("small_vgg", (1, 8, 8), 10)
        initialise(model, "kaiming_normal", "ones", generator(seed, "initial weights"))
        other = copy.deepcopy(model)
        model.to(memory_format=torch.channels_last)
        masks = prune(model, "magnitude", 0.7)
        apply(other, masks)
        history = train(model, masks, train_data, test_data, hyper, 3, "bfloat16")
        fast_ones.append(history.rows[-1]["test_accuracy"])
        train_data.epoch = 0
        rows = plain_training(other, masks, train_data, test_data, hyper)
        plain_ones.append(rows[-1][-1])
    difference = torch.tensor(fast_ones) - torch.tensor(plain_ones)
    mean = float(difference.mean())
    half = 2.365 * float(difference.std()) / math.sqrt(8)  # Student's t, 7 degrees of freedom
    assert abs(mean) + half < 0.75
    assert difference.any()  # it was other arithmetic
    assert min(plain_ones) > 90


# Memory

MEMORY = r"""
import re, sys, dataclasses, torch
from pathlib import Path
from torch import nn
from torch.nn import functional as F
from common.training import loop
from common.datasets import Loader
from common.training.protocols import PROTOCOLS
from common.pruning import prune

def peak():  # of this process alone
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

torch.set_num_threads(1)
kind, precision = sys.argv[1:]
hyper = dataclasses.replace(PROTOCOLS["quick"], learning_rate=0.01, weight_decay=1e-3)
def loader():
    images, half = torch.randint(256, (32, 8, 8, 1), dtype=torch.uint8), torch.tensor([0.5])
    return Loader(images, torch.arange(32) % 10, half, half, 8, seed=0)
def bare(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-3)
    for x, y in loader():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(x)
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()
def run(width):
    sizes = [64, *7 * [width], 10]
    layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
    model = nn.Sequential(nn.Flatten(), *layers)
    before = peak()
    if kind == "bare":
        bare(model)
    else:
        masks = {n: torch.rand(p.shape) < 0.5 for n, p in model.named_parameters() if p.dim() > 1}
        if kind == "wasteful":
            kept = [p.detach().clone() for p in model.parameters()]
        loop.train(model, masks, loader(), loader(), hyper, 1, precision)
    return (peak() - before) / sum(p.numel() * p.element_size() for p in model.parameters())
run(200)  # libraries are loaded by now
print(run(1024))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_takes_no_more_memory_than_a_bare_one_and_the_masks(precision):
    """Peaks above the model, in multiples of the float32 weights. A mask is a quarter."""

    def peak(kind: str) -> float:
        command = [sys.executable, "-c", MEMORY, kind, precision]
        root = Path(__file__).resolve().parent.parent
        # Large tensors go back to the system at once, so that what is measured is what they need.
        environ = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(
            command, cwd=root, env=environ, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    bare, slack = peak("bare"), 0.1
    assert bare > 2  # gradients and momentum
    assert peak("ours") < bare + 0.25 + slack
    assert peak("wasteful") > bare + 0.25 + slack  # a copy of the weights would be noticed


# Onlookers


@pytest.mark.parametrize("person", [True, False])
def test_a_bar_for_a_person_and_silence_otherwise(
    loaders, pruned, checkpoints, monkeypatch, capfd, tmp_path, person
):
    monkeypatch.setattr(environment, "person_watches", lambda: person)
    options = {"folder": tmp_path, "progress": "SNIP at sparsity 0.7"}
    train_data, test_data = loaders()
    train_data.breaks_at = (2, 0)
    with pytest.raises(Interrupted):
        train(*pruned(), train_data, test_data, HYPER, 3, "float32", **options)
    capfd.readouterr()
    train(*pruned(), *loaders(), HYPER, 3, "float32", **options)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert ("SNIP at sparsity 0.7" in shown.err) == person
    assert ("2/3" in shown.err) == person  # it goes on from where the training does
    assert person or shown.err == ""
