"""Finding a data set's folder on this machine, or downloading it, once."""

from __future__ import annotations

import os
import socket
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from common.base.bootstrap import KAGGLE
from common.base.errors import ConfigurationError, shown
from common.base.paths import ROOT, workplace

if TYPE_CHECKING:
    from common.datasets.imagenet import ImageNet, SmallImageNet
    from common.datasets.sources import Cifar, Mnist, TinyImageNet

    Source = Cifar | Mnist | TinyImageNet | ImageNet | SmallImageNet

DATA = (ROOT if (ROOT / "data").is_dir() else workplace()) / "data"
TIMEOUT = 30  # seconds; a cluster's node may swallow packets instead of refusing them

# What urllib, torchvision and the unpackers raise when they cannot.
FAILURES = (OSError, RuntimeError, HTTPException, TarError, BadZipFile, EOFError, zlib.error)


def home(data_dir: str | Path | None) -> Path:
    """The folder that data sets are looked for in first, and downloaded to.

    `data_dir`, else the environment variable TRIALS_DATA, else data/ in the repository.
    Raises ConfigurationError if one was named that does not exist.
    """
    named = {"data_dir": data_dir, "TRIALS_DATA": os.environ.get("TRIALS_DATA")}
    for name, value in named.items():
        if value:
            path = Path(os.path.expanduser(value))
            if not os.path.isdir(path):  # False, not an error, where the path is too long
                raise ConfigurationError(
                    f"{name}={shown(str(value))}: there is no such folder; name one that holds the "
                    "data sets (or an empty one to download them to), or leave it out"
                )
            return path.resolve()
    return DATA


def find(folder: str, data_dir: str | Path | None) -> Path | None:
    """Where the data set's `folder` is: in `home`, `home` itself, or among Kaggle's inputs.

    Kaggle's inputs are searched three levels deep, and only if no `data_dir` says where to look.
    """
    base = home(data_dir)
    candidates = [base / folder]
    if base.name == folder:
        candidates.append(base)
    if not data_dir:
        candidates += [path for depth in range(4) for path in KAGGLE.glob("*/" * depth + folder)]
    for path in candidates:
        if path.is_dir():
            # Unpacking often leaves a folder of the same name around the folder.
            return path / folder if (path / folder).is_dir() else path
    return None


def locate(source: Source, data_dir: str | Path | None) -> Path | None:
    """Where a source's folder is, if it is anywhere; some know more places than one of a name."""
    own = getattr(source, "find", None)
    return own(data_dir) if own else find(source.folder, data_dir)


def find_or_download(source: Source, title: str, data_dir: str | Path | None) -> Path:
    """The data set's folder, downloaded if it is nowhere; its contents are not checked.

    Raises ConfigurationError, saying what to put where, if it is nowhere and cannot be downloaded.
    """
    found = locate(source, data_dir)
    if found:
        return found
    parent = home(data_dir)
    try:
        download(source, parent)
    except FAILURES as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"{title} is not in {parent}, and getting it failed: {reason}; "
            f"{source.advice(parent)}, or set data_dir to a folder that holds {source.folder}."
        ) from None
    return parent / source.folder


def download(source: Source, parent: Path) -> None:
    """Make the data set's folder appear in `parent`, whole or not at all."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".download-") as stage:
        with socket_timeout(TIMEOUT):
            source.download(Path(stage), parent)
        target = parent / source.folder
        try:
            (Path(stage) / source.folder).rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """New connections give up after `seconds` without an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def unusable_folder_error(
    source: Source, title: str, folder: Path, problem: str
) -> ConfigurationError:
    """The error for a folder that is there but not as it should be; it is left as it is."""
    return ConfigurationError(
        f"{title} in {folder} cannot be used: {problem}. Remove that folder, and it is downloaded "
        f"again; or: {source.advice(folder.parent)}, or set data_dir to another folder that holds "
        f"{source.folder}."
    )
