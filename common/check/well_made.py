"""Is a score well made? On small networks and the shapes of large ones, in seconds on a CPU."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from common import models
from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.check.watch import Watch
from common.datasets import DATASETS
from common.models.initialisation import initialise
from common.pruning import Method, keep_count, kept, prunable
from common.pruning.outside import Outside, line_of
from common.pruning.rounds import prune_rounds
from common.pruning.scores import Context, Scores
from common.results.reference import MODELS
from common.results.words import listed
from common.sweep import needs

POINTS = (
    "a score for every prunable weight",
    "finite, in float32 and in bfloat16",
    "the model left as it was found",
    "the same seed, the same scores",
    "exact counts, round after round",
    "no more memory than it says",
)
ROUNDS, SPARSITY = 3, 0.9
CLASSES = 10


class Fault(Exception):
    """A point that is not met: which one, and a sentence."""

    def __init__(self, point: int, line: int | None, told: str) -> None:
        super().__init__(told)
        self.point, self.line, self.told = point, line, told


@dataclass(frozen=True)
class Case:
    """A network drawn from `seed`, and images of its data set's shape that are noise."""

    model: str
    dataset: str
    images_per_class: int
    dtype: torch.dtype = torch.float32

    def network(self, seed: int = 0) -> nn.Module:
        """The network, with BatchNorm weights that differ."""
        spec = DATASETS[self.dataset]
        network = models.build(self.model, spec.shape, CLASSES)
        self._draw(network, generator(seed, "initial weights"))
        return network.to(self.dtype)

    def context(self, method: Method, images: int = 0, labels: int = 0, stream: int = 0) -> Context:
        """What `method` may look at; the numbers choose other images, labels, random streams."""
        shape, count = DATASETS[self.dataset].shape, CLASSES * self.images_per_class
        batches = []
        if method.needs_images:
            for index in range(method.training_batches or 1):
                x = torch.randn(count, *shape, generator=generator(images, "images", index))
                y = (torch.arange(count) + labels) % CLASSES
                batches.append((x.to(self.dtype), y))
        draws = generator(stream, "pruning")
        return Context(shape, batches, draws, initialise=self._draw, inputs=count)

    @property
    def name(self) -> str:
        """Network and precision, in words."""
        return f"{MODELS[self.model]} in {str(self.dtype).removeprefix('torch.')}"

    @staticmethod
    def _draw(network: nn.Module, stream: torch.Generator) -> None:
        initialise(network, "kaiming_normal", "uniform", stream)


SMALL = Case("small_vgg", "digits", 2)
LARGE = (Case("resnet20", "cifar10", 1), Case("vgg16", "cifar10", 1))
EVERY = (SMALL, Case("lenet_300_100", "digits", 2), *LARGE)
CASES = (*EVERY, *(dataclasses.replace(one, dtype=torch.bfloat16) for one in (SMALL, *LARGE)))


def examine(outside: Outside, method: Method) -> pd.DataFrame:
    """The points, `met` or not, and of each a sentence: with the line of the method where it fails.

    method: as it is to be run, with the options that the file does not have.
    """
    told = dict.fromkeys(range(len(POINTS)), "")
    failed: dict[int, str] = {}
    for examination in _examinations(outside, method):
        try:
            told |= examination()
        except Fault as fault:
            line = fault.line or outside.score.__code__.co_firstlineno
            sentence = f"{outside.path.name}:{line}: {outside.score.__name__} {fault.told}"
            failed.setdefault(fault.point, sentence)
            if fault.point < 2:
                break  # without whole scores there is nothing else to look at
    rows = [
        {"point": name, "met": point not in failed, "told": failed.get(point, told[point])}
        for point, name in enumerate(POINTS)
        if told[point] or point in failed
    ]
    return pd.DataFrame(rows)


def looks_at(method: Method) -> dict[str, bool]:
    """What the scores hang on, found by changing one thing at a time: the network's weights, the
    images, their labels, the run's random stream."""
    first = method.score(SMALL.network(), SMALL.context(method))
    first = {name: score.clone() for name, score in first.items()}
    others = {
        "weights": (SMALL.network(1), SMALL.context(method)),
        "images": (SMALL.network(), SMALL.context(method, images=1)),
        "labels": (SMALL.network(), SMALL.context(method, labels=1)),
        "random stream": (SMALL.network(), SMALL.context(method, stream=1)),
    }
    return {name: not _equal(first, method.score(*other)) for name, other in others.items()}


def require(points: pd.DataFrame) -> None:
    """Raises ConfigurationError with the sentences of the points that are not met."""
    if not points["met"].all():
        raise ConfigurationError("; ".join(points.loc[~points["met"], "told"]))


