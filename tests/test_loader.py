"""Batches: augmentation against plain per-image loops, order, resuming, scoring images."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from common import datasets
from common.base.errors import ConfigurationError
from common.datasets import Dataset, Loader, Spec, scoring_batch

COUNT, HEIGHT, WIDTH = 230, 6, 9  # not square: rows and columns must not be mixed up
PLAIN = (torch.zeros(3), torch.full((3,), 1 / 255))  # with these the normalised pixels are uint8's


@pytest.fixture(scope="module")
def images():
    numbers = np.random.default_rng(0).integers(1, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return torch.from_numpy(numbers)


def loader(images, batch_size=32, statistics=PLAIN, **options):
    """Labels are the images' places, so that a batch tells which images it holds."""
    return Loader(images, torch.arange(len(images)), *statistics, batch_size, **options)


def epoch(batches):
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


def crop_and_flip(image: np.ndarray, top: int, left: int, flip: bool) -> np.ndarray:
    """The slow and obvious way: pad, cut, mirror."""
    height, width, channels = image.shape
    padded = np.zeros((height + 8, width + 8, channels), np.uint8)
    padded[4:-4, 4:-4] = image
    cut = padded[top : top + height, left : left + width]
    return cut[:, ::-1] if flip else cut


def choices(images, batches):
    """What was done to each image of an epoch, found by trying everything: (top, left, flip)."""
    found = []
    x, y = epoch(batches)
    pixels = x.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()
    for seen, place in zip(pixels, y.tolist(), strict=True):
        (choice,) = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if np.array_equal(seen, crop_and_flip(images[place].numpy(), top, left, flip))
        ]
        found.append(choice)
    return found


def test_augmented_images_are_crops_and_flips(images):
    found = choices(images, loader(images, augment="flip_crop", seed=0))
    tops, lefts, flips = (Counter(values) for values in zip(*found, strict=True))
    # Uniform: expected 25.6 of each offset and 115 of each direction.
    assert set(tops) == set(lefts) == set(range(9))
    assert max(tops.values()) < 50
    assert max(lefts.values()) < 50
    assert 85 < flips[True] < 145


@pytest.mark.parametrize("augment", [None, "flip_crop"])
def test_each_epoch_sees_every_image_once_in_a_new_order(images, augment):
    batches = loader(images, augment=augment, seed=0)
    orders = [epoch(batches)[1] for _ in range(3)]
    assert batches.epoch == 3
    for order in orders:
        assert order.sort().values.tolist() == list(range(COUNT))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])
    assert not torch.equal(orders[0], epoch(loader(images, augment=augment, seed=1))[1])


def test_without_augmentation_only_the_order_changes(images):
    x, y = epoch(loader(images, seed=0))
    assert torch.equal(x.permute(0, 2, 3, 1).round().to(torch.uint8), images[y])
    # The same order as with it.
    assert torch.equal(y, epoch(loader(images, augment="flip_crop", seed=0))[1])


def test_augmentation_is_new_in_each_epoch(images):
    batches = loader(images, augment="flip_crop", seed=0)
    first, second = choices(images, batches), choices(images, batches)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    assert same < COUNT / 20  # by chance one in 162


def test_resuming_at_an_epoch(images):
    straight = loader(images, augment="flip_crop", seed=5)
    for _ in range(3):
        expected = epoch(straight)
    resumed = loader(images, augment="flip_crop", seed=5)
    resumed.epoch = 2
    assert all(torch.equal(a, b) for a, b in zip(epoch(resumed), expected, strict=True))


def test_neither_reads_nor_moves_the_global_generator(images):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = epoch(loader(images, augment="flip_crop", seed=0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = epoch(loader(images, augment="flip_crop", seed=0))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_choices_do_not_depend_on_the_batch_size(images):
    first = epoch(loader(images, batch_size=7, augment="flip_crop", seed=0))
    second = epoch(loader(images, batch_size=100, augment="flip_crop", seed=0))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_evaluation_is_in_order_and_normalised(images):
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4])
    batches = loader(images, batch_size=100, statistics=(mean, std))
    assert [len(y) for _, y in batches] == [100, 100, 30]
    assert len(batches) == 3
    x, y = epoch(batches)
    assert y.tolist() == list(range(COUNT))
    expected = (images.double() / 255 - mean) / std
    assert x.dtype == torch.float32
    assert torch.allclose(x.double(), expected.permute(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"seed": 0}, {"augment": "flip_crop", "seed": 0}])
def test_batches_are_channels_last_and_the_last_one_is_kept(images, options):
    batches = loader(images, batch_size=32, **options)
    sizes = []
    for x, y in batches:
        assert x.shape == (len(y), 3, HEIGHT, WIDTH)
        assert x.is_contiguous(memory_format=torch.channels_last)
        sizes.append(len(y))
    assert sizes == [32] * 7 + [6]
    assert len(batches) == 8


def test_batches_do_not_alias_the_data(images):
    before = images.clone()
    for options in ({}, {"seed": 0}):
        for x, _ in loader(images, **options):
            x.zero_()
    assert torch.equal(images, before)


def test_wrong_options(images):
    with pytest.raises(ConfigurationError, match=r"augment='flip'.*None, flip_crop"):
        loader(images, augment="flip", seed=0)
    with pytest.raises(ValueError, match="seed"):
        loader(images, augment="flip_crop")


# Scoring images


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (200, 8, 8, 3), dtype=np.uint8))
    labels = torch.from_numpy(generator.permutation(np.repeat(np.arange(5), [20, 30, 40, 50, 60])))
    spec = Spec("five", "Five", (3, 8, 8), 5)
    return Dataset(spec, images, labels, images[:0], labels[:0], *PLAIN)


def test_scoring_images_are_balanced_training_images(data):
    x, y = scoring_batch(data, 10, seed=0, device="cpu")
    assert x.shape == (50, 3, 8, 8)
    assert x.is_contiguous(memory_format=torch.channels_last)
    for part in y.split(5):  # balanced in every part, for those who score in parts
        assert sorted(part.tolist()) == [0, 1, 2, 3, 4]
    places = []
    for image, label in zip(x.permute(0, 2, 3, 1).round().to(torch.uint8), y, strict=True):
        (place,) = (data.train_images == image).flatten(1).all(dim=1).nonzero().flatten().tolist()
        assert data.train_labels[place] == label
        places.append(place)
    assert len(set(places)) == 50  # without replacement, un-augmented


def test_scoring_images_depend_on_the_seed_alone(data):
    first = scoring_batch(data, 10, seed=0, device="cpu")
    torch.manual_seed(9)
    epoch(Loader(data.train_images, data.train_labels, *PLAIN, 32, augment="flip_crop", seed=0))
    again = scoring_batch(data, 10, seed=0, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], scoring_batch(data, 10, seed=1, device="cpu")[0])


def test_scoring_images_of_every_class_or_an_error(data):
    x, y = scoring_batch(data, 20, seed=0, device="cpu")
    assert y.bincount().tolist() == [20] * 5
    assert len(x) == 100
    for wrong in (21, 0):
        with pytest.raises(ConfigurationError, match=f"per_class={wrong}.*from 1 to 20"):
            scoring_batch(data, wrong, seed=0, device="cpu")


def test_scoring_images_of_digits():
    x, y = scoring_batch(datasets.load("digits"), 10, seed=0, device="cpu")
    assert x.shape == (100, 1, 8, 8)
    assert y.bincount().tolist() == [10] * 10
