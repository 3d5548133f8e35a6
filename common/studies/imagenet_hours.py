"""How long a training on ImageNet takes, on paper: what a machine's cores can decode and what its
GPUs can train on, of which the slower decides.

Decoding is measured here, beside torchvision's own loop. GPUs are others' measurements.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from common import datasets
from common.datasets.streamed import MEAN, STD, StreamedLoader
from common.plots.tables import network_name
from common.runs.network import work
from common.studies.tables import PROVENANCE, Table, provenance
from common.training import protocols

TRAINING_IMAGES = 1_281_167
WIDTH, HEIGHT = 500, 375  # about the mean of ImageNet's images
BATCH = 32
HOW = ("suite", "torchvision")
UNIT = ("how", "pair")
DECODING = (*UNIT, "images", "width", "height", "mean_bytes", "processor_seconds", *PROVENANCE)

# One training image of ResNet-50 in mixed precision on one A100 and on eight: NVIDIA,
# DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5, container 21.03.
A100_IMAGES = {1: 2470.0, 8: 16621.0}
A100, T4 = 312.0, 65.0  # TFLOP/s at most, in bfloat16 and float16; NVIDIA's data sheets
OPERATIONS = 6  # a multiply-add is two; the backward pass has twice those of the forward pass


@dataclass(frozen=True)
class Machine:
    """resnet50: images that all its GPUs together train ResNet-50 on in a second."""

    title: str
    cores: int
    resnet50: float
    basis: str


def machines(cost: pd.DataFrame) -> list[Machine]:
    """cost: cost.csv, of which the forward and backward pass that SNIP looks at is used."""
    t4 = 2 * A100_IMAGES[1] * T4 / A100
    snip = cost[cost["method"] == "SNIP"].iloc[0]
    core = snip["batches"] * snip["images"] / snip["pass_seconds"]
    return [
        Machine("one core of a CPU", 1, core, "measured, float32"),
        Machine("Kaggle, 2 x T4", 4, t4, "the A100's share of the data sheet"),
        Machine("Colab, A100", 12, A100_IMAGES[1], "NVIDIA's measurement"),
        Machine("8 x A100", 96, A100_IMAGES[8], "NVIDIA's measurement"),
    ]


def on_paper(
    decoding: pd.DataFrame, cost: pd.DataFrame, models: Iterable[str], protocol: str
) -> pd.DataFrame:
    """A row a network and machine: images a second that its cores decode and that its GPUs train
    on, which of the two bounds a training of the protocol's length, and its hours.

    Networks other than ResNet-50 are taken to train at as many multiply-adds a second.
    """
    rate, rows = decoding_rates(decoding)["suite"], []
    for model in models:
        epochs = protocols.find(protocol).for_run(model, "imagenet", None).epochs
        share = work("resnet50", "imagenet") / work(model, "imagenet")
        for machine in machines(cost):
            decoded, trained = machine.cores * rate, machine.resnet50 * share
            hours = epochs * TRAINING_IMAGES / min(decoded, trained) / 3600
            rows.append(
                {
                    "network": network_name(model, "imagenet"),
                    "machine": machine.title,
                    "decoded [images/s]": _two_digits(decoded),
                    "trained on [images/s]": _two_digits(trained),
                    "bound by": "decoding" if decoded < trained else "training",
                    "hours": f"{_two_digits(hours)} ({epochs} epochs)",
                    "the training's speed is": machine.basis
                    if model == "resnet50"
                    else "from ResNet-50's, by multiply-adds",
                }
            )
    return pd.DataFrame(rows).set_index(["network", "machine"])


def decoding_rates(decoding: pd.DataFrame) -> dict[str, float]:
    """HOW -> images that one core reads, crops and flips in a second: the median over the pairs."""
    rate = decoding["images"] / decoding["processor_seconds"]
    return rate.groupby(decoding["how"]).median().to_dict()


def decoding_in_words(decoding: pd.DataFrame) -> str:
    """What a core decodes, and how many times as many images as torchvision's loop."""
    seconds = decoding.pivot(index="pair", columns="how", values="processor_seconds")
    ratio = seconds["torchvision"] / seconds["suite"]
    rate, of = decoding_rates(decoding)["suite"], decoding.iloc[0]
    return (
        f"A core ({of['device']}) reads, crops and flips {rate:.0f} images of {of['width']} x "
        f"{of['height']} pixels ({of['mean_bytes'] / 1000:.0f} KB) in a second of its time: "
        f"{ratio.median():.2f} times as many as torchvision's ImageFolder with the same transforms "
        f"(median of {len(ratio)} pairs taken in turn, {ratio.min():.2f} to {ratio.max():.2f})."
    )


def measure_decoding(folder: Path, images: int = 96, pairs: int = 5) -> None:
    """Write decoding.csv: processor seconds of one epoch over so many JPEGs, read by the suite's
    loader and by torchvision's ImageFolder with the same transforms, in turn, in one process."""
    table = Table(folder / "decoding.csv", DECODING, UNIT)
    if len(table.done) >= len(HOW) * pairs:
        return
    with tempfile.TemporaryDirectory() as home:
        size = _write_images(Path(home), images)
        loops = {"suite": _suite(Path(home)), "torchvision": _torchvision(Path(home))}
        for loop in loops.values():  # imports, and the files into memory
            loop()
        for pair in range(pairs):
            for how, loop in loops.items():
                started = time.process_time()
                count = loop()
                row = {"how": how, "pair": pair, "images": count, "width": WIDTH, "height": HEIGHT}
                row |= {"processor_seconds": round(time.process_time() - started, 4)}
                row |= {"mean_bytes": size, **provenance(torch.device("cpu"))}
                table.add([row])


def _write_images(home: Path, count: int) -> int:
    """A folder of two classes; returns the training images' mean size in bytes. Smooth noise, so
    that a file is about as large as ImageNet's."""
    draw, sizes = np.random.default_rng(0), []
    for part, each in (("train", math.ceil(count / 2)), ("val", 1)):
        for name in ("a", "b"):
            (home / part / name).mkdir(parents=True)
            for number in range(each):
                coarse = draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)
                path = home / part / name / f"{number}.JPEG"
                image = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
                image.save(path, quality=95)
                sizes += [path.stat().st_size] * (part == "train")
    return round(float(np.mean(sizes)))


def _suite(home: Path) -> Callable[[], int]:
    data = datasets.load("imagenet", home)
    loader = StreamedLoader(data, data.train, BATCH, augment="crop", seed=0, workers=0)
    return lambda: sum(len(labels) for _, labels in loader)


def _torchvision(home: Path) -> Callable[[], int]:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(224, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    loader = DataLoader(ImageFolder(home / "train", transform), BATCH, shuffle=True)
    return lambda: sum(len(labels) for _, labels in loader)


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"
