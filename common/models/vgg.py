"""VGG for small images: plain stacks of convolutions, BatchNorm and ReLU between poolings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

# Convolutions (their filters) in blocks; between two blocks the sides are halved.
PLANS = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
SMALL_PLAN = ((16, 32), (64, 64), (64,))


def vgg(shape: tuple[int, int, int], classes: int, depth: int) -> nn.Sequential:
    """VGG-`depth` (11, 13, 16 or 19) in its CIFAR form, for images of `shape` (C, H, W).

    Convolutions with bias, four max poolings, an average pooling over 2 x 2 and a single linear
    layer; H and W are multiples of 32. What is left of an image of 32 x 32 is 512 numbers, of one
    of 64 x 64 four times as many.
    Sources: Simonyan and Zisserman, 1409.1556 (the plans); Frankle et al., ICLR 2021 (for CIFAR).
    """
    layers = convolutions(shape[0], PLANS[depth])
    layers[f"pool{len(PLANS[depth])}"] = nn.AvgPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(512 * (shape[1] // 32) * (shape[2] // 32), classes)
    return nn.Sequential(layers)


def small_vgg(shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """A VGG of 97,552 prunable weights for 8 x 8 digits; H and W are at least 8.

    Small enough for seconds on a CPU, yet with layers so unequal (144 to 36,864 weights) that the
    methods differ as on VGG-16. Ends in a global average pooling and a linear layer.
    """
    layers = convolutions(shape[0], SMALL_PLAN)
    layers[f"pool{len(SMALL_PLAN)}"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(SMALL_PLAN[-1][-1], classes)
    return nn.Sequential(layers)


def convolutions(channels: int, plan: Sequence[Sequence[int]]) -> OrderedDict[str, nn.Module]:
    """The layers of `plan` by name, `conv2_1` being the first convolution of the second block."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for block, widths in enumerate(plan, start=1):
        if block > 1:
            layers[f"pool{block - 1}"] = nn.MaxPool2d(2)
        for place, filters in enumerate(widths, start=1):
            name = f"{block}_{place}"
            layers[f"conv{name}"] = nn.Conv2d(channels, filters, 3, padding=1)
            layers[f"norm{name}"] = nn.BatchNorm2d(filters)
            # Not in place: a hook on the BatchNorm sees its own output.
            layers[f"relu{name}"] = nn.ReLU()
            channels = filters
    return layers
