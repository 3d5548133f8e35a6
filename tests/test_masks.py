"""Masks: exact counts whatever the scores look like, fair ties, rounds as scheduled."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from common.base.seeding import generator
from common.models import initialise
from common.pruning import METHODS, Method, kept, masks, prunable, prune, scores
from common.pruning.masks import NonFiniteScoresError, select
from common.pruning.rounds import Round, prune_rounds
from common.pruning.schedule import density_after, keep_count
from common.pruning.scores import Context

# What scores can look like; each takes (numpy Generator, how many) and returns float64.
SHAPES_OF_SCORES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "few values": lambda rng, n: rng.integers(0, 3, n).astype(float),
    "all zero": lambda rng, n: np.zeros(n),
    "constant": lambda rng, n: np.full(n, 0.1),
    "signed zeros": lambda rng, n: rng.choice([0.0, -0.0], n),
    "ascending": lambda rng, n: np.sort(rng.normal(size=n)),
    "descending": lambda rng, n: np.sort(rng.normal(size=n))[::-1].copy(),
    "denormal": lambda rng, n: rng.integers(-4, 5, n) * 1e-45,
    "spread": lambda rng, n: 10.0 ** rng.uniform(-30, 30, n) * rng.choice([-1, 1], n),
    "one spike": lambda rng, n: np.where(np.arange(n) == 0, 1.0, 0.0),
    "mostly one value": lambda rng, n: np.where(rng.random(n) < 0.9, 0.5, rng.random(n)),
}
FORMATS = ("plain", "channels_last", "transposed")


def tensor(kind, memory, shape, rng, dtype):
    values = torch.from_numpy(SHAPES_OF_SCORES[kind](rng, math.prod(shape))).to(dtype)
    score = values.reshape(shape)
    if memory == "channels_last" and len(shape) == 4:
        return score.contiguous(memory_format=torch.channels_last)
    if memory == "transposed" and len(shape) > 1:
        return score.transpose(0, 1).contiguous().transpose(0, 1)
    return score


@st.composite
def layers(draw):
    """{name: scores} of up to five layers, often one of them far larger than the others."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    found = {}
    for number in range(draw(st.integers(1, 5))):
        shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
        if draw(st.integers(0, 5)) == 0:
            shape = (draw(st.integers(500, 900)),)
        kind = draw(st.sampled_from(sorted(SHAPES_OF_SCORES)))
        memory = draw(st.sampled_from(FORMATS))
        found[f"layer{number}"] = tensor(kind, memory, shape, rng, dtype)
    return found


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.reshape(-1) for t in tensors.values()])


def check_selection(found, given_scores, keep, candidates=None):
    """As many as asked for, all of them candidates, none of them below one that went."""
    assert list(found) == list(given_scores)
    for name, mask in found.items():
        assert mask.dtype == torch.bool
        assert mask.shape == given_scores[name].shape
    chosen, values = flat(found), flat(given_scores)
    if candidates is not None:
        assert not (chosen & ~flat(candidates)).any()
        chosen, values = chosen[flat(candidates)], values[flat(candidates)]
    assert int(chosen.sum()) == keep
    if 0 < keep < len(values):
        assert values[chosen].min() >= values[~chosen].max()


# The number of scores below which all are ranked, and the size of the sample above it: large enough
# for brackets that leave something out.
BOTH_WAYS = pytest.mark.parametrize("small", [(1 << 17, 1 << 16), (8, 400)], ids=("rank", "sample"))


@BOTH_WAYS
@settings(max_examples=150)
@given(data=st.data(), score=layers(), density=st.floats(0, 1), limited=st.booleans())
def test_exactly_as_many_as_asked_for_and_the_best(small, data, score, density, limited):
    total = len(flat(score))
    candidates, available = None, total
    if limited:
        rng = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
        candidates = {n: torch.rand(s.shape, generator=rng) < 0.5 for n, s in score.items()}
        available = kept(candidates)
    keep = round(density * available)
    before = {name: s.clone() for name, s in score.items()}
    with mock.patch.multiple(masks, _SMALL=small[0], _SAMPLE=small[1]):
        found = select(score, keep, generator(0, "ties"), candidates)
    check_selection(found, before, keep, candidates)


@BOTH_WAYS
@settings(max_examples=60)
@given(score=layers(), density=st.floats(0, 1))
def test_each_layer_by_itself(small, score, density):
    keep = {name: round(density * s.numel()) for name, s in score.items()}
    before = {name: s.clone() for name, s in score.items()}
    with mock.patch.multiple(masks, _SMALL=small[0], _SAMPLE=small[1]):
        found = select(score, keep, generator(0, "ties"))
    for name, mask in found.items():
        check_selection({name: mask}, {name: before[name]}, keep[name])


