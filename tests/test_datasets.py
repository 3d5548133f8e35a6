"""Finding and reading data sets. Small stand-ins for the real folders; no network."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from common import datasets
from common.base.errors import ConfigurationError
from common.datasets import DATASETS, folders, sources, tiny_imagenet


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine of its own: no internet, no Kaggle, no TRIALS_DATA, an empty data folder."""

    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no internet in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(folders, "KAGGLE", tmp_path / "kaggle")
    monkeypatch.setattr(folders, "DATA", tmp_path / "repository" / "data")
    monkeypatch.delenv("TRIALS_DATA", raising=False)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def random(*shape: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, high, shape, dtype=np.uint8)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder with a tiny CIFAR-10 in its true format, whose checksums torchvision is told."""
    parent = tmp_path / "somewhere"
    folder = parent / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    lists = {"train_list": [f"data_batch_{i}" for i in range(1, 6)], "test_list": ["test_batch"]}
    for attribute, names in lists.items():
        entries = []
        for place, name in enumerate(names):
            batch = {"data": random(4 + place, 3072), "labels": [place % 10] * (4 + place)}
            content = pickle.dumps(batch)
            (folder / name).write_bytes(content)
            entries.append([name, md5(content)])
        monkeypatch.setattr(torchvision.datasets.CIFAR10, attribute, entries)
    content = pickle.dumps({"label_names": list("abcdefghij")})
    (folder / "batches.meta").write_bytes(content)
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(content)}
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", meta)
    return parent


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A folder with a tiny MNIST and Fashion-MNIST in their true format, of which the checks are
    told the sizes and checksums."""
    parent, files = tmp_path / "idx", {}
    for part, count in (("train", 7), ("t10k", 3)):
        files[f"{part}-images-idx3-ubyte"] = idx(random(count, 28, 28))
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count, dtype=np.uint8))
    for folder in ("MNIST", "FashionMNIST"):
        (parent / folder / "raw").mkdir(parents=True)
        for name, content in files.items():
            (parent / folder / "raw" / name).write_bytes(content)
    sizes = {name: (7 if "train" in name else 3, *[28, 28] * ("images" in name)) for name in files}
    monkeypatch.setattr(sources.Mnist, "sizes", sizes)
    checksums = {name: md5(content) for name, content in files.items()}
    monkeypatch.setattr(datasets.SOURCES["mnist"], "checksums", checksums)
    return parent


def idx(values: np.ndarray) -> bytes:
    """An IDX file of bytes: 0, 0, 8 for bytes, the number of dimensions, each as big-endian."""
    return (
        bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.tobytes()
    )


