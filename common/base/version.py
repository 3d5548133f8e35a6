"""Which commit of the suite this is."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from collections.abc import Callable
from importlib import metadata

from common.base.errors import ConfigurationError
from common.base.paths import NAME, ROOT

CODE_VERSION = "TRIALS_CODE_VERSION"  # names the commit of a tree without git


@functools.cache
def code_version() -> str:
    """The commit of this code, with `+` if the code has uncommitted changes (what running a
    notebook leaves in it is none).

    A tree without a repository of its own (unpacked from an archive, copied) cannot tell, unless
    pip fetched it from one: there TRIALS_CODE_VERSION in the environment names the commit, and
    without it this is `unknown`. Raises ConfigurationError if that is no commit, or not the one
    that is checked out.
    """
    told, found = _told_version(), _git_version() or _fetched_version()
    if told and found and not found.startswith(told) and not told.startswith(found.rstrip("+")):
        raise ConfigurationError(
            f"{CODE_VERSION}={told!r}, but {ROOT} is at commit {found}: unset the variable, it is "
            "for copies without git"
        )
    return found or told or "unknown"


def is_commit(version: str) -> bool:
    """Whether a `code_version` names committed code, by which a result can be published."""
    return bool(re.fullmatch("[0-9a-f]{7,40}", version))


def _told_version() -> str | None:
    told = os.environ.get(CODE_VERSION)
    if told and not is_commit(told):
        raise ConfigurationError(
            f"{CODE_VERSION}={told!r} is no commit: give 7 to 40 digits of git rev-parse HEAD, "
            "0 to 9 and a to f"
        )
    return told or None


def _git_version() -> str | None:
    """What this tree's own repository says; None if it has none."""
    if not (ROOT / ".git").exists():
        # Git would ask the folders above: someone else's repository, where this copy is ignored.
        return None
    # GIT_DIR and its like, as hooks have them, may name another repository.
    others = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith("GIT_CONFIG")
    }

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            check=True,
            capture_output=True,
            encoding="utf-8",
            env={**others, "GIT_OPTIONAL_LOCKS": "0", "GIT_CEILING_DIRECTORIES": str(ROOT.parent)},
        ).stdout

    try:
        return git("rev-parse", "--short=12", "HEAD").strip() + "+" * _changed(git)
    except (OSError, subprocess.CalledProcessError):
        return None


def _changed(git: Callable[..., str]) -> bool:
    """Whether the code is not that of the commit. Of a notebook its cells' text counts, not what
    running and saving it left there."""
    code = ("--", "common", "trials", ":(exclude)trials/*/rendered.ipynb")
    if git("ls-files", "--others", "--exclude-standard", *code):
        return True
    for name in filter(None, git("diff", "--name-only", "-z", "HEAD", *code).split("\0")):
        try:
            now = (ROOT / name).read_text(encoding="utf-8")
            if not name.endswith(".ipynb") or _cells(now) != _cells(git("show", f"HEAD:{name}")):
                return True
        except (OSError, ValueError, LookupError, subprocess.CalledProcessError):
            return True  # gone, new, or no notebook
    return False


def _cells(notebook: str) -> list[tuple[str, str]]:
    """(kind, text) of each cell."""
    cells = json.loads(notebook)["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def _fetched_version() -> str | None:
    """The commit that `pip install git+https://...` put here (PEP 610)."""
    for found in metadata.distributions(name=NAME, path=[str(ROOT)]):
        about = json.loads(found.read_text("direct_url.json") or "{}")
        return about.get("vcs_info", {}).get("commit_id", "")[:12] or None
    return None
