"""Makes a hosted notebook machine (Colab, Kaggle) ready: what the suite needs and the image lacks.

Only the standard library is imported here, since nothing else may be there yet.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from common.base.errors import ConfigurationError

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
KAGGLE = Path("/kaggle/input")  # where Kaggle attaches data sets; nothing can be written there
DEPTH = 4  # folders below it that are searched: datasets/<owner>/<name>/<folder>
# The image's own torch is built for its GPU: any version of it stays.
KEPT = {"torch", "torchvision"}
# A hosted machine has its own, and runs on it: to replace it would end the session.
FRONT_END = (
    *("ipykernel", "ipywidgets", "jupyterlab", "jupyter_client", "ipython", "traitlets"),
    "notebook",
)


def prepare() -> None:
    """On Colab and Kaggle install what is missing, and name a GPU that this torch has no code for.

    Elsewhere do nothing. Raises RuntimeError, saying what to attach, if it cannot be installed, and
    ConfigurationError as `require_docstrings` does.
    """
    require_docstrings()
    if hosted():
        install_missing()
        for note in notes():
            print("Note:", note)


def require_docstrings() -> None:
    """Raises ConfigurationError where Python leaves docstrings out: torchbearer reads its own."""
    if sys.flags.optimize > 1:
        raise ConfigurationError("PYTHONOPTIMIZE=2 (python -OO) leaves docstrings out: unset it")


def hosted() -> str | None:
    """`Colab` or `Kaggle` where this runs on one of them, else None."""
    if "COLAB_RELEASE_TAG" in os.environ:
        return "Colab"
    return "Kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else None


def install_missing(requirements: Path = REQUIREMENTS) -> None:
    """Install the requirements that are missing or too old, from wheels attached on Kaggle or else
    from the network; everything else stays as it is. Raises RuntimeError if that is impossible."""
    wanted, pinned = missing(requirements)
    if not wanted:
        return
    print("Installing", ", ".join(wanted))
    folders = {wheel.parent for wheel in _attached("*.whl")}
    wheels = [f"--find-links={folder}" for folder in sorted(folders)]
    attempts = [["--no-index", *wheels]] if wheels else []
    attempts.append([*wheels, "--retries=2"])  # without a network the default would take long
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(pinned), encoding="utf-8")
        for options in attempts:
            done = _pip("install", "--constraint", str(constraints), *options, *wanted)
            if done.returncode == 0:
                importlib.invalidate_caches()
                return
            errors += [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")][-1:]
    raise RuntimeError(_advice(wanted, errors))


def missing(requirements: Path = REQUIREMENTS) -> tuple[list[str], list[str]]:
    """The requirements that are not met (`name>=version`), and those that are, pinned as they are
    (`name==version`), so that installing the former moves none of the latter. The front end is
    never among the former, and pinned where it is there."""
    wanted, pinned = [], [f"{name}=={there}" for name in FRONT_END if (there := _installed(name))]
    for name, least, version in _requirements(requirements):
        if version and (name in KEPT or not _older(version, least)):
            pinned.append(f"{name}=={version}")
        else:
            wanted.append(f"{name}>={least}")
    return wanted, pinned


def notes() -> list[str]:
    """What a person should know of this machine before starting, and may choose otherwise."""
    import torch

    from common.base import environment

    old = [
        f"{name} {version} stays, but the suite is made for {least} or later; choose a newer image "
        "if something fails"
        for name, least, version in _requirements(REQUIREMENTS)
        if name in KEPT and _older(version, least)
    ]
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    unusable = filter(None, map(environment.unsupported_gpu_reason, gpus))
    return list(dict.fromkeys([*old, *unusable]))


def _requirements(path: Path) -> Iterator[tuple[str, str, str | None]]:
    """(name, least version, installed version) of each line."""
    if not path.is_file():  # an installed copy: pip has seen to them
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", line)
        if match and match[1].lower() not in FRONT_END:
            yield match[1], match[2], _installed(match[1])


def _older(version: str, least: str) -> bool:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text)[:3]]

    return numbers(version) < numbers(least)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _attached(pattern: str) -> list[Path]:
    """What matches among the attached data sets; large ones are not searched to their end."""
    return [path for depth in range(1, DEPTH + 1) for path in KAGGLE.glob("*/" * depth + pattern)]


def _pip(command: str, *arguments: str) -> subprocess.CompletedProcess:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    return subprocess.run(
        [sys.executable, "-m", "pip", command, *quiet, *arguments], capture_output=True, text=True
    )


def _advice(wanted: list[str], errors: list[str]) -> str:
    names = " ".join(f'"{one}"' for one in wanted)
    return (
        f"{', '.join(wanted)} could not be installed. {' '.join(errors)}. Turn the internet on "
        "(on Kaggle: Settings), or attach a data set with the wheels, made elsewhere by: "
        f"pip download --no-deps --only-binary=:all: {names}"
    )
