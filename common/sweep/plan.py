"""The runs of a grid, validated: everything that can be known to be wrong is said here."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

from common import datasets, models
from common.base.errors import ConfigurationError
from common.pruning.diagnostics import multiply_adds
from common.runs import experiment, registry
from common.sweep import memory
from common.sweep.claims import file_time
from common.sweep.grid import Grid
from common.sweep.job import Job


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


def check_writable(root: Path) -> float:
    """Make the results folder and prove it writable; returns its `file_time`.

    Raises ConfigurationError.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        return file_time(root)
    except OSError as error:
        raise ConfigurationError(
            f"{root} cannot be written ({error.strerror}); choose a folder with --results"
        ) from error


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
        memory=memory.need(configured),
    )


@functools.cache
def _work(model: str, dataset: str) -> float:
    """Multiply-accumulate operations for one image."""
    spec = datasets.DATASETS[dataset]
    network = models.build(model, spec.shape, spec.classes)
    return float(sum(multiply_adds(network, spec.shape).values()))
