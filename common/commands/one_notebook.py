"""`trials notebook NAME`: one notebook, executed with parameters that are checked first."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape

from common.base.errors import ConfigurationError, shown, unknown
from common.base.files import make_writable
from common.base.paths import TRIALS
from common.results import run_folder
from common.runs import experiment, registry
from common.sweep import grid, plan
from common.sweep.execute import run_notebook


def run(name: str, settings: list[str], results: Path, console: Console) -> int:
    """Execute the notebook of a method or a study; returns the exit status.

    settings: `name=value`. The executed copy lies with the run's tables below `results`/notebooks.
    Raises ConfigurationError, before anything starts, for a notebook, a parameter or a value that
    is not known.
    """
    path = find(name)
    home = results.resolve() / "notebooks"
    if name in registry.names():
        given = grid.single(grid.overrides(settings))
        if "method" in given:
            raise ConfigurationError(f"-p method: the notebook is {name}'s; name another one")
        try:
            chosen = experiment.configure(name, **given, results_dir=home)
        except ConfigurationError as error:
            raise plan.blamed(error, path.name, name, given) from error
        folder, parameters = chosen.folder, chosen.parameters()
        if run_folder.is_done(folder):
            run_folder.prepare(folder)
    else:
        folder, parameters = home / name, own_settings(path, settings)
    make_writable(folder, "choose a folder with --results")
    output = folder / "notebook.ipynb"
    console.print(f"{name}: executing into {escape(str(output))}", soft_wrap=True)
    failed = run_notebook(path, output, parameters, mark=f"{output} {os.getpid()}")
    if failed:
        console.print(f"failed: {escape(failed.error or failed.state)}", soft_wrap=True)
        return 1
    console.print("done" + _accuracy(folder))
    return 0


def find(name: str) -> Path:
    """The notebook in the folder `name` of trials/. Raises ConfigurationError with the choices."""
    found = {p.stem: p for p in sorted(TRIALS.glob("*/*.ipynb")) if p.stem == p.parent.name}
    if name not in found:
        raise unknown("notebook", name, found)
    return found[name]


def own_settings(path: Path, settings: list[str]) -> dict[str, object]:
    """`name=value` for the notebook at `path`, whose parameters are those of its parameters cell.
    Raises ConfigurationError for another name or what is no YAML."""
    names = _parameters(path)
    given: dict[str, object] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in names:
            raise unknown("-p parameter", name, names)
        try:
            given[name] = grid.read_yaml(text)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"-p {shown(setting)}: the value is not valid YAML") from error
    return given


def _parameters(path: Path) -> Mapping[str, object]:
    """The names that a notebook's parameters cell assigns."""
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    own = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return {node.targets[0].id: node for node in ast.parse("\n".join(own)).body}


def _accuracy(folder: Path) -> str:
    """What the run came to, in words; nothing for a study, which leaves no such table."""
    if not run_folder.is_done(folder):
        return ""
    import pandas as pd

    row = pd.read_csv(folder / "summary.csv").iloc[0]
    return f": test accuracy {row['test_accuracy']:.2f} %, {row['sparsity_actual']:.4f} removed"
