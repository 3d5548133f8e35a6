"""The source notebooks: their common form, and that they run through papermill."""

import ast
import json
import re
import shutil
from pathlib import Path

import nbformat
import papermill
import pytest
from helpers import execute_notebook, outputs

from common.base.errors import ConfigurationError
from common.commands import address, notebooks
from common.models import MODELS
from common.pruning import METHODS
from common.results.collected import collect
from common.results.schema import EPOCHS, LAYERS, SUMMARY
from common.runs import registry
from common.runs.experiment import PARAMETERS, configure
from common.runs.registry import names

ROOT = Path(__file__).resolve().parent.parent
SOURCES = notebooks.sources()
TYPES = {"boolean": bool, "integer": int, "number": float, "slider": float, "string": str}
WITH_COPY = [path for path in SOURCES if notebooks.rendered_copy(path).is_file()]
TRIALS = {method: ROOT / "trials" / method / f"{method}.ipynb" for method in names()}


def read(path):
    return nbformat.read(path, as_version=4)


def tagged(notebook):
    return [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]


def test_every_method_has_its_notebook():
    assert all(path in SOURCES for path in TRIALS.values())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_form(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    reference = [c for c in read(TRIALS["synflow"]).cells if c.cell_type == "code"]
    assert code[0].source == reference[0].source, "the set-up cell is the same everywhere"
    assert [code[1]] == tagged(notebook), "the second code cell, and only it, holds the parameters"
    lines = [line for cell in code for line in cell.source.splitlines()]
    assert all(len(line) <= 100 for line in lines if "# @param" not in line)


def field(line):
    """`name = literal  # @param [choices] {options}` -> name, value, choices or None, options.

    As Colab reads it: the choices are a JSON list; those of the type raw are Python expressions.
    """
    name, value, choices, options = re.fullmatch(
        r"(\w+) = (.*?)  # @param(?: (\[.*\]))?(?: (\{.*\}))?", line
    ).groups()
    quoted = re.sub(r"([\w-]+):", r'"\1":', options or "{}")
    return name, ast.literal_eval(value), choices and json.loads(choices), json.loads(quoted)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_form_fields_offer_what_there_is(path):
    known = notebooks.choices(path.stem)
    for line in tagged(read(path))[0].source.splitlines():
        if line.startswith("# "):
            assert len(line) <= 100
            continue
        name, value, choices, options = field(line)
        kind = options.get("type", "string")
        assert set(options) <= {"type", "allow-input", "min", "max", "step"}, line
        if choices is None:
            assert kind == "raw" or type(value) is TYPES[kind], line
            assert name not in known or name == "variant", line
        else:
            assert kind in ("string", "raw"), "Colab knows no other lists"
            offered = [ast.literal_eval(choice) for choice in choices] if kind == "raw" else choices
            assert list(filter(None, offered)) == known[name], "make format writes it"
            assert (None in offered) == (kind == "raw")
            assert value in offered, line


def test_forms_are_written_from_what_there_is_to_choose(tmp_path, monkeypatch):
    path = tmp_path / "trials/SNIP/SNIP.ipynb"
    path.parent.mkdir(parents=True)
    for name in ("pyproject.toml", "trials/README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    path.write_bytes(TRIALS["SNIP"].read_bytes())
    monkeypatch.setitem(MODELS, "perceptron", None)
    monkeypatch.setitem(METHODS["SNIP"], "twice", None)
    page = tmp_path / "trials/README.md"
    assert notebooks.write_forms(tmp_path) == [path, page]
    assert "| `iterative`, `force`, `twice` |\n" in page.read_text()
    fields = [field(line) for line in tagged(read(path))[0].source.splitlines() if line[0] != "#"]
    offered = {name: choices for name, _, choices, _ in fields}
    assert offered["model"][-1] == "'perceptron'"
    assert offered["variant"] == ["None", "'iterative'", "'force'", "'twice'"]
    assert notebooks.write_forms(tmp_path) == []


def test_the_address_stands_in_one_place_and_is_written_everywhere(tmp_path):
    for name in ("pyproject.toml", "CITATION.cff", "trials/README.md", "trials/SNIP/SNIP.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    path = tmp_path / "trials/SNIP/SNIP.ipynb"
    shutil.copy(path, path.with_name("rendered.ipynb"))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".md"]
    address.write("", tmp_path)  # whatever the repository's is
    notebooks.write_forms(tmp_path)
    before = {path: path.read_text() for path in files}
    home = "https://github.com/somebody/fork"
    address.write(f"{home}.git", tmp_path)
    assert len(notebooks.write_forms(tmp_path)) == 2
    assert all(home in path.read_text() for path in files)
    cells = read(path.with_name("rendered.ipynb")).cells
    assert f'\nHOME = "{home}"\n' in cells[1].source
    where = "/somebody/fork/blob/main/trials/SNIP/SNIP.ipynb)"
    badges = [line for line in cells[0].source.splitlines() if line.endswith(where)]
    assert [line[:15] for line in badges] == ["[![Open in Cola", "[![Open in Kagg"]
    address.write("", tmp_path)
    notebooks.write_forms(tmp_path)
    assert {path: path.read_text() for path in files} == before
    with pytest.raises(ConfigurationError, match="is no repository's"):
        address.write("github.com/me", tmp_path)


@pytest.mark.parametrize("command", [notebooks.write_forms, lambda at: address.write("", at)])
def test_an_installed_copy_is_not_written(tmp_path, command):
    with pytest.raises(ConfigurationError, match="is an installed copy: do this in a clone"):
        command(tmp_path)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_papermill_reads_the_parameters_as_they_stand(path):
    written = {}
    exec(tagged(read(path))[0].source, {"__builtins__": {}}, written)
    inferred = papermill.inspect_notebook(str(path))
    assert list(inferred) == list(written)
    assert {name: ast.literal_eval(one["default"]) for name, one in inferred.items()} == written


@pytest.mark.parametrize("method", names())
def test_parameters_are_the_contract_in_plain_literals(method):
    notebook = read(TRIALS[method])
    values = {}
    exec(tagged(notebook)[0].source, {"__builtins__": {}}, values)
    own = tuple(option.name for option in registry.options(method))
    assert tuple(values) == (*PARAMETERS, *own)
    assert configure(method, **values).method == method


@pytest.mark.slow
@pytest.mark.parametrize("method", names())
def test_runs_through_papermill(method, tmp_path):
    parameters = {"sparsity": 0.8, "epochs": 1, "seed": 3, "device": "cpu"}
    given = {**parameters, "results_dir": str(tmp_path / "results")}
    executed = execute_notebook(TRIALS[method], tmp_path / "out.ipynb", **given)
    found = collect(tmp_path / "results")
    row = found.summary.iloc[0]
    assert tuple(found.summary.columns) == SUMMARY
    assert tuple(found.epochs.columns) == ("method", "run_id", *EPOCHS)
    assert tuple(found.layers.columns) == ("method", "run_id", *LAYERS)
    asked = round((1 - 0.8) * row["parameters_prunable"])
    # Channels go as a whole, until at least the sparsity is reached.
    least = 0.95 * asked if method == "filter_lasso" else asked
    assert least <= row["parameters_kept"] <= asked
    assert row["parameters_kept"] == found.layers["kept"].sum()
    assert list(found.epochs["epoch"]) == [0, 1]
    folder = configure(method, **parameters, results_dir=tmp_path / "results").folder
    assert (folder / "summary.csv").is_file()
    assert (folder / "run.json").is_file()
    assert len(outputs(executed, "image/png")) >= 4
    # Batch runs are silent: no bar, nothing on the error stream.
    streams = [o for c in executed.cells for o in c.get("outputs", []) if o.output_type == "stream"]
    assert not streams


@pytest.mark.parametrize("source", WITH_COPY, ids=lambda path: path.stem)
def test_the_rendered_copy_is_the_source_executed(source):
    path = notebooks.rendered_copy(source)
    rendered, written = read(path), read(source)
    assert notebooks.carry_over(rendered, written) == rendered, "trials render --text mends it"
    code = [cell for cell in rendered.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert "widgets" not in rendered.metadata
    assert path.stat().st_size < 500_000
    text = path.read_text(encoding="utf-8")
    assert not any(place in text for place in (str(ROOT), "/tmp/", "/root/", "/home/"))


def notebook(*cells):
    """Of a set-up cell, a parameters cell and these: text where a cell starts with `#: `."""
    parameters = nbformat.v4.new_code_cell(
        "seed = 0  # the stream\nepochs = 2", metadata={"tags": ["parameters"]}
    )
    made = [nbformat.v4.new_code_cell("import sys"), parameters]
    for cell in cells:
        text = cell.startswith("#: ")
        made.append((nbformat.v4.new_markdown_cell if text else nbformat.v4.new_code_cell)(cell))
    for number, cell in enumerate(c for c in made if c.cell_type == "code"):
        cell.execution_count = number
    return nbformat.v4.new_notebook(cells=made)


def executed_with(injected):
    """The notebook of RAN as papermill left it, its parameters merged."""
    made = notebook(*RAN)
    cell = nbformat.v4.new_code_cell(injected, metadata={"tags": ["injected-parameters"]})
    made.cells.insert(2, cell)
    notebooks.merge_parameters(made)
    return made


RAN = ("#: Score", "from common import plots\n\nplots.cost( runs )", "x = 1  # why")


@pytest.mark.parametrize(
    "now",
    [
        ("#: Scores", *RAN[1:]),
        ("#: Score", "#: More text", "from common.plots.runs import cost\ncost(runs)", "x = 1"),
        ("import common.plots as p\np.cost(runs)", "x = 1  # because"),
    ],
)
def test_prose_comments_and_imports_are_carried_over(now):
    rendered, source = executed_with("seed = 3"), notebook(*now)
    output = nbformat.v4.new_output("stream", text="1.2")
    rendered.cells[-1].outputs = [output]
    found = notebooks.carry_over(rendered, source)
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    source.cells[1].source = "seed = 3  # the stream\nepochs = 2"
    assert [c.source for c in found.cells] == [c.source for c in source.cells]
    assert [cell.execution_count for cell in code] == [0, 1, 2, 3]
    assert code[-1].outputs == [output]


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ((RAN[0], "from common import plots\nplots.cost(run)", RAN[2]), "code cell 3 computes"),
        ((*RAN[:2], "x = 2"), "code cell 4 computes something else"),
        ((*RAN, "y = x"), "4 code cells, its source has 5"),
        ((RAN[1],), "4 code cells, its source has 3"),
    ],
)
def test_what_was_computed_otherwise_is_not_carried_over(now, says):
    with pytest.raises(ConfigurationError, match=says):
        notebooks.carry_over(notebook(*RAN), notebook(*now))


def test_a_default_matters_where_it_was_in_force():
    source = notebook(*RAN)
    source.cells[1].source = "seed = 7  # the stream\nepochs = 2"
    given = executed_with("seed = 3")
    assert notebooks.carry_over(given, source).cells[1].source == given.cells[1].source
    with pytest.raises(ConfigurationError, match="other parameters or defaults"):
        notebooks.carry_over(notebook(*RAN), source)
