"""The networks, by name. A new one is a function in a family's file and a line in `MODELS`.

Their names are known without torch, which is imported when one is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from common.base import deferred
from common.base.errors import ConfigurationError, unknown
from common.datasets import DATASETS
from common.models.schemes import INITIALISATIONS

if TYPE_CHECKING:
    from torch import nn

    from common.models.initialisation import BATCHNORM, initialise

__all__ = ["BATCHNORM", "INITIALISATIONS", "MODELS", "build", "check", "initialise"]

__getattr__ = deferred.exports(__name__, __all__, ["initialisation"])

Shape = tuple[int, int, int]

LARGE = 128  # pixels of a side; from there on a network takes the form that it has for ImageNet

imagenet = deferred.Module("common.models.imagenet")
lenet = deferred.Module("common.models.lenet")
resnet = deferred.Module("common.models.resnet")
vgg = deferred.Module("common.models.vgg")


@dataclass(frozen=True)
class Architecture:
    """How a model is made, and the images that it takes: sides in pixels."""

    make: Callable[[Shape, int], nn.Module]
    smallest: int = 1
    multiple: int = 1

    def takes(self, shape: Shape) -> bool:
        """Whether images of `shape` (C, H, W) fit."""
        return all(side >= self.smallest and side % self.multiple == 0 for side in shape[1:])

    def sizes(self) -> str:
        """The images it takes, in words."""
        steps = f", in multiples of {self.multiple}" if self.multiple > 1 else ""
        return f"{self.smallest}x{self.smallest} and up{steps}"


def _vgg(depth: int) -> Architecture:
    return Architecture(partial(vgg.vgg, depth=depth), smallest=32, multiple=32)


def _by_size(small: Callable[[Shape, int], nn.Module], large: str) -> Callable:
    """The model for small images, or torchvision's `large` one from LARGE pixels on."""

    def make(shape: Shape, classes: int) -> nn.Module:
        if min(shape[1:]) >= LARGE:
            return imagenet.torchvision_model(shape, classes, large)
        return small(shape, classes)

    return make


def _large(name: str) -> Architecture:
    return Architecture(partial(imagenet.torchvision_model, name=name), smallest=LARGE)


def _cifar_resnet(depth: int) -> Architecture:
    return Architecture(partial(resnet.cifar_resnet, depth=depth), smallest=8)


# Smallest: the last convolutions see 2 x 2, the least at which all weights of a 3 x 3 kernel work.
MODELS: dict[str, Architecture] = {
    "vgg11": _vgg(11),
    "vgg13": _vgg(13),
    "vgg16": replace(_vgg(16), make=_by_size(_vgg(16).make, "vgg16_bn")),
    "vgg19": _vgg(19),
    "resnet20": _cifar_resnet(20),
    "resnet32": _cifar_resnet(32),
    "resnet44": _cifar_resnet(44),
    "resnet56": _cifar_resnet(56),
    "resnet110": _cifar_resnet(110),
    "resnet18": Architecture(_by_size(resnet.resnet18, "resnet18"), smallest=16),
    "resnet34": _large("resnet34"),
    "resnet50": _large("resnet50"),
    "wide_resnet18": Architecture(partial(resnet.resnet18, widening=2), smallest=16),
    "lenet_300_100": Architecture(lenet.lenet_300_100),
    "lenet5": Architecture(lenet.lenet5, smallest=16, multiple=4),
    "small_vgg": Architecture(vgg.small_vgg, smallest=8),
}


def check(name: str, shape: Shape) -> None:
    """Raise ConfigurationError unless `name` is a model that takes images of `shape` (C, H, W)."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    model = MODELS[name]
    if not model.takes(shape):
        datasets = [key for key, spec in DATASETS.items() if model.takes(spec.shape)]
        models = [key for key, other in MODELS.items() if other.takes(shape)]
        raise ConfigurationError(
            f"model={name!r} takes images of {model.sizes()}, not {shape[1]}x{shape[2]}; "
            f"data sets for it: {', '.join(datasets)}; "
            f"models for {shape[1]}x{shape[2]}: {', '.join(models)}"
        )


def build(name: str, shape: Shape, classes: int) -> nn.Module:
    """The model `name`, on the CPU, from images (B, C, H, W) of `shape` (C, H, W) to (B, classes).

    Its weights mean nothing until `initialise` has drawn them.
    Raises ConfigurationError as `check` does.
    """
    import torch

    check(name, shape)
    # Torch's constructors draw weights from the global generator: leave it as it was.
    with torch.random.fork_rng(devices=[]):
        return MODELS[name].make(shape, classes)
