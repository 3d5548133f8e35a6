"""ImageNet in files, on JPEGs made here: both forms of its folder, streaming, a resumed run."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from common import datasets
from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.datasets import DATASETS, imagenet, streamed
from common.models import build, initialise
from common.pruning import METHODS, kept, ntk_sap, prunable
from common.pruning.rounds import prune_rounds
from common.pruning.scores import Context
from common.results import collected
from common.runs.experiment import configure
from common.runs.run import Run
from common.structured import channels, export, removal
from common.training import callbacks, loop
from common.training.protocols import PROTOCOLS

CLASSES = ("n01440764", "n02102040", "n03000684")
TRAIN, TEST = 20, 6  # images of each class


def picture(path, rng, colour):
    """A JPEG of one colour and noise, in a size of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = rng.integers(40, 60, 2)
    pixels = rng.integers(0, 60, (height, width, 3)) + np.eye(3, dtype=int)[colour] * 180
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """torchvision's form."""
    root, rng = tmp_path_factory.mktemp("data") / "imagenet", np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("val", TEST)):
        for colour, name in enumerate(CLASSES):
            for number in range(count):
                picture(root / part / name / f"{part}_{name}_{number:02}.JPEG", rng, colour)
    return root


def copied(folder, to, kaggle=False):
    """The folder again, as links; in Kaggle's form its validation images lie in one folder."""
    for path in folder.glob("*/*/*"):
        name = path.name if kaggle and "val" in path.parts else f"{path.parent.name}/{path.name}"
        link = to / path.relative_to(folder).parts[0] / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return to


@pytest.fixture
def small(monkeypatch):
    """The data set in 32 x 32 pixels, for a small network."""
    spec = dataclasses.replace(DATASETS["imagenet"], shape=(3, 32, 32))
    monkeypatch.setitem(DATASETS, "imagenet", spec)


@pytest.mark.parametrize("told", ["LOC_val_solution.csv", "annotations"])
def test_both_forms_of_the_folder(folder, tmp_path, told):
    kaggle = copied(folder, tmp_path / imagenet.KAGGLES, kaggle=True)
    images = list(folder.glob("val/*/*"))
    if told == "annotations":
        annotations = tmp_path / "ILSVRC/Annotations/CLS-LOC/val"
        annotations.mkdir(parents=True)
        for path in images:
            text = f"<object><name>{path.parent.name}</name></object>"
            (annotations / f"{path.stem}.xml").write_text(text)
    else:
        lines = [f"{path.stem},{path.parent.name} 1 2 3 4" for path in images]
        lines.append("ILSVRC2012_val_00000001,n99999999 1 2 3 4")  # of a class that is not here
        (tmp_path / told).write_text("\n".join(["ImageId,PredictionString", *lines]))
    ours, theirs = imagenet.index(folder), imagenet.index(kaggle)
    assert theirs.classes == ours.classes == list(CLASSES)
    assert theirs.train[0].tolist() == ours.train[0].tolist()
    assert theirs.test[1].tolist() == ours.test[1].tolist()
    assert theirs.train[1].tolist() == [label for label in range(3) for _ in range(TRAIN)]
    names = [name.decode().split("/")[-1] for name in theirs.test[0]]
    assert names == [name.decode().split("/")[-1] for name in ours.test[0]]
    # data_dir: the folder that holds train and val, or one above it.
    source = datasets.SOURCES["imagenet"]
    assert source.find(kaggle) == source.find(tmp_path) == kaggle
    assert source.find(folder) == source.find(folder.parent) == folder


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda root: [p.unlink() for p in root.glob(f"train/{CLASSES[1]}/*")], "n02102040 holds"),
        (
            lambda root: (root / "val" / CLASSES[0]).rename(root / "val/n09"),
            "n01440764 is in train",
        ),
        (lambda root: [p.rename(root / p.name) for p in root.glob("train/*")], "train holds no"),
        (
            lambda root: [p.rename(root / "val" / p.name) for p in root.glob("val/*/*")],
            "nothing says",
        ),
    ],
)
def test_what_is_wrong_is_named_before_any_work(folder, tmp_path, breaks, says):
    root = copied(folder, tmp_path / "imagenet")
    breaks(root)
    for path in root.glob("val/*"):
        if path.is_dir() and not list(path.iterdir()) and "nothing" in says:
            path.rmdir()
    for look in (datasets.check, datasets.load):
        with pytest.raises(ConfigurationError, match=says):
            look("imagenet", tmp_path)


def test_where_there_is_none(tmp_path):
    with pytest.raises(ConfigurationError, match=r"terms.*train and val.*ILSVRC"):
        datasets.load("imagenet", tmp_path)


