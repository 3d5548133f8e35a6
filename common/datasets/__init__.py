"""The data sets, by name: images as tensors, and the loaders that batch them.

A new one is a line in `DATASETS` and one in `images.SOURCES`, where its files come from. Their
names are known without torch, which is imported when one is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.base import deferred

if TYPE_CHECKING:
    from common.datasets.images import SOURCES, Dataset, check, load
    from common.datasets.loader import (
        AUGMENTATIONS,
        Loader,
        normalise,
        scoring_batch,
        scoring_batches,
    )

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "SOURCES",
    "Dataset",
    "Loader",
    "Spec",
    "check",
    "load",
    "normalise",
    "scoring_batch",
    "scoring_batches",
]

__getattr__ = deferred.exports(__name__, __all__, ["images", "loader"])


@dataclass(frozen=True)
class Spec:
    """What is known of a data set before reading it; `shape` is an image's (C, H, W).

    natural: photographs, in which a mirrored or shifted object is still the same object.
    streamed: read from its files as one goes, not held in memory.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: int
    natural: bool = False
    streamed: bool = False


DATASETS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec("digits", "Digits", (1, 8, 8), 10),
        Spec("mnist", "MNIST", (1, 28, 28), 10),
        Spec("fashion_mnist", "Fashion-MNIST", (1, 28, 28), 10),
        Spec("cifar10", "CIFAR-10", (3, 32, 32), 10, natural=True),
        Spec("cifar100", "CIFAR-100", (3, 32, 32), 100, natural=True),
        Spec("tiny_imagenet", "Tiny ImageNet", (3, 64, 64), 200, natural=True),
        Spec("imagenet", "ImageNet", (3, 224, 224), 1000, natural=True, streamed=True),
        Spec("imagenet32", "ImageNet 32x32", (3, 32, 32), 1000, natural=True),
        Spec("imagenet64", "ImageNet 64x64", (3, 64, 64), 1000, natural=True),
    )
}
