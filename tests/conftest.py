"""What several test files share: small networks, and a global generator that no test depends on."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import pytest
import torch
from torch import Tensor, nn

from common.base.seeding import generator
from common.models import build, initialise

# A machine that does much else as well is slow, and nothing is wrong.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")


class Residual(nn.Module):
    """conv1 -> norm -> relu -> (conv2 + identity) -> relu -> pooled -> linear."""

    def __init__(self, channels: int = 3, filters: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, padding=1)
        self.norm = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.linear = nn.Linear(filters * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.norm(self.conv1(x)))
        x = self.relu2(self.conv2(x) + x)
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.fixture(autouse=True)
def _global_generator():
    """Torch's constructors and torch.rand in a test give the same numbers in any order of tests."""
    torch.manual_seed(0)


@pytest.fixture
def residual() -> Residual:
    return Residual()


@pytest.fixture(scope="session")
def network() -> Callable[..., nn.Module]:
    """(name, shape=(3, 32, 32), classes=10, seed=0) -> one of our models, initialised."""

    def make(name: str, shape=(3, 32, 32), classes: int = 10, seed: int = 0) -> nn.Module:
        model = build(name, shape, classes)
        initialise(model, "kaiming_normal", "ones", generator(seed, "initial weights"))
        return model

    return make


@pytest.fixture(scope="session")
def randomise_biases() -> Callable[[nn.Module], nn.Module]:
    """Gives every bias of a model, BatchNorm's included, values of either sign."""

    def fill(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0, 0.3, generator=generator(0, name))
        return model

    return fill
