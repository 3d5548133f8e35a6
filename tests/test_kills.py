"""The quick grid, shortened, with its processes killed at random moments: in the end the collected
tables are those of a sweep that nobody disturbed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from helpers import TIMED

from common.base.paths import ROOT
from common.results.collected import collect

KILLS = 12
PATIENCE = 400  # seconds; an upper limit for a loaded machine
# What of a batch is killed, by what its command line holds.
VICTIMS = ("trials", "common.sweep.worker", "common.sweep.kernel")


def start(root: Path) -> subprocess.Popen:
    arguments = ["run", "quick", "-p", "method=random,SNIP,synflow", "-p", "ablation=none,invert"]
    arguments += ["-p", "epochs=1", "-p", "sparsity=0.9", "--jobs", "2", "--results", str(root)]
    # One thread each, whatever the machine: the tables are compared to the last digit.
    return subprocess.Popen(
        [sys.executable, "-m", "trials", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def collected(root: Path) -> list[pd.DataFrame]:
    found = collect(root / "quick")
    assert found.left_out == []
    tables = (found.summary, found.epochs, found.layers)
    return [table.drop(columns=[*TIMED, "code_version"], errors="ignore") for table in tables]


def family(sweep: subprocess.Popen) -> list[psutil.Process]:
    try:
        parent = psutil.Process(sweep.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_one(sweep: subprocess.Popen, victim: str, chance: random.Random) -> bool:
    """kill -9 of a random one of the processes `victim` of the sweep, if it has any just now."""
    found = []
    for process in family(sweep):
        try:
            if victim in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    if not found:
        return False
    chance.choice(found).kill()
    return True


@pytest.mark.slow
def test_a_sweep_killed_at_random_gives_the_tables_of_an_undisturbed_one(tmp_path: Path) -> None:
    calm = start(tmp_path / "calm")
    output, _ = calm.communicate(timeout=PATIENCE)
    assert calm.returncode == 0, output
    expected = collected(tmp_path / "calm")

    chance = random.Random(0)
    killed = dict.fromkeys(VICTIMS, 0)
    deadline = time.monotonic() + PATIENCE
    sweep = start(tmp_path / "killed")
    while True:
        assert time.monotonic() < deadline
        if sum(killed.values()) < KILLS:
            time.sleep(chance.uniform(0.5, 4.0))
            victim = min(killed, key=killed.get)
            killed[victim] += kill_one(sweep, victim, chance)
        if sum(killed.values()) < KILLS and sweep.poll() is None:
            continue
        output, _ = sweep.communicate(timeout=PATIENCE)
        if sweep.returncode == 0:
            break
        sweep = start(tmp_path / "killed")
    assert min(killed.values()) >= 2, killed
    for table, undisturbed in zip(collected(tmp_path / "killed"), expected, strict=True):
        pd.testing.assert_frame_equal(table, undisturbed, check_exact=True)
    attempts = list((tmp_path / "killed").glob("quick/*/*/attempt-*.json"))
    assert len(attempts) > len(expected[0]), "no run was disturbed"
