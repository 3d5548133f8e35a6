"""ProsPr against torch's own optimizer: unrolled, perturbed entry by entry, and in closed form."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import assert_same
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from common.base.errors import ConfigurationError
from common.pruning import apply, kept, prospr, prunable, prune, scores
from common.pruning.prospr import LEARNING_RATE, MOMENTUM, STEPS, training
from common.pruning.scores import Context
from common.runs.experiment import configure
from common.runs.run import Run


def network() -> nn.Module:
    """Smooth, with BatchNorm, in float64."""
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 5)),
    ).double()


def batches(count: int = STEPS + 1):
    return [
        (torch.randn(7, 2, 6, 6, dtype=torch.float64), torch.randint(5, (7,))) for _ in range(count)
    ]


def trained(model: nn.Module, data) -> nn.Module:
    """A copy after a step of torch's SGD on each of all batches but the last."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
    for images, labels in data[:-1]:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def scores_of(model: nn.Module, data) -> dict:
    return prospr.prospr(model, Context(batches=data))


def last_loss(model: nn.Module, data) -> torch.Tensor:
    images, labels = data[-1]
    return F.cross_entropy(trained(model, data)(images), labels).detach()


def test_hyperparameters():
    assert (STEPS, LEARNING_RATE, MOMENTUM) == (3, 0.5, 0.9)


def test_against_finite_differences_of_the_mask():
    model, data = network(), batches()
    found = scores_of(model, data)
    for name, weight in prunable(model).items():
        for place in torch.randperm(weight.numel())[:12].tolist():
            losses = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                other = copy.deepcopy(model)
                with torch.no_grad():
                    prunable(other)[name].view(-1)[place] *= factor
                losses.append(float(last_loss(other, data)))
            slope = abs(losses[0] - losses[1]) / 2e-5
            assert float(found[name].view(-1)[place]) == pytest.approx(slope, rel=1e-5, abs=1e-10)


