"""Results in words: what is said of a number, and of a difference with its interval."""

import math

import pandas as pd
import pytest

from common.results import words


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
