"""A data set in memory, read from where its files come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.base.errors import unknown
from common.datasets import DATASETS, Spec, folders
from common.datasets.imagenet import ImageNet, SmallImageNet
from common.datasets.loader import Loader, normalise
from common.datasets.sources import MNIST_MD5, Cifar, Mnist, TinyImageNet, digits
from common.datasets.streamed import StreamedDataset, open_folder

# Those that lie in a folder; digits come inside scikit-learn.
SOURCES: dict[str, folders.Source] = {
    "mnist": Mnist("MNIST", MNIST_MD5),
    "fashion_mnist": Mnist("FashionMNIST"),
    "cifar10": Cifar("CIFAR10"),
    "cifar100": Cifar("CIFAR100"),
    "tiny_imagenet": TinyImageNet(),
    "imagenet": ImageNet(),
    "imagenet32": SmallImageNet(32),
    "imagenet64": SmallImageNet(64),
}


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: images uint8 (N, H, W, C), labels int64 (N,).

    `mean` and `std`, float32 (C,), are each channel's over the training pixels scaled to [0, 1].
    """

    spec: Spec
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor

    @property
    def device(self) -> torch.device:
        """Where the data lie."""
        return self.train_images.device

    def loaders(
        self, batch_size: int, test_batch: int, augment: str | None, seed: int
    ) -> tuple[Loader, Loader]:
        """Training images in batches of `batch_size`, and test images in those of `test_batch`."""
        parts = (self.train_images, self.train_labels), (self.test_images, self.test_labels)
        train, test = ((*part, self.mean, self.std) for part in parts)
        return Loader(*train, batch_size, augment=augment, seed=seed), Loader(*test, test_batch)

    def scoring_batches(self, places: Tensor, size: int) -> Sequence[tuple[Tensor, Tensor]]:
        """Un-augmented training images (B, C, H, W), normalised, and their labels."""
        where = places.to(self.device)
        x = normalise(self.train_images[where], self.mean, self.std)
        return list(zip(x.split(size), self.train_labels[where].split(size), strict=True))

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on `device`."""
        moved = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **moved)


def load(name: str, data_dir: str | Path | None = None) -> Dataset | StreamedDataset:
    """The data set `name` in the CPU's memory, or ready to be read from its files.

    It is looked for in `data_dir` (its folder's parent, or the folder itself); without one, in the
    folder that the environment variable TRIALS_DATA names, else in data/ of the repository, and
    among Kaggle's inputs. What is nowhere is downloaded. Nothing is ever replaced by other data.

    Raises ConfigurationError for an unknown name, a `data_dir` that does not exist, a folder that
    fails its integrity check, or data that can be neither found nor downloaded.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    spec = DATASETS[name]
    if name not in SOURCES:
        folders.home(data_dir)
        parts = digits()
    else:
        source = SOURCES[name]
        folder = folders.find_or_download(source, spec.title, data_dir)
        try:
            if spec.streamed:
                return open_folder(spec, folder)
            parts = source.arrays(folder)
        except ValueError as error:
            raise folders.unusable_folder_error(source, spec.title, folder, str(error)) from None
    tensors = [torch.from_numpy(np.require(x, requirements="CW")) for part in parts for x in part]
    images, labels = tensors[::2], [x.long() for x in tensors[1::2]]
    mean, std = _statistics(images[0])
    return Dataset(spec, images[0], labels[0], images[1], labels[1], mean, std)


def check(name: str, data_dir: str | Path | None = None) -> None:
    """Raise what `load` would raise, without reading the images; download what is missing."""
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    if name not in SOURCES:
        folders.home(data_dir)
        return
    source, title = SOURCES[name], DATASETS[name].title
    folder = folders.find_or_download(source, title, data_dir)
    problem = source.problem(folder)
    if problem:
        raise folders.unusable_folder_error(source, title, folder, problem)


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's mean and standard deviation of pixel/255, exact: from counts of the values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    moments = []
    for channel in range(images.shape[3]):
        counts = images[..., channel].flatten().bincount(minlength=256)
        share = counts / counts.sum(dtype=torch.float64)
        mean = (share * values).sum()
        moments.append((mean, (share * (values - mean) ** 2).sum().sqrt()))
    mean, std = torch.tensor(moments, dtype=torch.float64).T.float()
    return mean, std
