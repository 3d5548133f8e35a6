"""Notebooks as the book reads them."""

import nbformat


def folded(text: str) -> nbformat.NotebookNode:
    """The notebook; code that is folded in JupyterLab is folded here."""
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
    return notebook
