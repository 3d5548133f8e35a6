"""How many hours grids take: from measured throughput, and where there is none from multiply-adds.

What is not measured is an estimate and marked as one. `python -m trials status GRID` knows better
as soon as a machine has finished a few runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from common.base.paths import ROOT
from common.runs import registry
from common.runs.experiment import Experiment
from common.runs.network import work
from common.sweep import grid, plan

IMAGES = {
    **{"digits": 1_437, "mnist": 60_000, "fashion_mnist": 60_000},
    **{"cifar10": 50_000, "cifar100": 50_000, "tiny_imagenet": 100_000},
}
CORES = 2
# A GPU's peak in TFLOP/s, by NVIDIA's data sheets in the precision that the suite chooses there
# (float16, float32, bfloat16), and the share of it that convolutions as small as these are taken to
# reach. The shares are guesses: nothing has run on a GPU yet.
GPUS = {"T4": (65.0, 0.08), "P100": (9.3, 0.3), "A100": (312.0, 0.08)}
STEP = 0.002  # seconds that a GPU takes for the smallest step, a guess too: launching its kernels
OPERATIONS = 6  # a multiply-add is two; the backward pass has twice those of the forward pass

Network = tuple[str, str]  # model, dataset


def table(results: Path, grids: Path = ROOT / "trials" / "grids") -> pd.DataFrame:
    """Hours of every grid, a row each; results: where the published tables lie.

    Estimates have a `~`; of grids with networks that were not measured the hours on the CPU, too.
    """
    measured, rows = throughput(results), []
    for name in grid.names(grids):
        runs = plan.experiments(grid.find(name, grids, registry.names()), Path())
        known = all((run.model, run.dataset) in measured for run in runs)
        seconds = sum(run.all_epochs * cpu_epoch(run, measured) for run in runs) / CORES
        row = {"grid": f"`{name}`", "runs": f"{len(runs):,}"}
        row[f"{CORES} CPU cores"] = _hours(seconds, known)
        rows.append(row | {gpu: _hours(gpu_seconds(runs, gpu), False) for gpu in GPUS})
    return pd.DataFrame(rows)


def throughput(results: Path) -> dict[Network, float]:
    """(model, dataset) -> images that one core trains on in a second, the median of the published
    runs on a CPU."""
    found = []
    for path in sorted(results.glob("*/summary.csv")):
        runs = pd.read_csv(path)
        if "images_per_second" in runs:
            runs = runs[runs["device"].str.startswith("cpu") & (runs["images_per_second"] > 0)]
            threads = runs["device"].str.extract(r"(\d+) thread")[0].astype(float)
            runs["rate"] = runs["images_per_second"] / threads
            found.append(runs[["model", "dataset", "rate"]])
    rates = pd.concat(found).groupby(["model", "dataset"])["rate"].median()
    return {network: float(rate) for network, rate in rates.items()}


def cpu_epoch(run: Experiment, measured: Mapping[Network, float]) -> float:
    """Seconds of an epoch on one core: as measured, or of the measured network whose multiply-adds
    are nearest, in proportion to them."""
    own = work(run.model, run.dataset)
    nearest = min(measured, key=lambda other: abs(math.log(work(*other) / own)))
    if (run.model, run.dataset) in measured:
        nearest = (run.model, run.dataset)
    return IMAGES[run.dataset] / measured[nearest] * own / work(*nearest)


def gpu_seconds(runs: Iterable[Experiment], gpu: str) -> float:
    """Seconds of training, one run after the other."""
    peak, share = GPUS[gpu]
    seconds = 0.0
    for run in runs:
        operations = OPERATIONS * work(run.model, run.dataset) * run.batch_size
        step = max(STEP, operations / (peak * 1e12 * share))
        seconds += run.all_epochs * math.ceil(IMAGES[run.dataset] / run.batch_size) * step
    return seconds


def _hours(seconds: float, measured: bool) -> str:
    """Two digits, estimates with a `~`: <0.1, 0.3, ~160, 2,300."""
    hours = float(f"{seconds / 3600:.2g}")
    if hours < 0.1:
        return "<0.1"
    return ("" if measured else "~") + (f"{hours:,.0f}" if hours >= 10 else f"{hours:g}")
