"""The studies' tables: where they lie, and writing them whole, a unit at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from common.base import environment
from common.base.errors import ConfigurationError
from common.base.files import write_atomically
from common.base.paths import ROOT, default_results
from common.base.version import code_version
from common.results.schema import EXACT

COMMITTED = ROOT / "figures" / "results"


def folder(study: str, recompute: bool, results_dir: str | Path | None = None) -> Path:
    """Where a study's tables are read from, and, with `recompute`, measured into.

    Without a `results_dir`: the committed tables, or results/<study> for a measurement. Raises
    ConfigurationError for a measurement into the committed tables, or where there is nothing to
    read.
    """
    committed = COMMITTED / study
    if not recompute:
        chosen = Path(results_dir) if results_dir else committed
        if not any(chosen.glob("*.csv")):
            raise ConfigurationError(
                f"results_dir: {chosen} holds no tables; recompute=True measures them"
            )
        return chosen
    chosen = Path(results_dir) if results_dir else default_results() / study
    if chosen.resolve().is_relative_to(COMMITTED.resolve()):
        raise ConfigurationError(
            f"results_dir: {chosen} holds committed tables; a measurement needs a folder of its own"
        )
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


class Table:
    """A CSV that grows by units (all rows with the same values of `keys`) and is always whole."""

    def __init__(self, path: Path, columns: Sequence[str], keys: Sequence[str]) -> None:
        self.path, self.columns, self.keys = path, list(columns), list(keys)
        self.rows = read(path) if path.is_file() else pd.DataFrame(columns=self.columns)
        if list(self.rows.columns) != self.columns:
            raise ConfigurationError(f"{path} has other columns than this study writes")
        self.done = {self._key(row) for row in self.rows[self.keys].to_dict("records")}

    def has(self, **unit: object) -> bool:
        """Whether the unit with these values of the keys is there."""
        return self._key(unit) in self.done

    def add(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Append units, in place of what the table had of them, and write the table."""
        new = pd.DataFrame(list(rows))
        if set(new.columns) != set(self.columns):
            raise ValueError(f"{self.path.name}: {set(new.columns) ^ set(self.columns)}")
        new = new[self.columns]
        units = {self._key(row) for row in new[self.keys].to_dict("records")}
        if units & self.done:  # stopped between this table and the next
            old = [self._key(row) in units for row in self.rows[self.keys].to_dict("records")]
            self.rows = self.rows[[not there for there in old]]
        self.rows = new if self.rows.empty else pd.concat([self.rows, new], ignore_index=True)
        self.done |= units
        write_atomically(self.path, lambda path: self.rows.to_csv(path, index=False, na_rep="nan"))

    def _key(self, row: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(
            f"{float(row[k]):.9g}" if isinstance(row[k], (int, float)) else str(row[k])
            for k in self.keys
        )


def read(path: Path) -> pd.DataFrame:
    """A study's table; empty cells of text are empty strings."""
    return pd.read_csv(path, keep_default_na=False, na_values=["nan"], **EXACT)


def provenance(device: torch.device) -> dict[str, str]:
    """The columns that say where a row was measured."""
    return {
        "device": environment.hardware(device),
        "torch_version": torch.__version__,
        "code_version": code_version(),
    }


PROVENANCE = ("device", "torch_version", "code_version")
