"""The runs of a grid, validated: everything that can be known to be wrong is said here."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from common import datasets, models
from common.base.errors import ConfigurationError
from common.pruning import prunable
from common.pruning.diagnostics import multiply_adds
from common.runs import experiment, registry
from common.runs.experiment import Experiment
from common.runs.network import EVALUATION_BATCH, SCORING_BATCH
from common.sweep.grid import Grid
from common.sweep.job import Job

CONTEXT = 1.0e9  # bytes: CUDA's context and the workspaces of its libraries
IMAGES = 120_000  # of the largest data set, a byte each channel of each pixel
SINGLE = 4  # bytes of a float32; a run in lower precision takes less
COPIES = 12  # of the weights: gradients, momentum, masks; scoring in float64 and its buffers
GRAPHS = {"grasp": 3, "ntk_sap": 3, "prospr": 5}  # forward passes that a score keeps at a time


def notebooks(trials: Path) -> dict[str, Path]:
    """{method: its notebook} of the folder `trials`; other notebooks may lie there too."""
    found = {method: trials / method / f"{method}.ipynb" for method in registry.names()}
    return {method: path for method, path in found.items() if path.is_file()}


def plan(
    grid: Grid,
    root: Path,
    notebooks: Mapping[str, Path],
    overrides: Mapping[str, list] | None = None,
) -> list[Job]:
    """Configure every run of the grid, results under `root`; identical runs become one.

    Touches neither data nor device. Raises ConfigurationError saying where the wrong value stands.
    """
    jobs: dict[Path, Job] = {}
    for where, run in grid.runs(overrides):
        method, parameters = run.pop("method"), run
        try:
            configured = experiment.configure(method, **parameters, results_dir=root)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: method={method!r}: {error}") from error
        jobs.setdefault(configured.folder, _job(configured, notebooks[method]))
    return list(jobs.values())


def check_data(jobs: Iterable[Job]) -> None:
    """Find every data set that the jobs need, once each. Raises ConfigurationError."""
    needed = {(job.parameters["dataset"], job.parameters["data_dir"]): None for job in jobs}
    for name, folder in needed:
        datasets.check(name, folder)


def _job(configured: experiment.Experiment, notebook: Path) -> Job:
    parameters = configured.parameters()
    if parameters["data_dir"]:  # the notebook runs in another working folder
        parameters["data_dir"] = str(Path(parameters["data_dir"]).expanduser().resolve())
    epochs = configured.all_epochs
    method = (configured.method, configured.variant)
    return Job(
        method=configured.method,
        run_id=configured.run_id,
        folder=configured.folder,
        notebook=notebook,
        parameters=parameters,
        kind=(*method, configured.model, configured.dataset, epochs, configured.batch_size),
        cost=(epochs + 1) * _work(configured.model, configured.dataset),
        memory=memory_needed(configured),
    )


@functools.cache
def _work(model: str, dataset: str) -> float:
    """Multiply-accumulate operations for one image."""
    spec = datasets.DATASETS[dataset]
    network = models.build(model, spec.shape, spec.classes)
    return float(sum(multiply_adds(network, spec.shape).values()))


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
    method = registry.find(experiment.method, experiment.variant)
    scored = min(method.images_per_class * spec.classes, SCORING_BATCH)
    if method.training_batches:
        scored = experiment.batch_size
    images = max(experiment.batch_size, GRAPHS.get(experiment.method, 1) * scored)
    evaluation = 3 * found.largest * EVALUATION_BATCH
    data = IMAGES * math.prod(spec.shape)
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
