"""The LeNets of the first pruning papers: without BatchNorm, small enough for a CPU."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn


def lenet_300_100(shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Two hidden layers of 300 and 100 units on the flattened image, whatever its size.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998.
    """
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            linear1=nn.Linear(math.prod(shape), 300),
            relu1=nn.ReLU(),
            linear2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            linear3=nn.Linear(100, classes),
        )
    )


def lenet5(shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """LeNet-5 as Caffe ships it for MNIST, the "LeNet-5-Caffe" of the pruning papers.

    20 and 50 filters of 5 x 5 without padding, each followed by a maximum pooling over 2 x 2, then
    500 units and the classes: 430,500 prunable weights on 28 x 28 images. The only ReLU stands
    behind the 500 units, as in Caffe and in SNIP's released code (1810.02340). H and W are at least
    16, where the second convolution sees 6 x 6, and multiples of 4, for the poolings to come out
    even.
    """
    height, width = ((side - 4) // 2 for side in shape[1:])
    height, width = ((side - 4) // 2 for side in (height, width))
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(50 * height * width, 500),
            relu1=nn.ReLU(),
            linear2=nn.Linear(500, classes),
        )
    )
