"""The repository's address: it stands in pyproject.toml, and is written from there into whatever
shows it."""

from __future__ import annotations

import re
from pathlib import Path

from common.base.errors import ConfigurationError, shown
from common.base.files import write_atomically
from common.base.paths import ROOT, require_clone

_URLS = re.compile(r'\n\[project\.urls\]\nRepository = "(.*)"\n')
_CITED = re.compile(r"^repository-code: .*\n", re.MULTILINE)


def read(root: Path = ROOT) -> str:
    """The address of the repository in `root`; "" while none is set."""
    found = _URLS.search((root / "pyproject.toml").read_text(encoding="utf-8"))
    return found[1] if found else ""


def write(home: str, root: Path = ROOT) -> None:
    """Set the address, or take it out where `home` is "": in pyproject.toml and CITATION.cff.

    Raises ConfigurationError for what is no address of a repository on GitHub, from where Colab and
    Kaggle open notebooks.
    """
    require_clone(root)
    home = home.removesuffix("/").removesuffix(".git")
    if home and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", home):
        raise ConfigurationError(
            f"address={shown(home)} is no repository's: write https://github.com/you/name"
        )
    urls = f'\n[project.urls]\nRepository = "{home}"\n' if home else ""
    cited = f"repository-code: {home}\n" if home else ""
    _insert(root / "pyproject.toml", _URLS, urls, before="\n[project.scripts]")
    _insert(root / "CITATION.cff", _CITED, cited, before="license:")


def _insert(path: Path, old: re.Pattern, new: str, before: str) -> None:
    text = old.sub("", path.read_text(encoding="utf-8"))
    text = text.replace(before, new + before, 1)
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))
