"""Every method and variant of the registry, before and after training, through a notebook's run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from common.base.seeding import generator
from common.models import build, initialise
from common.pruning import METHODS, kept, prunable
from common.runs.experiment import configure
from common.runs.run import Run

VARIANTS = [(method, variant) for method, variants in METHODS.items() for variant in variants]
# They look at neither data nor weights, so training changes nothing for them.
AGNOSTIC = {"random", "ntk_sap"}


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    """Five rounds do what a hundred do."""
    for variants in METHODS.values():
        for variant, method in variants.items():
            quick = dataclasses.replace(method, iterations=min(method.iterations, 5))
            monkeypatch.setitem(variants, variant, quick)


@pytest.fixture(scope="module")
def initial():
    model = build("small_vgg", (1, 8, 8), 10)
    initialise(model, "kaiming_normal", "ones", generator(0, "initial weights"))
    return prunable(model)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "variant"), VARIANTS)
def test_exact_at_initialisation_and_after_training(tmp_path, initial, method, variant):
    found = []
    for pretrain_epochs in (0, 1):
        options = {"pretrain_epochs": pretrain_epochs, "epochs": 0, "device": "cpu"}
        run = Run(configure(method, variant=variant, results_dir=tmp_path, **options))
        run.begin()
        before = {name: weight.detach().clone() for name, weight in prunable(run.model).items()}
        trained = [not torch.equal(before[name], weight) for name, weight in initial.items()]
        assert all(trained) if pretrain_epochs else not any(trained)
        masks = run.prune()
        assert kept(masks) == round(0.1 * sum(mask.numel() for mask in masks.values()))
        for name, weight in prunable(run.model).items():
            assert torch.equal(weight, before[name] * masks[name])
            assert torch.isfinite(run.scores[name]).all()
        run.train()
        assert run.save().loc[0, "parameters_kept"] == kept(masks)
        found.append(masks)
    same = all(torch.equal(found[0][name], found[1][name]) for name in initial)
    assert same == (method in AGNOSTIC or (method, variant) == ("igq", ""))  # which is random
