"""Scores against closed forms, finite differences and path products: none uses the code's own."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict

import pytest
import torch
from helpers import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from common.base.seeding import generator
from common.models import MODELS, initialise
from common.pruning import METHODS, Method, prunable, scores
from common.pruning.diagnostics import flow_through_units
from common.pruning.rounds import prune_ablated
from common.pruning.scores import GRASP_TEMPERATURE, Context, synaptic_flow

DTYPES = (torch.float32, torch.float64)


def smooth_network() -> nn.Module:
    """No BatchNorm and no kink."""
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, stride=2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(12, 5)),
    ).double()


def normalised_network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 5)),
    ).double()


def images_and_labels(count: int = 12, dtype: torch.dtype = torch.float64):
    return torch.randn(count, 2, 6, 6, dtype=dtype), torch.randint(5, (count,))


def in_parts(images, labels, sizes):
    return list(zip(images.split(sizes), labels.split(sizes), strict=True))


def gradient(model: nn.Module, images, labels, temperature: float = 1.0) -> dict:
    """By .backward() in train mode, on a copy: the plainest way there is."""
    model = copy.deepcopy(model).train()
    F.cross_entropy(model(images) / temperature, labels).backward()
    return {name: weight.grad for name, weight in prunable(model).items()}


# Softmax regression, where everything is known in closed form


@pytest.fixture(params=DTYPES, ids=str)
def regression(request):
    """(model, images, labels)."""
    model = nn.Sequential(nn.Linear(6, 4, dtype=request.param))
    images, labels = torch.randn(9, 6, dtype=request.param), torch.randint(4, (9,))
    return model, images, labels


def test_snip_closed_form(regression):
    model, x, labels = regression
    p = (x @ model[0].weight.T + model[0].bias).detach().softmax(1)
    expected = (model[0].weight * ((p - F.one_hot(labels, 4)).T @ x) / len(x)).abs().detach()
    found = scores.snip(model, Context(batches=[(x, labels)]))
    assert_same(found, {"0.weight": expected})
    assert found["0.weight"].dtype == x.dtype


def test_grasp_closed_form(regression):
    model, x, labels = regression
    weight, t = model[0].weight.detach(), 200
    p = ((x @ weight.T + model[0].bias.detach()) / t).softmax(1)
    g = ((p - F.one_hot(labels, 4)).T @ x) / len(x) / t
    # H[cd, ef] = mean over n of (p_c [c=e] - p_c p_e) x_d x_f / t^2
    spread = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    product = torch.einsum("nce,nd,nf,ef->cd", spread, x, x, g) / len(x) / t**2
    found = scores.grasp(model, Context(batches=[(x, labels)]))
    assert_same(found, {"0.weight": weight * product}, rtol=1e-4, atol=1e-9)
    absolute = scores.grasp_absolute(model, Context(batches=[(x, labels)]))
    assert_same(absolute, {"0.weight": found["0.weight"].abs()})


# SNIP


def test_snip_sums_gradients_over_batches_before_the_absolute_value():
    model, (images, labels) = smooth_network(), images_and_labels()
    parts = in_parts(images, labels, [5, 4, 3])
    whole = gradient(model, images, labels)
    expected = {n: (w.detach() * whole[n]).abs() for n, w in prunable(model).items()}
    assert_same(scores.snip(model, Context(batches=parts)), expected)
    # Absolute values first would give something else:
    wrong = sum(scores.snip(model, Context(batches=[part]))["0.weight"] for part in parts)
    assert not torch.allclose(wrong / 3, expected["0.weight"], rtol=0.1)


def test_snip_normalises_by_the_batch():
    model, (images, labels) = normalised_network().eval(), images_and_labels()
    g = gradient(model, images, labels)
    expected = {n: (w.detach() * g[n]).abs() for n, w in prunable(model).items()}
    assert_same(scores.snip(model, Context(batches=[(images, labels)])), expected)


def test_force_takes_old_weights_and_the_pruned_networks_gradient():
    model, (images, labels) = smooth_network(), images_and_labels()
    dense = {name: w.detach().clone() for name, w in prunable(model).items()}
    with torch.no_grad():
        for weight in prunable(model).values():
            weight[torch.rand_like(weight) < 0.5] = 0
    g = gradient(model, images, labels)
    found = scores.force(model, Context(batches=[(images, labels)], dense=dense))
    assert_same(found, {name: (dense[name] * g[name]).abs() for name in dense})
    assert (found["0.weight"][model[0].weight == 0] > 0).all()


def test_data_dependent_scores_say_what_they_lack():
    for score in (scores.snip, scores.grasp):
        with pytest.raises(ValueError, match="images and labels"):
            score(smooth_network(), Context())


# GraSP


@pytest.mark.parametrize("make", [smooth_network, normalised_network])
def test_hessian_gradient_product_against_finite_differences(make):
    model, (images, labels) = make(), images_and_labels()
    g = gradient(model, images, labels, temperature=200)
    # The largest change is 1e-4: its square is the error to expect.
    step = 1e-4 / max(float(x.abs().max()) for x in g.values())

    def moved(sign: int) -> dict:
        other = copy.deepcopy(model)
        with torch.no_grad():
            for name, weight in prunable(other).items():
                weight += sign * step * g[name]
        return gradient(other, images, labels, temperature=200)

    ahead, behind = moved(1), moved(-1)
    expected = {
        n: w.detach() * (ahead[n] - behind[n]) / (2 * step) for n, w in prunable(model).items()
    }
    largest = max(float(x.abs().max()) for x in expected.values())
    found = scores.grasp(model, Context(batches=[(images, labels)]))
    assert_same(found, expected, rtol=1e-6, atol=1e-6 * largest)


def test_grasp_on_several_batches_is_grasp_on_all_images():
    model, (images, labels) = smooth_network(), images_and_labels()
    one = scores.grasp(model, Context(batches=[(images, labels)]))
    several = scores.grasp(model, Context(batches=in_parts(images, labels, [2, 7, 3])))
    assert_same(several, one, rtol=1e-9, atol=1e-18)
    # With the first gradient of each batch alone, which the shortcut would take, it is not.
    shares = [
        scores.grasp(model, Context(batches=[part])) for part in in_parts(images, labels, [6, 6])
    ]
    mean = (shares[0]["0.weight"] + shares[1]["0.weight"]) / 2
    assert not torch.allclose(mean, one["0.weight"], rtol=0.1, atol=0)


def test_grasps_sign():
    """A weight of positive score adds to the gradient's norm as it grows, so it is one to keep."""
    model, (images, labels) = smooth_network(), images_and_labels()
    found = scores.grasp(model, Context(batches=[(images, labels)]))["5.weight"]

    def norm(place, factor: float) -> float:
        other = copy.deepcopy(model)
        with torch.no_grad():
            other[5].weight[place] *= factor
        g = gradient(other, images, labels, GRASP_TEMPERATURE)
        return sum(float(x.square().sum()) for x in g.values())

    for place in [(0, 0), (1, 3), (2, 7), (4, 11)]:
        slope = (norm(place, 1 + 1e-4) - norm(place, 1 - 1e-4)) / 2e-4
        assert float(found[place]) == pytest.approx(slope / 2, rel=1e-4)
    assert (found > 0).any()
    assert (found < 0).any()
    assert scores.GRASP_TEMPERATURE == 200


