"""One training in several processes, with gloo on CPUs: as in one, up to the order of sums."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from helpers import assert_same, carry_out, tables, untimed

from common import datasets
from common.base.errors import ConfigurationError
from common.models import build
from common.pruning import prune
from common.results import run_folder
from common.runs.experiment import configure
from common.sweep import grid, processes, slots
from common.sweep.execute import run_notebook
from common.training import callbacks, loop, parallel
from common.training.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parent.parent
HYPER = dataclasses.replace(PROTOCOLS["quick"], epochs=4, milestones=(1, 3), micro_batch=24)
IMAGES = 280  # in batches of 64 = 24 + 24 + 16; of the last, 24, one process gets nothing


def trained(folder: Path, epochs: int, out: Path) -> None:
    """A small VGG with BatchNorm; what came of it as a file."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    model, data = build("small_vgg", (1, 8, 8), 10), datasets.load("digits")
    masks = prune(model, "magnitude", 0.7, seed=parallel.rank())
    parts = (data.train_images[:IMAGES], data.train_labels[:IMAGES], data.mean, data.std)
    train = datasets.Loader(*parts, 64, seed=0)
    test = datasets.Loader(data.test_images, data.test_labels, data.mean, data.std, 100)
    history = loop.train(model, masks, train, test, HYPER, epochs, "float32", folder=folder)
    if parallel.rank() == 0:
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        torch.save({"state": state, "rows": history.rows}, out)


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume(tmp_path):
    trained(tmp_path / "one", 4, tmp_path / "one.pt")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    for epochs in ("2", "4"):  # the second call goes on from the first one's checkpoint
        told = (__file__, tmp_path / "two", epochs, tmp_path / "two.pt")
        subprocess.run([*torchrun, "2", *map(str, told)], check=True, env=environment)
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert_same(two["state"], one["state"], rtol=1e-3, atol=1e-4)
    for row, other in zip(one["rows"], two["rows"], strict=True):
        names = [name for name, value in row.items() if name != "seconds" and value is not None]
        assert [other[n] for n in names] == pytest.approx([row[n] for n in names], rel=1e-2)


@pytest.mark.slow
def test_a_run_of_two_processes_one_of_which_dies_leaves_the_results_of_one(tmp_path):
    given = {"protocol": "quick", "model": "lenet_300_100", "sparsity": 0.8, "epochs": 40}
    given |= {"device": "cpu", "seed": 1}
    alone = carry_out(configure("magnitude", **given, results_dir=tmp_path / "one"))
    run = configure("magnitude", **given, results_dir=tmp_path / "two")
    run.folder.mkdir(parents=True)
    source = nbformat.read(ROOT / "trials/magnitude/magnitude.ipynb", 4)
    often = "from common.training import callbacks\n\ncallbacks.CHECKPOINT_SECONDS = 0.0"
    source.cells.insert(2, nbformat.v4.new_code_cell(often))  # after the set-up
    nbformat.write(source, tmp_path / "magnitude.ipynb")
    files = tmp_path / "magnitude.ipynb", run.folder / "notebook.ipynb"
    shared = functools.partial(run_notebook, *files, run.parameters(), str(tmp_path), processes=2)
    checkpoint, struck = run_folder.checkpoint(run.folder), []

    def strike() -> bool:
        """Kills the second process's kernel, once there is something to go on from."""
        if checkpoint.is_file() and not struck:
            found = processes.marked(str(tmp_path))
            struck.extend(p for p in found if "1/kernel.json" in " ".join(p.cmdline()))
            struck[0].kill()
        return True

    assert shared(carry_on=strike).state == "failed"
    rows = torch.load(checkpoint, weights_only=True)["rows"]
    assert 1 < len(rows) <= 40
    ended = shared()
    assert ended is None, ended
    seconds = tables(run.folder)["epochs"]["seconds"].tolist()
    assert seconds[: len(rows)] == [row["seconds"] for row in rows]  # not trained again
    expected, found = untimed(alone.experiment.folder), untimed(run.folder)
    device = found["summary"].pop("device")
    assert device.str.endswith("2 processes").all()
    expected["summary"] = expected["summary"].drop(columns="device")
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        # The order of sums, carried on through forty epochs.
        pd.testing.assert_frame_equal(found[name], table, rtol=1e-2)
    pd.testing.assert_frame_equal(found["epochs"][:4], expected["epochs"][:4], rtol=1e-4)
    masks = [f / "masks.safetensors" for f in (alone.experiment.folder, run.folder)]
    assert masks[0].read_bytes()[-1000:] == masks[1].read_bytes()[-1000:]


def test_batchnorm_wants_a_split_of_the_protocols(network, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="gpus=2: this protocol has no micro_batch"):
        parallel.join(network("small_vgg", (1, 8, 8)), None)


@pytest.mark.parametrize(("count", "micro_batch"), [(64, 24), (24, 24), (7, None), (1, None)])
def test_every_image_has_one_process(monkeypatch, count, micro_batch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    seen = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        part = parallel.part(count, micro_batch)
        assert part.start % (micro_batch or 1) == 0 or part.start >= part.stop
        seen += range(count)[part]
    assert seen == list(range(count))


def test_places_have_as_many_gpus_as_the_grid_says(tmp_path, monkeypatch):
    path = tmp_path / "grid.yaml"
    path.write_text("gpus: 2\nruns: [{method: random}]")
    assert grid.load(path, ["random"]).gpus == 2
    path.write_text("gpus: 0\nruns: [{method: random}]")
    with pytest.raises(ConfigurationError, match=r"gpus=0 is below 1"):
        grid.load(path, ["random"])
    found = [slots.Gpu(str(n), 1e9) for n in range(5)]
    monkeypatch.setattr(slots, "find_gpus", lambda: found)
    places = slots.slots(["auto"], processes=2)
    assert [(place.gpu, place.processes) for place in places] == [("0,1", 2), ("2,3", 2)]
    with pytest.raises(ConfigurationError, match="gpus: 8, but this machine has 5"):
        slots.slots(["auto"], processes=8)


if __name__ == "__main__":
    callbacks.CHECKPOINT_SECONDS = 0.0
    folder, epochs, out = sys.argv[1:]
    trained(Path(folder), int(epochs), Path(out))
