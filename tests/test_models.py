"""The networks' sizes against arithmetic of their papers, and their initial weights."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.datasets import DATASETS
from common.models import BATCHNORM, INITIALISATIONS, MODELS, build, check, initialise

VGG_WIDTHS = {
    11: [64, 128, 256, 256, 512, 512, 512, 512],
    13: [64, 64, 128, 128, 256, 256, 512, 512, 512, 512],
    16: [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
    19: [64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512],
}


def prunable(model: nn.Module) -> dict[str, int]:
    kinds = (nn.Conv2d, nn.Linear)
    return {k: m.weight.numel() for k, m in model.named_modules() if isinstance(m, kinds)}


def vgg_weights(depth: int, pixels: int, classes: int) -> int:
    widths = VGG_WIDTHS[depth]
    return 9 * sum(a * b for a, b in pairwise([3, *widths])) + 512 * (pixels // 32) ** 2 * classes


def resnet_weights(channels: int, widths: list[int], blocks: int, classes: int) -> int:
    total = 9 * channels * widths[0] + 9 * 2 * blocks * widths[0] ** 2 + widths[-1] * classes
    for narrow, wide in pairwise(widths):
        total += 9 * narrow * wide + 9 * (2 * blocks - 1) * wide**2 + narrow * wide
    return total


@pytest.mark.parametrize(
    ("dataset", "weights"), [("cifar10", 14_715_584), ("cifar100", 14_761_664)]
)
def test_vgg16_has_the_published_number_of_prunable_weights(dataset, weights):
    spec = DATASETS[dataset]
    assert sum(prunable(build("vgg16", spec.shape, spec.classes)).values()) == weights


@pytest.mark.parametrize("dataset", ["cifar10", "tiny_imagenet"])
@pytest.mark.parametrize("depth", VGG_WIDTHS)
def test_vgg_sizes(depth, dataset):
    spec = DATASETS[dataset]
    sizes = prunable(build(f"vgg{depth}", spec.shape, spec.classes))
    assert len(sizes) == depth - 2  # the original has three linear layers, this form one
    assert sum(sizes.values()) == vgg_weights(depth, spec.shape[1], spec.classes)


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_resnet_sizes(depth):
    sizes = prunable(build(f"resnet{depth}", (3, 32, 32), 10))
    assert len(sizes) == depth + 2  # two projections
    assert sum(sizes.values()) == resnet_weights(3, [16, 32, 64], (depth - 2) // 6, 10)


def test_sizes_worked_out_by_hand():
    def size(name, shape=(3, 32, 32)):
        return sum(prunable(build(name, shape, 10)).values())

    assert size("resnet20") == 270_896
    assert size("resnet18") == resnet_weights(3, [64, 128, 256, 512], 2, 10) == 11_164_352
    assert size("wide_resnet18") == resnet_weights(3, [128, 256, 512, 1024], 2, 10) == 44_643_712
    assert size("lenet_300_100", (1, 28, 28)) == 784 * 300 + 300 * 100 + 100 * 10 == 266_200
    assert size("small_vgg", (1, 8, 8)) == 97_552
    # The second pooling leaves 4 x 4 of 28 x 28, and 5 x 5 of 32 x 32.
    filters = 20 * 25 + 50 * 20 * 25
    assert size("lenet5", (1, 28, 28)) == filters + 50 * 16 * 500 + 500 * 10 == 430_500
    assert size("lenet5") == 20 * 3 * 25 + 50 * 20 * 25 + 50 * 25 * 500 + 500 * 10


def test_convolutions_have_biases_in_vgg_only():
    for name, expected in [("vgg11", True), ("small_vgg", True), ("resnet20", False)]:
        model = build(name, (3, 32, 32), 10)
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert {m.bias is not None for m in convolutions} == {expected}, name


LARGE = {"resnet18", "resnet34", "resnet50"}  # for 224 x 224; and vgg16, of 138 million weights


def fitting() -> list[tuple[str, str]]:
    """Of ImageNet's images only the networks made for them: others take long."""
    fit = [(m, d) for m in MODELS for d, spec in DATASETS.items() if MODELS[m].takes(spec.shape)]
    return [(m, d) for m, d in fit if d != "imagenet" or m in LARGE]


