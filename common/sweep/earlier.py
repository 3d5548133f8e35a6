"""Results of an earlier session, found among a hosted machine's inputs and taken over.

On Kaggle a session ends after 12 hours. What it left can be attached to the next one, below
/kaggle/input and read-only: finished runs count as done, unfinished ones go on from their
checkpoint.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from common.datasets.folders import KAGGLE
from common.results.run_folder import checkpoint, is_done
from common.sweep.plan import Job

DEPTH = 8  # folders below the inputs; a notebook's output keeps its own folders


def take_over(jobs: Iterable[Job], inputs: Path = KAGGLE) -> int:
    """Copy what `inputs` holds of runs that have no folder yet, and the networks that they share;
    returns how many it finished.

    Each folder appears whole or not at all.
    """
    missing = [job for job in jobs if not job.folder.exists()]
    if not missing or not inputs.is_dir():
        return 0
    grids = list(_folders(inputs, missing[0].folder.parents[1].name, DEPTH))
    done = 0
    for network in (path for grid in grids for path in sorted(grid.glob("shared/*"))):
        target = missing[0].folder.parents[1] / "shared" / network.name
        if not target.exists():
            _copy(network, target)
    for job in missing:
        found = [grid / job.method / job.run_id for grid in grids]
        finished = [folder for folder in found if is_done(folder)]
        begun = [folder for folder in found if checkpoint(folder).is_file()]
        if source := next(iter(finished or begun), None):
            _copy(source, job.folder)
            done += bool(finished)
    return done


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not beside the runs, where an interrupted copy would pass for one.
    with tempfile.TemporaryDirectory(dir=target.parents[1], prefix=".earlier-") as stage:
        copy = Path(shutil.copytree(source, Path(stage) / target.name))
        with suppress(FileExistsError):  # another sweep was faster
            copy.rename(target)


def _folders(root: str | Path, name: str, depth: int) -> Iterator[Path]:
    """The folders called `name` below `root`, not looking into what is called so itself."""
    with os.scandir(root) as entries:  # tells folders from files without a look at each
        folders = sorted(entry.path for entry in entries if entry.is_dir())
    for folder in map(Path, folders):
        if folder.name == name:
            yield folder
        elif depth > 1:
            yield from _folders(folder, name, depth - 1)
