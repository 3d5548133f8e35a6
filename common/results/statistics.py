"""Replicates: means and paired differences, with the intervals that say what they carry; and how
alike two orders are.

Seeds are replicates, and they are paired: under one seed every method starts from the same weights,
is scored on the same images and sees the same batches. So two procedures are compared seed by seed,
and what seeds have in common falls out of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
NUMBERS = ("mean", "low", "high", "n")  # the columns in which tables hold an interval

# What must be equal in two runs for their difference to be that of one factor.
MATCHED = (
    *("dataset", "model", "protocol", "epochs"),
    *("method", "variant", "ablation", "sparsity", "seed"),
)


@dataclass(frozen=True)
class Interval:
    """A mean of n replicates with its t-interval of level `LEVEL`; without a width for n = 1."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference with this interval is one; never for a single replicate."""
        return self.low > 0 or self.high < 0

    @property
    def half_width(self) -> float:
        """Half of the interval's length; nan for a single replicate."""
        return (self.high - self.low) / 2


def mean_interval(values: Iterable[float]) -> Interval:
    """Mean and t-interval of independent replicates (Student 1908).

    Replicates that do not differ at all have an interval of length zero. Raises ValueError where
    there is none, or one is not finite.
    """
    values = [float(value) for value in values]
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"replicates must be finite numbers, at least one; got {values}")
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return Interval(mean, math.nan, math.nan, n)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * stats.sem(values)
    return Interval(mean, mean - half, mean + half, n)


def accuracy_interval(accuracy: float, images: int) -> Interval:
    """An accuracy (percent) on so many images with its interval of level LEVEL (Wilson 1927).

    It takes images for independent draws, so it says whether guessing would do as well, and
    nothing of another seed.
    """
    right = stats.binomtest(round(accuracy * images / 100), images)
    found = right.proportion_ci(LEVEL, method="wilson")
    return Interval(accuracy, 100 * found.low, 100 * found.high, images)


def intervals(
    rows: pd.DataFrame, keys: Sequence[str], statistic: str = "test_accuracy"
) -> pd.DataFrame:
    """Per value of `keys`, in the order of the rows: mean, low, high and n of `statistic` over the
    rows with that value, replicates of each other (low and high are nan where there is one)."""
    keys = list(keys)
    found = [
        (*key, *astuple(mean_interval(values)))
        for key, values in rows.groupby(keys, sort=False, dropna=False)[statistic]
    ]
    return pd.DataFrame(found, columns=[*keys, *NUMBERS])


def paired_differences(
    runs: pd.DataFrame,
    factor: Sequence[str] = ("ablation",),
    baseline: Sequence[str] = ("none",),
    statistic: str = "test_accuracy",
) -> pd.DataFrame:
    """What each value of `factor` changes against its `baseline`, seed by seed.

    runs: a summary (one row a run; variants and ablations named, see `plots.tables.prepared`).
    factor, baseline: columns and their values, such as ("method", "variant") and ("random", "").
    Two runs are a pair where every other column of `MATCHED` is equal. Returns a row for each of
    their values but the seed, in the order of `runs`: mean, low and high of the paired differences
    (in the statistic's units) and the number n of pairs. What has no pair has no row.
    """
    cells = [name for name in dict.fromkeys((*MATCHED, *factor)) if name != "seed"]
    return intervals(_pairs(runs, factor, baseline, statistic), cells, "difference")


def pooled_difference(
    runs: pd.DataFrame,
    factor: Sequence[str] = ("ablation",),
    baseline: Sequence[str] = ("none",),
) -> Interval:
    """The mean of all those differences, seed by seed, as one number: what is averaged first are
    the cells (methods, sparsities, ...) of a seed, and seeds are the replicates of that average.

    Only cells of the seed that has most of them count, and only seeds that have them all. Raises
    ValueError where there is no pair.
    """
    pairs = _pairs(runs, factor, baseline, "test_accuracy")
    cells = [name for name in MATCHED if name != "seed"]
    by_seed = pairs.pivot(index=cells, columns="seed", values="difference")
    complete = by_seed.count() == by_seed.count().max() if len(pairs) else []
    return mean_interval(by_seed.loc[:, complete].dropna().mean())


def _pairs(
    runs: pd.DataFrame, factor: Sequence[str], baseline: Sequence[str], statistic: str
) -> pd.DataFrame:
    """The pairs of `paired_differences`, a row each, with their `difference`."""
    factor = list(factor)
    keys = [name for name in MATCHED if name not in factor]
    is_baseline = (runs[factor] == list(baseline)).all(axis=1)
    ours = runs.loc[~is_baseline, [*keys, *factor, statistic]]
    theirs = runs.loc[is_baseline, [*keys, statistic]]
    pairs = ours.merge(theirs, on=keys, suffixes=("", "_baseline"), validate="many_to_one")
    return pairs.assign(difference=pairs[statistic] - pairs[f"{statistic}_baseline"])


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho of n pairs, from -1 (the reverse order) to 1 (the same), and its p-value: how
    often an order by chance correlates as strongly, in either direction."""

    rho: float
    p: float
    n: int

    @property
    def least_p(self) -> float:
        """The p-value of identical orders of n without ties, the least that n can give."""
        return min(1.0, 2 / math.factorial(self.n))


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> RankCorrelation:
    """How alike two orders of the same things are (Spearman 1904).

    The p-value is that of a permutation test, exact up to eight pairs and from 40,320 random orders
    beyond. rho and p are nan where one side has no order: fewer than two pairs, or all equal.
    Raises ValueError for sides of different lengths.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"orders of {len(ours)} and of {len(theirs)} do not compare")
    if min(len(set(ours)), len(set(theirs))) < 2:
        return RankCorrelation(math.nan, math.nan, len(ours))
    first, second = map(_standardised_ranks, (ours, theirs))
    found = stats.permutation_test(
        (first,),
        lambda ranks, axis: (ranks * second).sum(axis=axis),
        permutation_type="pairings",
        n_resamples=math.factorial(8),
        vectorized=True,
        random_state=0,
    )
    return RankCorrelation(float(found.statistic), float(found.pvalue), len(ours))


def _standardised_ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks, shifted and scaled so that the sum of products of two sides is their correlation."""
    ranks = stats.rankdata(values)
    ranks -= ranks.mean()
    return ranks / np.linalg.norm(ranks)
