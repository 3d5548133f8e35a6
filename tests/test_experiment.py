"""Runs: their parameters, their names, their protocols, and what cannot be run."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.models import MODELS
from common.pruning import METHODS
from common.runs.experiment import DEFAULT_PROTOCOL, PARAMETERS, configure, from_notebook
from common.training.protocols import PROTOCOLS

# Names


@pytest.mark.parametrize(
    ("method", "parameters", "run_id"),
    [
        ("synflow", {}, "quick_digits_small_vgg_sparsity0.9_none_seed0_epochs8"),
        (
            "magnitude",
            {"protocol": "seed", "sparsity": 0.98, "ablation": "shuffle", "seed": 2},
            "seed_cifar10_vgg16_sparsity0.98_shuffle_seed2_epochs80",
        ),
        (
            "SNIP",
            {
                **{"protocol": "frankle2021", "dataset": "tiny_imagenet", "model": "resnet18"},
                **{"variant": "iterative", "ablation": "shuffle+reinit", "sparsity": 0},
                **{"pretrain_epochs": 3, "epochs": 1, "batch_size": 64, "precision": "float32"},
            },
            "frankle2021_tiny_imagenet_resnet18_iterative_sparsity0.0_shuffle+reinit_seed0"
            "_pretrain3_epochs1_batch64_float32",
        ),
        (
            "grasp",
            {"protocol": "tanaka2020", "sparsity": 1 - 10**-2.25, "epochs": 0},
            "tanaka2020_cifar10_vgg16_sparsity0.9943765867480965_none_seed0_epochs0",
        ),
    ],
)
def test_names_of_runs_stay(method, parameters, run_id):
    """Results are found by their names: a change here orphans all that was computed before."""
    assert configure(method, **parameters).run_id == run_id


def test_folder(tmp_path):
    run = configure("SNIP", results_dir=tmp_path)
    assert run.folder == tmp_path / "SNIP" / run.run_id
    assert configure("SNIP", results_dir=str(tmp_path)) == run


def test_what_does_not_change_the_result_is_not_in_the_name(tmp_path):
    plain = configure("synflow", protocol="seed")
    moved = configure(
        "synflow", protocol="seed", device="cuda:1", data_dir="/data", results_dir=tmp_path
    )
    assert moved.run_id == plain.run_id
    # Nor is a value that the protocol has anyway.
    spelt = {"epochs": 80, "batch_size": 128, "precision": "auto", "variant": "", "seed": 0}
    assert configure("synflow", protocol="seed", **spelt).run_id == plain.run_id


natural = st.sampled_from(["cifar10", "cifar100", "tiny_imagenet"])
parameters = st.fixed_dictionaries(
    {
        "protocol": st.sampled_from(sorted(PROTOCOLS)),
        "dataset": natural,
        "model": st.sampled_from(sorted(set(MODELS) - {"resnet34", "resnet50"})),
        "sparsity": st.floats(0, 1, exclude_max=True).map(abs),
        "ablation": st.sampled_from(["none", "shuffle", "reinit", "invert", "invert+reinit"]),
        "seed": st.integers(0, 10**6),
        "variant": st.sampled_from(sorted(METHODS["synflow"])),
        "epochs": st.none() | st.integers(0, 300),
        "batch_size": st.none() | st.integers(1, 1000),
        "pretrain_epochs": st.integers(0, 20),
        "precision": st.none() | st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
    }
)


@settings(max_examples=200)
@given(parameters, parameters, st.sets(st.sampled_from(PARAMETERS[:11])))
def test_names_differ_where_parameters_do(one, other, changed):
    other = {name: other[name] if name in changed else one[name] for name in one}
    a, b = configure("synflow", **one), configure("synflow", **other)
    same = all(getattr(a, name) == getattr(b, name) for name in PARAMETERS[:11])
    assert (a.run_id == b.run_id) == same
    assert re.fullmatch(r"[A-Za-z0-9_.+-]{1,200}", a.run_id)  # a folder's name anywhere


@settings(max_examples=100)
@given(parameters)
def test_a_run_comes_back_from_its_parameters(given_parameters):
    run = configure("synflow", **given_parameters)
    values = run.parameters()
    assert tuple(values) == PARAMETERS
    assert configure("synflow", **values) == run
    assert from_notebook("synflow", {**values, "torch": None, "_": 3}) == run


def test_nothing_given_is_the_protocols():
    assert DEFAULT_PROTOCOL == "quick"
    run = configure("random", **dict.fromkeys(PARAMETERS))
    assert run == configure("random", **dict.fromkeys(PARAMETERS, "")) == configure("random")
    assert (run.protocol, run.dataset, run.model) == ("quick", "digits", "small_vgg")
    assert (run.sparsity, run.ablation, run.variant, run.seed) == (0.9, "none", "", 0)
    assert (run.epochs, run.batch_size, run.pretrain_epochs) == (8, 64, 0)
    assert (run.precision, run.device, run.data_dir) == ("float32", "auto", None)
    assert run.results_dir.parts[-2:] == ("results", "notebooks")


def test_numbers_as_notebooks_and_grids_write_them():
    run = configure("random", seed=3.0, epochs=np.int64(2), sparsity=np.float64(0.5), batch_size=7)
    assert (run.seed, run.epochs, run.sparsity, run.batch_size) == (3, 2, 0.5, 7)
    assert all(type(x) is int for x in (run.seed, run.epochs, run.batch_size))
    assert configure("random", sparsity=0).sparsity == 0.0
    assert configure("random", sparsity=-0.0).run_id == configure("random", sparsity=0).run_id
    assert configure("random", ablation="shuffle + reinit").ablation == "shuffle+reinit"


# Bad input


@pytest.mark.parametrize(
    ("given_parameters", "message"),
    [
        ({"protocol": "tanaka"}, "protocol='tanaka'.*quick, seed, frankle2021, tanaka2020"),
        ({"dataset": "cifar"}, "dataset='cifar'.*digits, mnist, fashion_mnist, cifar10, cifar100"),
        ({"dataset": ["digits"]}, r"dataset=.*digits.* is not known"),
        ({"model": "vgg-16"}, "model='vgg-16'.*did you mean 'vgg16'.*resnet20.*small_vgg"),
        ({"model": "vgg16"}, "model='vgg16' takes images of 32x32.*not 8x8.*cifar10"),
        ({"variant": "l1"}, "synflow's variant='l1'.*\"\", one_shot, l2, linear"),
        ({"ablation": "invrt"}, "ablation='invrt'.*did you mean 'invert'.*shuffle, reinit"),
        ({"ablation": "shuffle+shuffle_network"}, "ablation=.*do not go together"),
        ({"ablation": 3}, "ablation='3' is not known"),
        ({"precision": "fp16"}, "precision='fp16'.*auto, float32, bfloat16, float16"),
        ({"precision": 16}, "precision='16'.*auto, float32"),
        ({"device": "gpu"}, "device='gpu'.*auto, cpu, cuda, cuda:N, mps"),
        ({"device": 0}, "device='0'.*auto, cpu, cuda, cuda:N, mps"),
        ({"sparsity": 1}, r"sparsity=1 is not a number in \[0, 1\)"),
        ({"sparsity": 90}, r"sparsity=90 .*fraction of prunable weights removed"),
        ({"sparsity": -0.1}, "sparsity=-0.1"),
        ({"sparsity": math.nan}, "sparsity=nan"),
        ({"sparsity": math.inf}, "sparsity=inf"),
        ({"sparsity": "0.9"}, "sparsity='0.9'"),
        ({"sparsity": True}, "sparsity=True"),
        ({"epochs": -1}, "epochs=-1 is below 0"),
        ({"epochs": 2.5}, "epochs=2.5 is not a whole number"),
        ({"epochs": "10"}, "epochs='10' is not a whole number"),
        ({"epochs": math.inf}, "epochs=inf is not a whole number"),
        ({"epochs": math.nan}, "epochs=nan is not a whole number"),
        ({"pretrain_epochs": -2}, "pretrain_epochs=-2 is below 0"),
        ({"batch_size": 0}, "batch_size=0 is below 1"),
        ({"seed": -1}, "seed=-1 is below 0"),
        ({"seed": False}, "seed=False is not a whole number"),
        *(
            ({name: value}, f"^{name}=.* is not the path of a folder$")
            for name in ("data_dir", "results_dir")
            for value in (True, [], math.nan, b"data", "a\0b")
        ),
        ({"epochs": 10**60}, r"epochs=1000\d+ is above 1,000,000"),
        ({"epochs": 10**5000}, "epochs=a number of thousands of digits is above"),
        ({"device": "cuda:99999999999999999999"}, "device='cuda:9+' is not known"),
        ({"device": "cuda:١"}, "device='cuda:١' is not known"),
        (
            {"dataset": "x" * 100_000},
            r"^dataset='x{99}… \(100,002 characters\) is not known; choose",
        ),
        ({"sparsity": "x" * 100_000}, r"^sparsity='x{99}… .{90,110}$"),
        ({"model": 10**5000}, "model='a number of thousands of digits' is not known"),
    ],
)
def test_bad_input_is_one_error_that_names_it(given_parameters, message):
    with pytest.raises(ConfigurationError, match=message):
        configure("synflow", **given_parameters)


@pytest.mark.parametrize("method", ["synflo", "synflow\n", ["synflow"], None])
def test_an_unknown_method(method):
    with pytest.raises(ConfigurationError, match=r"^method=.* is not known.*choose from: random,"):
        configure(method)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = configure("random", data_dir="~/data", results_dir=Path("~/out"))
    assert (run.data_dir, run.results_dir) == (f"{tmp_path}/data", tmp_path / "out")


# Protocols: the numbers of science.md's table, written out once more


common = {"batch_size": 128, "learning_rate": 0.1, "gamma": 0.1, "momentum": 0.9}
common |= {"weight_decay": 1e-4, "init": "kaiming_normal", "augment": "flip_crop"}
VGG_ON_CIFAR = {
    "seed": {"epochs": 80, "milestones": (40, 60), "nesterov": False, "batchnorm": "uniform"},
    "frankle2021": {"epochs": 160, "milestones": (80, 120), "nesterov": False},
    "tanaka2020": {"epochs": 160, "milestones": (60, 120), "nesterov": True, "batchnorm": "ones"},
}
VGG_ON_CIFAR["frankle2021"]["batchnorm"] = "uniform"
RESNET_ON_CIFAR = {"learning_rate": 0.01, "gamma": 0.2, "weight_decay": 5e-4}
TINY = {"epochs": 100, "learning_rate": 0.01, "milestones": (30, 60, 80)}


@pytest.mark.parametrize(
    ("protocol", "model", "dataset", "difference"),
    [
        *((name, "vgg16", "cifar10", {}) for name in VGG_ON_CIFAR),
        ("frankle2021", "resnet20", "cifar10", {}),
        ("tanaka2020", "vgg11", "cifar100", {}),
        ("tanaka2020", "resnet20", "cifar10", RESNET_ON_CIFAR),
        ("tanaka2020", "resnet18", "cifar100", RESNET_ON_CIFAR),
        ("tanaka2020", "wide_resnet18", "cifar10", RESNET_ON_CIFAR),
        ("tanaka2020", "vgg16", "tiny_imagenet", TINY),
        ("tanaka2020", "resnet18", "tiny_imagenet", TINY),
        (
            *("frankle2021", "resnet18", "tiny_imagenet"),
            {"epochs": 200, "batch_size": 256, "learning_rate": 0.2, "milestones": (100, 150)},
        ),
    ],
)
def test_protocols(protocol, model, dataset, difference):
    hyper = configure("random", protocol=protocol, model=model, dataset=dataset).hyper
    expected = {**common, **VGG_ON_CIFAR[protocol], **difference}
    found = dataclasses.asdict(hyper)
    assert {name: found[name] for name in expected} == expected
    assert (hyper.name, hyper.model, hyper.dataset) == (protocol, model, dataset)
    assert not hyper.exceptions


def test_the_defaults_of_the_protocols():
    for name in VGG_ON_CIFAR:
        assert (PROTOCOLS[name].dataset, PROTOCOLS[name].model) == ("cifar10", "vgg16")
    assert PROTOCOLS["quick"].augment is None


def test_the_protocol_for_mnist_is_what_snips_released_code_does():
    """Its main.py's defaults. 0.00025 times the sum of all squared weights is its penalty."""
    hyper = configure("SNIP", protocol="mnist").hyper
    assert (hyper.dataset, hyper.model, hyper.sparsity) == ("mnist", "lenet5", 0.9)
    assert (hyper.batch_size, hyper.momentum, hyper.nesterov) == (100, 0, False)
    assert hyper.weight_decay == 2 * 0.00025
    assert {hyper.learning_rate_at(epoch) for epoch in range(hyper.epochs)} == {0.1}
    assert hyper.epochs == math.ceil(10_000 / (60_000 / hyper.batch_size))
    assert (hyper.init, hyper.augment, hyper.precision) == ("lecun_normal", None, "float32")


