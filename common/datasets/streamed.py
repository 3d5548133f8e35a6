"""Batches from image files: read, cropped and flipped by worker processes, never held."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.datasets import Spec, imagenet
from common.datasets.loader import Part, normalise, split

# Of ImageNet's training pixels, as torchvision and everyone after it has them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Images at a time. A pass of ResNet-50 keeps 130 MB of each, GraSP three times as much: 6.2 GB.
EVALUATION_BATCH, SCORING_BATCH = 100, 16
SHORTER_SIDE = 256 / 224  # of a test image before its centre is cut out; He et al. 1512.03385


@dataclass(frozen=True)
class Files:
    """Image files. names: below the folder, as bytes (N,); labels: int64 (N,)."""

    folder: Path
    names: np.ndarray
    labels: Tensor

    def read(self, place: int) -> Tensor:
        """uint8 (3, H, W). Raises ConfigurationError naming a file that is no image."""
        from PIL import Image
        from torchvision.io import ImageReadMode, decode_image

        path = self.folder / self.names[place].decode()
        try:
            content = path.read_bytes()
            try:
                return decode_image(_as_tensor(content), ImageReadMode.RGB)
            except RuntimeError:  # colours for print, of which ImageNet has some; or it is damaged
                with Image.open(path) as image:
                    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        except (OSError, ValueError, SyntaxError) as error:
            raise ConfigurationError(f"{path} cannot be read as an image ({error})") from None


@dataclass(frozen=True)
class StreamedDataset:
    """A data set in files, with the face of `Dataset`. Batches come to the device on which the
    moments lie; only labels and names of files are held, on the CPU."""

    spec: Spec
    train: Files
    test: Files
    mean: Tensor
    std: Tensor

    @property
    def device(self) -> torch.device:
        """Where batches come to."""
        return self.mean.device

    @property
    def train_labels(self) -> Tensor:
        """int64 (N,), on the CPU."""
        return self.train.labels

    @property
    def test_labels(self) -> Tensor:
        """int64 (N,), on the CPU."""
        return self.test.labels

    def to(self, device: torch.device | str) -> StreamedDataset:
        """The same data for `device`."""
        return replace(self, mean=self.mean.to(device), std=self.std.to(device))

    def loaders(
        self, batch_size: int, test_batch: int, augment: str | None, seed: int
    ) -> tuple[StreamedLoader, StreamedLoader]:
        """Training images in batches of `batch_size`, and test images."""
        return (
            StreamedLoader(self, self.train, batch_size, augment=augment, seed=seed),
            StreamedLoader(self, self.test, min(test_batch, EVALUATION_BATCH)),
        )

    def scoring_batches(self, places: Tensor, size: int) -> Sequence[tuple[Tensor, Tensor]]:
        """Un-augmented training images, read one by one; batches go to the device when used."""
        return _Kept(self, places, min(size, SCORING_BATCH))


class StreamedLoader:
    """As `Loader`, from files. Iterable over the batches of one epoch: (x, y) on the device.

    With a `seed` every epoch has a new order, and with `augment` every image a new crop of 8 to 100
    percent of its area, resized (Szegedy et al., 1409.4842), flipped or not. Order and each image's
    crop follow from the run's streams and the epoch's number, not from who reads it: any number of
    workers gives the same images, and setting `epoch` resumes exactly. Without a `seed` the centres
    of the images come in order.

    workers: processes that read; as many as the run has threads where None.
    """

    def __init__(
        self,
        data: StreamedDataset,
        files: Files,
        batch_size: int,
        *,
        augment: str | None = None,
        seed: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.data, self.files, self.labels = data, files, files.labels
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.workers = torch.get_num_threads() if workers is None else workers
        self.epoch = 0  # of the next iteration
        self.part: Part | None = None  # as `Loader`'s

    def __len__(self) -> int:
        """The number of batches."""
        return math.ceil(len(self.labels) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._keys.epoch, self._keys.part = self.epoch, self.part
        self.epoch += 1
        return self._on_device(iter(self._batches))

    def _on_device(self, batches: Iterator) -> Iterator[tuple[Tensor, Tensor]]:
        for count in [len(part) for part in split(self.labels, self.batch_size, self.part)]:
            if not count:  # of nothing DataLoader makes no batch
                empty = torch.empty(0, *self.data.spec.shape), self.labels[:0]
                yield tuple(tensor.to(self.data.device) for tensor in empty)
                continue
            pixels, labels = next(batches)
            x = pixels.to(self.data.device, non_blocking=True)
            y = labels.to(self.data.device, non_blocking=True)
            yield normalise(x, self.data.mean, self.data.std), y

    @cached_property
    def _keys(self) -> _Keys:
        return _Keys(len(self.labels), self.batch_size, self.seed)

    @cached_property
    def _batches(self) -> DataLoader:
        # Made once: its workers stay from epoch to epoch.
        return DataLoader(
            _Images(self.files, self.data.spec.shape[1], self.augment is not None),
            batch_sampler=self._keys,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.data.device.type == "cuda",
            # The workers' own seeds come from there, not from the global generator.
            generator=torch.Generator(),
        )


class _Keys:
    """Batches of (an image's place, the seed of its crop) for the epoch that it was told."""

    def __init__(self, count: int, batch_size: int, seed: int | None) -> None:
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0
        self.part: Part | None = None

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, seeds = torch.arange(self.count), torch.zeros(self.count, dtype=torch.long)
        if self.seed is not None:
            order = torch.randperm(self.count, generator=generator(self.seed, "order", self.epoch))
            stream = generator(self.seed, "augmentation", self.epoch)
            seeds = torch.randint(2**62, (self.count,), generator=stream)
        for places in filter(len, split(order, self.batch_size, self.part)):
            yield list(zip(places.tolist(), seeds[places].tolist(), strict=True))


class _Images:
    """What a worker does: (place, seed) -> (uint8 (H, W, 3), label)."""

    def __init__(self, files: Files, side: int, augmented: bool) -> None:
        from torchvision.transforms import v2

        self.files, self.augmented = files, augmented
        self.transform = v2.Compose(
            [v2.RandomResizedCrop(side, antialias=True), v2.RandomHorizontalFlip()]
            if augmented
            else [v2.Resize(round(SHORTER_SIDE * side), antialias=True), v2.CenterCrop(side)]
        )

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        place, seed = key
        image = self.files.read(place)
        if self.augmented:
            # torchvision draws from the global generator.
            with torch.random.fork_rng(devices=[]):
                torch.random.default_generator.manual_seed(seed)
                image = self.transform(image)
        else:
            image = self.transform(image)
        return image.permute(1, 2, 0).contiguous(), self.files.labels[place]


class _Kept(Sequence):
    """Scoring images as bytes on the CPU; a batch of them as numbers on the device when asked."""

    def __init__(self, data: StreamedDataset, places: Tensor, size: int) -> None:
        images = _Images(data.train, data.spec.shape[1], augmented=False)
        read = [images[place, 0] for place in places.tolist()]
        pixels, labels = map(torch.stack, zip(*read, strict=True))
        self.data, self.parts = data, list(zip(pixels.split(size), labels.split(size), strict=True))

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self.parts[number]
        data = self.data
        return normalise(pixels.to(data.device), data.mean, data.std), labels.to(data.device)


def open_folder(spec: Spec, folder: Path) -> StreamedDataset:
    """The data set in a folder; its classes are the folder's, and its title says if those are not
    all. Raises ValueError as `imagenet.index` does."""
    found = imagenet.index(folder)
    parts = [
        Files(folder, names, torch.from_numpy(labels).long())
        for names, labels in (found.train, found.test)
    ]
    count, title = len(found.classes), spec.title
    if count != spec.classes:
        title += f", {count:,} of its {spec.classes:,} classes"
    spec = replace(spec, classes=count, title=title)
    return StreamedDataset(spec, *parts, torch.tensor(MEAN), torch.tensor(STD))


def _as_tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
