"""Where images come from: for each kind of data set, its folder, its checks, its arrays.

A source has
    folder                    the name of the folder that holds the data
    problem(folder)           what is wrong with that folder, or None; as cheap as a check can be
    arrays(folder)            (images uint8 (N, H, W, C), labels) of the training and the test part;
                              raises ValueError if the files are not what they should be
    download(stage, parent)   makes the folder in `stage`: from its archive if that lies in
                              `parent`, else from the internet, through torchvision
    advice(parent)            what to put where by hand to have the folder in `parent`
    downloads                 whether anyone may have it from the internet
and may have
    find(data_dir)            where it is, if that is not simply a folder of its name
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from common.datasets import tiny_imagenet

Part = tuple[np.ndarray, Any]

# Dimensions of the IDX files of MNIST and of Fashion-MNIST, which took its place.
IDX_SIZES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
# Of the unpacked files; torchvision knows those of the packed ones only, which need not be there.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Torchvision:
    """A data set of torchvision's by its class's name; torchvision is imported when needed."""

    downloads = True

    def __init__(self, kind: str):
        self.kind = kind

    @cached_property
    def dataset(self) -> Any:
        import torchvision.datasets

        return getattr(torchvision.datasets, self.kind)

    def arrays(self, folder: Path) -> tuple[Part, Part]:
        try:
            parts = [self.dataset(str(folder.parent), train=train) for train in (True, False)]
        except (RuntimeError, AssertionError, OSError) as error:
            # torchvision says that something is wrong; problem() says what.
            raise ValueError(self.problem(folder) or str(error)) from None
        return tuple((np.asarray(part.data), part.targets) for part in parts)


class Cifar(Torchvision):
    """CIFAR-10 and CIFAR-100 (Krizhevsky 2009): pickled batches, each with its checksum."""

    @property
    def folder(self) -> str:
        return self.dataset.base_folder

    def problem(self, folder: Path) -> str | None:
        from torchvision.datasets.utils import check_integrity

        meta = (self.dataset.meta["filename"], self.dataset.meta["md5"])
        for name, md5 in [*self.dataset.train_list, *self.dataset.test_list, meta]:
            if not (folder / name).is_file():
                return f"{name} is missing"
            if not check_integrity(str(folder / name), md5):
                return f"{name} is damaged (its MD5 checksum is not {md5})"
        return None

    def download(self, stage: Path, parent: Path) -> None:
        unpack(self.dataset.url, self.dataset.tgz_md5, stage, parent)

    def advice(self, parent: Path) -> str:
        return archive_advice(self.dataset.url, self.folder, parent)


class Mnist(Torchvision):
    """MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): four IDX files in raw/.

    checksums: MD5 by the file's name, where it is known.
    """

    sizes: Mapping[str, tuple[int, ...]] = IDX_SIZES

    def __init__(self, kind: str, checksums: Mapping[str, str] | None = None):
        super().__init__(kind)
        self.checksums = checksums or {}

    @property
    def folder(self) -> str:
        return self.kind

    def problem(self, folder: Path) -> str | None:
        from torchvision.datasets.utils import check_integrity

        for name, expected in self.sizes.items():
            path, md5 = folder / "raw" / name, self.checksums.get(name)
            if not path.is_file():
                return f"raw/{name} is missing"
            found = idx_sizes(path)
            if found is None:
                return f"raw/{name} is damaged (it is not as long as its header says)"
            if found != expected:
                return f"raw/{name} is another file ({_by(found)} values, not {_by(expected)})"
            if md5 and not check_integrity(str(path), md5):
                return f"raw/{name} is damaged (its MD5 checksum is not {md5})"
        return None

    def arrays(self, folder: Path) -> tuple[Part, Part]:
        problem = self.problem(folder)
        if problem:
            raise ValueError(problem)
        train, test = super().arrays(folder)
        return (train[0][..., None], train[1]), (test[0][..., None], test[1])

    def download(self, stage: Path, parent: Path) -> None:
        self.dataset(str(stage), download=True)

    def advice(self, parent: Path) -> str:
        names = ", ".join(name for name, _ in self.dataset.resources)
        return (
            f"put {names} (from {self.dataset.mirrors[0]}), unpacked, into {parent / self.kind}/raw"
        )


class TinyImageNet:
    """Tiny ImageNet; torchvision has no class for it."""

    folder, downloads = tiny_imagenet.FOLDER, True
    url = f"http://cs231n.stanford.edu/{folder}.zip"

    def problem(self, folder: Path) -> str | None:
        try:
            tiny_imagenet.index(folder)
        except ValueError as error:
            return str(error)
        return None

    def arrays(self, folder: Path) -> tuple[Part, Part]:
        train, test = tiny_imagenet.index(folder)
        return (tiny_imagenet.decode(train[0]), train[1]), (tiny_imagenet.decode(test[0]), test[1])

    def download(self, stage: Path, parent: Path) -> None:
        unpack(self.url, None, stage, parent)

    def advice(self, parent: Path) -> str:
        return archive_advice(self.url, self.folder, parent)


def idx_sizes(path: Path) -> tuple[int, ...] | None:
    """The dimensions of what an IDX file holds; None if its length is not what its header says.

    torchvision, having no checksums for the unpacked files, only asks whether they exist.
    """
    with path.open("rb") as file:
        magic = file.read(4)  # 0, 0, kind of number, number of dimensions
        header = file.read(4 * magic[3]) if len(magic) == 4 else b""
    if not header or len(header) < 4 * magic[3]:
        return None
    sizes = tuple(np.frombuffer(header, ">i4").tolist())
    return sizes if path.stat().st_size == 4 + len(header) + math.prod(sizes) else None


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def unpack(url: str, md5: str | None, stage: Path, parent: Path) -> None:
    """Unpack `url`'s archive into `stage`: the copy in `parent` if somebody brought one."""
    from torchvision.datasets import utils

    brought = parent / Path(url).name
    if not brought.is_file():
        utils.download_and_extract_archive(url, str(stage), md5=md5)
    elif utils.check_integrity(str(brought), md5):
        utils.extract_archive(str(brought), str(stage))
    else:
        raise RuntimeError(f"{brought} is damaged (its MD5 checksum is not {md5})")


def archive_advice(url: str, folder: str, parent: Path) -> str:
    """What to do by hand for a data set that is one archive with one folder in it."""
    return f"put {Path(url).name} (from {url}), or the folder {folder} that it holds, into {parent}"


def digits() -> tuple[Part, Part]:
    """scikit-learn's digits (Alpaydin and Kaynak 1998), 8 x 8: 1,437 to train on, 360 to test.

    Every fifth image of the list sorted by class is a test image: stratified and always the same.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    by_class = np.argsort(data.target, kind="stable")
    images = np.round(data.images[by_class, :, :, None] * (255 / 16)).astype(np.uint8)
    labels = data.target[by_class]
    test = np.arange(len(labels)) % 5 == 0
    return (images[~test], labels[~test]), (images[test], labels[test])
