"""What a run takes of a GPU's memory. It builds networks, so it imports torch."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from common import datasets, models
from common.datasets import streamed
from common.pruning import prunable
from common.runs import registry
from common.runs.experiment import Experiment
from common.runs.network import EVALUATION_BATCH, SCORING_BATCH

CONTEXT = 1.0e9  # bytes: CUDA's context and the workspaces of its libraries
IMAGES = 120_000  # of the largest data set, a byte each channel of each pixel
SINGLE = 4  # bytes of a float32; a run in lower precision takes less
COPIES = 12  # of the weights: gradients, momentum, masks; scoring in float64 and its buffers


@dataclass(frozen=True)
class Footprint:
    """Bytes: of what a training step keeps for the backward pass of one image, of the largest
    part of that, and of the weights."""

    graph: int
    largest: int
    weights: int


def memory_needed(experiment: Experiment) -> float:
    """Bytes of GPU memory for a run in float32, roughly and rather too much: so many share one.

    A run that dies for lack of memory in spite of this is tried again alone.
    """
    spec = datasets.DATASETS[experiment.dataset]
    found = footprint(experiment.model, experiment.dataset)
    method = registry.find_method(experiment.method, experiment.variant)
    large = spec.streamed
    most = streamed.SCORING_BATCH if large else SCORING_BATCH
    scored = min(method.images_per_class * spec.classes, most)
    if method.training_batches:
        scored = experiment.batch_size
    # A captured step keeps its memory to itself: what steps before it took lies beside it.
    trained = min(experiment.batch_size, experiment.hyper.micro_batch or experiment.batch_size)
    images = max(2 * trained, method.graphs * scored)
    evaluation = 3 * found.largest * (streamed.EVALUATION_BATCH if large else EVALUATION_BATCH)
    data = 0 if large else IMAGES * math.prod(spec.shape)
    return CONTEXT + data + COPIES * found.weights + max(found.graph * images, evaluation)


@functools.cache
def footprint(model: str, dataset: str) -> Footprint:
    """Measured on shapes alone (the meta device): no memory is taken."""
    spec = datasets.DATASETS[dataset]
    network = models.build(model, spec.shape, spec.classes).to("meta")
    saved: dict[int, list[int]] = {}
    for images in (1, 2):  # the difference leaves out what does not grow with the batch
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = network(torch.empty(images, *spec.shape, device="meta"))
            F.cross_entropy(logits, torch.zeros(images, dtype=torch.long, device="meta"))
        saved[images] = sizes
    grown = [two - one for one, two in zip(saved[1], saved[2], strict=True)]
    weights = SINGLE * sum(weight.numel() for weight in prunable(network).values())
    return Footprint(sum(grown), max(grown), weights)