WNIDS = ["n03", "n01", "n02"]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder like Tiny ImageNet's with 3 classes of 4 and 2 images, two of them grey."""
    small = functools.partial(tiny_imagenet.index, classes=3, train_per_class=4, test_per_class=2)
    monkeypatch.setattr(tiny_imagenet, "index", small)
    folder = tmp_path / "jpegs" / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    lines = []
    for place, name in enumerate(WNIDS):
        (folder / "train" / name / "images").mkdir(parents=True)
        for i in range(4):
            picture(place, i, folder / "train" / name / "images" / f"{name}_{i}.JPEG")
        for i in range(2):
            file = f"val_{3 * i + place}.JPEG"
            picture(place, i, folder / "val" / "images" / file)
            lines.append(f"{file}\t{name}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder.parent


def picture(place: int, i: int, path: Path) -> None:
    """A plain image whose red value tells the class; the first of the first class is grey."""
    value = 40 + 60 * place
    grey = place == i == 0
    mode, colour = ("L", value) if grey else ("RGB", (value, 200, 10 * i))
    Image.new(mode, (64, 64), colour).save(path, "JPEG", quality=95)


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def fails(name: str, data_dir: object = None) -> str:
    """The message with which both check and load fail."""
    messages = []
    for function in (datasets.check, datasets.load):
        with pytest.raises(ConfigurationError) as error:
            function(name, data_dir)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    return messages[0]


# What is loaded


def test_cifar_images_labels_and_statistics(cifar):
    data = datasets.load("cifar10", cifar)
    raw = [random(4 + i, 3072) for i in range(5)]
    images = np.concatenate(raw).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert data.train_images.dtype == torch.uint8
    assert np.array_equal(data.train_images, images)
    assert data.train_labels.dtype == torch.int64
    assert data.train_labels.tolist() == [i for i in range(5) for _ in range(4 + i)]
    assert data.test_images.shape == (4, 32, 32, 3)
    scaled = images.astype(np.float64) / 255
    assert np.allclose(data.mean, scaled.mean((0, 1, 2)), atol=1e-7)
    assert np.allclose(data.std, scaled.std((0, 1, 2)), atol=1e-7)
    assert data.mean.dtype == data.std.dtype == torch.float32
    # The batches view this memory: it must be laid out as channels_last.
    assert data.train_images.is_contiguous()
    assert data.test_images.is_contiguous()


def test_mnist(mnist):
    data = datasets.load("mnist", mnist)
    assert np.array_equal(data.train_images, random(7, 28, 28)[..., None])
    assert data.train_labels.tolist() == list(range(7))
    assert data.test_images.shape == (3, 28, 28, 1)
    assert np.allclose(data.mean, random(7, 28, 28).mean() / 255, atol=1e-7)


def test_digits_split_is_fixed_and_stratified():
    data = datasets.load("digits")
    assert data.train_images.shape == (1437, 8, 8, 1)
    assert data.test_images.shape == (360, 8, 8, 1)
    assert data.train_images.min() == 0
    assert data.train_images.max() == 255
    train, test = data.train_labels.bincount(), data.test_labels.bincount()
    assert (test - (train + test) / 5).abs().max() <= 1
    both = torch.cat([data.train_images, data.test_images]).flatten(1)
    assert len(both.unique(dim=0)) == 1797  # none is in both parts
    assert torch.equal(data.test_images, datasets.load("digits").test_images)


@pytest.mark.parametrize("layout", ["annotated", "class folders", "class folders with images"])
def test_tiny_imagenet(tiny, layout):
    val = tiny / "tiny-imagenet-200" / "val"
    if layout != "annotated":
        for line in (val / "val_annotations.txt").read_text().splitlines():
            file, name = line.split("\t")[:2]
            target = val / name / "images" if layout.endswith("images") else val / name
            target.mkdir(parents=True, exist_ok=True)
            (val / "images" / file).rename(target / file)
        (val / "images").rmdir()
    datasets.check("tiny_imagenet", tiny)
    data = datasets.load("tiny_imagenet", tiny)
    assert data.train_images.shape == (12, 64, 64, 3)
    assert data.test_images.shape == (6, 64, 64, 3)
    for images, labels in [
        (data.train_images, data.train_labels),
        (data.test_images, data.test_labels),
    ]:
        assert labels.bincount().tolist() == [len(labels) // 3] * 3
        # Labels are places in the sorted classes; the red value tells the class.
        red = {label: 40 + 60 * WNIDS.index(name) for label, name in enumerate(sorted(WNIDS))}
        for image, label in zip(images, labels.tolist(), strict=True):
            assert (image[..., 0].int() - red[label]).abs().max() <= 3
    grey = data.train_images[data.train_labels == sorted(WNIDS).index("n03")][0]
    assert torch.equal(grey[..., 0], grey[..., 1])


def test_moving_to_a_device_moves_every_tensor():
    moved = datasets.load("digits").to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.spec == DATASETS["digits"]


def test_importing_is_cheap():
    code = (
        "import sys, common.datasets, common.models;"
        "print(sorted({'torchvision', 'sklearn', 'scipy', 'pandas', 'PIL'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.skipif(
    "TRIALS_TEST_CIFAR" not in os.environ,
    reason="TRIALS_TEST_CIFAR names no folder that holds the real CIFAR-10 and CIFAR-100",
)
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar(name):
    data = datasets.load(name, os.environ["TRIALS_TEST_CIFAR"])
    classes = data.spec.classes
    assert data.train_images.shape == (50_000, 32, 32, 3)
    assert data.train_labels.bincount().tolist() == [50_000 // classes] * classes
    assert data.test_labels.bincount().tolist() == [10_000 // classes] * classes
    scaled = data.train_images.numpy()[:, ::2].astype(np.float64) / 255
    assert np.allclose(data.mean, scaled.mean((0, 1, 2)), atol=2e-3)


# Where it is found


def test_the_folder_itself_or_its_parent(cifar):
    parent = datasets.load("cifar10", str(cifar))
    itself = datasets.load("cifar10", cifar / "cifar-10-batches-py")
    assert torch.equal(parent.train_images, itself.train_images)


def test_environment_variable_repository_and_kaggle(cifar, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TRIALS_DATA", str(cifar))
        datasets.check("cifar10")
        datasets.check("cifar10", "")  # an empty parameter means none
    with monkeypatch.context() as patch:
        patch.setattr(folders, "DATA", cifar)
        datasets.check("cifar10")
    for depth in ("", "a", "a/b", "a/b/c"):
        attached = tmp_path / "kaggle" / depth
        attached.mkdir(parents=True, exist_ok=True)
        (cifar / "cifar-10-batches-py").rename(attached / "cifar-10-batches-py")
        datasets.check("cifar10")
        (attached / "cifar-10-batches-py").rename(cifar / "cifar-10-batches-py")


def test_a_folder_inside_a_folder_of_the_same_name(cifar, tmp_path):
    outer = tmp_path / "kaggle" / "cifar-10-batches-py"
    outer.mkdir(parents=True)
    (cifar / "cifar-10-batches-py").rename(outer / "cifar-10-batches-py")
    datasets.check("cifar10")


def test_only_a_named_data_dir_is_searched(cifar, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIALS_DATA", str(cifar))
    shutil.copytree(cifar, tmp_path / "kaggle" / "cifar")
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in fails("cifar10", tmp_path / "empty")


def test_reading_writes_nothing(cifar, mnist, tiny):
    for name, parent in (("cifar10", cifar), ("mnist", mnist), ("tiny_imagenet", tiny)):
        before = snapshot(parent)
        datasets.check(name, parent)
        datasets.load(name, parent)
        assert snapshot(parent) == before


# What is wrong


def test_unknown_data_set_lists_the_choices():
    assert "did you mean 'cifar10'?" in fails("cifar-10")
    assert "digits, mnist, fashion_mnist, cifar10, cifar100, tiny_imagenet" in fails("image_net")


@pytest.mark.parametrize("name", DATASETS)
def test_a_named_folder_that_is_missing(name, tmp_path, monkeypatch):
    missing = str(tmp_path / "missing")
    assert f"data_dir={missing!r}" in fails(name, missing)
    monkeypatch.setenv("TRIALS_DATA", missing)
    assert f"TRIALS_DATA={missing!r}" in fails(name)


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_flipped_byte_or_a_missing_file_in_cifar(cifar, file):
    path = cifar / "cifar-10-batches-py" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before = snapshot(cifar)
    message = fails("cifar10", cifar)
    assert f"{file} is damaged" in message
    assert str(path.parent) in message
    assert "cifar-10-python.tar.gz" in message
    assert snapshot(cifar) == before
    path.unlink()
    assert f"{file} is missing" in fails("cifar10", cifar)


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("keep", [0, 3, 10, -1])
def test_a_truncated_mnist_file(mnist, keep, name):
    path = mnist / datasets.SOURCES[name].folder / "raw" / IMAGES
    path.write_bytes(path.read_bytes()[:keep])
    assert f"raw/{IMAGES} is damaged (it is not as long" in fails(name, mnist)


@pytest.mark.parametrize("place", [16, 1000, -1])
def test_a_flipped_byte_in_mnist(mnist, place):
    path = mnist / "MNIST" / "raw" / IMAGES
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    before = snapshot(mnist)
    message = fails("mnist", mnist)
    assert f"raw/{IMAGES} is damaged (its MD5 checksum is not" in message
    assert str(path.parents[1]) in message
    assert snapshot(mnist) == before
    datasets.load("fashion_mnist", mnist)  # its files stand there alone


@pytest.mark.parametrize(
    ("file", "values", "problem"),
    [
        (LABELS, np.zeros(2, np.uint8), "2 values, not 3"),
        (IMAGES, np.zeros((7, 32, 32), np.uint8), "7x32x32 values, not 7x28x28"),
        (IMAGES, np.zeros(7, np.uint8), "7 values, not 7x28x28"),
    ],
)
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_other_files_under_the_names_of_mnist(mnist, name, file, values, problem):
    (mnist / datasets.SOURCES[name].folder / "raw" / file).write_bytes(idx(values))
    assert f"raw/{file} is another file ({problem})" in fails(name, mnist)


def test_incomplete_mnist(mnist):
    raw = mnist / "MNIST" / "raw"
    (raw / LABELS).rename(raw / f"{LABELS}.gz")
    message = fails("mnist", mnist)
    assert f"raw/{LABELS} is missing" in message
    assert f"{LABELS}.gz" in message
    assert "unpacked" in message


def test_what_is_known_of_mnists_files():
    resources = [Path(name).stem for name, _ in torchvision.datasets.MNIST.resources]
    assert set(sources.MNIST_MD5) == set(sources.IDX_SIZES) == set(resources)
    for name in ("mnist", "fashion_mnist"):
        assert sources.IDX_SIZES[IMAGES][1:] == DATASETS[name].shape[1:]


@pytest.mark.skipif(
    "TRIALS_TEST_MNIST" not in os.environ,
    reason="TRIALS_TEST_MNIST names no folder that holds the real MNIST",
)
def test_real_mnist():
    data = datasets.load("mnist", os.environ["TRIALS_TEST_MNIST"])
    assert data.train_images.shape == (60_000, 28, 28, 1)
    assert data.test_labels.bincount().sum() == 10_000
    # The widely used normalisation of MNIST.
    assert (float(data.mean), float(data.std)) == pytest.approx((0.1307, 0.3081), abs=5e-5)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("wnids.txt", "wnids.txt is missing"),
        ("train/n01/images/n01_2.JPEG", "train has 3 images of n01 instead of 4"),
        ("val/images/val_1.JPEG", "val has 1 images of n01 instead of 2"),
        ("val/val_annotations.txt", "val/val_annotations.txt is missing"),
    ],
)
def test_incomplete_tiny_imagenet(tiny, damage, problem):
    (tiny / "tiny-imagenet-200" / damage).unlink()
    message = fails("tiny_imagenet", tiny)
    assert problem in message
    assert "tiny-imagenet-200.zip" in message


def test_tiny_imagenet_with_other_classes(tiny):
    folder = tiny / "tiny-imagenet-200"
    annotations = folder / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("n02", "n99"))
    assert "val has 0 images of n02 instead of 2" in fails("tiny_imagenet", tiny)
    (folder / "wnids.txt").write_text("n01\nn02\n")
    assert "lists 2 classes instead of 3" in fails("tiny_imagenet", tiny)


def test_a_tiny_imagenet_file_that_is_no_image(tiny):
    path = tiny / "tiny-imagenet-200" / "train" / "n01" / "images" / "n01_0.JPEG"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigurationError, match=r"n01_0\.JPEG cannot be read as an image"):
        datasets.load("tiny_imagenet", tiny)
    Image.new("RGB", (32, 64)).save(path)
    with pytest.raises(ConfigurationError, match=r"n01_0\.JPEG is not 64x64 pixels"):
        datasets.load("tiny_imagenet", tiny)


# Downloading


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mnist", "train-images-idx3-ubyte.gz"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("cifar10", "put cifar-10-python.tar.gz"),
        ("cifar100", "the folder cifar-100-python"),
        ("tiny_imagenet", "put tiny-imagenet-200.zip"),
    ],
)
def test_without_internet_the_error_says_what_to_put_where(name, wanted, tmp_path):
    message = fails(name)
    assert DATASETS[name].title in message
    # Before its version 0.20 torchvision's MNIST keeps the reason to itself.
    assert "no internet in tests" in message or "Error downloading" in message
    assert wanted in message
    assert str(tmp_path / "repository" / "data") in message
    assert not list((tmp_path / "repository" / "data").iterdir())


