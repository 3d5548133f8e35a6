"""Ablations: what each changes, what it must not, and inversion against a slow second version."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.models import initialise
from common.pruning import METHODS, Method, ablations, kept, prunable, prune, scores
from common.pruning.ablations import parse
from common.pruning.rounds import prune_rounds
from common.pruning.scores import Context

SHAPE = (1, 8, 8)
ONE_SHOT = [("random", ""), ("magnitude", ""), ("SNIP", ""), ("grasp", ""), ("synflow", "one_shot")]


def he(model, stream):
    initialise(model, "kaiming_normal", "uniform", stream)


@pytest.fixture(scope="module")
def batches():
    images = torch.rand(40, *SHAPE, generator=generator(0, "images"))
    return [(images, torch.arange(40) % 10)]


def pruned(network, batches, method, sparsity, ablation, variant="", seed=0):
    """(masks, the pruned model, its weights before)."""
    model = network("small_vgg", SHAPE)
    before = {name: w.detach().clone() for name, w in prunable(model).items()}
    masks = prune(
        model,
        method,
        sparsity,
        variant=variant,
        batches=batches,
        shape=SHAPE,
        ablation=ablation,
        initialise=he,
        seed=seed,
    )
    return masks, model, before


def differing(one, two) -> int:
    return sum(int((one[name] != two[name]).sum()) for name in one)


# Shuffle


@pytest.mark.parametrize(("method", "variant"), [*ONE_SHOT, ("synflow", ""), ("random", "erk")])
def test_shuffle_keeps_each_layers_count_and_uses_dense_weights(network, batches, method, variant):
    plain, _, _ = pruned(network, batches, method, 0.8, "none", variant)
    masks, model, before = pruned(network, batches, method, 0.8, "shuffle", variant)
    for name, weight in prunable(model).items():
        assert int(masks[name].sum()) == int(plain[name].sum())
        # A weight that the rounds had set to zero is back where the shuffled mask keeps it.
        assert torch.equal(weight, before[name] * masks[name])
        assert (weight[masks[name]] != 0).all()
    # Of two independent masks of density 0.2 some 32 percent differ.
    share = differing(masks, plain) / sum(w.numel() for w in before.values())
    assert 0.05 < share < 0.4


def test_shuffle_permutes_uniformly():
    mask = {"layer": (torch.arange(12) < 4).view(3, 4)}
    times = 3000
    counts = sum(
        ablations.shuffle(mask, generator(seed, "shuffle"))["layer"].float()
        for seed in range(times)
    )
    assert float(counts.sum()) == 4 * times
    assert (counts - times / 3).abs().max() < 4 * math.sqrt(times * (1 / 3) * (2 / 3))


def test_shuffle_network_keeps_the_total_and_evens_the_densities(network, batches):
    plain, _, _ = pruned(network, batches, "synflow", 0.8, "none")
    masks, model, before = pruned(network, batches, "synflow", 0.8, "shuffle_network")
    assert kept(masks) == kept(plain)
    for name, weight in prunable(model).items():
        assert torch.equal(weight, before[name] * masks[name])
        size = masks[name].numel()
        assert abs(int(masks[name].sum()) - 0.2 * size) < 4 * math.sqrt(size * 0.2 * 0.8)
    assert plain["conv1_1.weight"].float().mean() > 0.9  # far from even before


# Reinit


@pytest.mark.slow
@pytest.mark.parametrize(("method", "variant"), [*ONE_SHOT, ("SNIP", "force")])
def test_reinit_keeps_the_mask_and_redraws_the_weights(network, batches, method, variant):
    plain, old, _ = pruned(network, batches, method, 0.8, "none", variant)
    masks, model, before = pruned(network, batches, method, 0.8, "reinit", variant)
    assert differing(masks, plain) == 0
    for name, weight in prunable(model).items():
        mask = masks[name]
        assert not weight[~mask].any()
        if mask.any():
            assert not (weight == before[name])[mask].any()
    largest = model.conv2_2.weight.detach()[masks["conv2_2.weight"]]
    assert float(largest.std()) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)
    assert abs(float(largest.mean())) < 4 * float(largest.std()) / math.sqrt(len(largest))
    # The whole network is drawn anew: BatchNorm weights by this initialisation are U(0, 1).
    assert 0 <= model.norm2_2.weight.min() < 0.2
    assert not torch.equal(model.norm2_2.weight, old.norm2_2.weight)


def test_reinit_follows_the_seed(network, batches):
    one, two, other = (
        pruned(network, batches, "magnitude", 0.5, "reinit", seed=seed)[1].conv1_1.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_reinit_without_an_initialisation_is_an_error_before_any_work(residual):
    before = copy.deepcopy(residual.state_dict())
    with pytest.raises(ConfigurationError, match=r"reinit.*initialise"):
        prune(residual, "magnitude", 0.5, ablation="reinit")
    assert all(torch.equal(value, before[name]) for name, value in residual.state_dict().items())


def test_a_redraw_that_fails_leaves_the_model_as_it_was(residual):
    before = copy.deepcopy(residual.state_dict())

    def fail(model, generator):
        nn.init.ones_(model.conv1.weight)
        raise RuntimeError("no such scheme")

    with pytest.raises(RuntimeError, match="no such scheme"):
        prune(residual, "magnitude", 0.5, ablation="shuffle+reinit", initialise=fail)
    assert all(torch.equal(value, before[name]) for name, value in residual.state_dict().items())


# Invert


@pytest.mark.parametrize(("method", "variant"), ONE_SHOT)
def test_one_shot_inversion_at_one_half_is_the_complement(network, batches, method, variant):
    plain, _, _ = pruned(network, batches, method, 0.5, "none", variant)
    inverted, _, _ = pruned(network, batches, method, 0.5, "invert", variant)
    assert kept(plain) == kept(inverted) == 97_552 // 2
    assert differing(plain, inverted) == 97_552


def test_complement_up_to_one_weight_where_the_number_is_odd():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))  # 25 weights
    plain = prune(copy.deepcopy(model), "magnitude", 0.5)
    inverted = prune(model, "magnitude", 0.5, ablation="invert")
    assert kept(plain) == kept(inverted) == 12
    assert differing(plain, inverted) == 24


def slow_inversion(model, score, rounds, sparsity):
    """Remove the highest of the weights left, one round after the other, on Python lists."""
    model = copy.deepcopy(model)
    left = {(n, i) for n, w in prunable(model).items() for i in range(w.numel())}
    total = len(left)
    for k in range(1, rounds + 1):
        value = {name: s.flatten().tolist() for name, s in score(model).items()}
        ranking = sorted(left, key=lambda place: value[place[0]][place[1]])
        left = set(ranking[: round((1 - sparsity) ** (k / rounds) * total)])
        with torch.no_grad():
            for name, weight in prunable(model).items():
                for i in range(weight.numel()):
                    if (name, i) not in left:
                        weight.view(-1)[i] = 0
    return left


def sizes(model):
    return {name: w.detach().abs() for name, w in prunable(model).items()}


def sensitivity(images, labels):
    def score(model):
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        return {name: (w * w.grad).abs().detach() for name, w in prunable(model).items()}

    return score


def path_products(model):
    """SynFlow's scores of a linear network, layer by layer."""
    weights = [layer.weight.detach().abs() for layer in model]
    found = {}
    for l, weight in enumerate(weights):
        ahead, behind = torch.ones(len(weights[-1])), torch.ones(weights[0].shape[1])
        for other in reversed(weights[l + 1 :]):
            ahead = ahead.to(other) @ other
        for other in weights[:l]:
            behind = other @ behind.to(other)
        found[f"{l}.weight"] = weight * torch.outer(ahead.to(weight), behind.to(weight))
    return found