@pytest.mark.parametrize("density", [0.9, 0.5, 0.01, 1e-5])
def test_without_ties_it_is_what_sorting_gives(density):
    """More scores than are ranked whole, distinct, layers as unequal as VGG-16's."""
    values = torch.randperm(300_000, generator=generator(0, "values")).double() - 1e5
    sizes = [100, 10_000, 39_900, 250_000]
    score = {f"layer{i}": part for i, part in enumerate(values.clone().split(sizes))}
    keep = round(density * len(values))
    with mock.patch.object(masks, "_rank", wraps=masks._rank) as rank:
        found = select(score, keep, generator(0, "ties"))
    (ranked, _), _ = rank.call_args
    assert len(ranked) < len(values) / 20  # the rest was only counted
    expected = torch.zeros(len(values), dtype=torch.bool)
    expected[values.argsort(descending=True)[:keep]] = True
    assert torch.equal(flat(found), expected)


@pytest.mark.parametrize("sampled", [0, 698, 699, 700, 701, 999])
def test_where_the_sample_misleads_everything_is_ranked(sampled):
    """A sample of one value alone; 700 is the one looked for."""
    score = {"layer": torch.arange(1000.0)}

    def one_value(high, size, generator):
        return torch.full(size, sampled)

    with (
        mock.patch.multiple(masks, _SMALL=8, _SAMPLE=400),
        mock.patch.object(torch, "randint", one_value),
    ):
        found = select(score, 300, generator(0, "ties"))
    assert torch.equal(found["layer"], torch.arange(1000) >= 700)


@pytest.mark.parametrize("removed", [0.001, 0.02, 0.3])
@pytest.mark.parametrize("memory", FORMATS)
def test_a_later_round_of_large_layers(removed, memory):
    """Candidates in another layout than the scores, which stay as they are; few or many go."""
    rng = np.random.default_rng(0)
    shapes = {"small": (8, 3, 3, 3), "large": (400, 50, 3, 3)}
    score = {n: tensor("normal", memory, s, rng, torch.float64) for n, s in shapes.items()}
    candidates = {n: torch.from_numpy(rng.random(s) < 0.4) for n, s in shapes.items()}
    before = {name: s.clone() for name, s in score.items()}
    keep = round((1 - removed) * kept(candidates))
    found = select(score, keep, generator(0, "ties"), candidates)
    check_selection(found, score, keep, candidates)
    assert all(torch.equal(score[name], before[name]) for name in score)


def test_the_memorys_order_decides_no_tie():
    shape = (40, 90, 3, 3)
    plain = {"layer": torch.randint(0, 3, shape).double()}
    last = {"layer": plain["layer"].contiguous(memory_format=torch.channels_last)}
    one, two = (select(s, 10_000, generator(0, "ties")) for s in (plain, last))
    assert torch.equal(one["layer"], two["layer"])


@BOTH_WAYS
def test_ties_favour_neither_layers_nor_positions(small):
    """100 of 400 equal scores, 2,000 times: each is kept 500 times, but for chance."""
    times, counts = 2000, torch.zeros(400)
    with mock.patch.multiple(masks, _SMALL=small[0], _SAMPLE=small[1]):
        for seed in range(times):
            score = {"small": torch.zeros(10, 10), "large": torch.zeros(300)}
            counts += flat(select(score, 100, generator(seed, "ties"))).float()
    p = 100 / 400
    deviation = math.sqrt(times * p * (1 - p))
    # 400 positions: the largest of as many normal deviates passes 4.5 once in 400 tries.
    assert (counts - times * p).abs().max() < 4.5 * deviation
    # All of the small layer: the sum of hypergeometric counts, 4 deviations.
    variance = times * 100 * p * (1 - p) * (400 - 100) / (400 - 1)
    assert abs(float(counts[:100].sum()) - times * 25) < 4 * math.sqrt(variance)


def test_only_ties_are_left_to_chance():
    score = {"a": torch.tensor([3.0, 1.0, 1.0, 1.0]), "b": torch.tensor([0.0, 2.0])}
    for seed in range(20):
        found = select(score, 3, generator(seed, "ties"))
        assert found["a"][0]
        assert found["b"].tolist() == [False, True]
        assert found["a"].sum() == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_scores_are_an_error_that_names_the_layer(value):
    score = {"conv1.weight": torch.rand(5), "conv2.weight": torch.rand(4, 3)}
    score["conv2.weight"][1, 2] = value
    score["conv2.weight"][3, 0] = value
    with pytest.raises(NonFiniteScoresError, match=r"2 of 12 scores of conv2\.weight"):
        select(score, 5, generator(0, "ties"))