def test_learning_rates_epoch_by_epoch():
    hyper = configure("random", protocol="seed").hyper
    rates = [hyper.learning_rate_at(epoch) for epoch in range(80)]
    assert rates == pytest.approx([0.1] * 40 + [0.01] * 20 + [0.001] * 20)
    hyper = configure("random", protocol="tanaka2020", model="resnet20").hyper
    rates = [hyper.learning_rate_at(epoch) for epoch in range(160)]
    assert rates == pytest.approx([0.01] * 60 + [0.002] * 60 + [0.0004] * 40)


@pytest.mark.parametrize("epochs", [None, 1, 2, 30])
def test_a_linear_schedule_ends_with_its_budget(epochs):
    """Li et al. 2020, eq. 1 with a linear decay: the rate at step t of T is the first one times
    1 - t / T, whatever the number of epochs."""
    hyper = configure("random", protocol="budget", epochs=epochs).hyper
    steps = 391
    total = steps * hyper.epochs
    assert hyper.epochs == (epochs or 15)
    rates = [
        hyper.learning_rate_at(e + s / steps) for e in range(hyper.epochs) for s in range(steps)
    ]
    assert rates == pytest.approx([0.1 * (1 - t / total) for t in range(total)])
    assert 0 < rates[-1] == pytest.approx(0.1 / total)


