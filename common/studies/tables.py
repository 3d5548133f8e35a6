"""The studies' tables: where they lie, reading of them what a notebook asks for, and writing them
whole, a unit at a time."""

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
from common.models import MODELS
from common.pruning import METHODS, Masks
from common.results.schema import EXACT
from common.runs.options import Read, list_of, number_in, one_of, whole_from
from common.training.protocols import PROTOCOLS

COMMITTED = ROOT / "figures" / "results"


def read_line(name: str, value: object) -> tuple[str, int, int]:
    """[method, rounds, scoring images of each class]; raises ConfigurationError."""
    if not isinstance(value, (list, tuple)) or len(value) != 3 or None in value:
        raise ConfigurationError(
            f"{name}: {value!r} is not [method, rounds, scoring images of each class]"
        )
    readers = (one_of(METHODS), whole_from(1), whole_from(0))
    return tuple(read(name, one) for read, one in zip(readers, value, strict=True))


def read_network(name: str, value: object) -> tuple[str, str]:
    """[model, protocol]; raises ConfigurationError."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ConfigurationError(f"{name}: {value!r} is not [model, protocol]")
    model, protocol = value
    return one_of(MODELS)("model", model), one_of(PROTOCOLS)("protocol", protocol)


# Parameters of notebooks that are lists: the columns that have their values, how one value is read.
LISTS: dict[str, tuple[tuple[str, ...], Read]] = {
    "seeds": (("seed",), whole_from(0)),
    "exponents": (("exponent",), number_in(0)),
    "sparsities": (("sparsity",), number_in(0, 1)),
    "methods": (("method", "iterations", "images_per_class"), read_line),
    "models": (("model",), one_of(MODELS)),
    "networks": (("model", "protocol"), read_network),
}


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


def values(parameter: str, given: object) -> list:
    """The values of a notebook's parameter that is one of LISTS.

    Raises ConfigurationError for what is no list, or holds what cannot be.
    """
    return list_of(LISTS[parameter][1])(parameter, given)


def read_asked(path: Path, **asked: object) -> pd.DataFrame:
    """`select` from the table in `path`. Raises ConfigurationError too where there is none."""
    if not path.is_file():
        raise ConfigurationError(f"results_dir: no table {shown(path)}; recompute=True measures it")
    return select(read(path), path, **asked)


def select(table: pd.DataFrame, path: Path, **asked: object) -> pd.DataFrame:
    """The rows of a study's table, read from `path`, that are of what a notebook asks for.

    asked: parameter -> its value, or, of LISTS, a list of values, each of which must be there; None
    for all that there is. Raises ConfigurationError for what cannot be, and for what is not there,
    and then says what the table holds.
    """
    for parameter, given in asked.items():
        if given is None:
            continue
        columns, wanted = [parameter], [given]
        if parameter in LISTS:
            columns, wanted = list(LISTS[parameter][0]), values(parameter, given)
        found = [_comparable(row) for row in table[columns].itertuples(index=False, name=None)]
        wanted = {_comparable(one if isinstance(one, tuple) else (one,)) for one in wanted}
        if not wanted <= set(found):
            raise ConfigurationError(
                f"{parameter}={given!r}: {shown(path)} holds {_held(found)}; "
                "recompute=True with a results_dir of its own measures others"
            )
        table = table[[one in wanted for one in found]]
    return table


def shown(path: Path) -> str:
    """A path for messages: from the repository's root where it lies in it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def of_units(table: pd.DataFrame, chosen: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The rows of a table whose units (equal values of `keys`) are among those of another."""
    index, there = (one.set_index(list(keys)).index for one in (table, chosen))
    return table[index.isin(there)]


def layer_rows(masks: Masks) -> list[dict[str, object]]:
    """A row per mask: its layer, how many weights that has, and how many are kept."""
    return [
        {"layer": n.removesuffix(".weight"), "size": mask.numel(), "kept": int(mask.sum())}
        for n, mask in masks.items()
    ]


def _comparable(values: Sequence[object]) -> tuple:
    return tuple(round(one, 9) if isinstance(one, float) else one for one in values)


def _held(found: Iterable[tuple]) -> str:
    values = sorted(set(found))
    return ", ".join(repr(one[0] if len(one) == 1 else list(one)) for one in values)


def provenance(device: torch.device) -> dict[str, str]:
    """The columns that say where a row was measured."""
    return {
        "device": environment.hardware(device),
        "torch_version": torch.__version__,
        "code_version": code_version(),
    }


PROVENANCE = ("device", "torch_version", "code_version")
