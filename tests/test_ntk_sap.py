"""NTK-SAP against finite differences in the mask, and against the kernel itself."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from helpers import assert_same
from torch import nn
from torch.func import functional_call, jacrev

from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.check.well_made import Case
from common.models import initialise
from common.pruning import METHODS, Method, kept, ntk_sap, prunable, prune
from common.pruning.ntk_sap import EPSILON, ntk_trace, output_change
from common.pruning.rounds import Round, prune_rounds
from common.pruning.scores import Context
from common.runs.experiment import configure
from common.runs.run import Run


def redraw(model: nn.Module, stream: torch.Generator) -> None:
    initialise(model, "kaiming_normal", "uniform", stream)


def network(norm: bool = True) -> nn.Module:
    """Smooth, in float64."""
    middle = nn.BatchNorm2d(4) if norm else nn.Identity()
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), middle, nn.Tanh(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 5)),
    ).double()


def context(model: nn.Module, seed: int = 0, **options) -> Context:
    options = {"inputs": 6, "initialise": redraw, **options}
    return Context((2, 6, 6), generator=generator(seed, "test"), **options)


def half(model: nn.Module) -> dict:
    return {name: torch.rand_like(w) < 0.5 for name, w in prunable(model).items()}


def masked(model: nn.Module, masks: dict) -> nn.Module:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in prunable(model).items():
            weight *= masks[name]
    return model


def test_hyperparameters():
    assert (EPSILON, ntk_sap.BATCH, ntk_sap.PASSES) == (0.01, 256, 5)
    assert METHODS["ntk_sap"][""].iterations == 20
    assert METHODS["ntk_sap"]["single_pass"].iterations == 100


@pytest.mark.parametrize("norm", [True, False])
def test_against_finite_differences_in_the_mask(norm):
    """The draws made again from the same stream, with modules in place of functional calls."""
    model = network(norm)
    masks = half(model)
    found = ntk_sap.ntk_sap_single_pass(model, context(model, masks=masks))

    stream = generator(0, "test")
    drawn = copy.deepcopy(model)
    redraw(drawn, stream)
    inputs = torch.randn(6, 2, 6, 6, generator=stream).double()
    moved = copy.deepcopy(drawn)
    with torch.no_grad():
        for weight in prunable(moved).values():
            weight += EPSILON * torch.randn(weight.shape, generator=stream).double()
    statistics = masked(drawn, masks).train()
    if norm:
        statistics[1].momentum = 1.0
        statistics(inputs)
    frozen = dict(statistics.named_buffers())

    def change(masks) -> float:
        both = [functional_call(masked(m, masks).eval(), frozen, (inputs,)) for m in (drawn, moved)]
        return float((both[0] - both[1]).square().sum().detach())

    for name, mask in masks.items():
        numbers = {n: m.double() for n, m in masks.items()}
        for place in range(0, mask.numel(), 5):
            if not mask.view(-1)[place]:
                assert found[name].view(-1)[place] == 0
                continue
            numbers[name] = mask.double()
            numbers[name].view(-1)[place] += 1e-5
            above = change(numbers)
            numbers[name].view(-1)[place] -= 2e-5
            slope = abs(above - change(numbers)) / 2e-5
            value = float(found[name].view(-1)[place])
            assert value == pytest.approx(slope, rel=1e-5, abs=1e-9)


# The kernel, on a linear network small enough to write down


@pytest.fixture
def linear():
    """(network, masks as numbers, inputs)."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    masks = {n: torch.rand_like(w).requires_grad_() for n, w in prunable(model).items()}
    return model, masks, torch.randn(5, 3, dtype=torch.float64)


def kernel_trace(model, masks, inputs):
    """Of the kernel of θ -> f(X; θ⊙m), by its whole Jacobian."""

    def outputs(theta):
        return functional_call(model, {n: theta[n] * masks[n] for n in theta}, (inputs,))

    theta = {name: weight.detach() for name, weight in prunable(model).items()}
    return sum(j.square().sum() for j in jacrev(outputs)(theta).values())


