"""Makes results what readers see: tables, figures and notebooks, committed.

Everything is written below one repository: figures/results/<grid>/ (the collected tables),
figures/ (rendered.ipynb, PNG, SVG, tables), trials/<method>/rendered.ipynb (a run of the
grid) and the tables in `PAGES`, between `<!-- table: name -->` and `<!-- /table -->`. One grid has
the figures and those tables; others lie beside it. What all of them say is figures/findings.ipynb,
executed every time; the pages quote its sentences by their keys. The hours that grids take follow
from all published throughput.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import pandas as pd
from rich.console import Console

from common import plots
from common.base.errors import ConfigurationError, NotebookError
from common.base.files import write_atomically
from common.base.paths import ROOT
from common.base.version import is_commit
from common.commands import hours
from common.commands.notebooks import (
    RENDERED,
    is_source,
    merge_parameters,
    rendered_copy,
    write,
)
from common.commands.one_notebook import own_settings
from common.results import collected, reference
from common.results.collected import Keys
from common.sweep.execute import run_notebook

PAGES = ("README.md", "figures/README.md")  # those that show tables and quote findings
HOURS = "trials/grids/README.md"  # shows what grids take
SHOWN = 0.9  # the sparsity whose run is the method's rendered notebook, or the nearest to it
# Parameters that say where something was on the machine, not what was done.
_PLACES = ("data_dir", "results_dir", "output_dir")
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
_FINDING = re.compile(r"(<!-- finding: (\S+) -->).*?(<!-- /finding -->)", re.DOTALL)


def publish(
    root: Path, source: str | None, console: Console, home: Path = ROOT, only: Keys | None = None
) -> None:
    """Publish the finished runs of the grid in `root` with the published curves of `source`.

    home: the repository that is written. only: (method, run_id) of the grid's runs.
    Raises ConfigurationError, before anything is written, if
    no run is finished, a run's code version is unknown or had uncommitted changes, runs are of
    several settings, or the source is unknown; NotebookError if the figures' notebook fails.
    """
    found = _collect(root, console, only)
    if len(parts := plots.settings(found.summary)) > 1:
        raise ConfigurationError(f"publish: one setting at a time, not {', '.join(parts)}")
    pages = {home / name: (home / name).read_text(encoding="utf-8") for name in PAGES}
    shown = {match[2] for text in pages.values() for match in _TABLE.finditer(text)}
    if source is None and "published" in shown:
        raise ConfigurationError(
            "--reference SOURCE is missing: the pages show the results beside published ones; "
            f"choose from: {', '.join(reference.SOURCES)}"
        )
    tables = page_tables(found.summary, source)
    pages = {page: with_tables(text, tables) for page, text in pages.items()}
    results = home / "figures" / "results" / root.name
    collected.write_collected(found, results)
    _figures(home / "figures", root.name, source)
    _notebooks(root, found.summary, home)
    for page, text in pages.items():
        _write_page(page, text)
    _findings(home)
    _hours(home)
    _done(len(found.summary), console)


def publish_beside(
    root: Path, console: Console, home: Path = ROOT, only: Keys | None = None
) -> None:
    """Publish the grid in `root` beside the one that the figures show: tables and notebooks alone.

    Runs that are in the committed tables and not in `root` stay there; of a run in both, that of
    `root` does. Raises ConfigurationError, before anything is written, as `publish` does, but
    several settings are allowed.
    """
    new = found = _collect(root, console, only)
    results = home / "figures" / "results" / root.name
    if (results / "summary.csv").is_file():
        found = collected.together(new, collected.collect(results))
    collected.write_collected(found, results)
    _notebooks(root, new.summary, home)
    _findings(home)
    _hours(home)
    _done(len(found.summary), console)


def render(notebook: Path, settings: Sequence[str] = ()) -> Path:
    """Execute a notebook; the copy lies beside it (`rendered_copy`), and is returned.

    settings: `name=value` of parameters that are not as the notebook has them. Raises
    ConfigurationError for what is not a source notebook or none of its parameters, NotebookError if
    a cell fails; then an earlier copy is left as it was.
    """
    if not is_source(notebook) or not notebook.is_file():
        raise ConfigurationError(f"render: {notebook} is not a source notebook")
    parameters = own_settings(notebook, settings)
    with tempfile.TemporaryDirectory() as scratch:
        executed = _executed(notebook, Path(scratch, RENDERED), parameters)
        write(executed, rendered_copy(notebook))
    return rendered_copy(notebook)


def check(summary: pd.DataFrame) -> None:
    """Raises ConfigurationError unless all runs are of committed code."""
    for version in summary["code_version"].unique():
        if not is_commit(version):
            raise ConfigurationError(
                f"code_version: {version!r} is not a commit; run the grid from a committed state"
            )


def representatives(summary: pd.DataFrame) -> dict[str, str]:
    """Method -> the run that its rendered notebook shows: unmodified, the plain variant if it was
    run, nearest to 90 percent removed, of the lowest seed."""
    runs = summary[summary["ablation"] == "none"]
    runs = runs.assign(distance=(runs["sparsity"] - SHOWN).abs(), plain=runs["variant"] == "")
    order = ["plain", "distance", "seed", "run_id"]
    first = runs.sort_values(order, ascending=[False, True, True, True]).drop_duplicates("method")
    return dict(zip(first["method"], first["run_id"], strict=True))


def page_tables(summary: pd.DataFrame, source: str | None) -> dict[str, pd.DataFrame]:
    """The tables that pages show, by the names that they give them."""
    found = {
        "results": plots.by_sparsity(plots.accuracies(summary)),
        "effects": plots.by_sparsity(plots.ablation_effects(summary)),
        "against_random": plots.by_sparsity(plots.random_compared(summary)),
    }
    if source:
        network = summary[["dataset", "model"]].iloc[0]
        published = reference.curves(source, *network)
        both = plots.beside_published(summary, published)
        found["published"] = plots.published_table(both)
        found["order"] = plots.orders_table(plots.orders_compared(both))
    return found


def with_tables(text: str, tables: dict[str, pd.DataFrame]) -> str:
    """A page with these tables in their places. Raises ConfigurationError for one without."""
    names = {match[2] for match in _TABLE.finditer(text)}
    if missing := sorted(names - tables.keys()):
        raise ConfigurationError(f"no table is called {', '.join(missing)}")
    return _TABLE.sub(lambda m: f"{m[1]}{plots.markdown(tables[m[2]])}{m[3]}", text)


def with_findings(text: str, findings: Mapping[str, str]) -> str:
    """A page with these sentences where it quotes them, `<!-- finding: key -->` to
    `<!-- /finding -->`. Raises ConfigurationError for a key without one."""
    if missing := sorted({match[2] for match in _FINDING.finditer(text)} - findings.keys()):
        raise ConfigurationError(f"no finding is called {', '.join(missing)}")
    return _FINDING.sub(lambda match: f"{match[1]}{findings[match[2]]}{match[3]}", text)


def cleaned(path: Path) -> nbformat.NotebookNode:
    """An executed notebook without what only its machine and its moment needed: times, widgets,
    versions of the kernel, folders among the parameters; these with the values used."""
    notebook = nbformat.read(path, as_version=4)
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    merge_parameters(notebook, hidden=_PLACES)
    return notebook


def _collect(root: Path, console: Console, only: Keys | None) -> collected.Collected:
    """The grid's runs, which may be shown; says what was left out and why."""
    found = collected.collect(root, only=only)
    check(found.summary)
    for folder, reason in found.left_out:
        console.print(f"left out: {folder}: {reason}", soft_wrap=True, markup=False)
    return found


