"""The training step as a CUDA graph: one launch a batch, where Python launches kernel after kernel.

After torch's notes on CUDA graphs: steps on a side stream warm up, the capture is on that stream,
autocast keeps no cache (see `steps`), inputs and results stay in one place. It has not run on a
GPU yet: everything but `CudaGraphs` is tested on a CPU, with a stand-in for the graph.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

WARM_UP = 3  # steps
# Of a training: a capture takes as long as some tens of steps.
FEWEST_STEPS = 200
# Between a replay and the step it was captured from, as a share of what the step changes. Both are
# the same kernels; some add in an order of their own every time.
TOLERANCE = 0.05

Results = tuple[Tensor, Tensor]
Step = Callable[[Tensor, Tensor], Results]
Changed = Callable[[], Mapping[str, Sequence[Tensor]]]


@contextlib.contextmanager
def fastest_convolutions(device: torch.device) -> Iterator[None]:
    """Inside, cuDNN tries its algorithms on every new shape and keeps the quickest; a training has
    few shapes. Scores, of a shape each, are computed without."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Graphs(Protocol):
    """How a function is captured, and how it is called before."""

    def warm_up(self, function: Callable[[], Results]) -> Results: ...

    def record(self, function: Callable[[], Results]) -> tuple[Callable[[], object], Results]: ...


class CudaGraphs:
    """CUDA graphs of functions that read and write the same tensors every time."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, function: Callable[[], Results]) -> Results:
        """Call `function` on the stream of the captures: libraries get their memory there."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            results = function()
        current.wait_stream(self.stream)
        return results

    def record(self, function: Callable[[], Results]) -> tuple[Callable[[], object], Results]:
        """What repeats `function`, and where its results will be. Nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        # The outer context is left properly even where the end of a capture fails.
        with torch.cuda.stream(self.stream), torch.cuda.graph(graph, stream=self.stream):
            results = function()
        return graph.replay, results


class Captured:
    """A training step that is replayed once it has been captured; called as the step is.

    step: (images, labels) -> (loss, logits), without their autograd graph. Whatever it changes, it
    changes in place, and does so on the device alone: a replay runs none of its Python.
    changed: () -> what it changes, by kind; it is asked after the warm-up.

    Python's numbers are fixed by a capture. What changes from step to step, such as the learning
    rate, must be a tensor that is filled.

    Batches of another shape than the first are left to the step itself, and everything from a
    capture on that fails, or whose replay does something else than the step; a warning says so.
    The results of a replay last until the next one.

    problem: why the step is not replayed; empty before there is one.
    """

    def __init__(self, step: Step, changed: Changed, graphs: Graphs) -> None:
        self.step, self.changed, self.graphs = step, changed, graphs
        self.shape: torch.Size | None = None
        self.steps_to_warm_up, self.problem = WARM_UP, ""
        self.inputs: tuple[Tensor, ...] = ()
        self.replay: Callable[[], object] | None = None

    @property
    def captured(self) -> bool | str:
        """Whether the step is replayed, or why not."""
        return self.problem or self.replay is not None

    def __call__(self, images: Tensor, labels: Tensor) -> Results:
        self.shape = self.shape or images.shape
        if self.problem or images.shape != self.shape:
            return self.step(images, labels)
        if self.steps_to_warm_up:
            self.steps_to_warm_up -= 1
            return self.graphs.warm_up(partial(self.step, images, labels))
        if self.replay is None:
            return self._capture(images, labels)
        for held, given in zip(self.inputs, (images, labels), strict=True):
            held.copy_(given)
        self.replay()
        return self.results

    def _capture(self, images: Tensor, labels: Tensor) -> Results:
        """Capture the step and try it on this batch, which the step itself then has: what it leaves
        is there to compare with, and the training does not depend on the trial."""
        self.inputs = images.clone(), labels.clone()
        changed = self.changed()
        before = _copies(changed)
        replayed, problem = None, ""
        try:
            self.replay, self.results = self.graphs.record(partial(self.step, *self.inputs))
            with torch.random.fork_rng([images.device] if images.is_cuda else []):
                self.replay()
            replayed = _copies({**changed, "results": self.results})
        except Exception as error:  # the step itself has worked before
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
        for kind, tensors in changed.items():
            for tensor, value in zip(tensors, before[kind], strict=True):
                tensor.copy_(value)
        results = self.step(images, labels)
        if replayed is not None:
            before["results"] = [torch.zeros_like(result) for result in results]
            problem = _difference(before, replayed, {**changed, "results": results})
        if problem:
            self.problem, self.replay, self.results = problem, None, None
            warnings.warn(
                f"training goes on without a CUDA graph of its step, only slower: {problem}",
                stacklevel=2,
            )
        return results


def _copies(tensors: Mapping[str, Sequence[Tensor]]) -> dict[str, list[Tensor]]:
    return {kind: [tensor.clone() for tensor in some] for kind, some in tensors.items()}


def _difference(before: Mapping, replayed: Mapping, stepped: Mapping) -> str:
    """What a replay did otherwise than the step, beyond the tolerance; empty if nothing."""
    for kind, after in stepped.items():
        change = _distance(after, before[kind])
        error = _distance(after, replayed[kind])
        # A training that has diverged has nothing to compare.
        if change.isfinite() and not error <= TOLERANCE * change:
            share = float(error / change)
            return f"a replay's {kind} are off by {share:.2g} of what a step changes"
    return ""


def _distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    squares = [(a.double() - b.double()).square().sum() for a, b in zip(one, other, strict=True)]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())
