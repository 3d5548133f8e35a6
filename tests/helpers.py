"""What several test files share: runs and notebooks from start to end, their tables, comparing,
and reading figures."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pandas as pd
import torch
from matplotlib.figure import Figure

from common.base.paths import ROOT
from common.results.schema import EXACT
from common.runs.experiment import Experiment
from common.runs.run import Run
from common.structured.filter_run import FilterRun
from common.tickets.ticket import TicketRun

RUNS = {"lottery_ticket": TicketRun, "filter_lasso": FilterRun}
TIMED = (
    *("prune_seconds", "train_seconds", "images_per_second", "started_at", "seconds"),
    *("latency_ms_1", "latency_ms_128"),
)


def carry_out(experiment: Experiment) -> Run:
    """As its notebook does."""
    run = RUNS.get(experiment.method, Run)(experiment)
    run.score()
    run.prune()
    run.train()
    run.save()
    return run


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """All tables of a run, by name."""
    return {path.stem: pd.read_csv(path, **EXACT) for path in sorted(folder.glob("*.csv"))}


def untimed(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a run without what no second run has."""
    return {n: t.drop(columns=[*TIMED], errors="ignore") for n, t in tables(folder).items()}


def assert_same_tables(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, two[name], check_exact=True)


def assert_same(found: dict, expected: dict, **tolerance) -> None:
    """Tensors by name; exactly so with `rtol=0, atol=0`."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance)


def execute_notebook(notebook: Path, output: Path, **parameters: object) -> nbformat.NotebookNode:
    """The notebook, executed by papermill into `output`."""
    import papermill

    executed = papermill.execute_notebook(
        *(str(notebook), str(output), parameters),
        cwd=str(ROOT),
        kernel_name="python3",
        progress_bar=False,
        start_timeout=600,  # on a busy machine
        stdout_file=sys.stdout,
    )
    assert output.stat().st_size < 500_000
    assert "widgets" not in executed.metadata
    return executed


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """What its cells show of a kind, such as image/png."""
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"][kind] for output in shown if kind in output.get("data", {})]


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def left_titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]
