"""Keeps committed notebooks in step with the code: the choices of their forms, the address that
they are fetched from, and the prose and imports of their rendered copies."""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from common.base.errors import ConfigurationError
from common.base.files import write_atomically
from common.base.paths import ROOT, require_clone
from common.commands import address
from common.datasets import DATASETS
from common.models import MODELS
from common.pruning import METHODS
from common.pruning.ablations import ABLATIONS
from common.results.reference import SOURCES as PUBLISHED
from common.runs import registry
from common.runs.experiment import PRECISIONS
from common.studies.conservation import CHAINS
from common.training.protocols import PROTOCOLS

RENDERED = "rendered.ipynb"
FIELD = re.compile(r"(\w+ = .*?  # @param )(\[.*?\])((?: \{.*\})?)")
ASSIGNED = re.compile(r"(\w+) = (.*?)((?:  # .*)?)")
HOME = re.compile(r'^HOME = ".*?"', re.MULTILINE)
BADGES = re.compile(r"^(# .*\n)\n(?:\[!\[Open in .*\n)*\n?")
COLAB = "https://colab.research.google.com"
KAGGLE = "https://kaggle.com"


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
    known["variant"] = registry.variants(name) if name in registry.names() else ("",)
    return {parameter: list(filter(None, values)) for parameter, values in known.items()}


def write_forms(root: Path = ROOT) -> list[Path]:
    """Write into every notebook and its rendered copy what its forms offer today and the
    repository's address, and the variants into the table of methods; returns what changed.

    Raises ConfigurationError in an installed copy."""
    require_clone(root)
    home, changed = address.read(root), []
    own = [(source, path) for source in sources(root) for path in (source, rendered_copy(source))]
    for source, path in [(source, path) for source, path in own if path.is_file()]:
        notebook = nbformat.read(path, as_version=4)
        before = copy.deepcopy(notebook)
        show_address(notebook, home, source.relative_to(root).as_posix())
        known = choices(source.stem, root)
        for cell in notebook.cells:
            if _is(cell, "parameters"):
                cell.source = "\n".join(_offering(line, known) for line in cell.source.splitlines())
        if notebook != before:
            write(notebook, path)
            changed.append(path)
    return changed + _write_variants(root / "trials" / "README.md")


def _write_variants(page: Path) -> list[Path]:
    """The last column of the page's table of methods; [page] if that changed it."""
    text = before = page.read_text(encoding="utf-8")
    for method, variants in METHODS.items():
        names = ", ".join(f"`{variant}`" for variant in filter(None, variants))
        row = rf"^(\| `{method}` \|.*\|)[^|\n]*\|$"
        text = re.sub(row, rf"\1 {names} |".replace("  ", " "), text, count=1, flags=re.MULTILINE)
    if text != before:
        write_atomically(page, lambda target: target.write_text(text, encoding="utf-8"))
    return [page] * (text != before)


def show_address(notebook: NotebookNode, home: str, place: str) -> None:
    """Write the repository's address `home` into the notebook at `place` in it: into the set-up
    cell, and as badges below the title; none where there is no address yet."""
    title, setup = notebook.cells[:2]
    setup.source = HOME.sub(f'HOME = "{home}"', setup.source)
    badges = ""
    if home:
        name = home.removeprefix("https://github.com/")
        colab = f"{COLAB}/github/{name}/blob/main/{place}"
        kaggle = f"{KAGGLE}/kernels/welcome?src={home}/blob/main/{place}"
        badges = (
            f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({colab})\n"
            f"[![Open in Kaggle]({KAGGLE}/static/images/open-in-kaggle.svg)]({kaggle})\n\n"
        )
    title.source = BADGES.sub(lambda match: f"{match[1]}\n{badges}", title.source)


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

    `plots.cost(runs)` and, with another import, `cost(runs)` are the same.
    """
    trees = [ast.parse(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    imported = {
        alias.asname or alias.name.partition(".")[0]: alias.name.rpartition(".")[2]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return [ast.unparse(_WithoutImports(imported).visit(tree)) for tree in trees[2:]]


def merge_parameters(notebook: NotebookNode, hidden: Sequence[str] = ()) -> None:
    """Put the values that papermill injected into the parameters cell, in place: a reader sees the
    values used, once. `notebook.metadata.given` keeps them, but those of the names `hidden`."""
    cells = notebook.cells
    for injected in [cell for cell in cells if _is(cell, "injected-parameters")]:
        values = {name: ast.literal_eval(value) for name, value in _values(injected).items()}
        given = {name: value for name, value in values.items() if name not in hidden}
        notebook.metadata["given"] = given
        cells.remove(injected)
        for cell in cells:
            if _is(cell, "parameters"):
                cell.source = with_values(cell.source, given)


def with_values(parameters: str, given: Mapping[str, object]) -> str:
    """A parameters cell's source with these values in place of the defaults."""

    def line(text: str) -> str:
        match = ASSIGNED.fullmatch(text)
        if not match or match[1] not in given:
            return text
        value = given[match[1]]
        written = json.dumps(value) if isinstance(value, str) else repr(value)
        return f"{match[1]} = {written}{match[3]}"

    return "\n".join(map(line, parameters.splitlines()))


def carry_over(rendered: NotebookNode, source: NotebookNode) -> NotebookNode:
    """The rendered notebook with the source's prose, comments and imports, and its own outputs.

    Raises ConfigurationError, naming the cell, where the source computes something else by now, or
    was executed with parameters whose defaults have changed since.
    """
    old = [cell for cell in rendered.cells if cell.cell_type == "code"]
    new = [cell for cell in source.cells if cell.cell_type == "code"]
    before, now = computation(rendered), computation(source)
    for number, (ours, theirs) in enumerate(zip(before, now, strict=False), 3):
        if ours != theirs:
            raise ConfigurationError(f"code cell {number} computes something else than its source")
    if len(before) != len(now):
        raise ConfigurationError(f"{len(old)} code cells, its source has {len(new)}")
    parameters = with_values(new[1].source, rendered.metadata.get("given", {}))
    if ast.unparse(ast.parse(old[1].source)) != ast.unparse(ast.parse(parameters)):
        raise ConfigurationError("its source has other parameters or defaults")
    executed = iter(old)
    cells = []
    for cell in copy.deepcopy(source.cells):
        if cell.cell_type == "code":
            ran = next(executed)
            cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
        if _is(cell, "parameters"):
            cell.source = parameters
        cells.append(cell)
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
