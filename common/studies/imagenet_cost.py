"""What pruning costs on a network at 224 x 224: time and memory of every method, and what the
network that filters were taken from saves. Images are noise; there need be none.

The process's peak memory is measured, so each method has a process of its own.
"""

from __future__ import annotations

import copy
import multiprocessing
import re
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from common.base.seeding import generator
from common.datasets.streamed import SCORING_BATCH
from common.plots.style import method_label
from common.pruning import METHODS, keep_count, kept
from common.pruning.rounds import prune_rounds
from common.structured import channels, cost, export, penalty, removal
from common.studies.network import SETTING, Network, Setting
from common.studies.tables import PROVENANCE, Table

SPARSITY = 0.9
INPUTS = 2  # that NTK-SAP makes for a pass, where it is published with ten of each class
BATCHES = (1, 128)  # of which the latency is measured


@dataclass(frozen=True)
class Case:
    """A method, on so many `batches` of `images`, in so many rounds."""

    method: str
    batches: int = 0
    images: int = 0
    rounds: int = 1


def cases() -> list[Case]:
    """Every method; in two batches of the size that a run scores in, for gradients over several."""
    found = {name: Case(name, rounds=min(METHODS[name][""].iterations, 3)) for name in METHODS}
    for name in ("SNIP", "grasp"):
        found[name] = Case(name, 2, SCORING_BATCH)
    found["prospr"] = Case("prospr", METHODS["prospr"][""].training_batches, 4)
    return list(found.values())


UNIT = (*vars(Case("")), *SETTING)
COST = (
    *UNIT,
    *("prunable", "asked", "kept", "published_rounds", "round_seconds", "pass_seconds"),
    *("idle_bytes", "peak_bytes", *PROVENANCE),
)
HOW = ("dense", "L1 filters", "group lasso")
SAVED = (
    *("how", *SETTING, "parameters", "flops", "exported_bytes", "exported_difference"),
    *(f"latency_ms_{batch}" for batch in BATCHES),
    *PROVENANCE,
)


def measure(folder: Path, setting: Setting, chosen: Sequence[Case] | None = None) -> None:
    """Write cost.csv, a row a method: what it kept beside what was asked for, processor seconds of
    a round and of a forward and backward pass over what the method looks at (SynFlow: one image in
    float64; nan where it looks at nothing), and the process's memory before and at its peak.

    A score that is not finite raises NonFiniteScoresError. What is there is not measured again.
    """
    table = Table(folder / "cost.csv", COST, UNIT)
    for case in cases() if chosen is None else chosen:
        if not table.has(**vars(case), **setting.names()):
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, spawn) as pool:
                table.add([pool.submit(_cost, case, setting, torch.get_num_threads()).result()])


def _cost(case: Case, setting: Setting, threads: int) -> dict[str, object]:
    torch.set_num_threads(threads)
    network = setting.network(0)
    module, method = network.fresh(), METHODS[case.method][""]
    stream, shape = generator(0, "images"), network.data.spec.shape
    batches = [
        (
            torch.randn(case.images, *shape, generator=stream),
            torch.randint(network.data.spec.classes, (case.images,), generator=stream),
        )
        for _ in range(case.batches)
    ]
    context = network.context(replace(method, images_per_class=0, training_batches=0))
    context = replace(context, batches=batches, inputs=INPUTS)
    idle, started = _peak(), time.process_time()
    masks = prune_rounds(module, replace(method, iterations=case.rounds), SPARSITY, context)
    seconds, peak = time.process_time() - started, _peak()
    total = sum(network.sizes().values())
    return {
        **vars(case),
        **setting.columns(),
        "prunable": total,
        "asked": keep_count(total, SPARSITY),
        "kept": kept(masks),
        "published_rounds": method.iterations,
        "round_seconds": round(seconds / case.rounds, 3),
        "pass_seconds": round(_pass_seconds(case, network, batches), 3),
        "idle_bytes": idle,
        "peak_bytes": peak,
    }


