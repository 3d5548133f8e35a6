"""Residual networks of basic blocks: He et al.'s for CIFAR, and ResNet-18 for small images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn


def cifar_resnet(shape: tuple[int, int, int], classes: int, depth: int) -> nn.Sequential:
    """ResNet-`depth` in its CIFAR form: three stages of n blocks, depth = 6n + 2.

    16, 32 and 64 filters (He et al., 1512.03385, section 4.2), with a projection where the shape
    changes, as Frankle et al. (ICLR 2021) and Tanaka et al. (2006.05467) have it.
    """
    return residual_network(shape, classes, widths=(16, 32, 64), blocks=(depth - 2) // 6)


def resnet18(shape: tuple[int, int, int], classes: int, widening: int = 1) -> nn.Sequential:
    """ResNet-18 for small images: a 3 x 3 convolution with stride 1 and no pooling at the start.

    Four stages of two blocks with 64, 128, 256 and 512 filters, each times `widening`: 2 makes it
    WideResNet-18 (Zagoruyko and Komodakis, 1605.07146). In Tanaka et al.'s released code
    (2006.05467) WideResNet-18 hands its width to a block that ignores it, and so is ResNet-18 once
    more: `resnet18` is the one to compare with their curves of either name.
    """
    widths = [widening * filters for filters in (64, 128, 256, 512)]
    return residual_network(shape, classes, widths, blocks=2)


def residual_network(
    shape: tuple[int, int, int], classes: int, widths: Sequence[int], blocks: int
) -> nn.Sequential:
    """Stages of `blocks` blocks with `widths` filters; all but the first halve the sides."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(shape[0], widths[0], 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(widths[0]),
        relu=nn.ReLU(),
    )
    channels = widths[0]
    for stage, filters in enumerate(widths, start=1):
        first = BasicBlock(channels, filters, stride=1 if stage == 1 else 2)
        rest = [BasicBlock(filters, filters, stride=1) for _ in range(blocks - 1)]
        layers[f"stage{stage}"] = nn.Sequential(first, *rest)
        channels = filters
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)


class BasicBlock(nn.Module):
    """ReLU(F(x) + shortcut(x)) where F is two 3 x 3 convolutions, each with BatchNorm.

    The shortcut is the identity, or a 1 x 1 convolution with BatchNorm where the shape changes.
    """

    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != filters:
            projection = nn.Conv2d(channels, filters, 1, stride, bias=False)
            self.shortcut = nn.Sequential(
                OrderedDict(conv=projection, norm=nn.BatchNorm2d(filters))
            )
        # A module of its own, not relu1 again: a hook fires once for each place.
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, channels, H, W) to (B, filters, H / stride, W / stride), rounded up."""
        out = self.relu1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))