# SynFlow


def enumerated(weights, biases):
    """R and scores of a fully connected ReLU network, path by path, in plain Python floats.

    A path starts at an input (value 1) or at a unit's bias, and is worth the product of the
    absolute values along it; a parameter's score is the sum over the paths through it.
    """
    total, score = 0.0, defaultdict(float)
    sizes = [len(weights[0][0]), *(len(w) for w in weights)]
    for first in range(len(sizes)):
        for units in itertools.product(*(range(size) for size in sizes[first:])):
            edges = [(first + step, units[step + 1], units[step]) for step in range(len(units) - 1)]
            start = [] if first == 0 else [("bias", first - 1, units[0])]
            value = 1.0 if first == 0 else abs(biases[first - 1][units[0]])
            for layer, out, into in edges:
                value *= abs(weights[layer][out][into])
            total += value
            for parameter in [*start, *edges]:
                score[parameter] += value
    return total, score


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_synflow_is_the_sum_over_paths(dtype):
    model = nn.Sequential(
        *(nn.Linear(3, 4, dtype=dtype), nn.ReLU(), nn.Linear(4, 3, dtype=dtype), nn.ReLU()),
        nn.Linear(3, 2, dtype=dtype),
    )
    layers = [model[0], model[2], model[4]]
    total, expected = enumerated(
        [layer.weight.tolist() for layer in layers], [layer.bias.tolist() for layer in layers]
    )
    flow, found = synaptic_flow(model, (3,))
    assert float(flow) == pytest.approx(total, rel=1e-12)
    for l, place in enumerate("024"):
        for out, into in itertools.product(*map(range, layers[l].weight.shape)):
            value = float(found[f"{place}.weight"][out, into])
            assert value == pytest.approx(expected[l, out, into], rel=1e-12)
        for unit, value in enumerate(found[f"{place}.bias"].tolist()):
            assert value == pytest.approx(expected["bias", l, unit], rel=1e-12)
    weights_only = scores.synflow(model, Context((3,)))
    assert_same(weights_only, {f"{place}.weight": found[f"{place}.weight"] for place in "024"})