class Response(io.BytesIO):
    """What urlopen returns, as far as torchvision uses it."""

    def __init__(self, content: bytes, url: str):
        super().__init__(content)
        self.url, self.length = url, len(content)


def serve(monkeypatch, files: dict[str, bytes]) -> None:
    """The internet, reduced to `files` by the last part of their address."""

    def urlopen(request, *_args, **_kwargs):
        url = request.full_url
        return Response(files[url.rpartition("/")[2]], url)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def pack(parent: Path, monkeypatch) -> bytes:
    """The folder of `cifar` as its archive, of which torchvision is told the checksum."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(parent / "cifar-10-batches-py", "cifar-10-batches-py")
    content = archive.getvalue()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5(content))
    return content


def test_cifar_is_downloaded_once(cifar, tmp_path, monkeypatch):
    serve(monkeypatch, {"cifar-10-python.tar.gz": pack(cifar, monkeypatch)})
    datasets.check("cifar10")
    data = tmp_path / "repository" / "data"
    assert [path.name for path in data.iterdir()] == ["cifar-10-batches-py"]
    serve(monkeypatch, {})
    found, given = datasets.load("cifar10"), datasets.load("cifar10", cifar)
    assert torch.equal(found.train_images, given.train_images)


def test_mnist_is_downloaded(mnist, tmp_path, monkeypatch):
    packed = {
        f"{path.name}.gz": gzip.compress(path.read_bytes())
        for path in (mnist / "MNIST" / "raw").iterdir()
    }
    resources = [(name, md5(packed[name])) for name, _ in torchvision.datasets.MNIST.resources]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    serve(monkeypatch, packed)
    target = tmp_path / "target"
    target.mkdir()
    assert len(datasets.load("mnist", target).train_labels) == 7


def test_tiny_imagenet_is_downloaded(tiny, tmp_path, monkeypatch):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in tiny.rglob("*"):
            file.write(path, path.relative_to(tiny))
    serve(monkeypatch, {"tiny-imagenet-200.zip": archive.getvalue()})
    assert len(datasets.load("tiny_imagenet").train_labels) == 12


def test_half_a_download_leaves_nothing(cifar, tmp_path, monkeypatch):
    content = pack(cifar, monkeypatch)
    serve(monkeypatch, {"cifar-10-python.tar.gz": content[: len(content) // 2]})
    fails("cifar10")
    assert not list((tmp_path / "repository" / "data").iterdir())
    serve(monkeypatch, {"cifar-10-python.tar.gz": content})
    datasets.check("cifar10")


def test_an_archive_brought_by_hand_is_used(cifar, tmp_path, monkeypatch):
    content = pack(cifar, monkeypatch)
    target = tmp_path / "target"
    target.mkdir()
    (target / "cifar-10-python.tar.gz").write_bytes(content[:-9])
    assert "cifar-10-python.tar.gz is damaged" in fails("cifar10", target)
    (target / "cifar-10-python.tar.gz").write_bytes(content)
    assert len(datasets.load("cifar10", target).test_labels) == 4
    assert (target / "cifar-10-python.tar.gz").read_bytes() == content


def test_two_processes_may_download_at_once(cifar, tmp_path, monkeypatch):
    serve(monkeypatch, {"cifar-10-python.tar.gz": pack(cifar, monkeypatch)})
    unpack = sources.unpack

    def overtaken(url, checksum, stage, parent):
        unpack(url, checksum, stage, parent)
        shutil.copytree(stage / "cifar-10-batches-py", parent / "cifar-10-batches-py")

    monkeypatch.setattr(sources, "unpack", overtaken)
    datasets.check("cifar10")
    data = tmp_path / "repository" / "data"
    assert [path.name for path in data.iterdir()] == ["cifar-10-batches-py"]


def test_every_data_set_but_digits_has_a_source():
    assert set(datasets.SOURCES) == set(DATASETS) - {"digits"}
    assert isinstance(datasets.SOURCES["tiny_imagenet"], sources.TinyImageNet)