def _notebooks(root: Path, summary: pd.DataFrame, home: Path) -> None:
    for method, run_id in representatives(summary).items():
        notebook = root / method / run_id / "notebook.ipynb"
        if notebook.is_file():
            write(cleaned(notebook), home / "trials" / method / RENDERED)


def _done(runs: int, console: Console) -> None:
    console.print(f"{runs} runs published; look at what git says has changed")


def _figures(folder: Path, grid: str, source: str | None) -> None:
    """Draw the committed tables' figures. The files in `folder` itself are the notebook's: those
    that it draws no more go."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "output")
        parameters = {
            "grid": grid,
            "results_dir": str(folder / "results"),
            "output_dir": str(output),
            "reference": source,
        }
        executed = _executed(folder / "figures.ipynb", Path(scratch, RENDERED), parameters)
        for stale in folder.glob("*.*"):
            if stale.suffix in (".png", ".svg", ".csv"):
                stale.unlink()
        for drawn in output.iterdir():
            shutil.copy(drawn, folder / drawn.name)
        write(executed, folder / RENDERED)


def _findings(home: Path) -> None:
    """Execute findings.ipynb on all committed tables: findings.csv, its copy, and what the pages
    quote. Nothing where the repository has no such notebook."""
    folder = home / "figures"
    if not (notebook := folder / "findings.ipynb").is_file():
        return
    with tempfile.TemporaryDirectory() as scratch:
        parameters = {"results_dir": str(folder / "results"), "output_dir": scratch}
        executed = _executed(notebook, Path(scratch, RENDERED), parameters)
        found = pd.read_csv(Path(scratch, "findings.csv"), index_col="key")["text"].to_dict()
        pages = [home / name for name in PAGES]
        texts = [with_findings(page.read_text(encoding="utf-8"), found) for page in pages]
        shutil.copy(Path(scratch, "findings.csv"), folder)
        write(executed, rendered_copy(notebook))
        for page, text in zip(pages, texts, strict=True):
            _write_page(page, text)


def _hours(home: Path) -> None:
    """What grids take by the throughput that is published now; nothing without their page."""
    if (page := home / HOURS).is_file():
        tables = {"hours": hours.table(home / "figures" / "results")}
        _write_page(page, with_tables(page.read_text(encoding="utf-8"), tables))


def _write_page(page: Path, text: str) -> None:
    write_atomically(page, lambda path: path.write_text(text, encoding="utf-8"))


def _executed(notebook: Path, output: Path, parameters: Mapping) -> nbformat.NotebookNode:
    """The notebook, executed and cleaned; NotebookError if a cell fails."""
    failed = run_notebook(notebook, output, parameters, mark=f"{output} {os.getpid()}")
    if failed:
        raise NotebookError(f"{notebook.name} failed: {failed.error}")
    return cleaned(output)
