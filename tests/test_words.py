"""Results in words: what is said of a number, and of a difference with its interval."""

import math

import pandas as pd
import pytest

from common.results import words
from common.results.statistics import Interval


def differences(*rows):
    names = ["method", "epochs", "mean", "low", "high", "n"]
    return pd.DataFrame(rows, columns=names)


@pytest.mark.parametrize(
    ("row", "verdict", "told"),
    [
        ((3.0, 1.0, 5.0, 3), "above", "+3.0 [+1.0, +5.0]"),
        ((-3.0, -5.0, -1.0, 3), "below", "−3.0 [−5.0, −1.0]"),
        ((3.0, -1.0, 7.0, 3), "open", "+3.0 [−1.0, +7.0]"),
        ((3.0, math.nan, math.nan, 1), "few", "+3.0 (one seed)"),
        # Two seeds that agree to the image are no finding.
        ((3.0, 3.0, 3.0, 2), "few", "+3.0 [+3.0, +3.0]"),
    ],
)
def test_a_verdict_follows_from_the_interval(row, verdict, told):
    (found,) = words.judged(differences(("SNIP", 4, *row))).to_dict("records")
    assert (found["verdict"], found["told"]) == (verdict, told)


def test_numbers_are_rounded_as_one_expects():
    values = [67.22 - 59.17, -0.04, -0.3, 12.0]
    assert list(map(words.signed, values)) == ["+8.1", "+0.0", "−0.3", "+12.0"]
    assert words.signed(1 / 3, 2) == "+0.33"
    assert words.listed([2]) == "2"
    assert words.listed([2, 4, 8]) == "2, 4 and 8"
    assert words.spread([9, 6, 7]) == "6 to 9"
    assert words.spread([0.981, 0.979], "{:.0%}") == "98%"
    assert words.spread([1000]) == "1,000"
    assert [words.counted(n, "seed") for n in (1, 3)] == ["1 seed", "3 seeds"]


def test_a_line_says_where_which_verdict_holds():
    rows = [("a", 1, 3.0, 1.0, 5.0, 3), ("a", 2, 3.0, 1.0, 5.0, 3), ("a", 3, 0.0, -1.0, 1.0, 3)]
    rows += [("b", 1, -3.0, -5.0, -1.0, 3), ("b", 2, 9.0, 9.0, 9.0, 2)]
    meaning = {"above": "better", "below": "worse", "open": "no difference found", "few": "few"}
    said = words.verdicts(
        words.judged(differences(*rows)),
        *("method", "epochs", meaning),
        lambda places: f"at {words.listed(places)}",
    ).splitlines()
    assert said[:2] == [
        "- **a**: better at 1 and 2; no difference found at 3.",
        "- **b**: worse at 1; few at 2.",
    ]
    assert said[-1] == "If nothing differed, 0.2 of 4 intervals would exclude zero."


@pytest.mark.parametrize(
    ("pooled", "said"),
    [
        (Interval(-0.3, -0.4, -0.2, 5), "Lower: −0.30 [−0.40, −0.20] points on average (5 seeds)."),
        (Interval(0.3, 0.2, 0.4, 5), "Higher: +0.30 [+0.20, +0.40] points on average (5 seeds)."),
        (
            Interval(0.1, -0.1, 0.3, 3),
            "No difference found: +0.10 [−0.10, +0.30] points on average",
        ),
        (Interval(3.0, 2.9, 3.1, 2), "Too few seeds for a finding: +3.00"),
        (Interval(3.0, math.nan, math.nan, 1), "Too few seeds for a finding: +3.00"),
    ],
)
def test_an_average_helps_only_where_its_interval_excludes_zero(pooled, said):
    assert words.on_average(pooled).startswith(said)


def test_a_tally_counts_every_comparison_once_and_names_the_largest():
    rows = [("a", 1, 3.0, 1.0, 5.0, 3), ("b", 2, 4.0, 1.0, 7.0, 3), ("c", 3, 0.0, -1.0, 1.0, 3)]
    rows += [("d", 4, -3.0, -5.0, -1.0, 3), ("e", 5, 9.0, 9.0, 9.0, 2)]
    rows = words.judged(differences(*rows))
    assert words.tally(rows, lambda row: row["method"]) == (
        "Of 5 comparisons: higher in 2 (most with b, +4.0 [+1.0, +7.0]), "
        "lower in 1 (d, −3.0 [−5.0, −1.0]), no difference found in 1 and too few seeds in 1."
    )