def test_the_change_along_every_axis_is_the_trace(linear):
    """E over Δθ of the squared change is ε² times its sum over an orthonormal basis."""
    model, masks, inputs = linear
    total = 0
    for name, mask in masks.items():
        for place in range(mask.numel()):
            noise = {n: torch.zeros_like(m) for n, m in masks.items()}
            noise[name].view(-1)[place] = EPSILON
            total = total + output_change(model, masks, noise, inputs)
    trace = kernel_trace(model, masks, inputs)
    assert float(total.detach()) == pytest.approx(EPSILON**2 * float(trace.detach()), rel=1e-9)
    found = torch.autograd.grad(total, list(masks.values()))
    expected = torch.autograd.grad(trace, list(masks.values()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, EPSILON**2 * other, rtol=1e-9, atol=1e-15)


@pytest.mark.slow
def test_the_expected_score_is_the_slope_of_the_trace(linear):
    model, masks, inputs = linear
    stream, draws = generator(0, "noise"), []
    for _ in range(3000):
        noise = {
            n: 1e-3 * torch.randn(m.shape, generator=stream).double() for n, m in masks.items()
        }
        change = output_change(model, masks, noise, inputs)
        gradients = torch.autograd.grad(change, list(masks.values()))
        draws.append(torch.cat([g.flatten() for g in gradients]))
    draws = torch.stack(draws) / 1e-6
    trace = kernel_trace(model, masks, inputs)
    expected = torch.autograd.grad(trace, list(masks.values()))
    expected = torch.cat([g.flatten() for g in expected])
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - expected).abs() < 5 * error).all()
    assert (error < 0.1 * expected.abs().max()).all()


