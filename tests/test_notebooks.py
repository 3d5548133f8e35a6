"""The source notebooks: their common form, and that they run through papermill."""

import ast
import json
import re
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from common import registry
from common.collected import collect
from common.datasets import DATASETS
from common.experiment import PARAMETERS, PRECISIONS, configure
from common.models import MODELS
from common.protocols import PROTOCOLS
from common.pruning.ablations import ABLATIONS
from common.reference import SOURCES as PUBLISHED
from common.registry import names, variants
from common.results import EPOCHS, LAYERS, SUMMARY
from common.sweep.publish import rendered_copy

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path
    for path in [*ROOT.glob("trials/**/*.ipynb"), *ROOT.glob("figures/*.ipynb")]
    if not path.name.endswith("rendered.ipynb") and path.parent.name != ".ipynb_checkpoints"
)
# What a parameter may be, by its name, wherever it is chosen from a list.
CHOICES = {
    "protocol": PROTOCOLS,
    "rounds_protocol": PROTOCOLS,
    "dataset": DATASETS,
    "rounds_dataset": DATASETS,
    "model": MODELS,
    "training_model": MODELS,
    "ablation": ABLATIONS,
    "precision": PRECISIONS,
    "device": ("auto", "cpu", "cuda", "mps"),
    "grid": [path.stem for path in ROOT.glob("trials/grids/*.yaml")],
    "reference": PUBLISHED,
}
TYPES = {"boolean": bool, "integer": int, "number": float, "slider": float, "string": str}
FIGURES, FINDINGS = (ROOT / "figures" / f"{name}.ipynb" for name in ("figures", "findings"))
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
    own = {option.name: option.read for option in registry.options(path.stem)}
    known = {**CHOICES, **{n: r.choices for n, r in own.items() if hasattr(r, "choices")}}
    if path.stem in names():
        known["variant"] = variants(path.stem)
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
            expected = list(filter(None, known[name]))
            if path.stem == "conservation" and name == "model":
                expected = [model for model in expected if "resnet" not in model]
            assert sorted(filter(None, offered)) == sorted(expected)
            assert (None in offered) == (kind == "raw")
            assert value in offered, line


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
    assert f"trials/{method}/{method}.ipynb" in notebook.cells[0].source


@pytest.mark.slow
@pytest.mark.parametrize("method", names())
def test_runs_through_papermill(method, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    parameters = {"sparsity": 0.8, "epochs": 1, "seed": 3, "device": "cpu"}
    executed = papermill.execute_notebook(
        str(TRIALS[method]),
        str(tmp_path / "out.ipynb"),
        parameters={**parameters, "results_dir": str(tmp_path / "results")},
        progress_bar=False,
        kernel_name="python3",
        stdout_file=sys.stdout,
    )
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
    pictures = [
        output
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 4
    # Batch runs are silent: no bar, no widget, nothing on the error stream.
    assert "widgets" not in executed.metadata
    streams = [o for c in executed.cells for o in c.get("outputs", []) if o.output_type == "stream"]
    assert not streams
    assert (tmp_path / "out.ipynb").stat().st_size < 500_000


@pytest.mark.parametrize("source", [*TRIALS.values(), FIGURES, FINDINGS])
def test_the_rendered_copy_is_the_source_executed(source):
    path = rendered_copy(source)
    rendered = read(path)
    cells = [c for c in rendered.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    assert [c.source for c in cells] == [c.source for c in read(source).cells]
    code = [cell for cell in rendered.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert "widgets" not in rendered.metadata
    assert path.stat().st_size < 500_000
    assert str(ROOT) not in path.read_text(encoding="utf-8")
