"""What a short training can tell: the effect of shuffling a mask, and the order of the methods,
against the length of the training.

Every length is a training of its own, scheduled for it (protocol `budget`: the learning rate falls
to zero within `epochs`, whatever they are). Others' curves are points along one long training, in
whose early epochs the learning rate is still high: they stand beside ours, on no common line.
Everything here is read off tables of runs; the grid of the same name makes them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from common.base.errors import ConfigurationError
from common.results import reference
from common.results.collected import collect
from common.results.run_folder import is_done
from common.results.statistics import LEVEL, MATCHED, paired_differences
from common.runs.options import number_in
from common.studies.tables import COMMITTED, read

# The second has the runs of its protocol's own 15 epochs, which the first does not repeat.
GRIDS = ("schedule_length", "cifar10")
METHODS = ("random", "SNIP", "grasp", "synflow")
# Shuffled, a random mask is another random mask.
PROCEDURES = (*((m, "none") for m in METHODS), *((m, "shuffle") for m in METHODS[1:]))
SETTING = ("dataset", "model", "protocol", "sparsity")


def read_runs(
    home: Path,
    *,
    lengths: Sequence[int],
    seeds: Sequence[int],
    dataset: str = "cifar10",
    model: str = "resnet20",
    protocol: str = "budget",
    sparsity: float = 0.9,
) -> pd.DataFrame:
    """The finished runs of both grids below `home` that are of this kind: rows of the summary, each
    run once.

    lengths: numbers of epochs; they and the seeds need not all be there. Raises ConfigurationError,
    which says what there is, where no run is of the kind asked for.
    """
    for name, values in (("lengths", lengths), ("seeds", seeds)):
        if not isinstance(values, (list, tuple)) or not values:
            raise ConfigurationError(f"{name}={values!r} is not a list of numbers such as [2, 4]")
    sparsity = number_in(0, 1)("sparsity", sparsity)
    tables = [collect(home / name).summary for name in GRIDS if _holds_runs(home / name)]
    if not tables:
        raise ConfigurationError(
            f"results_dir: no finished run in {' or '.join(str(home / name) for name in GRIDS)}; "
            "python -m trials run schedule_length makes them"
        )
    found = pd.concat(tables, ignore_index=True)
    procedure = pd.Series(zip(found["method"], found["ablation"], strict=True), found.index)
    found = found[procedure.isin(PROCEDURES) & (found["variant"] == "")]
    asked = {"dataset": dataset, "model": model, "protocol": protocol, "sparsity": sparsity}
    chosen = found["epochs"].isin(lengths) & found["seed"].isin(seeds)
    chosen &= (found[list(asked)].round(9) == pd.Series(asked)).all(axis=1)
    if not chosen.any():
        asked |= {"lengths": list(lengths), "seeds": list(seeds)}
        raise ConfigurationError(
            f"no run with {', '.join(f'{name}={value!r}' for name, value in asked.items())}; "
            f"the tables in {home} hold {'; '.join(_held(found)) or 'none of these methods'}"
        )
    return found[chosen].drop_duplicates(list(MATCHED)).reset_index(drop=True)


def missing(runs: pd.DataFrame, lengths: Sequence[int], seeds: Sequence[int]) -> pd.DataFrame:
    """The runs of the design that are not there: epochs, seed, method, ablation."""
    names = ["epochs", "seed", "method", "ablation"]
    design = itertools.product(lengths, seeds, PROCEDURES)
    there = set(runs[names].itertuples(index=False, name=None))
    absent = [(e, s, *procedure) for e, s, procedure in design if (e, s, *procedure) not in there]
    return pd.DataFrame(absent, columns=names)


def shuffling(runs: pd.DataFrame) -> pd.DataFrame:
    """What shuffling changes, by length and method: rows of `paired_differences`, in points."""
    return paired_differences(runs).sort_values(["method", "epochs"], ignore_index=True)


def change_of_shuffling(runs: pd.DataFrame) -> pd.DataFrame:
    """What the effect of shuffling at each length has more than that at the longest, seed by seed.

    A seed's mask is the same in trainings of any length. Rows of `paired_differences`.
    """
    keys = [name for name in MATCHED if name != "ablation"]
    wide = runs.pivot(index=keys, columns="ablation", values="test_accuracy")
    wide = wide.reindex(columns=["none", "shuffle"]).dropna()
    effect = (wide["shuffle"] - wide["none"]).rename("effect").reset_index()
    longest = (effect["epochs"].max(),)
    effect["ablation"] = "shuffle"
    return paired_differences(effect, ("epochs",), longest, "effect")


def against_random(runs: pd.DataFrame) -> pd.DataFrame:
    """What each unmodified method has more than random pruning, by length: rows of
    `paired_differences`."""
    plain = runs[runs["ablation"] == "none"]
    found = paired_differences(plain, ("method", "variant"), ("random", ""))
    return found.sort_values(["method", "epochs"], ignore_index=True)


def order(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy of the unmodified methods by length, and `agreement`: Kendall's tau between
    their order there and at the longest (1: the same, -1: the reverse).

    Over the `seeds` that have all four methods at that length; other lengths have no row.
    """
    plain = runs[runs["ablation"] == "none"]
    wide = plain.pivot(index=["epochs", "seed"], columns="method", values="test_accuracy")
    wide = wide.reindex(columns=METHODS).dropna()
    means = wide.groupby("epochs").mean()
    longest = means.iloc[-1:].to_numpy().ravel()
    agreement = [stats.kendalltau(row, longest).statistic for row in means.to_numpy()]
    return means.assign(agreement=agreement, seeds=wide.groupby("epochs").size())


