"""How fast this machine is at what the suite does, each measured side by side with a plain loop.

Ratios of times, each the median of pairs taken in turn in one process: what else the machine does
meanwhile hits both of a pair. Images and labels are random: nothing has to be downloaded.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from common import models
from common.base import environment
from common.base.errors import unknown
from common.base.files import make_writable
from common.base.seeding import generator
from common.base.version import code_version
from common.datasets import Loader
from common.models.initialisation import initialise
from common.pruning import find_method, prunable
from common.pruning.masks import paired, select
from common.pruning.rounds import prune_rounds
from common.pruning.schedule import keep_count
from common.pruning.scores import Context
from common.results import run_folder
from common.runs.experiment import PRECISIONS, check_device
from common.training import cuda_graphs, loop, protocols, steps

COLUMNS = (
    *("measured", "seconds", "against", "against_seconds", "ratio", "pairs"),
    *("model", "batch_size", "device", "precision", "torch_version", "code_version", "started_at"),
)
METHODS = ("random", "magnitude", "SNIP", "grasp", "synflow")
SPARSITY = 0.9
SCORING_IMAGES = 100
CLASSES = 10

Timed = Callable[[], float]  # carries something out and returns the seconds it took


@dataclass(frozen=True)
class Size:
    """What is measured: a model, batches of training steps, rounds of iterative pruning (0: no
    scores)."""

    model: str
    shape: tuple[int, int, int]
    batch_size: int
    steps: int
    rounds: int
    pairs: int


FULL = (
    Size("vgg16", (3, 32, 32), batch_size=128, steps=8, rounds=10, pairs=5),
    Size("resnet20", (3, 32, 32), batch_size=128, steps=8, rounds=0, pairs=5),
)
QUICK = (Size("small_vgg", (1, 8, 8), batch_size=32, steps=2, rounds=2, pairs=2),)
GPU_STEPS = 300  # there a step is short, and few would not be worth a capture


def run(
    console: Console,
    *,
    quick: bool = False,
    device: str = "auto",
    precision: str = "auto",
    folder: Path | None = None,
) -> int:
    """Measure and print a table; with a `folder`, write it there too. Returns 0.

    quick: a small network and few steps, to see that it works. Raises ConfigurationError for a
    device that is not there or a folder that cannot be written. The file's name holds the time, so
    that no measurement replaces another.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    sizes, on = QUICK if quick else FULL, environment.resolve_device(check_device(device))
    if on.type == "cuda" and not quick:
        sizes = [dataclasses.replace(size, steps=GPU_STEPS) for size in sizes]
    precision = environment.resolve_precision(precision, on)
    if folder is not None:
        make_writable(folder, "choose a folder with --results")
    started = datetime.datetime.now(datetime.timezone.utc)
    shared = {
        "device": environment.hardware(on),
        "precision": precision,
        "torch_version": torch.__version__,
        "code_version": code_version(),
        "started_at": started.isoformat(timespec="seconds"),
    }
    rows = []
    with console.status("measuring") as status:
        for size in sizes:
            about = {"model": size.model, "batch_size": size.batch_size, **shared}
            for measured, ours, against, theirs in measurements(size, on, precision):
                status.update(f"{size.model}: measuring {measured}")
                taken = pair(ours, theirs, size.pairs)
                rows.append({"measured": measured, "against": against, **taken, **about})
    _show(rows, console)
    if folder is not None:
        path = folder / f"bench_{started:%Y-%m-%d_%H%M%S}.csv"
        run_folder.write_csv(path, rows, COLUMNS)
        console.print(str(path), soft_wrap=True)
    return 0


def pair(ours: Timed, theirs: Timed, pairs: int) -> dict[str, float | int]:
    """Medians of both times and of their ratios, taken in turn after one of each to warm up."""
    ours(), theirs()
    taken = [(ours(), theirs()) for _ in range(pairs)]
    return {
        "seconds": statistics.median(one for one, _ in taken),
        "against_seconds": statistics.median(other for _, other in taken),
        "ratio": statistics.median(one / other for one, other in taken),
        "pairs": pairs,
    }


