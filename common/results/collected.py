"""All runs of a grid in one table each; thousands of them in seconds."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from common.base.errors import ConfigurationError
from common.base.files import write_atomically
from common.results.run_folder import is_done
from common.results.schema import EPOCHS, EXACT, FURTHER, LAYERS, RUN, SUMMARY, TOP5, Table

TABLES = {"summary": SUMMARY, "epochs": (*RUN, *EPOCHS), "layers": (*RUN, *LAYERS)}
# Columns of text.
_TEXT_COLUMNS = (
    *("run_id", "method", "variant", "ablation", "protocol", "dataset", "model", "device"),
    *("precision", "torch_version", "code_version", "started_at", "layer", "kind", "shape"),
)
_TEXT = dict.fromkeys(_TEXT_COLUMNS, str)
_METHOD, _RUN_ID, _CODE, _SPARSITY = map(
    SUMMARY.index, ("method", "run_id", "code_version", "sparsity")
)
# Of a network without a weight, or one whose training went astray; elsewhere infinity is damage.
_MAY_BE_INFINITE = ("compression", "train_loss", "test_loss")

Keys = Collection[tuple[str, str]]  # (method, run_id)


@dataclass(frozen=True)
class Collected:
    """One table each from all finished runs, and what was left out: (folder, why).

    epochs and layers have the run's method and run_id before their own columns. more: the further
    tables of trials (`schema.Table`), by name.
    """

    summary: pd.DataFrame
    epochs: pd.DataFrame
    layers: pd.DataFrame
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    more: dict[str, pd.DataFrame] = field(default_factory=dict)


@dataclass
class _Run:
    """key: (method, run_id). lines: of each table, CSV in the columns that it is collected with."""

    folder: Path
    key: tuple[str, str]
    code_version: str
    lines: Mapping[str, list[str]]


def collect(root: Path, code_version: str | None = None, only: Keys | None = None) -> Collected:
    """Read every finished run below `root` (<method>/<run_id>/); where there is no run at all, the
    tables that `write_collected` left there.

    Runs that are unfinished, damaged, superseded or there twice are left out and listed with the
    reason, and so are those of another code version than `code_version`, if that is given (the
    beginning of a commit will do), and those that are not among `only`. Raises ConfigurationError
    if there is nothing to collect.
    """
    files = (path for name in ("run.json", "summary.csv") for path in root.glob(f"*/*/{name}"))
    folders = sorted({path.parent for path in files})
    tables = [root / f"{name}.csv" for name in TABLES]
    if not folders and all(path.is_file() for path in tables):
        more = {t.name: (root / f"{t.name}.csv", dict.fromkeys(t.text, str)) for t in _further()}
        found = {name: _read(*how) for name, how in more.items() if how[0].is_file()}
        return Collected(*(_read(path) for path in tables), more=found)
    left_out: list[tuple[Path, str]] = []
    kept: dict[tuple[str, str], _Run] = {}
    # A folder that bears its run's name comes before one that does not.
    for run in sorted(_read_runs(folders, left_out), key=lambda run: run.key[1] != run.folder.name):
        if _superseded(run):
            reason = f"superseded: an earlier result of {run.key[1]}, moved aside"
        elif run.key in kept:
            reason = f"duplicate: the same run as {kept[run.key].folder}"
        elif only is not None and run.key not in only:
            reason = "none of the grid's runs: of other parameters (-p name=value), or a copy's"
        elif code_version and not run.code_version.startswith(code_version):
            reason = f"other code version: {run.code_version}"
        else:
            kept[run.key] = run
            continue
        left_out.append((run.folder, reason))
    ordered = sorted(kept.values(), key=lambda run: run.folder)
    joined = _join(ordered, left_out)
    if not len(joined["summary"]):
        told = [f"{folder.name}: {reason}" for folder, reason in sorted(left_out)[:1]]
        raise ConfigurationError(
            f"{root} holds no finished run that counts (<method>/<run_id>/summary.csv)"
            + "".join(
                f"; {len(left_out)} unfinished, damaged or left out, as {one}" for one in told
            )
        )
    three = {name: joined.pop(name) for name in TABLES}
    return Collected(**three, left_out=sorted(left_out), more=joined)


def write_collected(collected: Collected, folder: Path) -> None:
    """Write all tables into `folder`; summary.csv last."""
    folder.mkdir(parents=True, exist_ok=True)
    three = {name: getattr(collected, name) for name in ("epochs", "layers", "summary")}
    for name, table in {**collected.more, **three}.items():
        write_atomically(
            folder / f"{name}.csv", lambda path, table=table: table.to_csv(path, index=False)
        )


def together(new: Collected, old: Collected) -> Collected:
    """The runs of both, in order; one that both have is as in `new`."""
    three = {name: _both(getattr(new, name), getattr(old, name)) for name in TABLES}
    more = {
        name: _both(new.more.get(name), old.more.get(name)) for name in {**new.more, **old.more}
    }
    return Collected(**three, left_out=new.left_out, more=more)


def _both(new: pd.DataFrame | None, old: pd.DataFrame | None) -> pd.DataFrame:
    if new is None or old is None:
        return old if new is None else new
    runs, again = (pd.MultiIndex.from_frame(table[list(RUN)]) for table in (old, new))
    kept = old[~runs.isin(again)]
    return pd.concat([kept, new]).sort_values(list(RUN), kind="stable", ignore_index=True)


def _read_runs(folders: Iterable[Path], left_out: list[tuple[Path, str]]) -> list[_Run]:
    runs = []
    for folder in folders:
        try:
            runs.append(_read_run(folder))
        except (OSError, ValueError) as error:
            left_out.append((folder, str(error)))
    return runs


def _read_run(folder: Path) -> _Run:
    """The run's tables as text; ValueError with the reason if they are not whole."""
    if not is_done(folder):
        raise ValueError("unfinished: no summary.csv")
    lines = _lines(folder / "summary.csv", SUMMARY)
    if len(lines) != 1:
        raise ValueError("damaged: summary.csv has not exactly one row")
    (row,) = csv.reader(lines)
    key = row[_METHOD], row[_RUN_ID]
    named = re.search(r"_sparsity([\d.e-]+)_", key[1])
    if named and float(named[1]) != float(row[_SPARSITY]):
        raise ValueError(f"damaged: summary.csv has sparsity {row[_SPARSITY]}, not {named[1]}")
    own = _cells(key)
    tables = {"summary": lines}
    for name, columns in (("epochs", EPOCHS), ("layers", LAYERS)):
        tables[name] = [f"{own},{line}" for line in _lines(folder / f"{name}.csv", columns)]
    optional = [TOP5] if (folder / f"{TOP5.name}.csv").is_file() else []
    for table in (*FURTHER.get(row[_METHOD], ()), *optional):
        told = _cells(_told(folder / "run.json", table))
        found = _lines(folder / f"{table.name}.csv", table.columns)
        tables[table.name] = [f"{told},{line}" for line in found]
    return _Run(folder, key, row[_CODE], tables)


def _told(path: Path, table: Table) -> list[object]:
    """What a run's run.json tells for `table`, in the order of its key columns."""
    try:
        told = table.read_keys(json.loads(path.read_text(encoding="utf-8")))
        return [told[name] for name in table.key_columns]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"damaged: {path.name} does not tell of its {table.name}.csv") from error


def _lines(path: Path, columns: tuple[str, ...]) -> list[str]:
    """Below the header; each a row of its own, since no value holds a line break."""
    if not path.is_file():
        raise ValueError(f"damaged: no {path.name}")
    try:
        text = path.read_text(encoding="utf-8")
        header, *lines = text.splitlines()
        # Most tables have no quoted values, and counting commas is quicker.
        counted = csv.reader(lines, strict=True) if '"' in text else None
        widths = map(len, counted) if counted else (line.count(",") + 1 for line in lines)
        whole = text.endswith("\n") and all(width == len(columns) for width in widths)
    except (ValueError, csv.Error) as error:  # not text, no header, an open quotation
        raise ValueError(f"damaged: {path.name}: {error}") from error
    if header != ",".join(columns) or not lines:
        raise ValueError(f"damaged: {path.name} has other columns or no rows")
    if not whole:
        raise ValueError(f"damaged: {path.name} breaks off")
    return lines


def _cells(values: Iterable[object]) -> str:
    """As CSV writes them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _superseded(run: _Run) -> bool:
    """Whether `run_folder.prepare` moved it aside for a second result of the same run."""
    name, _, number = run.folder.name.rpartition(".")
    return name == run.key[1] and number.isdigit()


def _further() -> list[Table]:
    """The further tables of all trials, and those that some runs have."""
    return [table for tables in FURTHER.values() for table in tables] + [TOP5]


def _join(runs: list[_Run], left_out: list[tuple[Path, str]]) -> dict[str, pd.DataFrame]:
    """The runs' tables, without those that hold text among their numbers."""
    tables, wrong = _parse(runs)
    if wrong:
        left_out += [(run.folder, wrong[run.key]) for run in runs if run.key in wrong]
        tables, _ = _parse([run for run in runs if run.key not in wrong])
    derive = {table.name: table.derive for table in _further() if table.name in tables}
    return tables | {name: derived(tables[name]) for name, derived in derive.items()}


def _parse(runs: list[_Run]) -> tuple[dict[str, pd.DataFrame], dict[tuple[str, str], str]]:
    """The runs' tables, parsed all at once (of the further ones those that some run has), and what
    is wrong with which runs."""
    forms = {name: (columns, _TEXT) for name, columns in TABLES.items()}
    present = {name for run in runs for name in run.lines}
    for table in _further():
        if table.name in present:
            columns = (*table.key_columns, *table.columns)
            forms[table.name] = columns, dict.fromkeys(table.text, str)
    tables, wrong = {}, {}
    for name, (columns, text) in forms.items():
        lines = (line for run in runs for line in run.lines.get(name, ()))
        table = _read(io.StringIO("\n".join([",".join(columns), *lines])), text)
        for column in table.columns:
            if column not in text:
                numbers = pd.to_numeric(table[column], errors="coerce")
                bad = numbers.isna() & table[column].notna()
                if column not in _MAY_BE_INFINITE:
                    bad |= numbers.abs() == math.inf
                for key in table.loc[bad, list(RUN)].itertuples(index=False, name=None):
                    wrong.setdefault(key, f"damaged: {name}.csv has no numbers in {column}")
        tables[name] = table
    return tables, wrong


def _read(source: Path | io.StringIO, text: Mapping[str, type] = _TEXT) -> pd.DataFrame:
    """A table with its columns of `text`, in which an empty cell is an empty string."""
    table = pd.read_csv(source, dtype=dict(text), keep_default_na=False, na_values=[""], **EXACT)
    there = [name for name in table.columns if name in text]
    table[there] = table[there].fillna("")
    return table