def scatter(runs: pd.DataFrame) -> pd.DataFrame:
    """By length, in points: the standard deviation of accuracies over seeds (`runs`), and that of
    the paired differences by shuffling (`pairs`), each pooled over what was run; nan where no two
    seeds are."""
    keys = [name for name in MATCHED if name not in ("ablation", "seed")]
    wide = runs.pivot(index=[*keys, "seed"], columns="ablation", values="test_accuracy")
    wide = wide.reindex(columns=["none", "shuffle"]).reset_index()
    pairs = wide.assign(difference=wide["shuffle"] - wide["none"])
    return pd.DataFrame(
        {
            "runs": _pooled(runs, [*keys, "ablation"], "test_accuracy"),
            "pairs": _pooled(pairs, keys, "difference"),
        }
    )


def an_hour(runs: pd.DataFrame, images_per_second: Sequence[float] | None = None) -> pd.DataFrame:
    """What an hour holds, by length and by how many images a second a machine trains (columns):
    `minutes` of a run, `seeds` of one comparison (each is two runs), and the `interval` to expect
    of their differences: its half width in points, nan below two seeds.

    images_per_second: None for the median of the runs, and 4 and 16 times that. Minutes are the
    runs' own (median), scaled; intervals follow from the scatter of paired differences. Raises
    ConfigurationError for what is no list of speeds.
    """
    own = runs["images_per_second"].median()
    speeds = [own, 4 * own, 16 * own] if images_per_second is None else images_per_second
    if not isinstance(speeds, (list, tuple)) or not speeds:
        raise ConfigurationError(f"images_per_second={speeds!r} is not a list such as [2000, 9000]")
    minutes = (runs["prune_seconds"] + runs["train_seconds"]).groupby(runs["epochs"]).median() / 60
    deviation, parts = scatter(runs)["pairs"], {}
    for speed in speeds:
        taken = minutes * own / number_in(1)("images_per_second", speed)
        seeds = (60 / (2 * taken)).astype(int)
        half = [half_width(deviation[epochs], n) for epochs, n in seeds.items()]
        parts[round(speed)] = pd.DataFrame({"minutes": taken, "seeds": seeds, "interval": half})
    return pd.concat(parts, axis=1, names=["images a second", ""])


def half_width(deviation: float, n: int) -> float:
    """Half of the t-interval that n replicates with this standard deviation have (nan for one)."""
    if n < 2:
        return math.nan
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * deviation / math.sqrt(n))


def stepwise() -> pd.DataFrame:
    """What was run before: ResNet-20 in 4 and 12 epochs of frankle2021's steps, one seed; rows of
    the summary."""
    return read(COMMITTED / "schedule_length" / "steps.csv")


def published_shuffling(source: str = "epfl2020") -> pd.DataFrame:
    """What shuffling changed on CIFAR-10 in the source's single runs: model, method, sparsity,
    epoch, difference (points). No replicates, so no intervals."""
    rows = reference.along_training(source)
    rows = rows[(rows["dataset"] == "cifar10") & rows["ablation"].isin(["none", "shuffle"])]
    run = ["source", "model", "method", "sparsity", "epoch"]
    wide = rows.pivot(index=run, columns="ablation", values="test_accuracy")
    return (wide["shuffle"] - wide["none"]).dropna().rename("difference").reset_index()


def published_against_random(source: str = "neuder2026") -> pd.DataFrame:
    """What methods had more than the mean of the source's runs with random pruning: model, method,
    variant, sparsity, epoch, difference (points). One or two runs, so no intervals."""
    rows = reference.along_training(source)
    run = ["source", "model", "sparsity", "epoch"]
    is_random = rows["method"] == "random"
    baseline = rows[is_random].groupby(run)["test_accuracy"].mean().rename("random")
    found = rows[~is_random].join(baseline, on=run, how="inner")
    found["difference"] = found["test_accuracy"] - found["random"]
    return found[[*run, "method", "variant", "difference"]].reset_index(drop=True)


def _holds_runs(folder: Path) -> bool:
    """Whether there is something to collect: the tables of a grid, or a finished run's folder."""
    return (folder / "summary.csv").is_file() or any(map(is_done, folder.glob("*/*/")))


def _held(runs: pd.DataFrame) -> list[str]:
    """What there is, a setting each, with its lengths and seeds."""
    found = []
    for key, part in runs.groupby(list(SETTING)):
        named = ", ".join(f"{k}={v!r}" for k, v in zip(SETTING, key, strict=True))
        lengths, seeds = (sorted(map(int, part[name].unique())) for name in ("epochs", "seed"))
        found.append(f"{named}, lengths={lengths}, seeds={seeds}")
    return found


def _pooled(table: pd.DataFrame, cell: Sequence[str], value: str) -> Mapping[int, float]:
    """By length: the standard deviation of `value` about the means of its cells."""
    table = table.dropna(subset=value)
    groups = table.groupby(list(cell))[value]
    squares = (table[value] - groups.transform("mean")).pow(2).groupby(table["epochs"]).sum()
    free = table.groupby("epochs").size() - groups.size().groupby("epochs").size()
    return np.sqrt(squares / free.where(free > 0))