def measurements(
    size: Size, device: torch.device, precision: str
) -> Iterator[tuple[str, Timed, str, Timed]]:
    """(what is measured, it, what it is measured against, that)."""
    stream = generator(0, "bench")
    model = models.build(size.model, size.shape, CLASSES)
    initialise(model, "kaiming_normal", "ones", stream)
    model.to(device, memory_format=environment.memory_format(device))
    count = size.batch_size * size.steps
    channels, height, width = size.shape
    pixels = torch.randint(256, (count, height, width, channels), generator=stream)
    images = pixels.to(device, torch.uint8)
    labels = torch.randint(CLASSES, (count,), generator=stream).to(device)

    ours = _suite(model, images, labels, size, precision)
    told = f"{size.steps} training steps"
    yield told, ours, f"bare loop, {precision}", _bare(model, images, labels, size, precision)
    if precision != "float32":
        yield told, ours, "bare loop, float32", _bare(model, images, labels, size, "float32")
    if steps.graphs_for(device) is not None:
        stepping = functools.partial(_whole_steps, model, images, labels, size, precision)
        eager, replayed = stepping(), stepping(captured=True)
        yield f"{told}, a CUDA graph replayed", replayed, "the same, kernel by kernel", eager
        yield f"{told}, cudnn.benchmark", stepping(fastest=True), "without", eager
        yield f"{told}, torch.compile", stepping(compiled=True), "without", eager
        for number in (2, 4):
            apart, one_stream = (stepping(captured=True, number=number, apart=a) for a in (1, 0))
            yield f"{told}, {number} trainings, each on its stream", apart, "on one", one_stream
    if not size.rounds:
        return

    x = torch.randn(SCORING_IMAGES, *size.shape, generator=stream).to(device)
    batch = x, torch.randint(CLASSES, (SCORING_IMAGES,), generator=stream).to(device)
    one_pass = _forward_and_backward(model, *batch)
    for name in METHODS:
        label = f"{name}: scores and masks"
        if find_method(name).iterations > 1:
            label += f", first {size.rounds} of {find_method(name).iterations} rounds"
        against = f"forward and backward pass, {SCORING_IMAGES} images"
        yield label, _pruning(model, name, size, [batch]), against, one_pass
    selecting, sorting = _selection(model, device)
    yield "masks from scores", selecting, "sorting all scores", sorting


def clock(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds that `work` takes, the device's own included."""
    environment.synchronize(device)
    started = time.perf_counter()
    work()
    environment.synchronize(device)
    return time.perf_counter() - started


def _loader(images: Tensor, labels: Tensor, size: Size) -> Loader:
    half = torch.full((size.shape[0],), 0.5, device=images.device)
    augment = "flip_crop" if size.shape[0] == 3 else None
    return Loader(images, labels, half, half, size.batch_size, augment=augment, seed=0)


def _suite(model: nn.Module, images: Tensor, labels: Tensor, size: Size, precision: str) -> Timed:
    network = copy.deepcopy(model)
    masks = prune_rounds(network, find_method("magnitude"), SPARSITY, Context())
    hyper = dataclasses.replace(protocols.find("seed"), learning_rate=0.01)
    test = _loader(images[:1], labels[:1], size)

    def once() -> float:
        data = _loader(images, labels, size)
        return loop.train(network, masks, data, test, hyper, 1, precision).step_seconds

    return once


def _bare(model: nn.Module, images: Tensor, labels: Tensor, size: Size, precision: str) -> Timed:
    """The same steps without torchbearer, masks and records."""
    network = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    dtype = environment.DTYPES[precision]

    def epoch() -> None:
        for x, y in _loader(images, labels, size):
            lower = dtype is not torch.float32
            with torch.autocast(x.device.type, dtype if lower else None, enabled=lower):
                logits = network(x)
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), y).backward()
            optimizer.step()

    return lambda: clock(images.device, epoch)


