"""Results in words: numbers, ranges, and what an interval says of a difference, whichever way it
turns out. Notebooks put their findings together from these, so that what they say follows from the
tables they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict

import pandas as pd

from common.results.statistics import LEVEL, Interval

# Differences of two seeds may be equal by chance, since accuracies are counts of images; their
# interval would then say everything. So from three seeds on there is a verdict.
LEAST = 3


def signed(value: float, digits: int = 1) -> str:
    """+8.1, or −0.3."""
    # Accuracies have two decimals, and so has their difference: 8.05 becomes 8.1. Never −0.0.
    value = round(round(value, 2), digits) + 0.0
    return f"{value:+.{digits}f}".replace("-", "−")


def listed(words: Iterable[object]) -> str:
    """`a, b and c`."""
    *first, last = map(str, words)
    return f"{', '.join(first)} and {last}" if first else last


def spread(values: Iterable[float], form: str = "{:,}") -> str:
    """`6 to 9`, the lowest and the highest, or `6` where both are written alike."""
    values = list(values)
    return " to ".join(dict.fromkeys(form.format(end) for end in (min(values), max(values))))


def counted(number: int, name: str) -> str:
    """`1 seed`, or `3 seeds`."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def judged(differences: pd.DataFrame, digits: int = 1) -> pd.DataFrame:
    """Rows of `paired_differences` with `told`, the difference and its interval, and `verdict`.

    verdict: the interval lies `above` zero, `below` it, or is `open` (holds it); `few` with fewer
    than LEAST seeds.
    """
    rows = differences.assign(told="", verdict="open")
    for at, row in rows.iterrows():
        mean, low, high = (signed(row[name], digits) for name in ("mean", "low", "high"))
        rows.loc[at, "told"] = f"{mean} [{low}, {high}]" if row["n"] > 1 else f"{mean} (one seed)"
    rows.loc[rows["low"].round(6) > 0, "verdict"] = "above"  # what is left of zero by rounding
    rows.loc[rows["high"].round(6) < 0, "verdict"] = "below"  # is no difference
    rows.loc[rows["n"] < LEAST, "verdict"] = "few"
    return rows


def verdicts(
    rows: pd.DataFrame,
    label: str,
    place: str,
    words: Mapping[str, str],
    where: Callable[[list], str],
) -> str:
    """A Markdown line for each value of the column `label`: at which values of the column `place`
    its intervals say what; and how many of them would exclude zero by chance.

    rows: of `judged`; words: verdict -> what it means; where: values of `place` in words.
    """
    lines = []
    for name, part in rows.groupby(label, sort=False):
        at = {v: part.loc[part["verdict"] == v, place].tolist() for v in words}
        told = [f"{words[v]} {where(places)}" for v, places in at.items() if places]
        lines.append(f"- **{name}**: {'; '.join(told)}.")
    if not lines:
        return "There is nothing to compare yet."
    if number := int((rows["n"] >= LEAST).sum()):
        lines.append(f"\n{by_chance(number)}")
    return "\n".join(lines)


def by_chance(number: int) -> str:
    """How many of so many intervals would exclude zero if nothing differed."""
    false = (1 - LEVEL) * number
    return f"If nothing differed, {false:.1f} of {number} intervals would exclude zero."


def on_average(pooled: Interval) -> str:
    """What a pooled difference says, with its interval: `Higher` or `Lower` where that excludes
    zero, else that no difference was found."""
    row = judged(pd.DataFrame([asdict(pooled)]), digits=2).loc[0]
    meaning = {"above": "Higher", "below": "Lower", "open": "No difference found"}
    said = meaning.get(row["verdict"], "Too few seeds for a finding")
    return f"{said}: {row['told']} points on average ({counted(pooled.n, 'seed')})."


def tally(rows: pd.DataFrame, name: Callable[[pd.Series], str]) -> str:
    """How many of these differences lie above zero, below it, or hold it, with the largest.

    rows: of `judged`; name: one of them in words.
    """
    said = []
    for verdict, word in (("above", "higher"), ("below", "lower")):
        part = rows[rows["verdict"] == verdict]
        if len(part):
            most = part.loc[part["mean"].abs().idxmax()]
            told = f"most with {name(most)}, {most['told']}" if len(part) > 1 else most["told"]
            named = "" if len(part) > 1 else f"{name(most)}, "
            said.append(f"{word} in {len(part)} ({named}{told})")
    for verdict, word in (("open", "no difference found in"), ("few", "too few seeds in")):
        if number := int((rows["verdict"] == verdict).sum()):
            said.append(f"{word} {number}")
    return f"Of {counted(len(rows), 'comparison')}: {listed(said)}."