@pytest.mark.parametrize("method", ["magnitude", "SNIP", "synflow"])
def test_iterative_inversion_is_ranked_anew_in_every_round(method):
    if method == "magnitude":
        model, own, other, context = nn.Linear(9, 9), scores.magnitude, sizes, Context()
    elif method == "synflow":
        model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3))).double()
        own, other, context = scores.synflow, path_products, Context((8,))
    else:
        model = nn.Sequential(nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 5)).double()
        batch = (torch.randn(20, 8).double(), torch.randint(5, (20,)))
        own, other, context = scores.snip, sensitivity(*batch), Context((8,), [batch])
    # Not so sparse that units lose all their connections: their other weights would tie at zero.
    sparsity, rounds = (0.3, 6) if method == "synflow" else (0.5, 6)
    expected = slow_inversion(model, other, rounds, sparsity)
    one_shot = slow_inversion(model, other, 1, sparsity)
    found = prune_rounds(
        model, Method(own, iterations=rounds), sparsity, context, transform=ablations.invert
    )
    places = {(n, int(i)) for n, m in found.items() for i in m.flatten().nonzero()}
    assert places == expected
    if method != "magnitude":  # whose scores do not change between rounds
        assert places != one_shot


def test_inverted_synflow_loses_whole_layers_and_synflow_none(network, batches):
    inverted, _, _ = pruned(network, batches, "synflow", 0.5, "invert")
    assert not inverted["conv1_1.weight"].any()
    plain, _, _ = pruned(network, batches, "synflow", 0.99, "none")
    assert all(mask.any() for mask in plain.values())


