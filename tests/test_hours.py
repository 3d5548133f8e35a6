"""The hours that grids take: closed forms, and what the page of the grids shows."""

import pandas as pd
import pytest

from common.base.paths import ROOT
from common.commands import hours, publish
from common.runs.experiment import configure
from common.runs.network import work


def run(model="resnet20", **parameters):
    given = {"protocol": "budget", "dataset": "cifar10", "epochs": 3, "batch_size": 100}
    return configure("magnitude", model=model, sparsity=0.9, **given | parameters)


def test_throughput_is_the_median_of_runs_on_a_core(tmp_path):
    rows = [("cpu: a, 1 thread", 100.0), ("cpu: a, 2 threads", 400.0), ("cpu: b, 1 thread", 300.0)]
    rows += [("cuda: T4", 9000.0), ("cpu: a, 1 thread", float("nan"))]
    table = pd.DataFrame(rows, columns=["device", "images_per_second"])
    (tmp_path / "grid").mkdir()
    table.assign(model="resnet20", dataset="cifar10").to_csv(tmp_path / "grid" / "summary.csv")
    assert hours.throughput(tmp_path) == {("resnet20", "cifar10"): 200.0}


def test_an_epoch_is_measured_or_goes_by_the_multiply_adds_of_the_nearest_network():
    measured = {("resnet20", "cifar10"): 500.0, ("lenet_300_100", "mnist"): 1e5}
    assert hours.cpu_epoch(run(), measured) == pytest.approx(50_000 / 500)
    ratio = work("vgg16", "cifar10") / work("resnet20", "cifar10")
    assert hours.cpu_epoch(run("vgg16"), measured) == pytest.approx(100 * ratio)


def test_a_gpu_works_at_its_share_of_the_peak_and_no_step_is_for_nothing():
    peak, share = hours.GPUS["P100"]
    step = 6 * work("vgg16", "cifar10") * 100 / (peak * 1e12 * share)
    assert hours.gpu_seconds([run("vgg16")], "P100") == pytest.approx(3 * 500 * step)
    assert hours.gpu_seconds([run("lenet_300_100")] * 2, "A100") == pytest.approx(
        2 * 3 * 500 * hours.STEP
    )


@pytest.mark.slow
def test_the_page_of_the_grids_shows_the_hours_by_what_is_published():
    page = (ROOT / publish.HOURS).read_text(encoding="utf-8")
    tables = {"hours": hours.table(ROOT / "figures" / "results")}
    assert publish.with_tables(page, tables) == page