def test_budget_has_the_hyperparameters_of_frankle2021():
    ours, theirs = (
        dataclasses.asdict(configure("random", protocol=name, model="resnet20").hyper)
        for name in ("budget", "frankle2021")
    )
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing == {"name", "source", "epochs", "milestones", "schedule"}


def test_what_is_left_of_a_linear_schedule_goes_on_at_its_rates():
    hyper = configure("random", protocol="budget").hyper
    left = hyper.rest(6)
    assert left.epochs == 9
    for epoch in (0, 0.25, 8.75):
        assert left.learning_rate_at(epoch) == pytest.approx(hyper.learning_rate_at(6 + epoch))
    last = hyper.at_last_rate()
    assert {last.learning_rate_at(epoch) for epoch in range(15)} == {hyper.learning_rate_at(14)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schedule": "cosine"}, "schedule='cosine' is not known.*steps, linear"),
        ({"schedule": "linear"}, r"milestones=\(40, 60\) go with schedule='steps', not 'linear'"),
    ],
)
def test_a_schedule_that_is_none_is_refused(changes, says):
    with pytest.raises(ConfigurationError, match=says):
        dataclasses.replace(PROTOCOLS["seed"], **changes)


@pytest.mark.parametrize(
    ("epochs", "milestones"),
    [(160, (80, 120)), (40, (20, 30)), (8, (4, 6)), (2, (1, 2)), (1, (1, 1)), (80, (40, 60))],
)
def test_the_schedule_moves_with_the_number_of_epochs(epochs, milestones):
    hyper = configure("random", protocol="seed", epochs=epochs).hyper
    assert (hyper.epochs, hyper.milestones) == (epochs, milestones)
    assert hyper.learning_rate_at(0) == 0.1


def test_results_lie_in_the_repository_unless_told():
    root = Path(__file__).resolve().parent.parent
    assert configure("random").results_dir == root / "results" / "notebooks"


# Random streams


def test_streams_are_independent_and_stay():
    def draw(*stream):
        return torch.randint(1000, (3,), generator=generator(*stream)).tolist()

    assert draw(0, "order") == draw(0, "order", 0) == [111, 719, 628]
    others = [draw(1, "order"), draw(0, "order", 1), draw(0, "augmentation"), draw(0, "orde", 0)]
    assert all(other != draw(0, "order") for other in others)
    assert generator(0, "order").device.type == "cpu"
