"""A grid's results in one file to download."""

from __future__ import annotations

import zipfile
from pathlib import Path

from common.base.files import write_atomically
from common.results.run_folder import checkpoint


def pack(root: Path) -> Path:
    """Everything below the folder `root` (tables, run.json, executed notebooks, figures) but
    checkpoints -> `<root>.zip` beside it, whole. Unpacked, it is the folder again."""
    files = [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and path != checkpoint(path.parent) and not path.name.startswith(".")
    ]

    def write(target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.relative_to(root.parent))

    archive = root.with_name(f"{root.name}.zip")
    write_atomically(archive, write)
    return archive
