"""`trials new NAME`: what a method needs, to be filled in: a score, a line in the registry and in
the table of methods, and a notebook."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from common.base.errors import ConfigurationError, shown
from common.base.files import write_atomically
from common.base.paths import ROOT, require_clone
from common.commands import notebooks
from common.runs import registry

SCORE = '''"""{name}: say here what it keeps, and why."""

from __future__ import annotations

from torch import nn

from common.pruning.parameters import prunable
from common.pruning.scores import Context, Scores


def {name}(model: nn.Module, context: Context) -> Scores:
    """-abs(abs(w) - m), m the median of the layer's abs(w): neither the large nor the small.

    To be replaced: a score for every prunable weight, the highest are kept. What it may look at
    besides the model stands in `Context`.
    """
    sizes = {{name: weight.detach().abs() for name, weight in prunable(model).items()}}
    return {{name: -(size - size.median()).abs() for name, size in sizes.items()}}
'''
ENTRY = """    "{name}": {{
        "": Method(deferred.Module("common.pruning.{name}").{name}),
    }},
}}
"""
ROW = "| `{name}` | see [its file](../common/pruning/{name}.py) | the weights | 1 | |\n"


def create(name: str, root: Path = ROOT) -> list[Path]:
    """Write what the method `name` needs into the repository in `root`; returns the files, the
    score's first.

    Raises ConfigurationError, before anything is written, for a name that is no word or taken, or
    where there is no repository to write to.
    """
    require_clone(root)
    score = root / "common" / "pruning" / f"{name}.py"
    notebook = root / "trials" / name / f"{name}.ipynb"
    if not re.fullmatch("[a-z][a-z0-9_]{0,39}", name):
        raise ConfigurationError(
            f"{shown(name)} is no name for a method: small letters, digits and underscores"
        )
    if name in registry.names() or score.exists() or notebook.parent.exists():
        raise ConfigurationError(f"{name} is there already; choose another name")
    methods, page = root / "common" / "pruning" / "methods.py", root / "trials" / "README.md"
    registered = re.sub(r"\}\n\Z", ENTRY.format(name=name), methods.read_text(encoding="utf-8"))
    table = r"(\| method \| score.*?\n)\n"
    row = rf"\1{ROW.format(name=name)}\n"
    told = re.sub(table, row, page.read_text(encoding="utf-8"), count=1, flags=re.DOTALL)
    notebook.parent.mkdir()
    for path, text in ((score, SCORE.format(name=name)), (methods, registered), (page, told)):
        write_atomically(path, lambda target, text=text: target.write_text(text, encoding="utf-8"))
    notebooks.write(_story(root / "trials" / "template.ipynb", name), notebook)
    notebooks.write_forms(root)
    return [score, notebook, methods, page]


def _story(template: Path, name: str) -> nbformat.NotebookNode:
    """The template's notebook, of this method."""
    story = nbformat.read(template, as_version=4)
    for cell in story.cells:
        cell.source = cell.source.replace("METHOD", name)
    return story