def epochs(data, workers, first=0, count=2):
    train, _ = data.loaders(8, 100, "flip_crop", seed=0)
    train.workers, train.epoch = workers, first
    found = []
    for _ in range(count):
        x, y = zip(*train, strict=True)
        found.append((torch.cat(x), torch.cat(y)))
    return found


@pytest.mark.usefixtures("small")
def test_the_same_images_whatever_the_number_of_workers(folder):
    data = datasets.load("imagenet", folder)
    before = torch.random.get_rng_state()
    one = epochs(data, workers=0)
    assert torch.equal(before, torch.random.get_rng_state())
    for (x, y), (a, b) in zip(one, epochs(data, workers=2), strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)
    (resumed,) = epochs(data, workers=0, first=1, count=1)
    assert torch.equal(resumed[0], one[1][0])
    assert not torch.equal(one[0][1], one[1][1])
    assert one[0][0].shape == (3 * TRAIN, 3, 32, 32)
    assert one[0][1].bincount().tolist() == [TRAIN] * 3
    # The labels are of these very images.
    assert (one[0][0].mean((2, 3)).argmax(1) == one[0][1]).all()


@pytest.mark.usefixtures("small")
def test_test_images_are_centres_and_scoring_images_are_few(folder, monkeypatch):
    data, read = datasets.load("imagenet", folder), []
    _, test = data.loaders(8, 100, "flip_crop", seed=0)
    test.workers = 0
    (x, y), *_ = test
    with Image.open(folder / data.test.names[0].decode()) as image:
        small = image.resize([round(side * 37 / min(image.size)) for side in image.size])
    left, top = ((side - 32) // 2 for side in small.size)
    crop = np.asarray(small.crop((left, top, left + 32, top + 32))) / 255
    shown = (x[0] * data.std[:, None, None] + data.mean[:, None, None]).permute(1, 2, 0)
    assert np.abs(shown.numpy() - crop).mean() < 0.03
    assert y.tolist() == [label for label in range(3) for _ in range(TEST)]
    original = streamed.Files.read
    monkeypatch.setattr(streamed.Files, "read", lambda s, n: read.append(n) or original(s, n))
    x, y = datasets.scoring_batch(data, 2, seed=0, device="cpu")
    assert y.bincount().tolist() == [2, 2, 2]
    assert len(read) == 6


@pytest.mark.usefixtures("small")
def test_an_image_that_cannot_be_read_is_named(folder, tmp_path):
    root = copied(folder, tmp_path / "imagenet")
    broken = sorted(root.glob("train/*/*"))[3]
    content = broken.read_bytes()[:200]
    broken.unlink()
    broken.write_bytes(content)
    data = datasets.load("imagenet", root)
    for workers in (0, 1):
        with pytest.raises(ConfigurationError, match=broken.name):
            epochs(data, workers)


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_is_killed_and_resumed_to_the_same_numbers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "TOP5_CLASSES", 3)
    # Of three classes two guesses: five would always be right.
    monkeypatch.setattr(torch.Tensor, "topk", lambda logits, count: torch.topk(logits, 2))

    def carried_out(results, breaks_at=None):
        settings = {"model": "small_vgg", "dataset": "imagenet", "data_dir": folder, "epochs": 2}
        made = configure(
            "SNIP", protocol="seed", sparsity=0.5, batch_size=16, results_dir=results, **settings
        )
        run = Run(made)
        assert "3 of its 1,000 classes" in run.describe()["data"]
        run.prune()
        original = streamed.StreamedLoader._on_device

        def breaking(self, batches):
            for number, batch in enumerate(original(self, batches)):
                if self.augment and (self.epoch, number) == breaks_at:  # in training
                    raise Interrupted
                yield batch

        with monkeypatch.context() as patched:
            patched.setattr(streamed.StreamedLoader, "_on_device", breaking)
            run.train()
        run.save()
        return run

    straight = carried_out(tmp_path / "one")
    with pytest.raises(Interrupted):
        carried_out(tmp_path / "two", breaks_at=(2, 1))
    resumed = carried_out(tmp_path / "two")
    rows = [run.epochs().drop(columns="seconds") for run in (straight, resumed)]
    assert rows[0].equals(rows[1])
    found = collected.collect(tmp_path / "two")
    assert len(found.summary) == 1
    assert found.more["top5"]["test_top5"].tolist() == [
        r["test_top5"] for r in straight.history.top5
    ]
    both = zip(found.more["top5"]["test_top5"], found.epochs["test_accuracy"], strict=True)
    assert all(top5 >= top1 for top5, top1 in both)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


