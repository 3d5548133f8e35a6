"""Layerwise densities: exact totals, no layer over its size, the papers' proportions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.base.seeding import generator
from common.pruning import Method, kept, prunable, scores
from common.pruning.distributions import DISTRIBUTIONS, erk, smart_ratio, uniform
from common.pruning.rounds import prune_rounds
from common.pruning.scores import Context

shapes_of_layers = st.lists(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), min_size=1, max_size=7
).map(lambda shapes: {f"layer{i}": shape for i, shape in enumerate(shapes)})


def sizes(shapes):
    return {name: math.prod(shape) for name, shape in shapes.items()}


def water_level(ratios, room, keep):
    """keep = sum of min(1, c r) n over the layers, solved for c by bisection: the real-valued
    answer, found without ever deciding which layers are full."""
    low, high = 0.0, 1.0 / min(ratios.values())
    for _ in range(200):
        c = (low + high) / 2
        if sum(min(1, c * ratios[name]) * n for name, n in room.items()) < keep:
            low = c
        else:
            high = c
    return {name: min(1, high * ratios[name]) * n for name, n in room.items()}


@settings(max_examples=300)
@given(shapes_of_layers, st.floats(0, 1), st.sampled_from(sorted(DISTRIBUTIONS)))
def test_totals_are_exact_and_no_layer_keeps_more_than_it_has(shapes, density, name):
    room = sizes(shapes)
    keep = round(density * sum(room.values()))
    counts = DISTRIBUTIONS[name](shapes, keep, room)
    assert list(counts) == list(shapes)
    assert sum(counts.values()) == keep
    for layer, count in counts.items():
        assert isinstance(count, int)
        assert 0 <= count <= room[layer]


@settings(max_examples=150)
@given(shapes_of_layers, st.floats(0, 1))
def test_uniform_is_the_same_density_everywhere(shapes, density):
    room = sizes(shapes)
    keep = round(density * sum(room.values()))
    for layer, count in uniform(shapes, keep, room).items():
        assert abs(count - keep / sum(room.values()) * room[layer]) < 1


@settings(max_examples=300)
@given(shapes_of_layers, st.floats(0, 1))
def test_erk_against_bisection(shapes, density):
    room = sizes(shapes)
    keep = round(density * sum(room.values()))
    ratios = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    expected = water_level(ratios, room, keep)
    for layer, count in erk(shapes, keep, room).items():
        assert abs(count - expected[layer]) < 1 + 1e-6


@settings(max_examples=300)
@given(shapes_of_layers.filter(lambda shapes: len(shapes) > 1), st.floats(0, 1))
def test_smart_ratio_against_bisection(shapes, density):
    room = sizes(shapes)
    keep = round(density * sum(room.values()))
    counts = smart_ratio(shapes, keep, room)
    *others, last = shapes
    # Three tenths of the last layer, if there are so many to keep and the others can take the rest.
    rest = sum(room[name] for name in others)
    assert counts[last] == max(min(round(0.3 * room[last]), keep), keep - rest)
    depth = len(shapes)
    # Su et al. count layers from 1.
    ratios = {
        name: (depth - l + 1) ** 2 + (depth - l + 1) for l, name in enumerate(others, start=1)
    }
    expected = water_level(ratios, {name: room[name] for name in others}, keep - counts[last])
    for layer in others:
        assert abs(counts[layer] - expected[layer]) < 1 + 1e-6


@settings(max_examples=100)
@given(shapes_of_layers, st.floats(0, 0.999), st.sampled_from(sorted(DISTRIBUTIONS)))
def test_no_layer_gets_back_what_an_earlier_round_took(shapes, sparsity, name):
    """By remainders alone a layer can gain a weight while the total falls (Alabama's paradox)."""
    left = sizes(shapes)
    total = sum(left.values())
    for step in range(1, 21):
        keep = round((1 - sparsity) ** (step / 20) * total)
        counts = DISTRIBUTIONS[name](shapes, keep, left)
        assert sum(counts.values()) == keep
        assert all(0 <= counts[layer] <= left[layer] for layer in shapes)
        left = counts


@pytest.mark.parametrize("scope", sorted(DISTRIBUTIONS))
def test_a_hundred_rounds_within_layers(network, scope):
    method = Method(scores.magnitude, iterations=100, scope=scope)
    model = network("small_vgg", (1, 8, 8))
    masks = prune_rounds(model, method, 0.99, Context(generator=generator(0, "ties")))
    assert kept(masks) == round(0.01 * 97_552)


def test_on_vgg16(network):
    """Where the numbers are known by hand."""
    shapes = {name: tuple(w.shape) for name, w in prunable(network("vgg16")).items()}
    keep, room = round(0.1 * 14_715_584), sizes(shapes)
    assert set(uniform(shapes, keep, room).values()) <= {
        *(172, 173, 3686, 3687, 7372, 7373, 14745, 14746, 29491, 29492),
        *(58982, 58983, 117964, 117965, 235929, 235930, 512, 513),
    }
    counts = erk(shapes, keep, room)
    assert counts["conv1_1.weight"] == 1728
    assert counts["linear.weight"] == 5120
    # Among the layers that are not full, in proportion to the sum of the dimensions.
    a, b = counts["conv4_1.weight"], counts["conv5_3.weight"]
    assert a / b == pytest.approx((512 + 256 + 6) / (512 + 512 + 6), rel=1e-4)
    counts = smart_ratio(shapes, keep, room)
    assert counts["linear.weight"] == 1536
    densities = {name: counts[name] / math.prod(shapes[name]) for name in shapes}
    # Layers 12 and 13 of 14: (9 + 3) to (4 + 2).
    assert densities["conv5_2.weight"] / densities["conv5_3.weight"] == pytest.approx(2, rel=1e-4)


def test_one_layer():
    for distribution in DISTRIBUTIONS.values():
        assert distribution({"linear": (10, 10)}, 42, {"linear": 100}) == {"linear": 42}
