"""The runs of a grid, validated and ready to be carried out: everything that can be known to be
wrong is said here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common import datasets
from common.base.errors import ConfigurationError
from common.pruning import outside
from common.runs import experiment, registry
from common.runs.experiment import Experiment
from common.sweep.grid import Grid


@dataclass(frozen=True)
class Job:
    """One run, ready to be carried out on any machine that sees the repository and the results.

    kind: runs of one kind take about the same time. cost: relative time, where nothing is known.
    memory: bytes that it takes on a GPU at most, roughly.
    """

    method: str
    run_id: str
    folder: Path
    notebook: Path
    parameters: Mapping[str, object] = field(compare=False)
    kind: tuple = ()
    cost: float = 1.0
    memory: float = 0.0

    @property
    def name(self) -> str:
        """The run's name within its grid."""
        return f"{self.method}/{self.run_id}"


def notebooks(trials: Path) -> dict[str, Path]:
    """{method: its notebook} of the folder `trials`; other notebooks may lie there too. Methods
    from outside share one."""
    found = {method: trials / method / f"{method}.ipynb" for method in registry.names()}
    found |= dict.fromkeys(outside.LOADED, trials / "your_method" / "one_run.ipynb")
    return {method: path for method, path in found.items() if path.is_file()}


def plan(
    grid: Grid,
    root: Path,
    notebooks: Mapping[str, Path],
    overrides: Mapping[str, list] | None = None,
) -> list[Job]:
    """The jobs of `experiments`."""
    runs = experiments(grid, root, overrides)
    return [job(run, notebooks[run.method]) for run in runs]


def experiments(
    grid: Grid, root: Path, overrides: Mapping[str, list] | None = None
) -> list[Experiment]:
    """Configure every run of the grid, results under `root`; identical runs become one.

    Touches neither data nor device, nor torch. Raises ConfigurationError saying where the wrong
    value stands.
    """
    found: dict[Path, Experiment] = {}
    for where, run in grid.runs(overrides):
        method, parameters = run.pop("method"), run
        try:
            configured = experiment.configure(method, **parameters, results_dir=root)
        except ConfigurationError as error:
            raise blamed(error, where, method, overrides or {}) from error
        found.setdefault(configured.folder, configured)
    return list(found.values())


def blamed(
    error: ConfigurationError, where: str, method: str, overrides: Iterable[str]
) -> ConfigurationError:
    """The error with the place of the value that it names: the command line, where that is one of
    the `overrides`, or the file."""
    named = re.match(r"(\w+)=|.* has no parameter '(\w+)'", str(error))
    name = named and (named[1] or named[2])
    if name in overrides:
        return ConfigurationError(f"-p {error}" if named[1] else f"-p {name}: {error}")
    of = "" if name == "method" else f"method={method!r}: "
    return ConfigurationError(f"{where}: {of}{error}")


def check_data(jobs: Iterable[Job]) -> None:
    """Find every data set that the jobs need, once each. Raises ConfigurationError."""
    needed = {(job.parameters["dataset"], job.parameters["data_dir"]): None for job in jobs}
    for name, folder in needed:
        datasets.check(name, folder)


def job(configured: Experiment, notebook: Path) -> Job:
    """The run, ready to be carried out; what it takes is measured on its network's shapes."""
    from common.runs import network
    from common.sweep import needs

    parameters = configured.parameters()
    if parameters["data_dir"]:  # the notebook runs in another working folder
        parameters["data_dir"] = os.path.abspath(parameters["data_dir"])
    if configured.method in outside.LOADED:
        parameters["score"] = outside.LOADED[configured.method].spec
    epochs = configured.all_epochs
    method = (configured.method, configured.variant)
    return Job(
        method=configured.method,
        run_id=configured.run_id,
        folder=configured.folder,
        notebook=notebook,
        parameters=parameters,
        kind=(*method, configured.model, configured.dataset, epochs, configured.batch_size),
        cost=(epochs + 1) * network.work(configured.model, configured.dataset),
        memory=needs.memory_needed(configured),
    )
