"""Tiny ImageNet from its usual folder of JPEG files (Le and Yang, Stanford CS 231N, 2015).

    tiny-imagenet-200/wnids.txt                  the 200 classes, one WordNet identifier a line
    tiny-imagenet-200/train/<class>/images/      500 images of each
    tiny-imagenet-200/val/images/                50 of each, with val/val_annotations.txt

The validation images are the test images: the real test labels were never published. Copies whose
validation images somebody sorted into val/<class>/ or val/<class>/images/ are understood as well.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

FOLDER = "tiny-imagenet-200"
CLASSES, TRAIN_PER_CLASS, TEST_PER_CLASS, SIDE = 200, 500, 50, 64

Labelled = tuple[list[Path], list[int]]


def index(
    folder: Path,
    classes: int = CLASSES,
    train_per_class: int = TRAIN_PER_CLASS,
    test_per_class: int = TEST_PER_CLASS,
) -> tuple[Labelled, Labelled]:
    """The training and the validation files, each with labels: places in the sorted class list.

    Raises ValueError, saying what is missing, unless every class has its number of images.
    """
    if not (folder / "wnids.txt").is_file():
        raise ValueError("wnids.txt is missing")
    names = sorted((folder / "wnids.txt").read_text().split())
    if len(set(names)) != classes:
        raise ValueError(f"wnids.txt lists {len(set(names))} classes instead of {classes}")
    train = [(path, name) for name in names for path in _images(folder / "train" / name)]
    if any((folder / "val" / name).is_dir() for name in names):
        test = [(path, name) for name in names for path in _images(folder / "val" / name)]
    else:
        test = _annotated(folder / "val")
    numbers = {name: label for label, name in enumerate(names)}
    parts = []
    for part, pairs, each in (("train", train, train_per_class), ("val", test, test_per_class)):
        found = Counter(name for _, name in pairs)
        wrong = [
            name for name in sorted({*names, *found}) if found[name] != each * (name in numbers)
        ]
        if wrong:
            raise ValueError(
                f"{part} has {found[wrong[0]]} images of {wrong[0]} instead of "
                f"{each * (wrong[0] in numbers)} (classes with a wrong number: {len(wrong)})"
            )
        parts.append(([path for path, _ in pairs], [numbers[name] for _, name in pairs]))
    return parts[0], parts[1]


def decode(paths: list[Path], side: int = SIDE) -> np.ndarray:
    """The images at `paths` as uint8 (N, side, side, 3); grey ones become RGB.

    Raises ValueError, naming the file, for one that is no such image.
    """
    from PIL import Image

    images = np.empty((len(paths), side, side, 3), np.uint8)

    def fill(place: int) -> None:
        try:
            with Image.open(paths[place]) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise ValueError(f"{paths[place]} cannot be read as an image ({error})") from None
        if pixels.shape != images.shape[1:]:
            raise ValueError(f"{paths[place]} is not {side}x{side} pixels")
        images[place] = pixels

    with ThreadPoolExecutor() as pool:  # the decoder releases the interpreter's lock
        for _ in pool.map(fill, range(len(paths))):
            pass
    return images


def _images(folder: Path) -> list[Path]:
    inner = folder / "images"
    return sorted((inner if inner.is_dir() else folder).glob("*.JPEG"))


def _annotated(folder: Path) -> list[tuple[Path, str]]:
    annotations = folder / "val_annotations.txt"
    if not annotations.is_file():
        raise ValueError("val/val_annotations.txt is missing, and val has no folder for each class")
    lines = annotations.read_text().splitlines()
    names = dict(line.split("\t")[:2] for line in lines if "\t" in line)
    present = {path.name for path in _images(folder)}
    return [(folder / "images" / file, names[file]) for file in sorted(names) if file in present]