class Memory(TorchDispatchMode):
    """Inside, `peak` is what tensors made inside take at most at a time, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> object:
        known = self._held | {tensor.untyped_storage()._cdata for tensor in _tensors(args)}
        result = function(*args, **(kwargs or {}))
        for tensor in _tensors([result]):
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                known.add(storage._cdata)
                self._held.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, address: int, size: int) -> None:
        self._held.discard(address)
        self.now -= size


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _examinations(outside: Outside, method: Method) -> Iterator[Callable[[], dict[int, str]]]:
    for case in CASES:
        yield lambda case=case: _whole_and_finite(outside, method, case)
    yield lambda: _left_alone(outside, method, model_alone=True)
    yield lambda: _repeated(outside, method)
    yield lambda: _counted(outside, method)
    yield lambda: _within_memory(method)


def _scores(outside: Outside, method: Method, network: nn.Module, context: Context) -> Scores:
    try:
        return method.score(network, context)
    except Exception as error:
        raise Fault(0, line_of(error, outside.path), _raised(method, context, error)) from error


def _raised(method: Method, context: Context, error: Exception) -> str:
    told = f"ends with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if not context.batches:
        told += " (it gets no images: images_per_class is 0, --images-per-class 10 gives it some)"
    return told


def _whole_and_finite(outside: Outside, method: Method, case: Case) -> dict[int, str]:
    network = case.network()
    scores = _scores(outside, method, network, case.context(method))
    if not isinstance(scores, dict):
        raise Fault(0, None, f"returns {type(scores).__name__}, not {{parameter name: scores}}")
    for name, weight in prunable(network).items():
        score = scores.get(name)
        if not isinstance(score, Tensor):
            there = "no score" if score is None else f"a {type(score).__name__} for the scores"
            raise Fault(
                0, None, f"has {there} of {name} ({case.name}); prunable(model) names all weights"
            )
        if score.shape != weight.shape:
            raise Fault(
                0,
                None,
                f"gives {name} scores of shape {tuple(score.shape)}, the weight has "
                f"{tuple(weight.shape)} ({case.name}): one score a weight",
            )
        if bad := int((~torch.isfinite(score)).sum()):
            raise Fault(
                1,
                None,
                f"gives {bad} of {score.numel()} weights of {name} a score that is NaN or infinite "
                f"({case.name}): mind divisions by zero, logarithms of it, and float32's range "
                "(.double())",
            )
    if extra := sorted(set(scores) - set(prunable(network))):
        raise Fault(0, None, f"scores {extra[0]}, which is not pruned: prunable(model) names all")
    shown = listed(dict.fromkeys(MODELS[one.model] for one in CASES))
    return {0: shown, 1: shown}


def _left_alone(outside: Outside, method: Method, model_alone: bool) -> dict[int, str]:
    """Point 2, of the model; or point 3, of the global generators."""
    network = SMALL.network()
    network.train()
    with Watch(network, outside.path) as watch:
        _scores(outside, method, network, SMALL.context(method))
    for aspect, (line, told) in watch.faults().items():
        if (aspect in ("torch", "numpy", "random")) != model_alone:
            raise Fault(2 if model_alone else 3, line, told)
    return {2: "weights, statistics, modes, gradients and hooks"} if model_alone else {}


def _repeated(outside: Outside, method: Method) -> dict[int, str]:
    _left_alone(outside, method, model_alone=False)
    found = []
    for state in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            scores = _scores(outside, method, SMALL.network(), SMALL.context(method))
            found.append({name: score.clone() for name, score in scores.items()})
    if not _equal(*found):
        raise Fault(
            3,
            None,
            "gives other scores when it is called again: what is random must come from "
            "context.generator, what is kept must not be changed",
        )
    return {3: "and nothing drawn from global generators"}


def _counted(outside: Outside, method: Method) -> dict[int, str]:
    few = dataclasses.replace(method, iterations=min(method.iterations, ROUNDS))
    network = SMALL.network()
    total = sum(weight.numel() for weight in prunable(network).values())
    try:
        masks = prune_rounds(network, few, SPARSITY, SMALL.context(method))
    except Exception as error:
        told = f"fails in the pruned network, whose pruned weights are zero: {error}"
        raise Fault(4, line_of(error, outside.path), told) from error
    left = kept(masks)
    if left != keep_count(total, SPARSITY):
        raise Fault(4, None, f"keeps {left} of {total} weights, not {keep_count(total, SPARSITY)}")
    return {4: f"{left:,} of {total:,} weights after {few.iterations} of {method.iterations}"}


def _within_memory(method: Method) -> dict[int, str]:
    shown = []
    for case in LARGE:
        network, context = case.network(), case.context(method)
        with Memory() as memory:
            method.score(network, context)
        taken = memory.peak
        found = needs.footprint(case.model, case.dataset)
        images = sum(len(labels) for _, labels in context.batches)
        images = max(images, min(context.inputs, CLASSES))
        said = needs.COPIES * found.weights + method.graphs * found.graph * images
        if taken > said:
            graphs = method.graphs + -(-(taken - said) // (found.graph * images))
            raise Fault(
                5,
                None,
                f"takes {taken / 2**20:,.0f} MiB beside {case.name}, more than {needs.COPIES} "
                f"copies of the weights and {method.graphs} forward passes at a time "
                f"({said / 2**20:,.0f} MiB): say Method(..., graphs={graphs})",
            )
        shown.append(f"{taken / 2**20:,.0f} of {said / 2**20:,.0f} MiB ({MODELS[case.model]})")
    return {5: listed(shown)}


def _equal(one: Scores, other: Scores) -> bool:
    return all(torch.equal(score, other[name]) for name, score in one.items())
