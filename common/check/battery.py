"""Does it matter which weights? The runs that say so, as a grid that any machine can carry out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from rich.console import Console

from common import datasets
from common.base import environment
from common.base.errors import ConfigurationError
from common.base.files import make_writable, write_atomically
from common.base.paths import GRIDS, ROOT, TRIALS, default_results
from common.check import kept
from common.pruning import Method, find_method, outside
from common.pruning.outside import Outside
from common.results import collected
from common.results.schema import EXACT, SUMMARY
from common.runs.experiment import Experiment, configure
from common.runs.network import Network
from common.sweep import batch, grid, plan

GRID = "check"
ABLATIONS = ("none", "shuffle", "reinit", "invert")
PUBLISHED = ROOT / "figures" / "results"
# What a cell of the battery has of the grid's run whose place it takes.
SETTING = ("protocol", "dataset", "model", "sparsity", "seed", "epochs", "batch_size")
SETTING += ("pretrain_epochs", "precision", "device", "data_dir")


@dataclass(frozen=True)
class Battery:
    """A method from outside on the settings of a grid: its networks, sparsities and seeds.

    outside, variant: the method, and the options that its file does not have. runs: the grid's
    pruned ones, of which the settings are taken. results: the folder of the batch's file and runs.
    """

    outside: Outside
    variant: str
    runs: tuple[Experiment, ...]
    results: Path

    @property
    def method(self) -> Method:
        """The method as it is run."""
        return find_method(self.outside.label, self.variant)

    @property
    def file(self) -> Path:
        """The battery's own grid, for `trials run`, `status`, `figures` on any machine."""
        named = "_".join(filter(None, (self.outside.label, self.variant)))
        return self.results / f"{named}.yaml"

    @property
    def root(self) -> Path:
        """Where its runs lie."""
        return self.results / self.file.stem

    @property
    def sparsities(self) -> list[float]:
        """Those of the grid, ascending."""
        return sorted({run.sparsity for run in self.runs})

    @functools.cached_property
    def own(self) -> list[Experiment]:
        """The method's own runs: unmodified, shuffled, redrawn and inverted in every setting."""
        return self._in_every_setting((self.outside.label, self.variant), ABLATIONS)

    @functools.cached_property
    def others(self) -> list[Experiment]:
        """The suite's methods, unmodified, in every setting."""
        return [run for one in kept.others() for run in self._in_every_setting(one, ("none",))]

    @functools.cached_property
    def published(self) -> pd.DataFrame:
        """Of the other methods' runs those that the repository has: rows of summary.csv."""
        wanted = {(run.method, run.run_id) for run in self.others}
        found = [pd.DataFrame(columns=SUMMARY)]
        for path in sorted(PUBLISHED.glob("*/summary.csv")):
            if tuple(pd.read_csv(path, nrows=0).columns) == SUMMARY:
                rows = pd.read_csv(path, keep_default_na=False, na_values=[""], **EXACT)
                there = zip(rows["method"], rows["run_id"], strict=True)
                found.append(rows[[key in wanted for key in there]].fillna({"variant": ""}))
        every = pd.concat([rows for rows in found if len(rows)] or found)
        return every.drop_duplicates(["method", "run_id"], ignore_index=True)

    def write(self) -> Path:
        """Write `file`: all runs but those that are published already. Raises ConfigurationError
        where nothing can be written."""
        there = set(zip(self.published["method"], self.published["run_id"], strict=True))
        wanted = [run for run in self.others if (run.method, run.run_id) not in there]
        blocks = [self._block(run) for run in (*self.own, *wanted)]
        content = {
            "title": f"{self.outside.label}, checked",
            "description": f"{len(self.own)} runs of {self.outside.path.name}, and of the others "
            f"the {len(wanted)} that the repository has no results of.",
            "runs": blocks,
        }
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=1000)
        make_writable(self.results, "choose a folder with --results")
        write_atomically(self.file, lambda path: path.write_text(text, encoding="utf-8"))
        return self.file

    def carry_out(self, console: Console, **options: object) -> int:
        """Do the runs that are not done; returns the exit status. options: of `batch.run`."""
        return batch.run(str(self.write()), results=self.results, console=console, **options)

    def summary(self) -> pd.DataFrame:
        """A row a run, the method's own first: rows of summary.csv. Raises ConfigurationError where
        there are none."""
        own = collected.collect(self.root).summary
        # An empty table has no types, and would take the other's away.
        both = [own, self.published] if len(self.published) else [own]
        return pd.concat(both, ignore_index=True)

    def networks(self, number: int = 3) -> list[Network]:
        """The networks of the first setting and its first seeds, before any pruning."""
        first = self.runs[0]
        device = environment.resolve_device(first.device)
        data = datasets.load(first.dataset, first.data_dir).to(device)
        seeds = sorted({run.seed for run in self.runs})[:number]
        return [Network(first.model, data, first.hyper, seed) for seed in seeds]

    def _in_every_setting(
        self, method: tuple[str, str], ablations: Sequence[str]
    ) -> list[Experiment]:
        found: dict[Path, Experiment] = {}
        for run in self.runs:
            for ablation in ablations:
                setting = {name: getattr(run, name) for name in SETTING}
                more = {"ablation": ablation, "results_dir": self.root}
                one = configure(method[0], variant=method[1], **setting, **more)
                found.setdefault(one.folder, one)
        return list(found.values())

    def _block(self, run: Experiment) -> dict[str, object]:
        own = run.method == self.outside.label
        names = ("variant", "ablation", *SETTING)
        values = {name: getattr(run, name) for name in names}
        told = {name: value for name, value in values.items() if value not in (None, "")}
        return {"method": self.outside.spec if own else run.method, **told}


def battery(
    score: str,
    grid_name: str = GRID,
    settings: Sequence[str] = (),
    results: Path | None = None,
    **options: object,
) -> Battery:
    """The battery of a method from outside.

    score: its file, `file.py:name` or entry point. grid_name: whose settings; settings:
    `name=value` for all of its runs, as of `trials run`. options: `outside.OPTIONS`, where the file
    does not have them. Raises ConfigurationError for what cannot be had or run.
    """
    if not outside.is_spec(score):
        raise ConfigurationError(
            f"score={score!r} names no method: give a file (my_method.py, my_method.py:name) or an "
            f"installed entry point of the group {outside.GROUP}"
        )
    variant = outside.variant_of(**options)
    found = outside.register(score, variant)
    chosen = grid.find(grid_name, GRIDS, plan.notebooks(TRIALS))
    folder = (results or default_results()).resolve() / "check"
    runs = plan.experiments(chosen, folder, grid.overrides(settings))
    pruned = tuple(run for run in runs if run.sparsity > 0)
    if not pruned:
        raise ConfigurationError(f"{chosen.path}: no run removes anything")
    return Battery(found, variant, pruned, folder)