def test_synflow_of_convolutions_is_the_sum_over_paths():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 2, groups=2, bias=False), nn.ReLU(), nn.Conv2d(4, 1, 2, bias=False)
    )
    first, second = (model[i].weight.detach().abs().double() for i in (0, 2))
    expected = [torch.zeros_like(first), torch.zeros_like(second)]
    window = list(itertools.product(range(2), range(2)))
    # 3 x 3 pixels, 2 x 2 in the middle, 1 at the end; the middle channels 0, 1 see input 0 alone.
    for channel, (i, j), (k, l) in itertools.product(range(4), window, window):
        value = first[channel, 0, i, j] * second[0, channel, k, l]
        expected[0][channel, 0, i, j] += value
        expected[1][0, channel, k, l] += value
    assert_same(
        scores.synflow(model, Context((2, 3, 3))),
        {"0.weight": expected[0], "2.weight": expected[1]},
    )


@pytest.mark.parametrize(
    ("score", "positive"), [(scores.synflow, torch.abs), (scores.synflow_l2, torch.square)]
)
def test_synflow_closed_form_on_linear_networks(score, positive):
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in [(5, 7), (7, 6), (6, 3)]))
    a, b, c = (positive(layer.weight.detach().double()) for layer in model)
    ones = torch.ones(5, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    expected = {
        "0.weight": a * torch.outer(ones[1] @ c @ b, ones[0]),
        "1.weight": b * torch.outer(ones[1] @ c, a @ ones[0]),
        "2.weight": c * torch.outer(ones[1], b @ a @ ones[0]),
    }
    assert_same(score(model, Context((5,))), expected)


@pytest.mark.parametrize("biases", [False, True])
def test_synflow_is_conserved_on_vgg16(network, randomise_biases, biases):
    """Theorems 1 and 2 of Tanaka et al., with BatchNorm as a layer between."""
    model = network("vgg16", classes=100)
    if biases:
        randomise_biases(model)
    flow, found = synaptic_flow(model, (3, 32, 32))
    found_biases = {name: s for name, s in found.items() if name.endswith("bias")}
    layers = [name.removesuffix(".weight") for name in prunable(model)]
    for name, after in itertools.pairwise(layers):
        norm = name.replace("conv", "norm")
        bias = found[f"{name}.bias"]
        into, scaled = found[f"{name}.weight"].flatten(1).sum(1) + bias, found[f"{norm}.weight"]
        torch.testing.assert_close(scaled, into, rtol=1e-10, atol=0)
        into, out = flow_through_units(
            found[f"{name}.weight"], found[f"{after}.weight"], bias + found[f"{norm}.bias"]
        )
        torch.testing.assert_close(into, out, rtol=1e-10, atol=0)
    # All of R passes each layer, but what enters by later biases.
    later = float(sum(s.sum() for s in found_biases.values()))
    assert (later > 0) == biases
    for name in layers:
        assert float(found[f"{name}.weight"].sum()) + later == pytest.approx(float(flow), rel=1e-10)
        for bias in (f"{name}.bias", f"{name.replace('conv', 'norm')}.bias"):
            later -= float(found_biases[bias].sum()) if bias in found_biases else 0


@settings(max_examples=25)
@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    bias=st.booleans(),
    side=st.integers(2, 5),
    seed=st.integers(0, 10**6),
)
def test_synflow_is_conserved_by_every_hidden_unit(widths, bias, side, seed):
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=bias), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side**2, 3, bias=bias))
    flow, found = synaptic_flow(model, (widths[0], side, side))
    weights = list(prunable(model))
    for name, after in itertools.pairwise(weights):
        into, out = flow_through_units(
            found[name], found[after], found.get(name.replace("weight", "bias"))
        )
        torch.testing.assert_close(into, out, rtol=1e-9, atol=1e-12)
    if not bias:
        for name in weights:
            assert float(found[name].sum()) == pytest.approx(float(flow), rel=1e-9)