def _pass_seconds(case: Case, network: Network, batches: Sequence) -> float:
    """Of a bare forward and backward pass over what the method looks at in a round."""
    model = network.fresh().train()
    if case.method == "synflow":
        model, ones = model.double().eval(), torch.ones(1, *network.data.spec.shape)
        works = [lambda: model(ones.double()).sum().backward()] * 2
    else:
        works = [lambda x=x, y=y: F.cross_entropy(model(x), y).backward() for x, y in batches]
    if not works:
        return float("nan")
    found = []
    for work in works:
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    # The second of SynFlow's passes: it has its memory by then.
    return found[-1] if case.method == "synflow" else sum(found)


def measure_structured(folder: Path, setting: Setting) -> None:
    """Write structured.csv: the network as it is; without the filters of smallest L1 norm within
    their layers, until half of the weights are gone; and without those channels that one proximal
    step of the group lasso set to zero, as long as half of all norms. Each exported and loaded."""
    table = Table(folder / "structured.csv", SAVED, ("how", *SETTING))
    if all(table.has(how=how, **setting.names()) for how in HOW):
        return
    network = setting.network(0)
    models = structured(network.fresh().eval(), network.data.spec.shape)
    shape, device = network.data.spec.shape, network.device
    copies = cost.copies(models, device)
    latencies = {batch: cost.latency(copies, shape, batch, device) for batch in BATCHES}
    with tempfile.TemporaryDirectory() as home:
        for how, model in models.items():
            path = Path(home, "network.pt2")
            export.export(model, path, shape)
            told = export.check_export(model, path, shape)
            counts = cost.size(model, shape)
            row = {"how": how, **setting.columns()}
            row |= {name: counts[name] for name in ("parameters", "flops")}
            row |= {f"latency_ms_{b}": round(latencies[b][how], 2) for b in BATCHES}
            row["exported_bytes"] = told["bytes"]
            table.add([row | {"exported_difference": told["largest_difference"]}])


def structured(model: nn.Module, shape: Sequence[int]) -> dict[str, nn.Module]:
    """HOW -> the smaller network."""
    found = channels.find_channels(model, shape)
    ranks = removal.ranks(removal.l1_norms(model, found))
    by_norm = removal.lowest(model, found, ranks, 0.5, generator(0, "removal"))
    shrunk = copy.deepcopy(model)
    lasso = penalty.Penalty(penalty.channel_groups(shrunk, found), 1.0)
    lasso.step(float(torch.cat(list(lasso.norms().values())).median()))
    vanished = removal.above(lasso.norms(), 0)
    small = (
        removal.remove(model, found, by_norm, shape),
        removal.remove(shrunk, found, vanished, shape),
    )
    return dict(zip(HOW, (model, *small), strict=True))


def in_words(cost: pd.DataFrame) -> pd.DataFrame:
    """cost.csv to be read: a row a method."""
    images = cost["batches"].astype(str) + " x " + cost["images"].astype(str)
    ratio = (cost["round_seconds"] / cost["pass_seconds"]).map("{:.2f}".format)
    return pd.DataFrame(
        {
            "images": images.where(cost["batches"] > 0, "–"),
            "asked for": cost["asked"].map("{:,}".format),
            "kept": cost["kept"].map("{:,}".format),
            "rounds measured of": cost["rounds"].astype(str)
            + "/"
            + cost["published_rounds"].astype(str),
            "seconds a round": cost["round_seconds"].map("{:.2f}".format),
            "times a pass": ratio.where(cost["pass_seconds"].notna(), "–"),
            "memory [MB]": ((cost["peak_bytes"] - cost["idle_bytes"]) / 1e6).map("{:,.0f}".format),
            "whole process [MB]": (cost["peak_bytes"] / 1e6).map("{:,.0f}".format),
        }
    ).set_axis(list(map(method_label, cost["method"])), axis=0)


def _peak() -> int:
    """Bytes that the process has held at most. Linux's own count: getrusage's begins with what the
    parent held."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes
