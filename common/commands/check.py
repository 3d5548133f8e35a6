"""`trials check FILE`: a method from outside, from its file to a verdict on a page."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import nbformat
from rich.console import Console
from rich.markup import escape

from common.base.errors import NotebookError
from common.base.files import write_atomically
from common.base.paths import TRIALS
from common.check import well_made
from common.check.battery import Battery, battery
from common.commands.publish import cleaned
from common.results import collected
from common.sweep.execute import run_notebook

NOTEBOOK = TRIALS / "your_method" / "your_method.ipynb"


def run(
    score: str,
    grid: str,
    settings: Sequence[str],
    results: Path,
    console: Console,
    *,
    method: dict[str, object],
    **batch: object,
) -> int:
    """Examine a method, carry out its battery, write its pages; returns the exit status: 1 where a
    point is not met or a run fails.

    method: `outside.OPTIONS` that its file does not have. batch: options of `batch.run`. Raises
    ConfigurationError where the method, the grid or a setting cannot be had; NotebookError.
    """
    bench = battery(score, grid, settings, results, **method)
    console.print(f"{escape(bench.outside.label)}: is it well made?", soft_wrap=True)
    points = well_made.examine(bench.outside, bench.method)
    for row in points.itertuples():
        mark = "[green]yes[/green]" if row.met else "[red]no[/red] "
        console.print(f"  {mark}  {row.point}: {escape(row.told)}", soft_wrap=True)
    if not points["met"].all():
        return 1
    number, taken = len(bench.own), len(bench.published)
    console.print(f"Does it matter which weights? {number} runs, {taken} of others published")
    if status := bench.carry_out(console, **batch):
        return status
    given = {"score": bench.outside.spec, "grid": grid, "settings": " ".join(settings), **method}
    told = write_pages(bench, {**given, "results_dir": str(results.resolve())})
    console.print(escape(told), soft_wrap=True)
    for name in ("check.html", "check.ipynb", "summary.csv"):
        console.print(str(bench.root / name), soft_wrap=True)
    return 0


def write_pages(bench: Battery, parameters: dict[str, object]) -> str:
    """Execute the notebook beside the battery's runs, as check.ipynb, check.html and summary.csv;
    returns the verdict. Raises NotebookError if a cell fails."""
    collected.write_collected(collected.collect(bench.root), bench.root)
    output = bench.root / "check.ipynb"
    failed = run_notebook(NOTEBOOK, output, parameters, mark=f"{output} {os.getpid()}")
    if failed:
        raise NotebookError(f"{NOTEBOOK.name} failed: {failed.error}; see {output}")
    notebook = cleaned(output)
    write_atomically(output, lambda path: nbformat.write(notebook, path))
    page = output.with_suffix(".html")
    write_atomically(page, lambda path: path.write_text(standing_alone(notebook), encoding="utf-8"))
    return notebook.cells[-1].outputs[0].data["text/markdown"]


def standing_alone(notebook: nbformat.NotebookNode) -> str:
    """The notebook as one HTML page, its pictures inside, that asks nothing of the network."""
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    page = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    badge = r"<a [^>]*><img [^>]*src=\"http[^>]*></a>"
    return re.sub(rf'<link[^>]*href="http[^>]*>|{badge}', "", page)