@pytest.mark.parametrize("form", ["pickle", "npz"])
def test_small_imagenet_in_memory(tmp_path, form):
    root, rng = tmp_path / "imagenet32", np.random.default_rng(0)
    root.mkdir()
    pixels = rng.integers(0, 256, (11, 4, 3 * 32 * 32), dtype=np.uint8)
    labels = rng.integers(1, 1001, (11, 4))
    for n, name in enumerate([*(f"train_data_batch_{k}" for k in range(1, 11)), "val_data"]):
        content = {"data": pixels[n], "labels": labels[n]}
        if form == "npz":
            np.savez(root / f"{name}.npz", **content)
        else:
            content["labels"] = labels[n].tolist()
            (root / name).write_bytes(pickle.dumps(content, protocol=2))
    data = datasets.load("imagenet32", tmp_path)
    assert data.train_images.shape == (40, 32, 32, 3)
    assert data.train_labels.tolist() == (labels[:10].flatten() - 1).tolist()
    expected = pixels[10, 2].reshape(3, 32, 32)
    assert np.array_equal(data.test_images[2].permute(2, 0, 1).numpy(), expected)


class Malice:
    def __reduce__(self):
        return print, ("called",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"data": np.zeros((4, 9), np.uint8), "labels": [1] * 4}, r"holds \(4, 9\) of uint8"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0] * 4}, "not from 1 to 1000"),
        (Malice(), "it wants builtins.print"),
    ],
)
def test_files_that_are_something_else(tmp_path, capsys, content, says):
    root = tmp_path / "imagenet32"
    root.mkdir()
    for name in [*(f"train_data_batch_{k}" for k in range(1, 11)), "val_data"]:
        (root / name).write_bytes(pickle.dumps(content))
    with pytest.raises(ConfigurationError, match=says):
        datasets.load("imagenet32", tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet18", 11_678_912), ("resnet34", 21_779_648), ("resnet50", 25_502_912)],
)
def test_networks_for_large_images(name, weights):
    model = build(name, (3, 224, 224), 1000)
    assert sum(weight.numel() for weight in prunable(model).values()) == weights
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 1000)


def test_the_protocol_warms_up():
    hyper = PROTOCOLS["frankle2021"].for_run("resnet50", "imagenet", None)
    rates = [hyper.learning_rate_at(epoch) for epoch in (0, 2.5, 5, 29.9, 30, 60, 80)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.4, 0.04, 0.004, 0.0004])
    # Going back to an epoch of the warm-up goes on with it.
    left = hyper.rest(2)
    assert [left.learning_rate_at(e) for e in (0, 1, 3, 28)] == pytest.approx(
        [0.16, 0.24, 0.4, 0.04]
    )
    assert hyper.at_last_rate().learning_rate_at(0) == pytest.approx(0.0004)
    assert PROTOCOLS["frankle2021"].for_run("resnet50", "imagenet", 18).warmup == 1
    small = PROTOCOLS["frankle2021"].for_run("resnet20", "imagenet32", None)
    assert (hyper.batch_size, hyper.micro_batch) == (small.batch_size, 64)
    assert small.micro_batch is None


def resnet50():
    model = build("resnet50", (3, 224, 224), 100)
    initialise(model, "kaiming_normal", "ones", generator(0, "initial weights"))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_on_resnet50_at_224(method, monkeypatch):
    rounds = min(METHODS[method][""].iterations, 2)
    fewer = dataclasses.replace(METHODS[method][""], iterations=rounds)
    monkeypatch.setitem(METHODS[method], "", fewer)
    monkeypatch.setattr(ntk_sap, "PASSES", 1)
    model, size = resnet50(), 4

    def redraw(model, stream):
        initialise(model, "kaiming_normal", "ones", stream)

    images = torch.randn(size, 3, 224, 224, generator=generator(0, "images"))
    batches = [(images, torch.arange(size))] * 2
    total = sum(weight.numel() for weight in prunable(model).values())
    context = Context((3, 224, 224), batches, generator(0, "pruning"), {}, {}, redraw, inputs=size)
    masks = prune_rounds(model, METHODS[method][""], 0.9, context)
    assert kept(masks) == round(0.1 * total)
    assert all(weight.isfinite().all() for weight in model.parameters())


@pytest.mark.slow
def test_channels_of_resnet50_go(tmp_path):
    """Whatever the order of its filters' norms, the small network computes what the whole one does
    with those channels silenced; and it is exported and loads."""
    model, shape = resnet50().eval(), (3, 64, 64)
    found = channels.find_channels(model, shape)
    chosen = removal.lowest(model, found, removal.l1_norms(model, found), 0.5, torch.Generator())
    small = removal.remove(model, found, chosen, shape)
    removal.silence(model, found, chosen)
    left = sum(weight.numel() for weight in prunable(small).values())
    assert left < 0.6 * sum(weight.numel() for weight in prunable(model).values())
    images = torch.randn(2, *shape)
    assert export.largest_difference(model, small, images) < 1e-3
    export.export(small, tmp_path / "small.pt2", shape)
    assert export.check_export(small, tmp_path / "small.pt2", shape)["largest_difference"] < 1e-4
