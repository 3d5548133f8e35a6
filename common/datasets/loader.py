"""Batches from images that lie on the device as one uint8 tensor, augmented there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from common.base import environment
from common.base.errors import ConfigurationError, unknown
from common.base.seeding import generator

if TYPE_CHECKING:
    from common.datasets import Dataset
    from common.datasets.streamed import StreamedDataset

AUGMENTATIONS = (None, "flip_crop")
Part = Callable[[int], slice]
PADDING = 4  # pixels on every side; He et al., 1512.03385, section 4.2


class Loader:
    """Iterable over the batches of one epoch: pairs (x, y) on the images' device.

    x: float32 (B, C, H, W) in its device's memory format, normalised with `mean` and `std`;
    y: int64 (B,). The last batch holds what is left.

    With a `seed` (training) every epoch has a new order, and with `augment="flip_crop"` new
    horizontal flips and new crops from the image zero-padded by 4 pixels. All of an epoch's choices
    are drawn on the CPU when it starts, from the run's streams "order" and "augmentation" with the
    epoch's number: they are the same on every device, and setting `epoch` resumes exactly.
    Without a `seed` (evaluation) the images come as they are, in order.

    part: of a batch's length, which of its images are yielded; all where None. The choices are
    those of whole batches, so several processes can share one.

    images: uint8 (N, H, W, C); labels: int64 (N,); mean, std: float32 (C,) of pixels in [0, 1].
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Tensor,
        std: Tensor,
        batch_size: int,
        *,
        augment: str | None = None,
        seed: int | None = None,
    ):
        if augment not in AUGMENTATIONS:
            raise unknown("augment", augment, map(str, AUGMENTATIONS))
        if augment and seed is None:
            raise ValueError("augmentation is for training: it needs a seed")
        self.labels, self.mean, self.std = labels, mean, std
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.epoch = 0  # of the next iteration
        self.part: Part | None = None
        self.height, self.width = images.shape[1:3]
        margin = PADDING if augment else 0
        # Zeros are put around the pixels, not around normalised values.
        self.images = pad(images, (0, 0, margin, margin, margin, margin)) if margin else images

    def __len__(self) -> int:
        """The number of batches."""
        return math.ceil(len(self.labels) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch
        self.epoch += 1
        if self.seed is None:
            return self._in_order()
        order = torch.randperm(len(self.labels), generator=generator(self.seed, "order", epoch))
        if self.augment is None:
            return self._shuffled(order.to(self.images.device))
        return self._augmented(*self._choices(order, epoch))

    def _split(self, values: Tensor) -> list[Tensor]:
        return split(values, self.batch_size, self.part)

    def _in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(self._split(self.images), self._split(self.labels), strict=True):
            yield normalise(x, self.mean, self.std), y

    def _shuffled(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in self._split(order):
            x = self.images.index_select(0, chosen)
            yield normalise(x, self.mean, self.std), self.labels.index_select(0, chosen)

    def _augmented(
        self, order: Tensor, corner: Tensor, flip: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        pixels = self.images.flatten(0, 2)  # (N H' W', C): H' and W' with the padding
        windows = self._windows()
        shape = (-1, self.height, self.width, pixels.shape[1])
        for chosen, start, mirrored in zip(
            self._split(order),
            self._split(corner),
            self._split(flip),
            strict=True,
        ):
            # One gather of whole pixels crops and flips the batch.
            where = start[:, None] + windows[mirrored]
            x = pixels.index_select(0, where.flatten()).view(shape)
            yield normalise(x, self.mean, self.std), self.labels[chosen]

    def _choices(self, order: Tensor, epoch: int) -> Tensor:
        """int64 (3, N) on the device: images in order, first pixel of each crop, flipped or not."""
        count, height, width = self.images.shape[:3]
        stream = generator(self.seed, "augmentation", epoch)
        top, left = torch.randint(2 * PADDING + 1, (2, count), generator=stream)
        flip = torch.randint(2, (count,), generator=stream)
        corner = (order * height + top) * width + left
        return torch.stack([order, corner, flip]).to(self.images.device)

    def _windows(self) -> Tensor:
        """int64 (2, H W): a crop's pixels, counted from its first one; as it is, and flipped."""
        rows = torch.arange(self.height, device=self.images.device)[:, None] * self.images.shape[2]
        columns = torch.arange(self.width, device=self.images.device)
        return torch.stack([rows + columns, rows + columns.flip(0)]).flatten(1)


def split(values: Tensor, size: int, part: Part | None) -> list[Tensor]:
    """Batch after batch of the values, of each its part."""
    batches = values.split(size)
    return list(batches) if part is None else [batch[part(len(batch))] for batch in batches]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (B, H, W, C) to float32 (B, C, H, W), (pixel/255 - mean) / std, in the device's memory
    format."""
    scale = 1 / (255 * std)
    x = images.float().mul_(scale).sub_(mean / std).permute(0, 3, 1, 2)
    layout = environment.memory_format(x.device)
    # A copy: of one channel both layouts are the same, but the strides would say channels_last.
    return x if layout is torch.channels_last else x.clone(memory_format=layout)


def scoring_batch(
    dataset: Dataset, per_class: int, seed: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """`per_class` training images of every class, un-augmented, for scores that need data.

    Drawn without replacement from the run's stream "scoring images". Classes take turns, so a part
    whose length is a multiple of their number is balanced too.
    Returns, on `device`, x: float32 (per_class * classes, C, H, W), normalised; y: int64, labels.
    Raises ConfigurationError if a class has fewer images.
    """
    size = per_class * dataset.spec.classes
    batches = scoring_batches(dataset, per_class, seed, max(size, 1))
    x, y = (torch.cat(parts).to(device) for parts in zip(*batches, strict=True))
    return x, y


def scoring_batches(
    dataset: Dataset | StreamedDataset, per_class: int, seed: int, size: int
) -> Sequence[tuple[Tensor, Tensor]]:
    """The images of `scoring_batch` in batches of `size`, or fewer where they are large, on the
    data's device. Raises ConfigurationError as it does."""
    labels = dataset.train_labels.cpu()
    fewest = int(labels.bincount(minlength=dataset.spec.classes).min())
    if not 1 <= per_class <= fewest:
        raise ConfigurationError(
            f"per_class={per_class} scoring images: {dataset.spec.title} has at least {fewest} "
            f"training images of every class; choose from 1 to {fewest}"
        )
    order = torch.randperm(len(labels), generator=generator(seed, "scoring images"))
    shuffled = labels[order]
    chosen = [order[shuffled == label][:per_class] for label in range(dataset.spec.classes)]
    # (per_class, classes): one of each class before the second of any.
    return dataset.scoring_batches(torch.stack(chosen, dim=1).flatten(), size)