def test_which_models_fit_which_data_sets():
    fits = set(fitting())
    for name in MODELS:
        sizes = {d for m, d in fits if m == name}
        if name.startswith("vgg"):
            assert sizes == {"cifar10", "cifar100", "tiny_imagenet", "imagenet32", "imagenet64"}
        elif name in ("resnet34", "resnet50"):
            assert sizes == {"imagenet"}
        elif name.endswith("resnet18") or name == "lenet5":
            assert sizes - {"imagenet"} == set(DATASETS) - {"digits", "imagenet"}
        else:
            assert sizes == set(DATASETS) - {"imagenet"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dataset"), fitting())
def test_output_shape_and_modules_that_hooks_see(name, dataset):
    spec = DATASETS[dataset]
    model = build(name, spec.shape, spec.classes).eval()
    calls: dict[str, int] = {}

    def count(label):
        return lambda *_: calls.update({label: calls.get(label, 0) + 1})

    leaves = {k: m for k, m in model.named_modules() if not list(m.children())}
    for label, module in leaves.items():
        module.register_forward_hook(count(label))
        assert not getattr(module, "inplace", False), label
    with torch.no_grad():
        out = model(torch.zeros(2, *spec.shape).contiguous(memory_format=torch.channels_last))
    assert out.shape == (2, spec.classes)
    # torchvision's blocks use one ReLU in several places.
    assert calls.keys() == leaves.keys()
    assert dataset == "imagenet" or calls == dict.fromkeys(leaves, 1)


@pytest.mark.slow
def test_every_weight_matters_on_the_smallest_images():
    # Not so for 3 x 3 kernels on a 1 x 1 map, where all but the centre see padding only.
    for name, model in MODELS.items():
        if name in ("lenet_300_100", "resnet110", "wide_resnet18", "resnet34", "resnet50"):
            continue  # no kernels; the same as resnet20 or resnet18; torchvision's, for colours
        side = model.smallest
        network = build(name, (1, side, side), 10)
        initialise(network, "kaiming_normal", "ones", generator(0, "test"))
        network(torch.randn(16, 1, side, side, generator=generator(1, "test"))).sum().backward()
        for label, parameter in network.named_parameters():
            if label.endswith("weight") and parameter.dim() == 4:
                assert parameter.grad.abs().sum(dim=(0, 1)).min() > 0, (name, label)


def test_a_model_that_does_not_fit_is_one_clear_error():
    with pytest.raises(ConfigurationError) as error:
        check("vgg16", (1, 8, 8))
    text = str(error.value)
    assert "vgg16" in text
    assert "8x8" in text
    assert "32x32 and up, in multiples of 32" in text
    assert "cifar10, cifar100, tiny_imagenet" in text
    assert "small_vgg" in text
    assert "resnet18" not in text
    for shape in [(3, 28, 28), (3, 48, 48), (3, 32, 48)]:
        with pytest.raises(ConfigurationError, match="vgg16"):
            build("vgg16", shape, 10)


@pytest.mark.parametrize("side", [8, 12, 30])
def test_lenet5_on_images_it_cannot_take(side):
    """On 12 x 12 its second convolution would see 4 x 4; 30 x 30 leaves a row over in a pooling."""
    with pytest.raises(ConfigurationError) as error:
        check("lenet5", (1, side, side))
    text = str(error.value)
    assert f"'lenet5' takes images of 16x16 and up, in multiples of 4, not {side}x{side}" in text
    assert (
        "data sets for it: mnist, fashion_mnist, cifar10, cifar100, tiny_imagenet, imagenet" in text
    )


def test_lenet5_is_caffes(network):
    """A single ReLU, where others put one behind each convolution too."""
    model = network("lenet5", (1, 28, 28))
    x = torch.randn(3, 1, 28, 28)
    maps = nn.functional.max_pool2d(model.conv1(x), 2)
    maps = nn.functional.max_pool2d(model.conv2(maps), 2)
    assert maps.shape == (3, 50, 4, 4)
    expected = model.linear2(model.linear1(maps.flatten(1)).clamp(min=0))
    assert torch.equal(model(x), expected)


def test_an_unknown_model_lists_the_choices():
    with pytest.raises(ConfigurationError, match=r"did you mean 'vgg16'.*resnet20.*small_vgg"):
        check("vgg-16", (3, 32, 32))


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    model = build("small_vgg", (1, 8, 8), 10)
    initialise(model, "kaiming_normal", "uniform", generator(0, "initial weights"))
    assert torch.equal(torch.get_rng_state(), before)


# Initialisation. fan_in and fan_out by the definition: inputs of one output, outputs of one input.
FANS = {
    "linear": (nn.Linear(400, 500), 400, 500),
    "convolution": (nn.Conv2d(64, 96, 3), 64 * 9, 96 * 9),
    "grouped": (nn.Conv2d(128, 256, 3, groups=4), 32 * 9, 64 * 9),
    "transposed": (nn.ConvTranspose2d(64, 96, 3), 64 * 9, 96 * 9),
    "transposed, grouped": (nn.ConvTranspose2d(128, 256, 3, groups=4), 32 * 9, 64 * 9),
    "one-dimensional": (nn.Conv1d(100, 200, 5), 100 * 5, 200 * 5),
}
VARIANCES = {
    "kaiming": lambda fan_in, fan_out: 2 / fan_in,
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
}


@pytest.mark.parametrize("form", ["normal", "uniform"])
@pytest.mark.parametrize("rule", VARIANCES)
@pytest.mark.parametrize("layer", FANS)
def test_weights_follow_the_scheme(layer, rule, form):
    module, fan_in, fan_out = FANS[layer]
    initialise(module, f"{rule}_{form}", "ones", generator(0, "test"))
    weight = module.weight.detach().flatten()
    std = math.sqrt(VARIANCES[rule](fan_in, fan_out))
    standard_error = std / math.sqrt(len(weight))
    assert abs(weight.mean()) < 4 * standard_error
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    if form == "uniform":
        assert 0.999 < weight.abs().max().item() / (std * math.sqrt(3)) <= 1 + 1e-6
    else:
        assert (weight.abs() > 2 * std).float().mean().item() == pytest.approx(0.0455, abs=0.004)
    assert torch.count_nonzero(module.bias) == 0


@pytest.mark.parametrize("layer", FANS)
def test_orthogonal_rows_or_columns(layer):
    module = FANS[layer][0]
    initialise(module, "orthogonal", "ones", generator(0, "test"))
    for group in module.weight.detach().chunk(getattr(module, "groups", 1)):
        units = (group.transpose(0, 1) if "transposed" in layer else group).flatten(1)
        gram = units @ units.T if units.shape[0] <= units.shape[1] else units.T @ units
        assert torch.allclose(gram, 2 * torch.eye(len(gram)), atol=1e-5)


def test_all_weights_are_redrawn_and_everything_else_reset():
    model = build("resnet20", (3, 32, 32), 10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.train()(torch.randn(4, 3, 32, 32, generator=generator(0, "test")))
    initialise(model, "kaiming_normal", "ones", generator(0, "test"))
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
            assert (module.running_mean == 0).all(), name
            assert (module.running_var == 1).all(), name
            assert module.num_batches_tracked == 0, name
        elif isinstance(module, nn.Conv2d | nn.Linear):
            assert not (module.weight == 7).any(), name
            assert module.bias is None or (module.bias == 0).all(), name


def test_batchnorm_weights_uniform():
    model = build("vgg16", (3, 32, 32), 10)
    initialise(model, "kaiming_normal", "uniform", generator(0, "test"))
    weights = torch.cat([m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
    assert len(weights) == 4224
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights.mean().item() == pytest.approx(1 / 2, abs=0.02)
    assert weights.var().item() == pytest.approx(1 / 12, rel=0.05)


def state(scheme="kaiming_normal", batchnorm="ones", seed=0, change=lambda model: model):
    model = change(build("small_vgg", (3, 16, 16), 10))
    initialise(model, scheme, batchnorm, generator(seed, "test"))
    return {k: v.float().contiguous() for k, v in model.state_dict().items()}


def same(left, right):
    return all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("scheme", INITIALISATIONS)
def test_the_generator_alone_determines_the_weights(scheme):
    first = state(scheme)
    torch.manual_seed(123)
    assert same(first, state(scheme))
    assert same(first, state(scheme, change=lambda m: m.to(memory_format=torch.channels_last)))
    assert same(first, state(scheme, change=nn.Module.double))
    assert not same(first, state(scheme, seed=1))


def test_weights_are_the_same_under_either_batchnorm():
    ones, uniform = (state(batchnorm=name) for name in BATCHNORM)
    differing = {k for k in ones if not torch.equal(ones[k], uniform[k])}
    assert differing == {k for k in ones if "norm" in k and k.endswith("weight")}


def test_unknown_initialisations_list_the_choices():
    model = nn.Linear(2, 2)
    with pytest.raises(ConfigurationError, match=r"initialisation='he'.*xavier_uniform"):
        initialise(model, "he", "ones", generator(0, "test"))
    with pytest.raises(ConfigurationError, match=r"batchnorm='zeros'.*ones, uniform"):
        initialise(model, "orthogonal", "zeros", generator(0, "test"))


def test_names_are_those_that_the_notebooks_offer():
    vggs = {f"vgg{depth}" for depth in (11, 13, 16, 19)}
    resnets = {f"resnet{depth}" for depth in (18, 20, 32, 34, 44, 50, 56, 110)}
    small = {"lenet_300_100", "lenet5", "small_vgg"}
    assert set(MODELS) == vggs | resnets | small | {"wide_resnet18"}
