"""Diagnostics against hand arithmetic and against paths walked unit by unit."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from common.pruning import apply, prunable, prune
from common.pruning.diagnostics import (
    effective_masks,
    flow_through_units,
    gradient_norm,
    multiply_adds,
)


def random_masks(model, density, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return {n: torch.rand(w.shape, generator=stream) < density for n, w in prunable(model).items()}


# Multiply-adds


def test_multiply_adds_of_vgg16(network):
    found = multiply_adds(network("vgg16"), (3, 32, 32))
    by_hand = [3 * 64, 64 * 64, 64 * 128, 128 * 128, 128 * 256, 256 * 256, 256 * 256]
    by_hand += [256 * 512, *[512 * 512] * 5]
    sides = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    expected = [9 * pairs * side**2 for pairs, side in zip(by_hand, sides, strict=True)]
    assert list(found.values()) == [*expected, 512 * 10]
    assert sum(found.values()) == 313_201_664


def test_multiply_adds_of_a_residual_network(network):
    """A stage's first block halves the sides in its first convolution and in its projection."""
    found = multiply_adds(network("resnet20"), (3, 32, 32))
    assert found["conv.weight"] == 3 * 16 * 9 * 1024
    assert found["stage2.0.conv1.weight"] == 16 * 32 * 9 * 256
    assert found["stage2.0.shortcut.conv.weight"] == 16 * 32 * 256
    assert found["stage3.2.conv2.weight"] == 64 * 64 * 9 * 64
    assert list(found) == list(prunable(network("resnet20")))


