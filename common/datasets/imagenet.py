"""ImageNet (ILSVRC 2012) from the folders people have of it, whole or a part of its classes.

    train/<class>/*.JPEG        and either
    val/<class>/*.JPEG          as torchvision has it, or
    val/*.JPEG                  Kaggle's (ILSVRC/Data/CLS-LOC), the classes of its images in
                                LOC_val_solution.csv above ILSVRC, or in its Annotations

The classes are the folders of `train`; the validation images are the test images. And the images of
Chrabaszcz et al. 2017 (arXiv 1707.08819), ImageNet at 32 x 32 or 64 x 64 pixels, in memory.
"""

from __future__ import annotations

import csv
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.base.bootstrap import KAGGLE
from common.datasets import folders

CLASSES = 1000
KAGGLES = Path("ILSVRC/Data/CLS-LOC")
SUFFIXES = (".jpeg", ".jpg", ".png")
URL = "https://image-net.org/download-images"

Part = tuple[np.ndarray, np.ndarray]  # files below the folder, as bytes, and their labels


@dataclass(frozen=True)
class Index:
    """What a folder holds. classes: in the order of their labels."""

    classes: list[str]
    train: Part
    test: Part


def index(folder: Path) -> Index:
    """The files of the training and the test part, with labels.

    Raises ValueError naming what is missing: images at all, those of a class, a class in one part.
    """
    train = _by_class(folder / "train")
    if not train:
        raise ValueError("train holds no folder of images for each class")
    test = _by_class(folder / "val") or _by_file(folder, set(train))
    for part, found in (("train", train), ("val", test)):
        empty = sorted(name for name in found if not found[name])
        if empty:
            raise ValueError(f"{part}/{empty[0]} holds no image (such classes: {len(empty)})")
    if apart := sorted(set(train) ^ set(test)):
        part = "train" if apart[0] in train else "val"
        raise ValueError(f"{apart[0]} is in {part} alone (such classes: {len(apart)})")
    classes = sorted(train)
    return Index(classes, _labelled(train, classes), _labelled(test, classes))


def _by_class(folder: Path) -> dict[str, list[str]]:
    """{class: its files below the data set's folder} of a folder that has one for each."""
    classes = [entry for entry in _entries(folder) if entry.is_dir()]
    return {
        entry.name: sorted(
            f"{folder.name}/{entry.name}/{file.name}"
            for file in _entries(Path(entry.path))
            if file.name.lower().endswith(SUFFIXES)
        )
        for entry in classes
    }


def _by_file(folder: Path, classes: set[str]) -> dict[str, list[str]]:
    """The same of images in one folder, of these classes alone."""
    known = _solution(folder) or _annotations(folder)
    found: dict[str, list[str]] = {name: [] for name in classes}
    for entry in sorted(_entries(folder / "val"), key=lambda entry: entry.name):
        name = known.get(Path(entry.name).stem)
        if name is None and entry.name.lower().endswith(SUFFIXES):
            raise ValueError(
                f"nothing says of which class val/{entry.name} is: neither folders in val, nor "
                "LOC_val_solution.csv, nor Annotations/CLS-LOC/val"
            )
        if name in classes:
            found[name].append(f"val/{entry.name}")
    return found


def _solution(folder: Path) -> dict[str, str]:
    for above in folder.parents[:3]:
        path = above / "LOC_val_solution.csv"
        if path.is_file():
            with path.open(newline="") as file:
                rows = csv.DictReader(file)
                return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    return {}


def _annotations(folder: Path) -> dict[str, str]:
    annotations = folder.parent.parent / "Annotations" / "CLS-LOC" / "val"
    names = {}
    for path in annotations.glob("*.xml"):
        match = re.search(r"<name>(n\d+)</name>", path.read_text())
        if match:
            names[path.stem] = match[1]
    return names


def _entries(folder: Path) -> list[os.DirEntry]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _labelled(found: dict[str, list[str]], classes: list[str]) -> Part:
    files = [file for name in classes for file in found[name]]
    labels = np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes])
    # One block of memory, which worker processes share: they would copy a list as they count
    # references to its strings.
    return np.array(files, dtype=np.bytes_), labels