def test_batchnorm_in_train_mode_breaks_conservation(network):
    """It rescales whatever comes, so that the scores of a layer before it add up to nothing."""
    model = network("small_vgg", (1, 8, 8)).train()
    positive = {n: p.detach().double().abs().requires_grad_() for n, p in model.named_parameters()}
    buffers = {n: b.double() for n, b in model.named_buffers()}
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    trained = functional_call(model, (positive, buffers), (ones,)).sum()
    convolution, linear = positive["conv1_2.weight"], positive["linear.weight"]
    g = torch.autograd.grad(trained, [convolution, linear])
    lost, kept = float((convolution * g[0]).sum().detach()), float((linear * g[1]).sum().detach())
    assert kept == pytest.approx(float(trained.detach()))
    assert abs(lost) < 1e-3 * kept
    # Whatever mode the model is in, ours takes eval mode and conserves.
    flow, found = synaptic_flow(model, (1, 8, 8))
    for name in ("conv1_2.weight", "linear.weight"):
        assert float(found[name].sum()) == pytest.approx(float(flow), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].takes((3, 32, 32))])
def test_synflow_is_finite_and_right_on_every_model(network, name):
    shape = (3, 16, 16) if name == "wide_resnet18" else (3, 32, 32)
    model = network(name, shape)
    flow, found = synaptic_flow(model, shape, names=list(prunable(model)))
    assert all(torch.isfinite(score).all() and (score >= 0).all() for score in found.values())
    # The positive network without biases is linear in every single layer: scaling it by 3/2 adds
    # half the sum of its scores to R. Forward passes alone tell.
    first, *_, last = found
    middle = list(found)[len(found) // 2]
    with torch.no_grad():
        prunable(model)[middle].mul_(1.5)
    more = synaptic_flow(model, shape, names=[last])[0]
    assert float(more - flow) == pytest.approx(float(found[middle].sum()) / 2, rel=1e-6)
    # Every path passes the first and the last layer.
    assert float(found[first].sum()) == pytest.approx(float(flow), rel=1e-9)
    assert float(found[last].sum()) == pytest.approx(float(flow), rel=1e-9)
    if name in ("resnet56", "resnet110"):
        assert float(flow) > torch.finfo(torch.float32).max


# Every score


EVERY = sorted(
    {m.score.__name__: m.score for variants in METHODS.values() for m in variants.values()}.items()
)


def redraw(model: nn.Module, stream: torch.Generator) -> None:
    initialise(model, "kaiming_normal", "uniform", stream)


def context_for(model: nn.Module, batches) -> Context:
    dense = {name: w.detach().clone() for name, w in prunable(model).items()}
    return Context((3, 6, 6), batches, generator(0, "test"), dense, initialise=redraw)


@pytest.mark.parametrize(("name", "score"), EVERY, ids=[name for name, _ in EVERY])
@pytest.mark.parametrize("training", [True, False])
def test_a_score_leaves_everything_as_found(residual, name, score, training):
    residual(torch.randn(8, 3, 6, 6))  # BatchNorm statistics that are not the initial ones
    residual.train(training)
    residual.norm.train(not training)  # of its own mind
    residual.conv1.weight.requires_grad_(False)
    residual.linear.weight.grad = torch.full_like(residual.linear.weight, 7)
    batches = [(torch.randn(6, 3, 6, 6), torch.randint(3, (6,))) for _ in range(2)]
    before = copy.deepcopy(residual.state_dict())
    modes = {n: m.training for n, m in residual.named_modules()}
    flags = {n: p.requires_grad for n, p in residual.named_parameters()}
    stream = torch.get_rng_state()

    found = score(residual, context_for(residual, batches))

    assert {n: m.training for n, m in residual.named_modules()} == modes
    assert {n: p.requires_grad for n, p in residual.named_parameters()} == flags
    assert residual.conv1.bias.grad is None
    assert (residual.linear.weight.grad == 7).all()
    assert torch.equal(torch.get_rng_state(), stream)
    assert {n: s.shape for n, s in found.items()} == {
        n: w.shape for n, w in prunable(residual).items()
    }
    for value in found.values():
        assert not value.requires_grad
        value.fill_(-1)  # not the weights' own memory
    for key, value in residual.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(("name", "score"), EVERY, ids=[name for name, _ in EVERY])
def test_a_score_does_not_mind_no_grad(residual, name, score):
    batches = [(torch.randn(6, 3, 6, 6), torch.randint(3, (6,)))]
    expected = score(residual, context_for(residual, batches))
    with torch.no_grad():
        found = score(residual, context_for(residual, batches))
        assert not torch.is_grad_enabled()
    assert_same(found, expected)


def test_random_scores_are_uniform_and_follow_their_generator(residual):
    def draw(seed):
        return scores.random(residual, Context(generator=generator(seed, "test")))

    assert_same(draw(1), draw(1))
    assert not torch.equal(draw(1)["conv1.weight"], draw(2)["conv1.weight"])
    many = scores.random(nn.Linear(300, 300), Context(generator=generator(0, "test")))["weight"]
    counts = torch.histc(many, 10, 0, 1)
    assert (counts - 9000).abs().max() < 5 * (9000 * 0.9) ** 0.5


def test_squares_of_small_weights_are_taken_in_float64():
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e-30], [3e-30]]))
    found = scores.synflow_l2(model, Context(shape=(1,)))["weight"].flatten()
    expected = model.weight.detach().double().flatten() ** 2  # 1e-60: zero in float32
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_nobody_who_writes_a_score_need_think_of_whose_tensors_it_returns():
    model = nn.Linear(8, 4)
    before = model.weight.detach().clone()
    method = Method(lambda model, context: dict(prunable(model)))  # w, with its graph
    found = method.score(model, Context())
    masks = prune_ablated(model, method, 0.5, Context(), "invert", 0, found)
    assert_same(found, {"weight": before})
    assert_same(masks, {"weight": before <= before.flatten().sort().values[15]})
    assert torch.equal(model.weight, before * masks["weight"])
