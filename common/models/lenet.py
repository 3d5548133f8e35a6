"""LeNet-300-100, the fully connected network of the first pruning papers."""

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
