"""Filter pruning: the penalty's step, what is removed, what is left and what it costs."""

from __future__ import annotations

import copy
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_same_tables, caption, carry_out, left_titles, legend, untimed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.pruning import kept, prunable
from common.pruning.diagnostics import multiply_adds
from common.results import run_folder
from common.results.collected import collect
from common.results.schema import EPOCHS, EXACT, LAYERS, SUMMARY
from common.runs.experiment import configure
from common.structured import (
    channels,
    compared,
    cost,
    export,
    filter_plots,
    penalty,
    published,
    removal,
    tables,
)
from common.structured.filter_run import FilterRun
from common.structured.penalty import step_length
from common.sweep import grid, plan
from common.training import callbacks, loop

ROOT = Path(__file__).resolve().parent.parent
DIGITS = (1, 8, 8)
NETWORKS = [
    *[("small_vgg", DIGITS), ("vgg11", (3, 32, 32)), ("vgg11", (3, 64, 64))],
    *[("resnet20", (3, 16, 16)), ("lenet_300_100", DIGITS)],
]


def random_groups(sizes, count=5, seed=0, weight=1.5):
    stream = generator(seed, "groups")
    tensors = [torch.randn(count, *size, generator=stream) for size in sizes]
    return penalty.Groups("layer", weight, tensors)


# The penalty


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.01, 3), st.floats(0.01, 2), st.floats(0.5, 3))
def test_the_proximal_step_is_the_minimiser(seed, strength, size, weight):
    """Of ‖x - v‖² / 2 + size λ ω ‖x‖: no point near or far has less of it, zero included."""
    group = random_groups([(3,), (2, 2), ()], seed=seed, weight=weight)
    before = torch.cat([t.reshape(5, -1) for t in group.tensors], 1).double()
    penalty.Penalty([group], strength).step(size)
    after = torch.cat([t.reshape(5, -1) for t in group.tensors], 1).double()

    def objective(x):
        pulled = size * strength * weight * x.norm(dim=1)
        return (x - before).square().sum(1) / 2 + pulled

    least = objective(after)
    stream = generator(seed, "others")
    for scale in (1e-3, 1e-1, 1.0):
        other = after + scale * torch.randn(after.shape, generator=stream).double()
        assert (objective(other) >= least - 1e-6).all()
    assert (objective(torch.zeros_like(after)) >= least - 1e-6).all()
    # Zero is reached exactly, and by those groups that have less than the step.
    assert torch.equal(
        after.norm(dim=1) == 0, before.norm(dim=1).float() <= size * strength * weight
    )


def test_norms_and_value_are_those_of_the_formula():
    group = random_groups([(3,), ()], weight=2.0)
    joined = torch.cat([group.tensors[0], group.tensors[1][:, None]], 1)
    torch.testing.assert_close(group.norms(), joined.norm(dim=1) / 2)
    value = penalty.Penalty([group], 0.1).value()
    assert value == pytest.approx(0.1 * 2 * float(joined.norm(dim=1).sum()), rel=1e-6)


@pytest.mark.parametrize("proximal", [True, False])
@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_a_group_at_zero_stays_and_nothing_is_nan(proximal, strength):
    group = random_groups([(3,), ()])
    group.tensors[0][2], group.tensors[1][2] = 0, 0
    own = penalty.Penalty([group], strength, proximal)
    for _ in range(3):
        own.step(0.5)
    assert all(tensor.isfinite().all() for tensor in group.tensors)
    assert group.norms()[2] == 0
    assert math.isfinite(own.value())


def test_the_subgradients_step_jumps_over_zero_where_the_proximal_one_stops():
    for proximal in (True, False):
        group = random_groups([(4,)], weight=1.0)
        own = penalty.Penalty([group], 1.0, proximal)
        for _ in range(100):
            own.step(0.1)
        norms = group.norms()
        assert (norms == 0).all() if proximal else ((norms > 0) & (norms <= 0.1)).all()


@pytest.mark.parametrize("nesterov", [False, True])
def test_training_ends_at_the_minimum_of_loss_and_penalty(nesterov):
    """SGD with momentum and the penalty's step: the conditions of optimality of L + Ω hold."""
    stream = generator(0, "regression")
    inputs, true = torch.randn(200, 12, generator=stream), torch.zeros(12)
    true[:4] = torch.tensor([2.0, -1.0, 1.5, 0.5])
    targets = inputs @ true + 0.1 * torch.randn(200, generator=stream)
    weight = nn.Parameter(torch.randn(12, generator=stream))
    groups = penalty.Groups("layer", 3**0.5, [weight.detach().view(4, 3)])
    own = penalty.Penalty([groups], strength := 0.1)
    optimizer = torch.optim.SGD([weight], lr=0.01, momentum=0.9, nesterov=nesterov)

    def gradient():
        optimizer.zero_grad()
        ((inputs @ weight - targets).square().mean() / 2).backward()
        return weight.grad.view(4, 3)

    for _ in range(2000):
        gradient()
        optimizer.step()
        own.step(step_length(0.01, 0.9))
    found, pull = weight.detach().view(4, 3), gradient().norm(dim=1)
    bound = strength * 3**0.5
    vanished = found.norm(dim=1) == 0
    assert vanished.tolist() == [False, False, True, True]
    assert (pull[vanished] < bound).all()
    balance = gradient() + bound * found / found.norm(dim=1, keepdim=True)
    assert balance[~vanished].abs().max() < 1e-4