def test_the_traces_of_layers(linear):
    """One input and one output: its only sign squares to one, so the estimate is exact."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    masks = {n: torch.rand_like(w) < 0.6 for n, w in prunable(model).items()}
    found = ntk_trace(model, Context((3,), initialise=redraw, inputs=1), masks, passes=1)
    drawn, stream = copy.deepcopy(model), Context().generator
    redraw(drawn, stream)
    drawn = masked(drawn, masks)
    drawn(torch.randn(1, 3, generator=stream).double()).backward()
    for name, weight in prunable(drawn).items():
        expected = float(weight.grad[masks[name]].square().sum())
        assert found[name] == pytest.approx(expected, rel=1e-9)

    # Several of each: right on average over the signs.
    model, masks, _ = linear
    whole = {name: torch.ones_like(mask, dtype=torch.bool) for name, mask in masks.items()}
    keep = Context((3,), initialise=lambda model, stream: None, inputs=200)
    inputs = torch.randn(200, 3, generator=Context().generator).double()
    many = [ntk_trace(model, keep, whole, passes=1) for _ in range(30)]
    mean = sum(sum(trace.values()) for trace in many) / len(many)
    ones = {name: mask.double() for name, mask in whole.items()}
    assert mean == pytest.approx(float(kernel_trace(model, ones, inputs)) / 200, rel=0.1)


# What it looks at


def test_neither_the_weights_nor_the_statistics_of_the_model_matter():
    model, other = network(), network()
    other(torch.randn(9, 2, 6, 6).double())
    other.eval()
    with torch.no_grad():
        other[0].bias.fill_(3)
    expected = ntk_sap.ntk_sap_single_pass(model, context(model))
    assert_same(ntk_sap.ntk_sap_single_pass(other, context(other)), expected)
    another = ntk_sap.ntk_sap_single_pass(model, context(model, seed=1))
    assert not torch.allclose(another["5.weight"], expected["5.weight"], rtol=0.1)


@pytest.mark.parametrize(
    ("score", "inputs", "sizes"),
    [
        (ntk_sap.ntk_sap_single_pass, 100, [100]),
        (ntk_sap.ntk_sap_single_pass, 600, [256, 256, 88]),
        (ntk_sap.ntk_sap, 100, [100] * 5),
        (ntk_sap.ntk_sap, 300, [256, 44] * 5),
    ],
)
def test_new_weights_for_every_batch_of_inputs(monkeypatch, score, inputs, sizes):
    seen, weights = [], []

    def observe(network, masks, noise, inputs):
        seen.append(len(inputs))
        weights.append(network.weight[0, 0].item())
        return output_change(network, masks, noise, inputs)

    monkeypatch.setattr(ntk_sap, "output_change", observe)
    score(nn.Linear(3, 2), Context((3,), initialise=redraw, inputs=inputs))
    assert seen == sizes
    assert len(set(weights)) == len(sizes)


def test_rounds_tell_the_score_what_is_left():
    model = network()
    looks_at, seen = context(model), []

    def score(model, context):
        seen.append(dict(context.masks))
        return {name: torch.rand_like(w) for name, w in prunable(model).items()}

    for _ in range(2):  # the second time it starts afresh
        seen.clear()
        rounds: list[Round] = []
        prune_rounds(model, Method(score, iterations=4), 0.9, looks_at, observe=rounds.append)
        assert seen[0] == {}
        for masks, before in zip(seen[1:], rounds[:-1], strict=True):
            assert_same(masks, before.masks)


def test_draws_add_up_before_the_absolute_value(monkeypatch):
    model = network(norm=False)
    monkeypatch.setattr(ntk_sap, "BATCH", 3)
    both = ntk_sap.ntk_sap_single_pass(model, context(model, inputs=6))["5.weight"]
    one = context(model, inputs=3)
    apart = [ntk_sap.ntk_sap_single_pass(model, one)["5.weight"] for _ in range(2)]
    signs = torch.stack([apart[0] + apart[1], (apart[0] - apart[1]).abs()])
    distance = (signs - both).abs().amin(0)
    assert (distance < 1e-12).all()
    assert ((both - signs[1]).abs() < 1e-12).any()


def test_it_says_what_it_lacks(residual):
    before = copy.deepcopy(residual.state_dict())
    with pytest.raises(ConfigurationError, match=r"draws the weights anew.*initialise=\(model"):
        prune(residual, "ntk_sap", 0.5, shape=(3, 6, 6))
    with pytest.raises(ConfigurationError, match="ntk_sap needs the shape"):
        prune(residual, "ntk_sap", 0.5, initialise=redraw)
    assert all(torch.equal(value, before[name]) for name, value in residual.state_dict().items())


@pytest.mark.slow
def test_a_run_on_digits(tmp_path, monkeypatch):
    quick = dataclasses.replace(METHODS["ntk_sap"][""], iterations=4)
    monkeypatch.setitem(METHODS["ntk_sap"], "", quick)

    def run(seed: int) -> Run:
        options = {"seed": seed, "epochs": 1, "device": "cpu", "results_dir": tmp_path / str(seed)}
        return Run(configure("ntk_sap", sparsity=0.9, **options))

    one, again, other = run(0), run(0), run(1)
    assert (one.context.shape, one.context.inputs) == ((1, 8, 8), 100)
    weights = {name: weight.clone() for name, weight in prunable(one.model).items()}
    masks = one.prune()
    assert kept(masks) == round(0.1 * 97_552)
    for name, weight in prunable(one.model).items():  # its own weights, masked: none redrawn
        assert torch.equal(weight, weights[name] * masks[name])
    assert_same(again.prune(), masks)
    assert not torch.equal(other.prune()["linear.weight"], masks["linear.weight"])
    one.train()
    assert one.save().loc[0, "test_accuracy"] > 30


@pytest.mark.slow
def test_in_float64_rounding_has_nothing_to_grow_from_over_the_rounds():
    # In float32 most machines round these two layouts differently, and end with other masks.
    case, method = Case("small_vgg", "digits", 2, torch.float64), METHODS["ntk_sap"][""]
    masks = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = case.network().to(memory_format=layout)
        masks.append(prune_rounds(model, method, 0.5, case.context(method)))
    assert_same(*masks)