def test_more_than_there_are():
    score = {"a": torch.rand(5)}
    with pytest.raises(ValueError, match="cannot keep 6 of 5"):
        select(score, 6, generator(0, "ties"))
    some = {"a": torch.tensor([True, True, False, False, False])}
    with pytest.raises(ValueError, match="cannot keep 3 weights: fewer are left"):
        select(score, 3, generator(0, "ties"), some)


@BOTH_WAYS
def test_an_empty_layer_is_no_obstacle(small):
    score = {"empty": torch.zeros(0, 4), "full": torch.arange(20.0)}
    with mock.patch.multiple(masks, _SMALL=small[0], _SAMPLE=small[1]):
        found = select(score, 7, generator(0, "ties"))
    assert found["empty"].shape == (0, 4)
    assert torch.equal(found["full"], torch.arange(20) >= 13)


# Schedules


@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True))
@example(100, 0.99999)
@example(3, 0.0)
def test_schedules(steps, sparsity):
    density = 1 - sparsity
    exponential = [density_after(k, steps, density, "exponential") for k in range(1, steps + 1)]
    linear = [density_after(k, steps, density, "linear") for k in range(1, steps + 1)]
    assert exponential[-1] == linear[-1] == density
    for k in range(steps):
        assert exponential[k] == pytest.approx(math.exp(math.log(density) * (k + 1) / steps))
        assert linear[k] == pytest.approx(1 - sparsity * (k + 1) / steps)


def test_an_unknown_schedule():
    with pytest.raises(ValueError, match=r"cubic.*exponential, linear"):
        density_after(1, 2, 0.5, "cubic")


@pytest.mark.parametrize(
    ("total", "sparsity", "kept_weights"),
    [
        (14_715_584, 0.0, 14_715_584),
        (14_715_584, 0.9, 1_471_558),
        (14_715_584, 0.98, 294_312),
        (14_715_584, 1 - 1e-6, 15),
        (1000, 0.9999, 0),
    ],
)
def test_keep_count(total, sparsity, kept_weights):
    assert keep_count(total, sparsity) == kept_weights


# Rounds, on a whole network

VARIANTS = [(method, variant) for method, variants in METHODS.items() for variant in variants]


def redraw(model: nn.Module, stream: torch.Generator) -> None:
    initialise(model, "kaiming_normal", "ones", stream)


def context(model) -> Context:
    batches = [(torch.randn(4, 3, 6, 6), torch.randint(3, (4,)))]
    return Context((3, 6, 6), batches, generator(0, "pruning"), initialise=redraw, inputs=8)


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.9, 0.997])
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_round_keeps_what_its_schedule_says(residual, name, variant, sparsity):
    method = METHODS[name][variant]
    total = sum(w.numel() for w in prunable(residual).values())
    rounds: list[Round] = []
    found = prune_rounds(residual, method, sparsity, context(residual), observe=rounds.append)
    assert len(rounds) == method.iterations
    for step, after in enumerate(rounds, start=1):
        if method.schedule == "exponential":
            density = (1 - sparsity) ** (step / method.iterations)
        else:
            density = 1 - sparsity * step / method.iterations
        assert (after.step, after.density) == (step, pytest.approx(density))
        assert kept(after.masks) == round(after.density * total)
    assert kept(found) == round((1 - sparsity) * total)
    if not method.revive:
        for before, after in itertools.pairwise(rounds):
            assert not any((after.masks[n] & ~before.masks[n]).any() for n in found)
    for weight_name, weight in prunable(residual).items():
        assert not weight[~found[weight_name]].any()


@settings(max_examples=30)
@given(
    sparsity=st.floats(0, 1, exclude_max=True),
    zero=st.booleans(),
    iterations=st.integers(1, 7),
    schedule=st.sampled_from(["exponential", "linear"]),
    scope=st.sampled_from(["global", "uniform", "erk", "smart_ratio"]),
)
def test_exact_in_every_scope_and_schedule_even_of_zeros(
    sparsity, zero, iterations, schedule, scope
):
    model = nn.Sequential(nn.Linear(7, 11), nn.Linear(11, 13), nn.Linear(13, 3))
    if zero:
        for weight in prunable(model).values():
            nn.init.zeros_(weight)
    total = 7 * 11 + 11 * 13 + 13 * 3
    rounds: list[Round] = []
    method = Method(scores.magnitude, iterations, schedule, scope)
    prune_rounds(model, method, sparsity, context(model), observe=rounds.append)
    for after in rounds:
        assert kept(after.masks) == round(after.density * total)
    assert kept(rounds[-1].masks) == round((1 - sparsity) * total)