def test_against_autograd_through_all_steps():
    """One graph of everything, with the mask as a factor in it."""
    model, data = network(), batches()
    masks = {n: torch.ones_like(w).requires_grad_() for n, w in prunable(model).items()}
    w = {n: p.detach() * masks.get(n, 1) for n, p in model.named_parameters()}
    w = {n: p if p.requires_grad else p.requires_grad_() for n, p in w.items()}
    velocity = dict.fromkeys(w, 0)
    model.train()
    for images, labels in data[:-1]:
        loss = F.cross_entropy(functional_call(copy.deepcopy(model), w, (images,)), labels)
        gradients = torch.autograd.grad(loss, list(w.values()), create_graph=True)
        velocity = {n: MOMENTUM * velocity[n] + g for n, g in zip(w, gradients, strict=True)}
        w = {n: p - LEARNING_RATE * velocity[n] for n, p in w.items()}
    images, labels = data[-1]
    loss = F.cross_entropy(functional_call(copy.deepcopy(model), w, (images,)), labels)
    expected = torch.autograd.grad(loss, list(masks.values()))
    expected = {n: g.abs() for n, g in zip(masks, expected, strict=True)}
    assert_same(scores_of(model, data), expected, rtol=1e-9, atol=1e-14)
    # The steps matter: SNIP on the last batch is something else.
    snip = scores.snip(model, Context(batches=data[-1:]))
    assert not torch.allclose(snip["5.weight"], expected["5.weight"], rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_steps_it_is_snip(monkeypatch, dtype):
    monkeypatch.setattr(prospr, "STEPS", 0)
    model = network().to(dtype)
    context = Context(batches=[(x.to(dtype), y) for x, y in batches(1)])
    assert_same(prospr.prospr(model, context), scores.snip(model, context))
    assert_same(prospr.prospr_first_order(model, context), scores.snip(model, context))


def test_one_step_in_closed_form(monkeypatch):
    """Softmax regression: gradient and Hessian are known."""
    monkeypatch.setattr(prospr, "STEPS", 1)
    model = nn.Linear(6, 4, bias=False).double()
    (x0, y0), (x1, y1) = data = [
        (torch.randn(9, 6, dtype=torch.float64), torch.randint(4, (9,))) for _ in range(2)
    ]
    w = model.weight.detach()

    def gradient(w, x, y):
        return ((x @ w.T).softmax(1) - F.one_hot(y, 4)).T @ x / len(x)

    w1 = w - LEARNING_RATE * gradient(w, x0, y0)
    last = gradient(w1, x1, y1)
    p = (x0 @ w.T).softmax(1)
    # H[cd, ef] = mean over n of (p_c [c=e] - p_c p_e) x_d x_f
    spread = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    curved = torch.einsum("nce,nd,nf,ef->cd", spread, x0, x0, last) / len(x0)
    context = Context(batches=data)
    exact = {"weight": (w * (last - LEARNING_RATE * curved)).abs()}
    assert_same(prospr.prospr(model, context), exact, rtol=1e-10, atol=1e-14)
    assert_same(prospr.prospr_first_order(model, context), {"weight": (w * last).abs()})


def test_first_order_is_the_gradient_where_training_has_led():
    model, data = network(), batches()
    end, (images, labels) = trained(model, data), data[-1]
    end.zero_grad()
    F.cross_entropy(end(images), labels).backward()
    expected = {
        name: (prunable(model)[name] * weight.grad).abs().detach()
        for name, weight in prunable(end).items()
    }
    found = prospr.prospr_first_order(model, Context(batches=data))
    assert_same(found, expected, rtol=1e-10, atol=1e-14)


def test_batches_take_turns():
    model, (a, b, c, d) = network(), batches()
    assert_same(scores_of(model, [a, b]), scores_of(model, [a, b, a, b]))
    assert_same(scores_of(model, [a]), scores_of(model, [a, a, a, a]))
    assert_same(scores_of(model, [a, b, c, d, a]), scores_of(model, [a, b, c, d]))
    reordered = scores_of(model, [b, a, c, d])["5.weight"]
    assert not torch.allclose(reordered, scores_of(model, [a, b, c, d])["5.weight"], rtol=1e-3)


def test_training_with_masks_keeps_them():
    model, data = network(), batches()
    masks = {name: torch.rand_like(w) < 0.5 for name, w in prunable(model).items()}
    before = copy.deepcopy(model.state_dict())
    path = list(training(model, data, masks))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    other = copy.deepcopy(model).train()
    apply(other, masks)
    optimizer = torch.optim.SGD(other.parameters(), LEARNING_RATE, MOMENTUM)
    assert len(path) == STEPS + 1
    for (images, labels), (parameters, loss, _) in zip(data, path, strict=True):
        optimizer.zero_grad()
        expected = F.cross_entropy(other(images), labels)
        assert loss == pytest.approx(float(expected.detach()))
        assert_same(parameters, {name: p.detach() for name, p in other.named_parameters()})
        expected.backward()
        optimizer.step()
        apply(other, masks)


def test_dropout_is_the_same_in_both_passes_and_leaves_the_global_generator():
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Dropout(), nn.Linear(20, 4)).double()
    data = [(torch.randn(9, 6, dtype=torch.float64), torch.randint(4, (9,))) for _ in range(4)]

    def loss(model):
        return [loss for _, loss, _ in training(model, data)][-1]

    stream = torch.get_rng_state()
    found = scores_of(model, data)["3.weight"]
    assert torch.equal(torch.get_rng_state(), stream)
    losses = []
    for factor in (1 + 1e-5, 1 - 1e-5):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other[3].weight[1, 2] *= factor
        losses.append(loss(other))
    assert float(found[1, 2]) == pytest.approx(abs(losses[0] - losses[1]) / 2e-5, rel=1e-5)


def test_it_says_what_it_lacks():
    with pytest.raises(ConfigurationError, match="prospr scores on data"):
        prune(network(), "prospr", 0.5)
    with pytest.raises(ValueError, match="images and labels"):
        scores_of(network(), [])


@pytest.mark.slow
def test_a_run_on_digits(tmp_path):
    def run(seed: int) -> Run:
        options = {"seed": seed, "epochs": 1, "device": "cpu", "results_dir": tmp_path / str(seed)}
        return Run(configure("prospr", sparsity=0.9, **options))

    one, again, other = run(0), run(0), run(1)
    data = one.context.batches
    assert [len(labels) for _, labels in data] == [130] * 4
    assert all((labels.bincount() == 13).all() for _, labels in data)
    masks = one.prune()
    assert kept(masks) == round(0.1 * 97_552)
    assert_same(again.prune(), masks)
    assert not torch.equal(other.prune()["linear.weight"], masks["linear.weight"])
    one.train()
    assert one.save().loc[0, "test_accuracy"] > 30