def test_groups_hold_whole_channels_and_count_filters_alike(network):
    model = network("resnet20", (3, 8, 8))
    found = channels.find_channels(model, (3, 8, 8))
    groups = {g.name: g for g in penalty.channel_groups(model, found)}
    stage = groups["stage2.0.conv2"]  # with both later blocks' second layers and the shortcut
    assert stage.weight == pytest.approx(2.0)
    assert sum(t[0].numel() for t in stage.tensors) == 3 * 32 * 9 + 16 + 4 * 2
    block = groups["stage2.1.conv1"]
    assert sum(t[0].numel() for t in block.tensors) == 32 * 9 + 2
    # Kaiming normal: a filter's squared norm is 2, BatchNorm's weight adds 1, whatever the width.
    means = [float(g.norms().square().mean()) for g in groups.values()]
    assert min(means) > 2.6
    assert max(means) < 3.4
    flat = penalty.weight_groups(model)
    assert sum(len(g.norms()) for g in flat) == sum(w.numel() for w in prunable(model).values())
    assert float(torch.cat([g.norms().square() for g in flat]).mean()) == pytest.approx(2, rel=0.1)
    penalty.Penalty(flat, 10.0).step(10.0)
    assert not any(w.any() for w in prunable(model).values()), "views of the parameters themselves"


# Which channels there are, and removing them


def test_channels_of_a_residual_network(network):
    found = {c.name: c for c in channels.find_channels(network("resnet20", (3, 8, 8)), (3, 8, 8))}
    blocks = [f"stage{s}.{b}.conv1" for s in (1, 2, 3) for b in (0, 1, 2)]
    assert set(found) == {"conv", "stage2.0.conv2", "stage3.0.conv2", *blocks}
    assert found["conv"].writers == ("conv", *(f"stage1.{b}.conv2" for b in (0, 1, 2)))
    assert {r[0] for r in found["stage3.0.conv2"].readers} == {
        *("stage3.1.conv1", "stage3.2.conv1", "linear")
    }
    # No one may remove classes.
    assert not any("linear" in c.writers for c in found.values())


def test_finding_channels_leaves_the_model_as_it_was(network):
    model = network("small_vgg", DIGITS).train()
    before = copy.deepcopy(model.state_dict())
    channels.find_channels(model, DIGITS)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)
        self.linear = nn.Linear(8, 2)

    def forward(self, x):
        return self.linear(torch.cat([self.one(x), self.two(x)], 1).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2)
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(self.two(self.one(x)).mean((2, 3)))


def test_joined_channels_are_removed_and_grouped_ones_refused():
    model = Joined().eval()
    found = channels.find_channels(model, DIGITS)
    keep = {c.name: torch.tensor([True, False, True, False]) for c in found}
    small = removal.remove(model, found, keep, DIGITS)
    removal.silence(model, found, keep)
    images = torch.randn(3, *DIGITS)
    torch.testing.assert_close(small(images), model(images))
    assert small.linear.in_features == 4
    with pytest.raises(ConfigurationError, match="grouped"):
        channels.find_channels(Grouped(), DIGITS)


def trained(model, shape):
    """BatchNorm statistics and weights as after some training, in eval mode."""
    stream = generator(0, "images")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=stream))
            assert name
        model.train()(torch.randn(16, *shape, generator=stream))
    return model.eval().to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "shape"), NETWORKS)
