"""The benchmark's table and arithmetic; what pruning may cost in memory. No time is judged."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import test_capture
import torch
from rich.console import Console

from common.base.errors import ConfigurationError
from common.commands import bench

ROOT = Path(__file__).resolve().parent.parent
stand_in = test_capture.stand_in


@pytest.mark.slow
def test_a_table_on_paper_and_in_a_file(tmp_path):
    shown = io.StringIO()
    status = bench.run(Console(file=shown, width=200), quick=True, device="cpu", folder=tmp_path)
    assert status == 0
    table = pd.read_csv(next(tmp_path.glob("bench_*.csv")))
    assert list(table.columns) == list(bench.COLUMNS)
    measured = " ".join(table["measured"])
    assert all(name in measured for name in (*bench.METHODS, "training steps"))
    assert all(name in shown.getvalue() for name in table["measured"])
    assert set(table["pairs"]) == {bench.QUICK[0].pairs}
    assert set(table["torch_version"]) == {torch.__version__}
    assert (table[["seconds", "against_seconds", "ratio"]] > 0).all(axis=None)


@pytest.mark.slow
def test_a_row_for_captured_steps_where_they_are(stand_in):
    made, rows = stand_in(), {}
    for measured, ours, against, theirs in bench.measurements(
        bench.QUICK[0], torch.device("cpu"), "float32"
    ):
        rows[measured] = against
        if "CUDA graph" in measured:
            assert min(ours(), ours(), ours(), theirs()) > 0
    assert rows["2 training steps, a CUDA graph replayed"] == "the same, kernel by kernel"
    assert [number for number in (2, 4) if any(f"{number} trainings" in row for row in rows)] == [
        2,
        4,
    ]
    graphs = made[0]
    # Three epochs of two steps: three warm up, one is captured and tried, two are replayed.
    assert (graphs.warmed, graphs.recorded, graphs.replayed) == (3, 1, 3)


def test_pairs_are_taken_in_turn_and_the_median_is_of_ratios():
    order = []
    # The first of each warms up.
    times = {"ours": iter([99, 1, 2, 9]), "theirs": iter([99, 4, 1, 3])}

    def timed(who):
        def once():
            order.append(who)
            return next(times[who])

        return once

    found = bench.pair(timed("ours"), timed("theirs"), 3)
    assert order == ["ours", "theirs"] * 4
    # Ratios 1/4, 2, 3: not the ratio of the medians, 2/3.
    assert found == {"seconds": 2, "against_seconds": 3, "ratio": 2, "pairs": 3}


def test_a_device_that_is_not_there():
    with pytest.raises(ConfigurationError, match="cuda:99"):
        bench.run(Console(file=io.StringIO()), quick=True, device="cuda:99")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        bench.run(Console(file=io.StringIO()), quick=True, device="cpu", folder=tmp_path / "file")


MEMORY = r"""
import re, sys, torch
from pathlib import Path
from torch import nn
from common.pruning import prune

def peak():  # of this process; getrusage's is at least that of the one that started it
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

torch.set_num_threads(1)
method = sys.argv[1]
def network(width, depth):
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))
# Libraries are loaded by now, and what follows is the first large thing here.
prune(network(400, 2), method, 0.9, shape=(400,))
model = network(2048, 8)
size = sum(p.numel() * p.element_size() for p in model.parameters())
before = peak()
prune(model, method, 0.9, shape=(2048,))
print((peak() - before) / size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("method", "times"), [("magnitude", 3), ("synflow", 5)])
def test_pruning_takes_little_memory_beyond_the_model(method, times):
    """In multiples of the float32 weights; SynFlow is float64."""
    command = [sys.executable, "-c", MEMORY, method]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.2 < float(done.stdout) < times
