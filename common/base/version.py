"""Which commit of the suite this is."""

from __future__ import annotations

import functools
import os
import re
import subprocess

from common.base.errors import ConfigurationError
from common.base.paths import ROOT

CODE_VERSION = "TRIALS_CODE_VERSION"  # names the commit of a tree without git


@functools.cache
def code_version() -> str:
    """The commit of this code, with `+` if the code has uncommitted changes (executed copies of
    notebooks are none).

    A tree without a repository of its own (unpacked from an archive, copied) cannot tell: there
    TRIALS_CODE_VERSION in the environment names the commit, and without it this is `unknown`.
    Raises ConfigurationError if that is no commit, or not the one that is checked out.
    """
    told, found = _told_version(), _git_version()
    if told and found and not found.startswith(told) and not told.startswith(found.rstrip("+")):
        raise ConfigurationError(
            f"{CODE_VERSION}={told!r}, but {ROOT} is at commit {found}: unset the variable, it is "
            "for copies without git"
        )
    return found or told or "unknown"


def _told_version() -> str | None:
    told = os.environ.get(CODE_VERSION)
    if told and not re.fullmatch("[0-9a-f]{7,40}", told):
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
            text=True,
            env={**others, "GIT_OPTIONAL_LOCKS": "0", "GIT_CEILING_DIRECTORIES": str(ROOT.parent)},
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        code = ("common", "trials", ":(exclude)trials/*/rendered.ipynb")
        return commit + ("+" if git("status", "--porcelain", "--", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
