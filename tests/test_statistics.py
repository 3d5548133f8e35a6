"""Intervals and paired differences against closed forms."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from common.results.statistics import (
    accuracy_interval,
    mean_interval,
    paired_differences,
    pooled_difference,
    rank_correlation,
)

SETTING = {"dataset": "digits", "model": "small_vgg", "protocol": "quick", "epochs": 8}


def runs(rows):
    named = ("method", "ablation", "seed", "test_accuracy")
    return pd.DataFrame(
        [
            {**SETTING, "variant": "", "sparsity": 0.9, **dict(zip(named, r, strict=True))}
            for r in rows
        ]
    )


def test_the_interval_of_three_replicates_is_students():
    found = mean_interval([1.0, 2.0, 3.0])
    # t(0.975; 2) = 4.302653 and the standard error of 1, 2, 3 is 1 / sqrt(3).
    assert found.mean == 2
    assert found.half_width == pytest.approx(4.30265273 / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx((2 - 2.48413771, 2 + 2.48413771))
    assert not found.excludes_zero


def test_one_replicate_carries_nothing():
    found = mean_interval([40.0])
    assert found.mean == 40
    assert math.isnan(found.low)
    assert not found.excludes_zero


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_replicate_is_refused(values):
    with pytest.raises(ValueError, match="at least one"):
        mean_interval(values)


def test_the_interval_of_an_accuracy_is_wilsons():
    found, z, share = accuracy_interval(9.5, 1000), 1.959964, 0.095
    middle = (share + z**2 / 2000) / (1 + z**2 / 1000)
    half = z / (1 + z**2 / 1000) * math.sqrt(share * (1 - share) / 1000 + z**2 / 4e6)
    assert (found.low, found.high) == pytest.approx((100 * (middle - half), 100 * (middle + half)))
    assert found.low < 10 < found.high
    assert accuracy_interval(18.875, 3200).low > 10


def test_the_interval_covers_the_mean_as_often_as_it_says():
    # Of 2,000 intervals from one normal distribution 95 percent cover its mean, give or take 0.5.
    draws = np.random.default_rng(0).normal(3, 2, size=(2000, 4))
    covered = [i.low <= 3 <= i.high for i in map(mean_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_what_seeds_have_in_common_falls_out():
    table = runs(
        [("SNIP", "none", s, 50.0 + 10 * s) for s in range(3)]
        + [("SNIP", "shuffle", s, 51.0 + 10 * s + 0.1 * (s - 1)) for s in range(3)]
    )
    (row,) = paired_differences(table).to_dict("records")
    assert row["mean"] == pytest.approx(1.0)
    assert row["n"] == 3
    assert row["low"] > 0  # seeds themselves are 10 points apart


def test_a_seed_without_its_counterpart_is_no_pair():
    table = runs(
        [("SNIP", "none", 0, 50.0), ("SNIP", "shuffle", 0, 52.0), ("SNIP", "shuffle", 1, 90.0)]
    )
    (row,) = paired_differences(table).to_dict("records")
    assert (row["mean"], row["n"]) == (2.0, 1)
    assert math.isnan(row["low"])


def test_methods_are_paired_with_random_pruning():
    table = runs(
        [("random", "none", s, 40.0 + s) for s in range(2)]
        + [("SNIP", "none", s, 45.0 + s) for s in range(2)]
    )
    (row,) = paired_differences(table, ("method", "variant"), ("random", "")).to_dict("records")
    assert (row["method"], row["mean"], row["n"]) == ("SNIP", 5.0, 2)


def test_seeds_are_the_replicates_of_an_average_over_methods():
    plain = [(method, "none", s, 50.0) for method in ("SNIP", "grasp") for s in range(4)]
    changed = [("SNIP", "shuffle", s, 51.0 + s) for s in range(4)]
    changed += [("grasp", "shuffle", s, 49.0 + s) for s in range(3)]  # the fourth is yet to come
    pooled = pooled_difference(runs(plain + changed))
    # Per seed +1 and -1, +2 and 0, +3 and +1: 0, 1, 2. Six differences would claim too much.
    assert pooled == mean_interval([0.0, 1.0, 2.0])


def test_nothing_to_pool_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        pooled_difference(runs([("SNIP", "none", 0, 50.0)]))


def test_two_runs_of_one_cell_and_seed_are_refused():
    table = runs([("SNIP", "none", 0, 50.0), ("SNIP", "none", 0, 51.0), ("SNIP", "shuffle", 0, 5)])
    with pytest.raises(pd.errors.MergeError):
        paired_differences(table)


def test_the_same_order_correlates_fully_and_the_reverse_inversely():
    for n in (2, 3, 5):
        order = [10.0 * k for k in range(n)]
        same, reverse = rank_correlation(order, order), rank_correlation(order, order[::-1])
        assert (same.rho, reverse.rho) == pytest.approx((1, -1))
        assert same.p == reverse.p == pytest.approx(same.least_p)
        assert same.least_p == pytest.approx(2 / math.factorial(n))


def test_the_p_value_counts_orders():
    # Of the 24 orders of four, the same one and three with neighbours swapped reach 0.8.
    found = rank_correlation([1, 2, 3, 4], [50.0, 60.0, 80.0, 70.0])
    assert (found.rho, found.n) == (pytest.approx(0.8), 4)
    assert found.p == pytest.approx(2 * 4 / 24)


def test_ties_share_a_rank_and_many_pairs_are_sampled():
    draws = np.random.default_rng(0)
    ours, theirs = draws.integers(0, 5, 12), draws.integers(0, 5, 12)
    found = rank_correlation(ours, theirs)
    expected = stats.spearmanr(ours, theirs)
    assert found.rho == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, abs=0.03)
    assert found == rank_correlation(ours, theirs)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1], [2]), ([5, 5, 5], [1, 2, 3])])
def test_what_has_no_order_has_no_correlation(ours, theirs):
    found = rank_correlation(ours, theirs)
    assert math.isnan(found.rho)
    assert found.n == len(ours)


def test_orders_of_different_lengths_do_not_compare():
    with pytest.raises(ValueError, match="orders of 2 and of 1"):
        rank_correlation([1, 2], [1])