def test_the_small_network_computes_what_the_masked_one_does(network, name, shape):
    model = trained(network(name, shape), shape)
    found = channels.find_channels(model, shape)
    norms = penalty.Penalty(penalty.channel_groups(model, found), 0).norms()
    keep = removal.lowest(model, found, norms, 0.85, generator(0, "ties"))
    masked, small = copy.deepcopy(model), removal.remove(model, found, keep, shape)
    removal.silence(masked, found, keep)
    images = torch.randn(4, *shape, generator=generator(1, "images"))
    with torch.no_grad():
        whole, expected, outputs = model(images), masked(images), small(images)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-6)
    assert (whole - expected).abs().max() > 0.01, "it would be another network otherwise"
    # The masks, the count from shapes alone and the network agree, layer by layer.
    masks, after = removal.masks(model, found, keep), prunable(small)
    assert {n: int(m.sum()) for n, m in masks.items()} == {n: w.numel() for n, w in after.items()}
    shapes = {n: w.shape for n, w in prunable(model).items()}
    assert removal.weights_left(shapes, found, keep) == kept(masks)
    assert kept(masks) <= 0.15 * sum(m.numel() for m in masks.values())
    assert all(not prunable(masked)[n][~m].any() for n, m in masks.items())
    for c in found:
        for layer in c.writers:
            left = len(small.get_submodule(layer).weight)
            assert left == int(keep[c.name].sum()) > 0
        for norm in c.norms:
            assert small.get_submodule(norm).num_features == int(keep[c.name].sum())
    # And it can be trained.
    F.cross_entropy(small.train()(images), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def test_selection_takes_the_lowest_and_no_more_than_it_must(network):
    model = network("small_vgg", DIGITS)
    found = channels.find_channels(model, DIGITS)
    norms = penalty.Penalty(penalty.channel_groups(model, found), 0).norms()
    keep = removal.lowest(model, found, norms, 0.7, generator(0, "ties"))
    gone = torch.cat([norms[n][~k] for n, k in keep.items()])
    stays = torch.cat([norms[n][k] for n, k in keep.items()])
    assert gone.max() <= stays.min()
    shapes = {n: w.shape for n, w in prunable(model).items()}
    total = sum(w.numel() for w in prunable(model).values())
    assert removal.weights_left(shapes, found, keep) <= 0.3 * total
    last = max((float(norms[n][~k].max()), n) for n, k in keep.items() if not k.all())[1]
    keep[last][(norms[last] == norms[last][~keep[last]].max()).nonzero()] = True
    assert removal.weights_left(shapes, found, keep) > 0.3 * total


def test_of_every_layer_the_best_channel_stays(network):
    model = network("small_vgg", DIGITS)
    found = channels.find_channels(model, DIGITS)
    norms = penalty.Penalty(penalty.channel_groups(model, found), 0).norms()
    for keep in (
        removal.lowest(model, found, norms, 0.9999, generator(0, "ties")),
        removal.above(norms, 100.0),
        removal.keep_at_least_one(
            {name: torch.zeros_like(n).bool() for name, n in norms.items()}, norms
        ),
    ):
        assert all(int(k.sum()) == 1 and k[norms[n].argmax()] for n, k in keep.items())
    everything = removal.lowest(model, found, norms, 0.0, generator(0, "ties"))
    assert all(k.all() for k in everything.values())


def test_equal_scores_go_in_every_layer(network):
    """What vanished has the same norm everywhere; the first layers are not to pay for it alone."""
    model = network("small_vgg", DIGITS)
    found = channels.find_channels(model, DIGITS)
    zeros = {c.name: torch.zeros(c.count) for c in found}
    keep = removal.lowest(model, found, zeros, 0.7, generator(0, "ties"))
    assert all(0.25 < float(k.float().mean()) < 0.85 for k in keep.values())
    again = removal.lowest(model, found, zeros, 0.7, generator(0, "ties"))
    assert all(torch.equal(k, again[n]) for n, k in keep.items())


def test_ranks_take_the_same_share_of_every_layer(network):
    model = network("small_vgg", DIGITS)
    found = channels.find_channels(model, DIGITS)
    l1 = removal.l1_norms(model, found)
    first = model.conv1_2.weight[5].abs().sum()
    torch.testing.assert_close(l1["conv1_2"][5], first.detach())
    keep = removal.lowest(model, found, removal.ranks(l1), 0.75, generator(0, "ties"))
    shares = [float(k.float().mean()) for k in keep.values()]
    assert max(shares) - min(shares) < 0.07
    for name, k in keep.items():
        assert l1[name][~k].max() <= l1[name][k].min()


# What it costs, and taking it along


def test_a_mask_saves_nothing_but_compressed_bytes(network):
    model = trained(network("small_vgg", DIGITS), DIGITS)
    found = channels.find_channels(model, DIGITS)
    norms = penalty.Penalty(penalty.channel_groups(model, found), 0).norms()
    keep = removal.lowest(model, found, norms, 0.8, generator(0, "ties"))
    masked = copy.deepcopy(model)
    removal.silence(masked, found, keep)
    small = removal.remove(model, found, keep, DIGITS)
    whole, zeros, less = (cost.size(m, DIGITS) for m in (model, masked, small))
    for name in ("parameters", "flops", "file_bytes"):
        assert zeros[name] == whole[name] > 3 * less[name]
    for name in ("parameters", "flops"):
        assert zeros[f"{name}_nonzero"] == less[f"{name}_nonzero"] == less[name]
    assert zeros["file_bytes_gzip"] < whole["file_bytes_gzip"] / 2
    assert less["parameters"] == sum(p.numel() for p in small.parameters())
    assert less["flops"] == sum(multiply_adds(small, DIGITS).values())
    # By hand: the first layer sees 8 x 8 images of one channel.
    assert multiply_adds(small, DIGITS)["conv1_1.weight"] == len(small.conv1_1.weight) * 9 * 64


def test_latency_is_the_quickest_of_passes_that_take_turns(network, monkeypatch):
    calls, now = [], [0.0]

    class Slow(nn.Module):
        def __init__(self, name, times):
            super().__init__()
            self.name, self.times = name, iter(times)

        def forward(self, images):
            assert images.shape == (128, *DIGITS)
            assert not self.training
            calls.append(self.name)
            now[0] += next(self.times)
            return images

    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cost, "ROUNDS", 50)
    models = {"one": Slow("one", [9, 9, 4, 2, 3, 2, 5]), "two": Slow("two", [9, 9, 6, 7, 6, 8, 9])}
    found = cost.latency(models, DIGITS, 128, torch.device("cpu"))
    assert found == {"one": pytest.approx(2000), "two": pytest.approx(6000)}
    assert calls == ["one", "two"] * 7, "two rounds to warm up, five that count: time was up"
    assert all(model.training for model in models.values())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("small_vgg", DIGITS), ("resnet20", (3, 16, 16))])
