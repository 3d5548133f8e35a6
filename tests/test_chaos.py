"""Iterative scoring under perturbed weights: the engine of the study, on a tiny network."""

import pandas as pd
import pytest
import torch

from common.pruning import prunable
from common.pruning.rounds import prune_rounds
from common.studies import chaos
from common.studies.chaos import Case
from common.studies.network import Setting
from common.studies.tables import read

TINY = Setting("lenet_300_100", "digits", "quick", "cpu")
SNIP = Case("SNIP", "iterative", 5, 1)


@pytest.fixture
def tiny():
    return TINY.network(0)


def test_a_perturbation_has_the_size_asked_for_and_is_a_seeds_own(tiny):
    before = {name: w.detach().clone() for name, w in prunable(tiny.fresh()).items()}
    for relative in (1e-6, 1e-3):
        after = prunable(chaos._initial(tiny, relative))
        change = torch.cat([((w.detach() / before[n]) - 1).flatten() for n, w in after.items()])
        assert float(change.double().square().mean().sqrt()) == pytest.approx(relative, rel=0.02)
        again = prunable(chaos._initial(tiny, relative))
        assert all(torch.equal(after[name], again[name]) for name in after)


@pytest.mark.parametrize("batchnorm", ["none", "eval"])
def test_no_perturbation_changes_nothing(batchnorm, tiny):
    case = Case("SNIP", "iterative", 3, 1, batchnorm)
    first, second = (next(chaos.prune(tiny, case, [1.0], relative=0)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_masks_are_those_of_an_ordinary_pruning(tiny):
    for case in (SNIP, Case("SNIP")):
        method = case.chosen()
        for exponent, masks in zip([0.5, 1.0], chaos.prune(tiny, case, [0.5, 1.0]), strict=True):
            sparsity, context = 1 - 10**-exponent, tiny.context(method)
            plain = prune_rounds(tiny.build(), method, sparsity, context)
            assert all(torch.equal(masks[name], plain[name]) for name in plain)


def test_new_images_in_every_round_change_the_second_round_only(tiny):
    once, twice = (Case("SNIP", "iterative", rounds, 1, new_images=True) for rounds in (1, 2))
    for case, alike in ((once, True), (twice, False)):
        same = Case("SNIP", "iterative", case.iterations, 1)
        other, fixed = (next(chaos.prune(tiny, one, [1.0])) for one in (case, same))
        assert all(torch.equal(other[name], fixed[name]) for name in fixed) == alike


def test_a_mask_without_data_stays_and_one_with_data_is_replaced(tmp_path):
    cases = [Case("magnitude"), Case("ntk_sap", "", 2), SNIP]
    chaos.measure(tmp_path / "masks.csv", cases, [1.0], [0], (0.0, 0.1), setting=TINY)
    chaos.measure(tmp_path / "masks.csv", cases, [1.0], [0], (0.0, 0.1), setting=TINY)
    masks = read(tmp_path / "masks.csv")
    assert len(masks) == 3 * 2 * 3
    unperturbed = masks[masks["relative"] == 0]
    assert (unperturbed["shared"] == unperturbed["kept"]).all()
    found = chaos.replaced(masks).set_index("method")
    assert (found["relative"] == 0.1).all()
    assert found.loc["ntk_sap", "replaced"] == 0  # it draws weights of its own
    assert found.loc["magnitude", "replaced"] < found.loc["SNIP", "replaced"]
    assert (found["replaced"] < found["chance"]).all()


def test_replaced_and_collapsed_are_counted_by_hand():
    unit = {**vars(Case("SNIP")), "exponent": 1.0, "seed": 0, "dataset": "", "model": ""}
    rows = [
        {"layer": "a", "size": 100, "relative": 0.0, "kept": 20, "shared": 20},
        {"layer": "b", "size": 10, "relative": 0.0, "kept": 5, "shared": 5},
        {"layer": "a", "size": 100, "relative": 1e-6, "kept": 25, "shared": 15},
        {"layer": "b", "size": 10, "relative": 1e-6, "kept": 0, "shared": 0},
    ]
    masks = pd.DataFrame([{**unit, "protocol": "", **row} for row in rows])
    (found,) = chaos.replaced(masks).to_dict("records")
    assert found["replaced"] == pytest.approx(10 / 25)
    assert found["chance"] == pytest.approx(1 - (20 * 25 / 100) / 25)
    assert found["density_change"] == 1
    assert chaos.collapsed(masks).set_index("relative")["collapsed"].to_dict() == {0: 0, 1e-6: 1}


def test_trainings_differ_by_the_mask_or_by_the_weights(tmp_path):
    path = tmp_path / "training.csv"
    case = Case("magnitude")
    chaos.measure_training(path, [case], 1.0, [0], 0.0, setting=TINY)
    (found,) = chaos.accuracy_changes(read(path)).to_dict("records")
    assert found["mask"] == found["weights"] == 0
    assert found["test_accuracy"] > 50
