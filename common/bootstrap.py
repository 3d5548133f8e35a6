"""Makes a hosted notebook machine (Colab, Kaggle) ready: what the suite needs and the image lacks.

Only the standard library is imported here, since nothing else may be there yet.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
# The image brings its own torch, built for its GPU, and its own front end.
NEVER = {"torch", "torchvision", "jupyterlab"}


def hosted() -> str | None:
    """`Colab` or `Kaggle` where this runs on one of them, else None."""
    if "COLAB_RELEASE_TAG" in os.environ:
        return "Colab"
    return "Kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else None


def missing(requirements: Path = REQUIREMENTS) -> list[str]:
    """The requirements (`name>=version`) that are not met, without those never to be replaced."""
    found = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        match = re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", line)
        if match and match[1] not in NEVER and not _met(match[1], match[2]):
            found.append(match[0])
    return found


def install_missing() -> None:
    """On Colab and Kaggle install what is missing, and say so; elsewhere do nothing."""
    wanted = missing() if hosted() else []
    if wanted:
        print("Installing", ", ".join(wanted))
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)


def _met(name: str, least: str) -> bool:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return _numbers(version) >= _numbers(least)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]
