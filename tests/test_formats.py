"""Masks in files, masks that fit, and masks of torch.nn.utils.prune."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

import trials.__main__ as cli
from common.base.errors import ConfigurationError
from common.pruning import (
    about_masks,
    apply,
    from_torch_prune,
    kept,
    like_weights,
    load_masks,
    prunable,
    prune,
    save_masks,
    to_torch_prune,
)
from common.pruning.formats import FORMS
from common.runs.experiment import configure
from common.runs.run import Run


def assert_same(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def images_and_labels():
    return torch.randn(8, 3, 6, 6), torch.randint(3, (8,))


def step(model, optimizer, images, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)


# Files


def test_masks_come_back_from_a_file(residual, tmp_path):
    masks = prune(residual, "magnitude", 0.7)
    path = tmp_path / "masks.safetensors"
    save_masks(masks, path)
    assert_same(load_masks(path), masks)
    assert about_masks(path) == {}
    save_masks(masks, str(path), {"method": "magnitude", "sparsity": 0.7})
    assert_same(load_masks(str(path)), masks)
    assert about_masks(path) == {"method": "magnitude", "sparsity": "0.7"}
    assert [p.name for p in tmp_path.iterdir()] == ["masks.safetensors"]


def test_masks_in_channels_last_and_masks_that_share_memory(residual, tmp_path):
    residual.to(memory_format=torch.channels_last)
    masks = prune(residual, "random", 0.5)
    assert masks["conv2.weight"].is_contiguous(memory_format=torch.channels_last)
    whole = torch.rand(2, 4, 4) < 0.5
    save_masks({**masks, "one": whole[0], "other": whole[1].T}, tmp_path / "masks")
    found = load_masks(tmp_path / "masks")
    assert torch.equal(found.pop("one"), whole[0])
    assert torch.equal(found.pop("other"), whole[1].T)
    assert_same(found, masks)
    laid_out = like_weights(residual, found)
    assert laid_out["conv2.weight"].stride() == residual.conv2.weight.stride()
    assert_same(laid_out, masks)


def test_files_that_hold_no_masks(tmp_path):
    (tmp_path / "text").write_text("masks")
    with pytest.raises(ConfigurationError, match="text is not a whole safetensors file"):
        load_masks(tmp_path / "text")
    save_file({"linear.weight": torch.rand(3)}, tmp_path / "weights")
    with pytest.raises(ConfigurationError, match=r"no masks: linear.weight is torch.float32"):
        load_masks(tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_masks(tmp_path / "nothing")


@pytest.mark.parametrize("ablation", ["none", "reinit"])
def test_a_run_keeps_its_masks_and_they_come_out_in_every_form(tmp_path, capsys, ablation):
    given = {"ablation": ablation, "epochs": 0, "device": "cpu", "seed": 1}
    run = Run(configure("SNIP", results_dir=tmp_path, **given))
    masks = run.prune()
    folder = run.experiment.folder
    path = folder / "masks.safetensors"
    bits = sum(mask.numel() for mask in masks.values())
    assert bits / 8 < path.stat().st_size < bits / 8 + 2000
    assert_same(load_masks(path), masks)
    run.train()
    run.save()
    for form in FORMS:
        target = tmp_path / form
        arguments = ["masks", "export", folder, "--as", form, "--to", target]
        assert cli.main(list(map(str, arguments))) == 0
        assert_same(load_masks(target), masks)
        assert about_masks(target) == {"method": "SNIP", "run_id": run.experiment.run_id}
    state = load_file(tmp_path / "state_dict")
    pruned = run.model.state_dict()  # and not trained
    assert_same(dict(sorted(state.items())), dict(sorted(pruned.items())))
    other = run.network.build()
    to_torch_prune(other, {name: torch.ones_like(mask) for name, mask in masks.items()})
    other.load_state_dict(load_file(tmp_path / "torch_prune"))
    for name, mask in from_torch_prune(other).items():
        assert torch.equal(mask, masks[name])
        assert torch.equal(other.get_parameter(name), state[name])


@pytest.mark.parametrize(
    ("notes", "says"),
    [
        ({"masks": "bits", "shapes": '{"a": [9]}'}, "1 x torch.uint8 for 9 bits"),
        ({"masks": "bits", "shapes": '{"b": [8]}'}, "'b'"),
        ({"masks": "torch_prune", "shapes": "{"}, "its masks are not those"),
    ],
)
def test_files_that_tell_of_other_masks(tmp_path, notes, says):
    save_file({"a": torch.zeros(1, dtype=torch.uint8)}, tmp_path / "bits", metadata=notes)
    with pytest.raises(ConfigurationError, match=says):
        load_masks(tmp_path / "bits")


def test_nothing_is_unpickled(tmp_path):
    torch.save({"a": torch.ones(1, dtype=torch.bool)}, tmp_path / "masks.pt")
    with pytest.raises(ConfigurationError, match="no other is read"):
        load_masks(tmp_path / "masks.pt")


# Fit


def test_masks_that_do_not_fit(residual):
    masks = prune(residual, "random", 0.5)
    before = copy.deepcopy(residual.state_dict())
    elsewhere = {**masks, "conv3.weight": masks["conv1.weight"]}
    broadcast = {**masks, "linear.weight": masks["linear.weight"][:1]}
    for use in (apply, like_weights, to_torch_prune):
        with pytest.raises(ConfigurationError, match=r"do not fit .* no parameter 'conv3.weight'"):
            use(residual, elsewhere)
        with pytest.raises(
            ConfigurationError, match=r"linear.weight is \(3, 16\), its mask \(1, 16\)"
        ):
            use(residual, broadcast)
    with pytest.raises(ConfigurationError, match=r"on cpu, the weight on meta.*like_weights"):
        apply(copy.deepcopy(residual).to("meta"), masks)
    assert all(torch.equal(value, before[name]) for name, value in residual.state_dict().items())


# torch.nn.utils.prune


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_there_and_back(residual, layout):
    residual.to(memory_format=layout)
    masks = prune(residual, "SNIP", 0.6, batches=[images_and_labels()])
    images, _ = images_and_labels()
    expected, weights = residual.eval()(images), prunable(residual)
    to_torch_prune(residual, masks)
    assert {name for name, _ in residual.named_buffers() if name.endswith("_mask")} == {
        f"{name}_mask" for name in masks
    }
    assert torch_prune.is_pruned(residual)
    assert torch.equal(residual(images), expected)
    assert_same(from_torch_prune(residual), masks)
    assert not torch_prune.is_pruned(residual)
    assert torch.equal(residual(images), expected)
    assert all(weight is weights[name] for name, weight in prunable(residual).items())


def test_both_ways_of_training_are_the_same(residual):
    """torch masks the weight before it is used, we after each step."""
    masks = prune(residual, "magnitude", 0.6)
    other = copy.deepcopy(residual)
    ours, theirs = sgd(residual), sgd(other)
    to_torch_prune(other, masks)
    for _ in range(4):
        images, labels = images_and_labels()
        step(residual, ours, images, labels)
        apply(residual, masks)
        step(other, theirs, images, labels)
    assert_same(from_torch_prune(other), masks)
    for name, value in residual.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)
    step(other, theirs, images, labels)  # the optimizer still has the weights
    assert other.linear.weight[~masks["linear.weight"]].any()
    apply(other, masks)
    assert not other.linear.weight[~masks["linear.weight"]].any()


def test_a_model_that_torch_pruned_and_trained(residual):
    torch_prune.random_unstructured(residual.conv1, "weight", 0.5)
    torch_prune.l1_unstructured(residual.conv1, "weight", 0.2)  # on top: a container
    torch_prune.ln_structured(residual.conv2, "weight", 0.5, n=2, dim=0)
    torch_prune.l1_unstructured(residual.conv1, "bias", 2)
    expected = residual.conv1.weight_mask.bool(), residual.conv2.weight_mask.bool()
    optimizer = sgd(residual)
    for _ in range(2):
        step(residual, optimizer, *images_and_labels())
    assert residual.conv1.weight_orig[~expected[0]].any()
    images, _ = images_and_labels()
    outputs = residual.eval()(images)
    masks = from_torch_prune(residual)
    assert list(masks) == list(prunable(residual))
    assert torch.equal(masks["conv1.weight"], expected[0])
    assert torch.equal(masks["conv2.weight"], expected[1])
    assert masks["linear.weight"].all()  # never pruned
    assert not residual.conv1.weight[~expected[0]].any()
    assert torch.equal(residual(images), outputs)
    # Biases are not ours to prune: what torch did to them stays its own.
    assert isinstance(residual.conv1.bias_orig, nn.Parameter)
    again = prune(residual, "magnitude", 0.9)
    assert kept(again) == round(0.1 * sum(mask.numel() for mask in again.values()))


def test_what_to_do_with_a_model_under_torchs_pruning(residual):
    masks = prune(residual, "random", 0.5)
    to_torch_prune(residual, masks)
    for use in (prunable, lambda model: prune(model, "magnitude", 0.9)):
        with pytest.raises(ConfigurationError, match=r"conv1.weight is computed.*from_torch_prune"):
            use(residual)
    with pytest.raises(ConfigurationError, match=r"which torch.nn.utils.prune masks"):
        apply(residual, masks)
    bare = torch_prune.l1_unstructured(nn.Linear(4, 4), "weight", 3)
    with pytest.raises(ConfigurationError, match=r"^weight is computed.*from_torch_prune"):
        prunable(bare)
    assert kept(from_torch_prune(bare)) == 13


def test_other_parametrisations_are_not_passed_over():
    model = nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 2)))
    with pytest.raises(ConfigurationError, match=r"1.weight is computed.*weight_norm"):
        prunable(model)


def test_a_shared_weight_is_masked_wherever_it_is_used():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6, bias=False))
    model[2].weight = model[0].weight
    masks = prune(model, "random", 0.5)
    x = torch.randn(3, 6)
    to_torch_prune(model, masks)
    optimizer = sgd(model)
    step(model, optimizer, x, torch.tensor([0, 1, 2]))
    used = [model[place].weight for place in (0, 2) if model(x) is not None]
    assert all(not weight[~masks["0.weight"]].any() for weight in used)
    assert_same(from_torch_prune(model), masks)
    assert model[2].weight is model[0].weight
    assert len(prunable(model)) == 1
    # Masked differently in two places, what is left is what both keep.
    first, second = torch.rand(6, 6) < 0.5, torch.rand(6, 6) < 0.5
    torch_prune.custom_from_mask(model[0], "weight", first)
    torch_prune.custom_from_mask(model[2], "weight", second)
    assert torch.equal(from_torch_prune(model)["0.weight"], first & second)
    assert not model[2].weight[~(first & second)].any()


def test_attention():
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    masks = prune(model, "magnitude", 0.5)
    x = torch.randn(2, 5, 8)
    expected = model(x)
    with pytest.raises(ConfigurationError, match=r"self_attn.out_proj.weight.*never calls"):
        to_torch_prune(model, masks)
    assert not torch_prune.is_pruned(model)
    projection = masks.pop("self_attn.out_proj.weight")
    to_torch_prune(model, masks)
    torch.testing.assert_close(model(x), expected)
    found = from_torch_prune(model)
    assert found.pop("self_attn.out_proj.weight").all()
    assert not projection.all()
    assert_same(dict(sorted(found.items())), dict(sorted(masks.items())))
