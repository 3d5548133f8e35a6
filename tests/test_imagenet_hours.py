"""Hours on ImageNet: what is read from the tables, closed forms, and which of two bounds it."""

from __future__ import annotations

import pandas as pd
import pytest

from common.runs.network import work
from common.studies import imagenet_hours
from common.studies.imagenet_hours import A100_IMAGES, TRAINING_IMAGES

COST = pd.DataFrame([{"method": "SNIP", "batches": 2, "images": 16, "pass_seconds": 16.0}])


def decoded(rate: float) -> pd.DataFrame:
    """Five pairs in which a core of ours decodes so many images a second, torchvision's half."""
    rows = [("suite", n, 100, 100 / rate) for n in range(5)]
    rows += [("torchvision", n, 100, 200 / rate) for n in range(5)]
    return pd.DataFrame(rows, columns=["how", "pair", "images", "processor_seconds"])


@pytest.mark.parametrize(("rate", "bound"), [(1e3, "training"), (1e1, "decoding")])
def test_the_slower_of_two_bounds_a_training(rate, bound):
    table = imagenet_hours.on_paper(decoded(rate), COST, ["resnet50"], "frankle2021")
    row = table.xs("8 x A100", level="machine").iloc[0]
    images = min(96 * rate, A100_IMAGES[8])
    assert row["bound by"] == bound
    hours, _, epochs = row["hours"].partition(" ")
    assert epochs == "(90 epochs)"
    expected = 90 * TRAINING_IMAGES / images / 3600
    assert float(hours) == pytest.approx(expected, rel=0.06)  # two digits


def test_other_networks_go_by_their_multiply_adds_and_a_core_by_its_measured_pass():
    models = ["resnet50", "resnet18"]
    table = imagenet_hours.on_paper(decoded(1e6), COST, models, "frankle2021")
    core = table.xs("one core of a CPU", level="machine")["trained on [images/s]"].astype(float)
    ratio = work("resnet50", "imagenet") / work("resnet18", "imagenet")
    assert core.iloc[0] == pytest.approx(2.0)
    assert core.iloc[1] == pytest.approx(2.0 * ratio, rel=0.06)


def test_decoding_is_measured_in_pairs(tmp_path):
    imagenet_hours.measure_decoding(tmp_path, images=6, pairs=2)
    table = pd.read_csv(tmp_path / "decoding.csv")
    assert table[["how", "pair"]].apply(tuple, axis=1).tolist() == [
        *(("suite", 0), ("torchvision", 0)),
        *(("suite", 1), ("torchvision", 1)),
    ]
    assert (table["images"] == 6).all()
    assert (table["processor_seconds"] > 0).all()
    assert imagenet_hours.decoding_rates(table).keys() == {"suite", "torchvision"}
    assert "2 pairs" in imagenet_hours.decoding_in_words(table)
    before = (tmp_path / "decoding.csv").read_bytes()
    imagenet_hours.measure_decoding(tmp_path, images=6, pairs=2)
    assert (tmp_path / "decoding.csv").read_bytes() == before