class Odd(nn.Module):
    """Layers of every kind, one of them used twice, its weight a third time."""

    def __init__(self):
        super().__init__()
        self.strided = nn.Conv2d(3, 8, 3, stride=2, padding=1)  # 9 x 9 -> 5 x 5
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.tied = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.tied.weight = self.grouped.weight
        self.transposed = nn.ConvTranspose2d(8, 4, 2, stride=2)  # 5 x 5 -> 10 x 10
        self.line = nn.Conv1d(4, 6, 3)  # 100 -> 98
        self.sequence = nn.Linear(98, 7)  # at each of 6 places
        self.unused = nn.Linear(3, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.tied(self.grouped(self.grouped(self.norm(self.strided(x)))))
        return self.sequence(self.line(self.transposed(x).flatten(2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_multiply_adds_by_hand(dtype):
    model = Odd().to(dtype).train()
    model.norm.eval()
    assert multiply_adds(model, (3, 9, 9)) == {
        "strided.weight": 8 * 3 * 9 * 25,
        "grouped.weight": 3 * 8 * 2 * 9 * 25,
        "transposed.weight": 8 * 4 * 4 * 25,
        "line.weight": 6 * 4 * 3 * 98,
        "sequence.weight": 7 * 98 * 6,
        "unused.weight": 0,
    }
    assert model.training
    assert not model.norm.training
    assert not any(module._forward_hooks for module in model.modules())


def test_multiply_adds_of_attention():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    assert multiply_adds(layer, (5, 16)) == {
        "self_attn.in_proj_weight": 3 * 16 * 16 * 5,
        "self_attn.out_proj.weight": 16 * 16 * 5,
        "linear1.weight": 32 * 16 * 5,
        "linear2.weight": 32 * 16 * 5,
    }


# Effective weights


class Paths:
    """The graph of a masked network's units, every position of a map a unit of its own."""

    def __init__(self, shape, masks):
        self.masks, self.count = {name: mask.numpy() for name, mask in masks.items()}, 0
        self.ahead, self.behind = defaultdict(set), defaultdict(set)
        self.through = defaultdict(list)  # weight -> its connections
        self.inputs = self.units(shape)

    def units(self, shape):
        self.count += int(np.prod(shape))
        return np.arange(self.count - int(np.prod(shape)), self.count).reshape(shape)

    def connect(self, a, b, weight=None):
        if weight is not None and not self.masks[weight[0]][weight[1:]]:
            return
        self.ahead[int(a)].add(int(b))
        self.behind[int(b)].add(int(a))
        if weight is not None:
            self.through[weight].append((int(a), int(b)))

    def linear(self, name, units):
        out = self.units(len(self.masks[name]))
        for o, i in itertools.product(range(len(out)), range(len(units))):
            self.connect(units[i], out[o], (name, o, i))
        return out

    def slide(self, units, channels, size, stride, padding, visit):
        """Calls visit(output unit, its channel, place in the window, column of input units)."""
        sides = [(side + 2 * padding - size) // stride + 1 for side in units.shape[1:]]
        out = self.units((channels, *sides))
        for channel, y, x in np.ndindex(out.shape):
            for j, i in np.ndindex(size, size):
                row, column = y * stride + j - padding, x * stride + i - padding
                if 0 <= row < units.shape[1] and 0 <= column < units.shape[2]:
                    visit(out[channel, y, x], channel, (j, i), units[:, row, column])
        return out

    def convolution(self, name, units, layer):
        per_group = layer.in_channels // layer.groups

        def visit(unit, channel, place, column):
            group = channel // (layer.out_channels // layer.groups)
            for c in range(per_group):
                self.connect(column[group * per_group + c], unit, (name, channel, c, *place))

        step = (layer.kernel_size[0], layer.stride[0], layer.padding[0])
        return self.slide(units, layer.out_channels, *step, visit)

    def pool(self, units, size, stride, padding=0):
        def visit(unit, channel, place, column):
            self.connect(column[channel], unit)

        return self.slide(units, len(units), size, stride, padding, visit)

    def add(self, one, two):
        out = self.units(one.shape)
        for place in np.ndindex(out.shape):
            self.connect(one[place], out[place])
            self.connect(two[place], out[place])
        return out

    def reached(self, start, steps):
        seen, front = set(start), list(start)
        while front:
            new = steps[front.pop()] - seen
            seen |= new
            front += new
        return seen

    def effective(self, outputs):
        """Kept weights with a connection from a unit the input reaches to one that reaches out."""
        fed = self.reached(self.inputs.flatten().tolist(), self.ahead)
        heard = self.reached(outputs.flatten().tolist(), self.behind)
        found = {name: torch.zeros(mask.shape) > 0 for name, mask in self.masks.items()}
        for (name, *place), connections in self.through.items():
            found[name][tuple(place)] = any(a in fed and b in heard for a, b in connections)
        return found


def assert_equal_masks(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


@settings(max_examples=60)
@given(
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    density=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_effective_weights_of_perceptrons(widths, density, seed):
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    masks = random_masks(model, density, seed)
    paths = Paths((widths[0],), masks)
    units = paths.inputs
    for name in masks:
        units = paths.linear(name, units)
    assert_equal_masks(effective_masks(model, masks, (widths[0],)), paths.effective(units))


@settings(max_examples=25)
@given(density=st.floats(0.02, 0.6), seed=st.integers(0, 10**6), maximum=st.booleans())
def test_effective_weights_of_convolutions(density, seed, maximum):
    pool = nn.MaxPool2d(3, 2, padding=1) if maximum else nn.AvgPool2d(3, 2, padding=1)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), pool),
        *(nn.Conv2d(4, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(4, 3)),
    )
    masks = random_masks(model, density, seed)
    paths = Paths((2, 6, 6), masks)
    units = paths.convolution("0.weight", paths.inputs, model[0])
    units = paths.convolution("4.weight", paths.pool(units, 3, 2, 1), model[4])
    units = paths.linear("8.weight", units.flatten())
    assert_equal_masks(effective_masks(model, masks, (2, 6, 6)), paths.effective(units))


@pytest.mark.parametrize("seed", range(12))
def test_effective_weights_of_a_residual_network(residual, seed):
    masks = random_masks(residual, (0.03, 0.1, 0.3)[seed % 3], seed)
    if seed % 2:
        masks["conv2.weight"].zero_()  # the residual path alone
    paths = Paths((3, 4, 4), masks)
    trunk = paths.convolution("conv1.weight", paths.inputs, residual.conv1)
    units = paths.add(paths.convolution("conv2.weight", trunk, residual.conv2), trunk)
    units = paths.linear("linear.weight", paths.pool(units, 2, 2).flatten())
    found = effective_masks(residual, masks, (3, 4, 4))
    assert_equal_masks(found, paths.effective(units))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_effective_masks_leave_the_model_as_found(residual, dtype):
    residual.to(dtype).train()
    before = copy.deepcopy(residual.state_dict())
    masks = random_masks(residual, 0.1)
    copies = {name: mask.clone() for name, mask in masks.items()}
    effective_masks(residual, masks, (3, 4, 4))
    assert_equal_masks(masks, copies)
    assert all(torch.equal(v, before[n]) for n, v in residual.state_dict().items())
    assert residual.training
    assert not any(module._forward_hooks for module in residual.modules())
    assert all(p.grad is None for p in residual.parameters())


@pytest.mark.parametrize(("name", "shape"), [("vgg16", (3, 32, 32)), ("resnet110", (3, 32, 32))])
def test_all_weights_of_a_dense_network_are_effective(network, name, shape):
    model = network(name, shape)
    masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in prunable(model).items()}
    assert all(mask.all() for mask in effective_masks(model, masks, shape).values())


def test_ineffective_weights_never_matter(network):
    """Removing them leaves every output where it was, if no bias speaks up for them."""
    model = network("small_vgg", (1, 8, 8)).eval()
    masks = prune(model, "random", 0.99)
    effective = effective_masks(model, masks, (1, 8, 8))
    ineffective = {name: masks[name] & ~effective[name] for name in masks}
    assert sum(int(mask.sum()) for mask in ineffective.values()) > 50
    images = torch.randn(5, 1, 8, 8)
    before = model(images)
    apply(model, effective)
    torch.testing.assert_close(model(images), before)


def test_nothing_is_effective_behind_a_collapsed_layer(network):
    model = network("small_vgg", (1, 8, 8))
    masks = random_masks(model, 0.9)
    masks["conv2_1.weight"].zero_()
    assert not any(mask.any() for mask in effective_masks(model, masks, (1, 8, 8)).values())


# Flow and gradient


def test_flow_through_units_counts_positions_behind_a_flattened_map():
    incoming = torch.arange(12.0).view(2, 3, 2, 1)
    outgoing = torch.arange(24.0).view(3, 8)  # 2 units at 4 positions
    into, out = flow_through_units(incoming, outgoing, torch.tensor([1.0, 2.0]))
    assert into.tolist() == [0 + 1 + 2 + 3 + 4 + 5 + 1, 6 + 7 + 8 + 9 + 10 + 11 + 2]
    assert out.tolist() == [
        sum(8 * row + column for row in range(3) for column in range(first, first + 4))
        for first in (0, 4)
    ]


def test_paths_are_followed_on_the_cpu_wherever_the_model_is(network):
    """A convolution of zeros is zero there, which GPUs' libraries do not promise."""
    model = network("small_vgg", (1, 8, 8))
    masks = random_masks(model, 0.05)
    expected = effective_masks(model, masks, (1, 8, 8))
    assert any((masks[name] & ~mask).any() for name, mask in expected.items())
    assert_equal_masks(effective_masks(model.to("meta"), masks, (1, 8, 8)), expected)


def test_gradient_norm():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    images, labels = torch.randn(8, 6).double(), torch.arange(8) % 4
    F.cross_entropy(model(images) / 200, labels).backward()
    gradients = {name: w.grad for name, w in prunable(model).items()}
    masks = random_masks(model, 0.5)
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    full = sum(float((g**2).sum()) for g in gradients.values())
    part = sum(float((gradients[n] ** 2)[mask].sum()) for n, mask in masks.items())
    assert gradient_norm(model, batches, temperature=200) == pytest.approx(full)
    assert gradient_norm(model, batches, masks, temperature=200) == pytest.approx(part)
