"""Keeps committed notebooks in step with the code: the choices of their forms, and the prose and
imports of their rendered copies."""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from common.base.errors import ConfigurationError
from common.base.files import write_atomically
from common.base.paths import ROOT
from common.datasets import DATASETS
from common.models import MODELS
from common.pruning.ablations import ABLATIONS
from common.results.reference import SOURCES as PUBLISHED
from common.runs import registry
from common.runs.experiment import PRECISIONS
from common.studies.conservation import CHAINS
from common.training.protocols import PROTOCOLS

RENDERED = "rendered.ipynb"
FIELD = re.compile(r"(\w+ = .*?  # @param )(\[.*?\])((?: \{.*\})?)")


def sources(root: Path = ROOT) -> list[Path]:
    """The source notebooks of the repository in `root`."""
    found = [*root.glob("trials/**/*.ipynb"), *root.glob("figures/*.ipynb")]
    return sorted(p for p in found if is_source(p) and p.parent.name != ".ipynb_checkpoints")


def is_source(path: Path) -> bool:
    """Whether this would be a source notebook by its name."""
    return path.suffix == ".ipynb" and not path.name.endswith(RENDERED)


def rendered_copy(source: Path) -> Path:
    """Where a notebook's executed copy lies: rendered.ipynb, or NAME-rendered.ipynb for another
    notebook than the one that its folder is named after."""
    main = (
        source.stem == source.parent.name
        or not source.with_name(f"{source.parent.name}.ipynb").is_file()
    )
    return source.with_name(RENDERED if main else f"{source.stem}-{RENDERED}")


# Forms


def choices(name: str, root: Path = ROOT) -> dict[str, list[str]]:
    """{parameter: what it may be} for the notebook called `name`, of those chosen from a list."""
    known: dict[str, Iterable[str]] = {
        "protocol": PROTOCOLS,
        "dataset": DATASETS,
        "model": CHAINS if name == "conservation" else MODELS,
        "ablation": ABLATIONS,
        "precision": PRECISIONS,
        "device": ("auto", "cpu", "cuda", "mps"),
        "grid": sorted(path.stem for path in root.glob("trials/grids/*.yaml")),
        "reference": PUBLISHED,
    }
    own = {option.name: option.read for option in registry.options(name)}
    known |= {n: read.choices for n, read in own.items() if hasattr(read, "choices")}
    if name in registry.names():
        known["variant"] = registry.variants(name)
    return {parameter: list(filter(None, values)) for parameter, values in known.items()}


def write_forms(root: Path = ROOT) -> list[Path]:
    """Write into every source notebook what its forms offer today; returns those that changed."""
    changed = []
    for path in sources(root):
        notebook = nbformat.read(path, as_version=4)
        before = copy.deepcopy(notebook)
        known = choices(path.stem, root)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = "\n".join(_offering(line, known) for line in cell.source.splitlines())
        if notebook != before:
            write(notebook, path)
            changed.append(path)
    return changed


def _offering(line: str, known: Mapping[str, list[str]]) -> str:
    """A form's line with the choices of its parameter, as Colab reads them: a JSON list, whose
    entries are Python expressions where the type is raw."""
    match = FIELD.fullmatch(line)
    name = line.partition(" = ")[0]
    if match is None or name not in known:
        return line
    values = known[name]
    if '"raw"' in match[3]:
        values = ["None", *map(repr, values)]
    return f"{match[1]}{json.dumps(values)}{match[3]}"


# Rendered copies


def computation(notebook: NotebookNode) -> list[str]:
    """What each code cell computes, from the third on (set-up and parameters come before), without
    what may change and leave its outputs true: comments, form, and where a name is imported from.

    Cells with injected parameters are left out. `plots.cost(runs)` and, with another import,
    `cost(runs)` are the same.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    trees = [ast.parse(cell.source) for cell in code if not _is(cell, "injected-parameters")]
    imported = {
        alias.asname or alias.name.partition(".")[0]: alias.name.rpartition(".")[2]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return [ast.unparse(_WithoutImports(imported).visit(tree)) for tree in trees[2:]]


def carry_over(rendered: NotebookNode, source: NotebookNode) -> NotebookNode:
    """The rendered notebook with the source's prose, comments and imports, and its own outputs.

    Raises ConfigurationError, naming the cell, where the source computes something else by now, or
    was executed with parameters whose defaults have changed since.
    """
    old = [cell for cell in rendered.cells if cell.cell_type == "code"]
    injected = next((cell for cell in old if _is(cell, "injected-parameters")), None)
    old = [cell for cell in old if cell is not injected]
    new = [cell for cell in source.cells if cell.cell_type == "code"]
    before, now = computation(rendered), computation(source)
    for number, (ours, theirs) in enumerate(zip(before, now, strict=False), 3):
        if ours != theirs:
            raise ConfigurationError(f"code cell {number} computes something else than its source")
    if len(before) != len(now):
        raise ConfigurationError(f"{len(old)} code cells, its source has {len(new)}")
    given = _values(injected) if injected else {}
    if _values(old[1]) | given != _values(new[1]) | given:
        raise ConfigurationError("its source has other parameters or defaults")
    executed = iter(old)
    cells = []
    for cell in copy.deepcopy(source.cells):
        if cell.cell_type == "code":
            ran = next(executed)
            cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
        cells.append(cell)
        if _is(cell, "parameters") and injected:
            cells.append(injected)
    result = copy.deepcopy(rendered)
    result.cells = cells
    return result


def refresh(path: Path) -> bool:
    """`carry_over` for the rendered copy beside the source notebook `path`; whether it changed."""
    copy_ = rendered_copy(path)
    rendered, source = (nbformat.read(one, as_version=4) for one in (copy_, path))
    try:
        carried = carry_over(rendered, source)
    except ConfigurationError as error:
        raise ConfigurationError(f"{copy_}: {error}; execute it: trials render {path}") from None
    if carried == rendered:
        return False
    write(carried, copy_)
    return True


def write(notebook: NotebookNode, path: Path) -> None:
    """The notebook in its place, whole."""
    write_atomically(path, lambda temporary: nbformat.write(notebook, temporary))


def _is(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def _values(cell: NotebookNode) -> dict[str, str]:
    """Name -> value, as written, of a cell of assignments."""
    nodes = ast.parse(cell.source).body
    return {node.targets[0].id: ast.unparse(node.value) for node in nodes}


class _WithoutImports(ast.NodeTransformer):
    """Imports out, imported names by their own name, what a module holds without the module."""

    def __init__(self, imported: Mapping[str, str]) -> None:
        self.imported = imported

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id in self.imported:
            return ast.Name(node.attr, node.ctx)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self.imported.get(node.id, node.id), node.ctx)