def _whole_steps(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    size: Size,
    precision: str,
    *,
    captured: bool = False,
    fastest: bool = False,
    compiled: bool = False,
    number: int = 1,
    apart: bool = False,
) -> Timed:
    """Steps with their masks, without torchbearer, of a `number` of trainings in turn.

    captured: in the first call, and then replayed. fastest: with cuDNN's quickest algorithms.
    compiled: the network by torch.compile. apart: every training on a stream of its own.
    """
    device = images.device
    made = [_whole_step(model, precision, captured, compiled) for _ in range(number)]
    streams = [torch.cuda.Stream(device) if apart else None for _ in made]
    trying = cuda_graphs.fastest_convolutions if fastest else contextlib.nullcontext

    def epoch() -> None:
        for x, y in _loader(images, labels, size):
            for step, stream in zip(made, streams, strict=True):
                if stream is None:
                    step(x, y)
                    continue
                stream.wait_stream(torch.cuda.current_stream(device))
                with torch.cuda.stream(stream):
                    step(x, y)
            for stream in filter(None, streams):
                torch.cuda.current_stream(device).wait_stream(stream)

    def once() -> float:
        with trying(device):
            return clock(device, epoch)

    return once


def _whole_step(
    model: nn.Module, precision: str, captured: bool, compiled: bool
) -> cuda_graphs.Step:
    network = copy.deepcopy(model).train()
    masks = prune_rounds(network, find_method("magnitude"), SPARSITY, Context())
    hyper = dataclasses.replace(protocols.find("seed"), learning_rate=0.01)
    optimizer = steps.make_optimizer(network, hyper, precision, whole=True)
    pairs = paired(dict(network.named_parameters()), masks)
    step = steps.whole_step(
        torch.compile(network) if compiled else network, optimizer, pairs, precision
    )
    graphs = steps.graphs_for(next(network.parameters()).device)
    return steps.captured_step(step, network, optimizer, graphs) if captured else step


def _forward_and_backward(model: nn.Module, images: Tensor, labels: Tensor) -> Timed:
    network = copy.deepcopy(model).train()

    def once() -> None:
        network.zero_grad()
        F.cross_entropy(network(images), labels).backward()

    return lambda: clock(images.device, once)


def _pruning(model: nn.Module, name: str, size: Size, batches: list) -> Timed:
    method = find_method(name)
    sparsity = SPARSITY
    if method.iterations > 1:
        # As far as the method is after as many of its own rounds.
        sparsity = 1 - (1 - SPARSITY) ** (size.rounds / method.iterations)
        method = dataclasses.replace(method, iterations=size.rounds)

    def once() -> float:
        network = copy.deepcopy(model)
        context = Context(size.shape, batches, generator(0, "pruning"))
        device = batches[0][0].device
        return clock(device, lambda: prune_rounds(network, method, sparsity, context))

    return once


def _selection(model: nn.Module, device: torch.device) -> tuple[Timed, Timed]:
    scores = {name: weight.detach().abs() for name, weight in prunable(model).items()}
    keep = keep_count(sum(score.numel() for score in scores.values()), SPARSITY)

    def naive() -> list[Tensor]:
        threshold = torch.cat([s.flatten() for s in scores.values()]).sort(descending=True)[0][keep]
        return [score > threshold for score in scores.values()]

    ties = generator(0, "pruning")
    return lambda: clock(device, lambda: select(scores, keep, ties)), lambda: clock(device, naive)


def _show(rows: list[dict], console: Console) -> None:
    first = rows[0]
    title = f"batches of {first['batch_size']}, {first['precision']}; "
    table = Table(title=title + f"{first['device']}; torch {first['torch_version']}")
    for name in ("model", "measured", "seconds", "against", "seconds", "ratio of times"):
        table.add_column(name, justify="right" if name in ("seconds", "ratio of times") else "left")
    for row in rows:
        numbers = [f"{row[name]:.3g}" for name in ("seconds", "against_seconds")]
        told = (row["model"], row["measured"], numbers[0], row["against"], numbers[1])
        table.add_row(*told, f"{row['ratio']:.2f}")
    console.print(table)