def test_the_exported_network_loads_again(network, tmp_path, name, shape):
    model = trained(network(name, shape), shape)
    found = channels.find_channels(model, shape)
    keep = {c.name: torch.arange(c.count) % 3 == 0 for c in found}
    small = removal.remove(model, found, keep, shape)
    export.export(small, tmp_path / "network.pt2", shape)
    program = torch.export.load(tmp_path / "network.pt2")
    # Counted in the file: the shapes that the network has.
    assert {n: tuple(v.shape) for n, v in program.state_dict.items()} == {
        n: tuple(v.shape) for n, v in small.state_dict().items()
    }
    loaded = export.load(tmp_path / "network.pt2")
    for images in (torch.randn(1, *shape), torch.randn(5, *shape)):
        torch.testing.assert_close(loaded(images), small(images), rtol=1e-4, atol=1e-6)
    told = export.check_export(small, tmp_path / "network.pt2", shape)
    assert told["parameters"] == sum(p.numel() for p in small.parameters())
    assert told["bytes"] == (tmp_path / "network.pt2").stat().st_size
    assert told["largest_difference"] < 1e-5


def test_onnx_is_written_where_its_packages_are(network, tmp_path):
    model = network("small_vgg", DIGITS)
    if not export.has_onnx():
        with pytest.raises(ConfigurationError, match="pip install onnx"):
            export.export_onnx(model, tmp_path / "network.onnx", DIGITS)
        return
    export.export_onnx(model, tmp_path / "network.onnx", DIGITS)
    assert (tmp_path / "network.onnx").stat().st_size > 10_000


# Whole runs


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    monkeypatch.setattr(cost, "ROUNDS", 1)