# Combinations


def test_combinations_do_all_they_say(network, batches):
    masks, model, before = pruned(network, batches, "magnitude", 0.8, "invert+shuffle+reinit")
    inverted, _, _ = pruned(network, batches, "magnitude", 0.8, "invert")
    plain, _, _ = pruned(network, batches, "magnitude", 0.8, "none")
    for name, weight in prunable(model).items():
        assert int(masks[name].sum()) == int(inverted[name].sum())
        assert not weight[~masks[name]].any()
        assert not (weight == before[name])[masks[name]].any()
    assert differing(masks, inverted) > 0
    assert differing(inverted, plain) > 0


@pytest.mark.parametrize(
    ("combination", "stages"),
    [
        ("none", {"none"}),
        ("shuffle", {"masks"}),
        ("shuffle_network", {"masks"}),
        ("reinit", {"weights"}),
        ("invert", {"scores"}),
        ("shuffle+reinit", {"masks", "weights"}),
        ("reinit + shuffle_network", {"masks", "weights"}),
        ("invert+shuffle+reinit", {"scores", "masks", "weights"}),
    ],
)
def test_combinations_parse(combination, stages):
    assert set(parse(combination)) == stages


@pytest.mark.parametrize(
    ("combination", "message"),
    [
        ("shufle", "ablation='shufle'.*did you mean 'shuffle'.*none, shuffle, reinit, invert"),
        ("shuffle+", "ablation=''.*choose from"),
        ("", "ablation=''.*choose from"),
        ("shuffle+shuffle_network", "do not go together.*at most one each"),
        ("shuffle+shuffle", "do not go together"),
        ("none+reinit", "do not go together"),
        (5, "ablation='5' is not known"),
    ],
)
def test_wrong_combinations(combination, message):
    with pytest.raises(ConfigurationError, match=message):
        parse(combination)


@pytest.mark.slow
def test_every_method_takes_every_ablation(residual, monkeypatch):
    batch = [(torch.randn(4, 3, 6, 6), torch.randint(3, (4,)))]
    for method, variants in METHODS.items():
        for variant, found in variants.items():
            quick = dataclasses.replace(found, iterations=min(found.iterations, 5))
            monkeypatch.setitem(variants, variant, quick)
            for ablation in (*ablations.ABLATIONS, "invert+shuffle+reinit"):
                model = copy.deepcopy(residual)
                options = {"variant": variant, "batches": batch, "initialise": he}
                masks = prune(model, method, 0.6, ablation=ablation, **options)
                assert kept(masks) == round(0.4 * sum(m.numel() for m in masks.values()))
