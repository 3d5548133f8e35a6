"""The book: the repository's pages and executed notebooks as they lie, and an explorer of its runs.

`make site` builds it into build/site, without network. Nothing in it is loaded from elsewhere: its
scripts come from pip packages and are copied in.
"""

import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from sphinx.util.fileutil import copy_asset

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from common.commands import address  # noqa: E402
from common.plots.style import method_label  # noqa: E402
from common.pruning import METHODS  # noqa: E402

NAME = os.environ.get("GITHUB_REPOSITORY")
HOME = f"https://github.com/{NAME}" if NAME else address.read()
# Where no address is set, links that leave the book show what is missing in them.
HOME = HOME or "https://github.com/OWNER/pruning-at-initialization"
# A script with its fonts -> the folder that it expects them in.
MATHJAX = {"tex-chtml.js": "", "output/chtml/fonts/woff-v2": "output/chtml/fonts/woff-v2"}

project = "Pruning at initialization"
author = "The pruning-at-initialization contributors"
html_title = project
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_copyright = False
extensions = ["myst_nb", "explorer"]
root_doc = "README"
HOMES = ("trials", "figures", "common", "tests")
pages, rendered = (
    [path.relative_to(ROOT) for home in HOMES for path in sorted(ROOT.glob(f"{home}/**/{name}"))]
    for name in ("README.md", "*rendered.ipynb")
)
include_patterns = ["README.md", "docs/explorer.md", *map(str, [*pages, *rendered])]

nb_execution_mode = "off"
nb_custom_formats = {".ipynb": "folding.folded"}
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 6
mathjax_path = "mathjax/tex-chtml.js"
# A notebook's outputs are shown as they are, its headings start where it wants them to.
suppress_warnings = ["mystnb.mime_priority", "myst.header"]


def contents() -> str:
    """The tree of pages, which README.md itself need not know."""
    methods = [f"trials/{name}/rendered" for name in METHODS]
    left = [str(path.with_suffix("")) for path in rendered]
    studies = [name for name in left if name.startswith("trials/") and name not in methods]
    parts = {
        "Results": ["docs/explorer", "figures/README"]
        + [name for name in left if name.startswith("figures/")]
        + ["figures/reference/README"],
        "Methods": [
            f"{method_label(name)} <trials/{name}/rendered>"
            for name in METHODS
            if f"trials/{name}/rendered" in left
        ],
        "Behind and around them": studies,
        "Using it": [str(p.with_suffix("")) for p in pages if p.parts[0] != "figures"],
    }
    return "".join(
        f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```\n"
        for caption, names in parts.items()
    )


def read_page(app: object, docname: str, source: list[str]) -> None:
    """What leads out of the book leads to the repository; pictures from elsewhere become words."""
    here = (ROOT / docname).parent
    local = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")
    words = re.sub(r"!\[([^\]]*)\]\(https?://[^)]*\)", r"\1", source[0])
    source[0] = local.sub(lambda match: f"]({target(here, match[1])}{match[2] or ''})", words)
    if docname == root_doc:
        source[0] += contents()


def target(here: Path, link: str) -> str:
    """The link as it is to a page, a picture or nothing; to another file, as the repository's."""
    found = (here / link).resolve()
    name = found.relative_to(ROOT).as_posix() if found.is_relative_to(ROOT) else ""
    if name in include_patterns or found.suffix in (".png", ".svg") or not found.exists():
        return link
    if f"{name}/README.md" in include_patterns:
        return f"{link.rstrip('/')}/README.md"
    return f"{HOME}/{'tree' if found.is_dir() else 'blob'}/main/{name}"


def copy_scripts(app: object) -> None:
    """MathJax, from the package that carries it; a page of formulas loads it, others do not."""
    package = find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
    for name, folder in MATHJAX.items():
        place = Path(app.outdir, "_static", "mathjax", folder)
        copy_asset(Path(package, "static", "mathjax", name), place)


def copy_front_page(app: object, error: Exception | None) -> None:
    if error is None:
        shutil.copy(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app: object) -> None:
    app.connect("builder-inited", copy_scripts)
    app.connect("source-read", read_page)
    app.connect("build-finished", copy_front_page)