def test_force_may_revive_and_gives_a_weight_its_old_value_back(residual):
    dense = {name: w.detach().clone() for name, w in prunable(residual).items()}
    method = Method(scores.force, iterations=20, revive=True)
    rounds: list[Round] = []
    found = prune_rounds(residual, method, 0.8, context(residual), observe=rounds.append)
    revived = {
        name: found[name] & ~torch.stack([r.masks[name] for r in rounds]).all(0) for name in found
    }
    assert kept(revived) > 0
    for name, weight in prunable(residual).items():
        assert torch.equal(weight, dense[name] * found[name])


def slow_synflow(model: nn.Module, shape, sparsity: float, iterations: int) -> dict:
    """Every score from a network of its own, every selection by sorting."""
    masks_ = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(model).items()}
    total = sum(m.numel() for m in masks_.values())
    for step in range(1, iterations + 1):
        network = copy.deepcopy(model).double().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.abs_()
        network(torch.ones(1, *shape, dtype=torch.float64)).sum().backward()
        score = {n: w.detach() * w.grad for n, w in prunable(network).items()}
        values = flat(score).masked_fill(~flat(masks_), -1)
        keep = round((1 - sparsity) ** (step / iterations) * total)
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[values.argsort(descending=True)[:keep]] = True
        parts = chosen.split([m.numel() for m in masks_.values()])
        masks_ = {n: p.view(m.shape) for (n, m), p in zip(masks_.items(), parts, strict=True)}
        with torch.no_grad():
            for name, weight in prunable(model).items():
                weight *= masks_[name]
    return masks_


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("iterations", [3, 40])
def test_synflow_is_what_a_plain_slow_implementation_gives(network, memory, iterations):
    """Forty rounds rank only the few that go, three rank a bracket."""
    model = network("small_vgg", (1, 8, 8)).to(memory_format=memory)
    expected = slow_synflow(copy.deepcopy(model), (1, 8, 8), 0.9, iterations)
    method = dataclasses.replace(METHODS["synflow"][""], iterations=iterations)
    with mock.patch.multiple(masks, _SMALL=8, _SAMPLE=4000):
        found = prune_rounds(model, method, 0.9, Context((1, 8, 8)))
    for name, mask in expected.items():
        assert torch.equal(found[name], mask), name


def test_scores_of_the_first_round_may_be_given(residual):
    first = {n: torch.rand_like(w) for n, w in prunable(residual).items()}
    ranking = {name: score.clone() for name, score in first.items()}
    method = Method(mock.Mock(side_effect=AssertionError("scored again")))
    found = prune_rounds(residual, method, 0.5, context(residual), first=first)
    check_selection(found, ranking, kept(found))


def test_nothing_to_prune():
    with pytest.raises(ValueError, match="nothing to prune"):
        prune_rounds(nn.ReLU(), METHODS["magnitude"][""], 0.5, Context())


# Masks on the model


def test_applying_is_in_place_and_touches_nothing_else(residual):
    residual.to(memory_format=torch.channels_last)
    found = prune(residual, "random", 0.5)
    assert found["conv1.weight"].is_contiguous(memory_format=torch.channels_last)
    memory = {name: p.data_ptr() for name, p in residual.named_parameters()}
    before = {name: p.detach().clone() for name, p in residual.named_parameters()}
    masks.apply(residual, found)
    masks.apply(residual, {})
    for name, parameter in residual.named_parameters():
        assert parameter.data_ptr() == memory[name]
        assert parameter.requires_grad
        assert torch.equal(parameter, before[name] * found.get(name, 1))
    assert list(found) == ["conv1.weight", "conv2.weight", "linear.weight"]


@pytest.mark.parametrize(("width", "kind"), [(64, torch.float32), (1025, torch.bool)])
def test_masks_for_every_step_take_the_memory_of_booleans_or_little(width, kind):
    model = nn.Sequential(nn.Linear(1024, width), nn.Linear(width, 2))
    found = prune(model, "random", 0.5)
    with torch.no_grad():
        for weight in prunable(model).values():
            weight.copy_(torch.randn_like(weight))
    expected = {name: weight * found[name] for name, weight in prunable(model).items()}
    pairs = masks.paired(dict(model.named_parameters()), found)
    assert [mask.dtype for _, mask in pairs] == [kind] * 2
    masks.multiply(pairs)
    assert all(torch.equal(weight, expected[name]) for name, weight in prunable(model).items())


def test_selection_draws_from_its_generator_alone(residual):
    state = torch.get_rng_state()
    one, two, other = (prune(residual, "random", 0.5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