class ImageNet:
    """A source (see `sources`) whose images stay in their files."""

    folder, downloads = "imagenet", False

    def find(self, data_dir: str | Path | None) -> Path | None:
        """The folder that holds `train` and `val`: `data_dir`, or one in it, or Kaggle's."""
        bases = [folders.home(data_dir)]
        if not data_dir:
            bases += [
                path for depth in range(3) for path in KAGGLE.glob("*/" * depth + "imagenet*")
            ]
        for base in bases:
            for folder in (base, base / self.folder, base / KAGGLES):
                tiny = (folder / "wnids.txt").is_file()
                if (folder / "train").is_dir() and (folder / "val").is_dir() and not tiny:
                    return folder
        return next(iter(KAGGLE.glob(f"*/{KAGGLES}")), None) if not data_dir else None

    def problem(self, folder: Path) -> str | None:
        try:
            index(folder)
        except ValueError as error:
            return str(error)
        return None

    def download(self, stage: Path, parent: Path) -> None:
        raise RuntimeError(f"it is given to those who agree to its terms ({URL})")

    def advice(self, parent: Path) -> str:
        return (
            f"put its folders train and val into {parent / self.folder}, or Kaggle's ILSVRC into "
            f"{parent}"
        )


class SmallImageNet:
    """A source: ImageNet at `side` x `side` pixels, as pickled batches or as npz files."""

    downloads = False

    def __init__(self, side: int):
        self.side, self.folder = side, f"imagenet{side}"

    def problem(self, folder: Path) -> str | None:
        try:
            self._files(folder)
        except ValueError as error:
            return str(error)
        return None

    def arrays(self, folder: Path) -> tuple[Part, Part]:
        train, test = self._files(folder)
        return self._read(train), self._read(test)

    def download(self, stage: Path, parent: Path) -> None:
        raise RuntimeError(f"it is given to those who agree to its terms ({URL})")

    def advice(self, parent: Path) -> str:
        return (
            f"put train_data_batch_1 to _10 and val_data, or the same as .npz, into "
            f"{parent / self.folder}"
        )

    def _files(self, folder: Path) -> tuple[list[Path], list[Path]]:
        parts = []
        for names in ([f"train_data_batch_{n}" for n in range(1, 11)], ["val_data"]):
            paths = [
                next(
                    (p for p in (folder / name, folder / f"{name}.npz") if p.is_file()),
                    folder / name,
                )
                for name in names
            ]
            if missing := [path.name for path in paths if not path.is_file()]:
                raise ValueError(f"{missing[0]} is missing, and so is {missing[0]}.npz")
            parts.append(paths)
        return parts[0], parts[1]

    def _read(self, paths: list[Path]) -> Part:
        batches = [self._batch(path) for path in paths]
        labels = np.concatenate([some for _, some in batches])
        images = np.empty((len(labels), self.side, self.side, 3), np.uint8)
        start = 0
        while batches:  # what has been copied is let go
            pixels, some = batches.pop(0)
            part = images[start : start + len(some)]
            part[:] = pixels.reshape(-1, 3, self.side, self.side).transpose(0, 2, 3, 1)
            start += len(some)
        return images, labels

    def _batch(self, path: Path) -> Part:
        """(pixels (N, 3 side²), labels from 0 on). Raises ValueError naming a file that is
        something else."""
        try:
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as content:
                    pixels, labels = content["data"], content["labels"]
            else:
                with path.open("rb") as file:
                    content = _Arrays(file, encoding="latin1").load()
                pixels, labels = content["data"], np.asarray(content["labels"])
        except (
            OSError,
            KeyError,
            TypeError,
            ValueError,
            EOFError,
            pickle.UnpicklingError,
        ) as error:
            raise ValueError(f"{path.name} cannot be read ({error})") from None
        shape = (len(labels), 3 * self.side**2)
        if pixels.shape != shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"{path.name} holds {pixels.shape} of {pixels.dtype}, not {shape} bytes"
            )
        if not len(labels) or labels.min() < 1 or labels.max() > CLASSES:
            raise ValueError(f"{path.name} has labels that are not from 1 to {CLASSES}")
        return pixels, labels.astype(np.int64) - 1


class _Arrays(pickle.Unpickler):
    """Reads numpy arrays and plain containers; anything else a pickle might call is refused."""

    def find_class(self, module: str, name: str) -> object:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}")
