"""The distributions that initial weights are drawn from, by name; `initialisation` has the table of
their sources. torch is imported by the first draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from common.base.deferred import Module

init = Module("torch.nn.init")

INITIALISATIONS: dict[str, Callable] = {
    "kaiming_normal": partial(init.kaiming_normal_, nonlinearity="relu"),
    "kaiming_uniform": partial(init.kaiming_uniform_, nonlinearity="relu"),
    "xavier_normal": init.xavier_normal_,
    "xavier_uniform": init.xavier_uniform_,
    "lecun_normal": partial(init.kaiming_normal_, nonlinearity="linear"),
    "lecun_uniform": partial(init.kaiming_uniform_, nonlinearity="linear"),
    "orthogonal": partial(init.orthogonal_, gain=math.sqrt(2)),
}