def configured(tmp_path, **parameters):
    chosen = {"epochs": 1, "sparse_epochs": 1, "sparsity": 0.8, "device": "cpu"}
    return configure("filter_lasso", results_dir=tmp_path, **{**chosen, **parameters})


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The run that the notebook does, to a sparsity below that of what vanishes."""
    lengths = {"sparse_epochs": 8, "sparsity": 0.7}
    run = FilterRun(configured(tmp_path_factory.mktemp("quick"), **lengths))
    run.train_sparse()
    run.prune()
    run.before = run.differences()
    run.train()
    run.exported = run.export()
    run.save()
    return run


def test_the_run_leaves_the_contract_and_its_own_tables(quick):
    folder = quick.experiment.folder
    found = {path.stem: pd.read_csv(path, **EXACT) for path in folder.glob("*.csv")}
    columns = {
        **{"summary": SUMMARY, "epochs": EPOCHS, "layers": LAYERS, "sparse": tables.SPARSE},
        **{"filters": tables.FILTERS, "shapes": tables.SHAPES, "cost": tables.COST},
    }
    assert {name: tuple(table.columns) for name, table in found.items()} == columns
    assert {path.suffix for path in folder.iterdir()} == {".csv", ".json", ".pt2", ".safetensors"}
    (summary,) = found["summary"].to_dict("records")
    assert (summary["method"], summary["epochs"]) == ("filter_lasso", 1)
    assert summary["sparsity_actual"] >= 0.7
    assert summary["test_accuracy"] > 90
    assert summary["flops_sparse"] == found["cost"]["flops"].iloc[1]


def test_shapes_and_costs_of_many_runs_are_collected(tmp_path, quick):
    second = carry_out(configured(tmp_path, variant="unstructured", compare=False))
    home = tmp_path / "filter_lasso"
    shutil.copytree(quick.experiment.folder, home / quick.experiment.run_id)
    more = collect(tmp_path).more
    assert set(more) == {"shapes", "cost"}
    assert tuple(more["cost"].columns) == ("method", "run_id", *tables.COST)
    runs = more["cost"].groupby("run_id")["network"].apply(list).to_dict()
    assert runs == {
        quick.experiment.run_id: [tables.DENSE, tables.SMALL, tables.MASKED],
        second.experiment.run_id: [tables.DENSE, tables.MASKED],
    }
    mine = more["shapes"][more["shapes"]["run_id"] == quick.experiment.run_id]
    assert mine[[*tables.SHAPES]].values.tolist() == tables.shapes(quick).values.tolist()


def test_filters_vanish_and_what_vanished_is_removed_without_a_loss(quick):
    sparse, filters = tables.sparse(quick), tables.filters(quick)
    assert sparse["epoch"].tolist() == list(range(9))
    assert sparse["penalty"].iloc[-1] < sparse["penalty"].iloc[0] / 5
    assert sparse["vanished"].iloc[0] == 0
    assert sparse["vanished"].iloc[-1] > 100
    last = filters[filters["epoch"] == 8]
    assert len(last) == 240
    assert (last["norm"] == 0).sum() == sparse["vanished"].iloc[-1]
    assert (last.loc[~last["kept"], "norm"] == 0).all()
    assert (filters.groupby("epoch")["norm"].max() - sparse["norm_max"]).abs().max() < 1e-4
    # So the small network is the trained one.
    assert max(quick.before.values()) < 1e-4
    assert quick.history.rows[0]["test_accuracy"] == sparse["test_accuracy"].iloc[-1]


def test_the_network_has_the_shape_that_its_report_says(quick):
    folder = quick.experiment.folder
    shapes, layers = (pd.read_csv(folder / f"{n}.csv", **EXACT) for n in ("shapes", "layers"))
    program = torch.export.load(folder / "network.pt2")
    for row, layer in zip(shapes.to_dict("records"), layers.to_dict("records"), strict=True):
        weight = program.state_dict[f"{row['layer']}.weight"]
        assert "x".join(map(str, weight.shape)) == row["shape"]
        assert weight.numel() == layer["kept"]
        assert (row["shape_before"], row["filters"]) == (
            layer["shape"],
            int(layer["shape"].split("x")[0]),
        )
        assert row["filters_kept"] == len(weight)
    counted = sum(p.numel() for p in program.parameters())
    costs = quick.costs.set_index("network")
    assert counted == costs.loc[tables.SMALL, "parameters"] == quick.exported["parameters"]
    (summary,) = pd.read_csv(folder / "summary.csv", **EXACT).to_dict("records")
    assert summary["parameters_kept"] == layers["kept"].sum()


def test_the_cost_stands_beside_that_of_a_mask_of_as_many_weights(quick):
    costs = quick.costs.set_index("network")
    whole, small, masked = (costs.loc[n] for n in (tables.DENSE, tables.SMALL, tables.MASKED))
    for name in ("parameters", "flops", "file_bytes"):
        assert small[name] < 0.4 * whole[name]
        assert masked[name] == whole[name]
    left = sum(int(w.count_nonzero()) for w in prunable(quick.masked).values())
    assert left <= kept(quick.masks)
    assert (costs[["latency_ms_1", "latency_ms_128"]] > 0).all(axis=None)
    assert np.isnan(whole["accuracy_fine_tuned"])
    assert small["accuracy_fine_tuned"] == quick.history.rows[-1]["test_accuracy"]
    assert masked["accuracy_fine_tuned"] == quick.masked_history.rows[-1]["test_accuracy"]


@pytest.mark.slow
def test_a_penalty_on_filters_alone_ends_at_no_zero_behind_batchnorm(tmp_path):
    """Why BatchNorm's weight and bias belong to a channel's group."""
    run = FilterRun(configured(tmp_path, sparse_epochs=8))
    run.penalty.groups = [
        penalty.Groups(c.name, 1.0, [w.detach() for w in c.filters(run.model)])
        for c in run.channels
    ]
    assert run.train_sparse()["vanished"].iloc[-1] == 0


def test_the_default_penalty_empties_a_filter_in_half_of_the_training(tmp_path):
    run = FilterRun(configured(tmp_path, sparse_epochs=8))
    mean = float(torch.cat(list(run.penalty.norms().values())).mean())
    # 23 steps an epoch: five at 0.1, two at 0.01, one at 0.001; ten times as far with momentum.
    descent = 23 * 10 * (5 * 0.1 + 2 * 0.01 + 0.001)
    assert run.penalty.strength * descent == pytest.approx(2 * mean)
    assert FilterRun(configured(tmp_path, penalty=0.5)).penalty.strength == 0.5
    assert FilterRun(configured(tmp_path, variant="l1_filter")).penalty.strength == 0
    assert FilterRun(configured(tmp_path, sparse_epochs=0)).penalty.strength == 0


@pytest.mark.slow
def test_variants(tmp_path):
    l1 = carry_out(configured(tmp_path, variant="l1_filter", compare=False))
    assert not any(row["penalty"] for row in l1.shrink.rows)
    norms = removal.l1_norms(l1.trained, l1.channels)
    assert all(norms[n][~k].max() <= norms[n][k].min() for n, k in l1.kept.items())
    shares = [float(k.float().mean()) for k in l1.kept.values()]
    assert max(shares) - min(shares) < 0.07
    subgradient = carry_out(configured(tmp_path, variant="subgradient", compare=False, penalty=0.2))
    assert not any(row["vanished"] for row in subgradient.shrink.rows)
    assert subgradient.shrink.rows[-1]["norm_median"] < 0.5
    whole = carry_out(configured(tmp_path, variant="unstructured", penalty=0.05))
    assert whole.small is None
    assert kept(whole.masks) == round(0.2 * 97_552)
    assert whole.shrink.rows[-1]["vanished"] > 1000
    costs = whole.costs.set_index("network")
    assert costs.loc[tables.DENSE, "flops"] == costs.loc[tables.MASKED, "flops"]
    assert (tables.shapes(whole)["shape"] == tables.shapes(whole)["shape_before"]).all()
    assert whole.differences() == {}


def test_a_threshold_removes_what_is_below_it_and_no_more(tmp_path):
    run = carry_out(configured(tmp_path, penalty=0.09, threshold=0.0, compare=False))
    norms = run._norms()
    gone = sum(int((~k).sum()) for k in run.kept.values())
    vanished = run.shrink.rows[-1]["vanished"]
    assert 0 < gone <= vanished
    assert gone >= vanished - len(run.channels), "of every layer at least one stays"
    assert all(k[norms[n] > 0].all() for n, k in run.kept.items())


@pytest.mark.slow
def test_ablations(tmp_path):
    options = {"epochs": 0, "compare": False}
    plain, inverted, shuffled, redrawn, anywhere = (
        carry_out(configured(tmp_path, ablation=name, **options))
        for name in ("none", "invert", "shuffle", "reinit", "shuffle_network")
    )
    trained = plain.shrink.snapshots[1]
    for run, sign in ((plain, 1), (inverted, -1)):
        gone = torch.cat([sign * trained[n][~k] for n, k in run.kept.items()])
        stays = torch.cat([sign * trained[n][k] for n, k in run.kept.items()])
        # The best of a layer may be lower than what goes elsewhere.
        assert gone.max() <= stays.sort().values[len(run.channels)]
    for name, k in plain.kept.items():
        assert int(k.sum()) == int(shuffled.kept[name].sum())
        assert torch.equal(k, redrawn.kept[name])
    assert any(not torch.equal(k, shuffled.kept[n]) for n, k in plain.kept.items())
    assert all(k.any() for k in anywhere.kept.values())
    assert not torch.equal(redrawn.small.conv1_1.weight, plain.small.conv1_1.weight)
    assert torch.equal(redrawn.small.norm1_1.weight, torch.ones_like(redrawn.small.norm1_1.weight))


LENGTHS = {"sparse_epochs": 3, "epochs": 2, "penalty": 0.03}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return carry_out(configured(tmp_path_factory.mktemp("undisturbed"), **LENGTHS))


@pytest.fixture
def begun(monkeypatch):
    """The trainings of runs, as they begin."""
    names, train = [], loop.train

    def noted(*arguments, stage, **options):
        names.append(stage.name)
        return train(*arguments, stage=stage, **options)

    monkeypatch.setattr(loop, "train", noted)
    return names


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "epoch"), [("sparse", 2), ("train", 4), ("mask", 6)])
def test_a_run_that_was_killed_goes_on_to_the_same_result(
    tmp_path, monkeypatch, undisturbed, begun, stage, epoch
):
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
    report = run_folder.write_progress

    def kill(folder, told, at, *rest):
        report(folder, told, at, *rest)
        if (told, at) == (stage, epoch):
            raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "write_progress", kill)
    with pytest.raises(KeyboardInterrupt):
        carry_out(configured(tmp_path, **LENGTHS))
    monkeypatch.setattr(run_folder, "write_progress", report)
    del begun[:]
    again = carry_out(configured(tmp_path, **LENGTHS))
    stages = ["sparse", "train", "mask"]
    assert begun == stages[stages.index(stage) :], "what was finished is not trained again"
    one, other = untimed(again.experiment.folder), untimed(undisturbed.experiment.folder)
    assert_same_tables(one, other)


@pytest.mark.slow
def test_runs_that_differ_in_what_they_remove_train_once(tmp_path, begun):
    options = {"epochs": 0, "compare": False}
    first = carry_out(configured(tmp_path, sparsity=0.5, **options))
    second = carry_out(configured(tmp_path, sparsity=0.8, **options))
    assert begun.count("sparse") == 1
    one, other = untimed(first.experiment.folder), untimed(second.experiment.folder)
    pd.testing.assert_frame_equal(one["sparse"], other["sparse"])
    carry_out(configured(tmp_path, penalty=0.001, **options))
    carry_out(configured(tmp_path, seed=1, **options))
    assert begun.count("sparse") == 3


@pytest.mark.slow
def test_fine_tuning_is_at_the_last_rate_unless_told(tmp_path):
    assert carry_out(configured(tmp_path, compare=False)).history.rows[1]["learning_rate"] == (
        pytest.approx(0.001)
    )
    options = {"fine_tune_at": "all_rates", "compare": False}
    assert carry_out(configured(tmp_path, **options)).history.rows[1]["learning_rate"] == 0.1
    redrawn = carry_out(configured(tmp_path, ablation="reinit", compare=False))
    assert redrawn.history.rows[1]["learning_rate"] == 0.1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"variant": "l1"}, "filter_lasso's variant='l1'.*l1_filter.*unstructured"),
        ({"variant": "l1_filter", "penalty": 0.1}, "penalty=0.1.*without one"),
        ({"variant": "unstructured", "scope": "layer"}, "scope='layer'.*weights"),
        ({"variant": "unstructured", "threshold": 0.1}, "threshold=0.1.*weights"),
        ({"threshold": 0.1, "scope": "layer"}, "scope='layer'.*threshold=0.1"),
        ({"threshold": 0.1, "ablation": "invert"}, "ablation='invert'.*threshold"),
        ({"penalty": -1}, "penalty=-1 is not a number from 0"),
        ({"sparse_epochs": 0.5}, "sparse_epochs=0.5 is not a whole number"),
        ({"scope": "layers"}, "scope='layers'.*did you mean 'layer'"),
        ({"fine_tune_at": "last"}, "fine_tune_at='last'.*last_rate, all_rates"),
        ({"compare": "yes"}, "compare='yes' is neither True nor False"),
    ],
)
def test_bad_input_is_one_error_that_names_it(parameters, message):
    with pytest.raises(ConfigurationError, match=message):
        configure("filter_lasso", **parameters)


def test_epochs_of_all_trainings_count(tmp_path):
    assert configured(tmp_path, sparse_epochs=5, epochs=2).all_epochs == 9
    assert configured(tmp_path, sparse_epochs=5, epochs=2, compare=False).all_epochs == 7
    assert configured(tmp_path, sparse_epochs=5, epochs=2, variant="unstructured").all_epochs == 7
    assert configure("filter_lasso", protocol="frankle2021").all_epochs == 480


def test_describe_says_what_will_run(tmp_path):
    words = FilterRun(configured(tmp_path, sparse_epochs=8)).describe()
    assert words["training"].startswith(
        "8 epochs in batches of 64, SGD 0.1 x 0.1 after epochs 5, 7"
    )
    assert words["penalty"] == "lasso on channels, λ = 0.029, proximal step"
    assert "sparsity 0.8: 19,510 of 97,552 weights kept" in words["removed"]
    assert words["fine-tuning"] == "1 epochs from 0.001"
    words = FilterRun(configured(tmp_path, variant="l1_filter", threshold=3)).describe()
    assert words["penalty"] == "none"
    assert words["removed"] == "channels whose norm is at most 3"


# Figures


def test_figures_show_the_run(quick):
    figure = filter_plots.filter_norms(tables.filters(quick))
    shapes = tables.shapes(quick)
    assert left_titles(figure) == [
        f"{row['layer']}: {row['vanished']} of {row['filters']} vanished"
        for row in shapes.iloc[:-1].to_dict("records")
    ]
    assert sum(len(c.get_segments()) for c in figure.axes[0].collections) == 16
    bars = filter_plots.filters_left(shapes).axes[0].containers
    assert [bar.get_height() for bar in bars[1]] == shapes["filters_kept"].tolist()
    heights = [
        bar.get_height()
        for c in filter_plots.cost_beside_mask(quick.costs).axes[0].containers
        for bar in c
    ]
    assert heights[5:8] == [100, 100, 100]
    assert all(height < 40 for height in heights[:3])
    sparse = tables.sparse(quick)
    lines = filter_plots.penalty(sparse).axes[0].lines
    assert lines[0].get_ydata().tolist() == sparse["penalty"].tolist()
    with pytest.raises(ConfigurationError, match="empty"):
        filter_plots.filter_norms(pd.DataFrame(columns=tables.FILTERS))


def test_variants_stand_beside_each_other_with_the_work_they_really_do():
    rows = []
    for name, path in (
        ("penalty-0.1+compare-False", "a_penalty-0.1_compare-False"),
        ("penalty-0.2", "b_penalty-0.2"),
        ("unstructured+compare-False", "c_compare-False"),
        ("l1_filter+fine_tune_at-all_rates", "d_fine_tune_at-all_rates"),
    ):
        for sparsity in (0.5, 0.8):
            row = {"method": "filter_lasso", "variant": name, "run_id": f"{path}_{sparsity}"}
            row |= {"sparsity": sparsity, "sparsity_actual": sparsity, "test_accuracy": 90.0}
            rows.append(row | {"flops_sparse": 1 - sparsity, "flops_dense": 1.0})
    summary = pd.DataFrame(rows).assign(
        dataset="digits", model="small_vgg", protocol="quick", epochs=1, seed=0, device="cpu"
    )
    left, work = filter_plots.filter_variants(summary).axes
    assert len(left.lines) == 2 * 4, "means and runs"
    assert legend(left.figure) == [
        "group lasso, proximal, λ = 0.1",
        "group lasso, proximal, λ = 0.2",
        "L1 norm (Li et al.), fine tune at all rates",
        "lasso on weights, mask",
    ]
    # What all runs have is told in the caption, or not at all.
    longer = summary.assign(variant=summary["variant"] + "+sparse_epochs-16")
    figure = filter_plots.filter_variants(longer)
    assert "sparse" not in "".join(legend(figure))
    assert "16 epochs of training" in caption(figure)
    assert work.lines[0].get_xdata().tolist() == pytest.approx([50, 80])
    assert work.lines[6].get_xdata().tolist() == [0, 0]
    times = [
        {"method": "filter_lasso", "run_id": name, "device": device, "network": network}
        | {"latency_ms_1": 4.0 * share, "latency_ms_128": 8.0 * share}
        for name in summary["run_id"]
        for device in ("cpu", "gpu")
        for network, share in (
            (tables.DENSE, 1.0),
            *([] if name.startswith("c_") else [(tables.SMALL, 0.5 if device == "cpu" else 0.75)]),
            (tables.MASKED, 1.01),
        )
    ]
    _, _, *timed = filter_plots.filter_variants(summary, pd.DataFrame(times)).axes
    assert [axes.get_title(loc="left") for axes in timed] == ["cpu", "", "gpu", ""]
    for axes, share in zip(timed, (50, 50, 75, 75), strict=True):
        assert axes.lines[0].get_xdata().tolist() == [share, share]
        assert axes.lines[6].get_xdata().tolist() == pytest.approx([101, 101])
    # What lies close together is enlarged where something else lies far below.
    lower = summary.assign(test_accuracy=[90.0] * 7 + [50.0])
    whole, _, near, _ = filter_plots.filter_variants(lower).axes
    assert near.get_title(loc="left") == "Close-up"
    assert whole.get_ylim()[0] < 50 < 85 < near.get_ylim()[0] < 90 < near.get_ylim()[1]
    with pytest.raises(ConfigurationError, match="no run of filter_lasso"):
        filter_plots.filter_variants(summary.assign(method="SNIP"))


def test_changes_are_against_the_network_without_a_penalty():
    rows = [
        {"variant": "penalty-0.1", "run_id": "a_penalty-0.1_seed0", "seed": 0, "test_accuracy": 90},
        {"variant": "l1_filter", "run_id": "b_seed0", "seed": 0, "test_accuracy": 80},
        {"variant": "l1_filter", "run_id": "b_seed1", "seed": 1, "test_accuracy": 70},
    ]
    summary = pd.DataFrame(rows).assign(
        method="filter_lasso", sparsity_actual=0.5, flops_sparse=1, flops_dense=2
    )
    accuracies = {"a_penalty-0.1_seed0": 99.0, "b_seed0": 95.0, "b_seed1": 96.0}
    costs = pd.DataFrame(
        {"run_id": name, "device": "cpu", "network": network, "accuracy": value}
        for name, dense in accuracies.items()
        for network, value in ((tables.DENSE, dense), (tables.SMALL, 10.0))
    )
    found = compared.change(summary, costs)
    assert found.to_dict() == {"a_penalty-0.1_seed0": -5, "b_seed0": -15, "b_seed1": -26}
    with pytest.raises(ConfigurationError, match="no run of variant l1_filter"):
        compared.change(summary[:1], costs)


def test_published_points():
    found = published.headlines()
    assert found["removed"].tolist() == [0.64, 0.64, 0.88]
    figure = filter_plots.published_filters(found, [("ours", 0.8, 0.5)])
    points = [tuple(float(v[0]) for v in line.get_data()) for line in figure.axes[0].lines[:4]]
    assert points[0] == pytest.approx((64, 0.15))
    assert points[3] == pytest.approx((80, 0.5))
    assert legend(figure)[0] == "L1 filter (Li 2017) pruned-A: VGG-16, CIFAR-10"
    assert figure.axes[0].get_ylim()[0] > -1
    # Those of one label are one line, and what fell far below is told, not shown.
    several = [("ours", 0.9, -30.0), ("ours", 0.5, 0.1), ("other", 0.5, 0.2)]
    figure = filter_plots.published_filters(found, several)
    assert figure.axes[0].lines[3].get_xdata().tolist() == [50, 90]
    assert len(figure.axes[0].lines) == 3 + 2 + 1
    assert figure.axes[0].get_ylim()[0] == -5
    assert "more than 5 points" in caption(figure)


@pytest.mark.slow
def test_the_shipped_grid(tmp_path):
    notebooks = {"filter_lasso": ROOT / "trials/filter_lasso/filter_lasso.ipynb"}
    shipped = grid.find("filter_lasso", ROOT / "trials/grids", notebooks)
    jobs = plan.plan(shipped, tmp_path, notebooks)
    assert len(jobs) == 315
    assert "315 runs" in shipped.path.read_text()
    # The quick form that its head tells.
    told = shipped.path.read_text().partition("The quick form")[2]
    quick = grid.overrides(re.findall(r"-p (\S+)", told))
    jobs = plan.plan(shipped, tmp_path, notebooks, quick)
    assert [job.parameters["variant"] for job in jobs] == ["", "unstructured", "l1_filter"]
    assert {(job.parameters["dataset"], job.parameters["epochs"]) for job in jobs} == {
        ("digits", 1)
    }
    for job in jobs:
        folder = carry_out(
            configure(job.method, **{**job.parameters, "device": "cpu"})
        ).experiment.folder
        assert folder == job.folder
    table = collect(tmp_path).summary
    assert len(table) == 3
    assert filter_plots.filter_variants(table).axes[0].lines


@pytest.mark.slow
def test_the_study_on_digits_is_what_the_grid_tells(tmp_path):
    """The committed runs are those of the commands in the grid's head."""
    notebooks = {"filter_lasso": ROOT / "trials/filter_lasso/filter_lasso.ipynb"}
    shipped = grid.find("filter_lasso", ROOT / "trials/grids", notebooks)
    told = shipped.path.read_text().partition("The quick form")[0]
    form, parts = [], []
    for line in told.splitlines():
        own = re.findall(r"-p ([^\s'\"]*(?:'[^']*')?)", line)
        (form.extend if "FORM=" in line else parts.append)([one.replace("'", "") for one in own])
    jobs = [
        job
        for own in filter(None, parts)
        for job in plan.plan(shipped, tmp_path, notebooks, grid.overrides([*form, *own]))
    ]
    summary = collect(ROOT / "figures/results/filter_lasso").summary
    assert len(jobs) == len(summary) == 108
    assert {job.run_id for job in jobs} == set(summary["run_id"])
