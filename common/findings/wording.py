"""How a finding is put into words, and what is noted down of every number in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from common.collected import collect
from common.plots import style
from common.statistics import Interval
from common.studies.tables import read

# What is noted down of a number in a text. low, high and n: of an interval, else empty.
QUOTED = (
    *("key", "source", "quantity", "method", "variant", "ablation", "sparsity"),
    *("value", "low", "high", "n", "verdict"),
)
GAIN, LOSS, NONE, FEW, CUT = "gain", "loss", "no difference found", "too few seeds", "cut"
REPLICATES = 3  # seeds that a finding needs at least


@dataclass(frozen=True)
class Finding:
    """text: Markdown; quoted: the numbers in it (`QUOTED`)."""

    key: str
    text: str
    quoted: pd.DataFrame


@dataclass(frozen=True)
class Published:
    """The tables that findings come from, figures/results/<grid>/.

    grid: the one that the figures show; source: of the published curves behind them; summaries: of
    grids that take the place of what lies there.
    """

    folder: Path
    grid: str
    source: str | None = None
    summaries: dict[str, pd.DataFrame] = field(default_factory=dict)

    def has(self, grid: str) -> bool:
        """Whether the grid or study is published."""
        return grid in self.summaries or (self.folder / grid).is_dir()

    def summary(self, grid: str) -> pd.DataFrame:
        """The runs of a grid."""
        held = self.summaries.get(grid)
        return collect(self.folder / grid).summary if held is None else held

    def study(self, name: str, table: str) -> pd.DataFrame:
        """A table of a study."""
        return read(self.folder / name / f"{table}.csv")


@dataclass(frozen=True)
class Question:
    """How a sentence says what happened: its subject, what that does to what gains or loses by it,
    and what stands before what shows no difference (alone: if nothing else does)."""

    subject: str
    gain: str = "helps"
    loss: str = "hurts"
    neither: str = "for"
    alone: str = ""

    @property
    def nothing(self) -> str:
        """What stands before the names where no difference was found at all."""
        return self.alone or f"from {self.subject} {self.neither}"


class Quotes:
    """Collects the numbers of one finding while they are put into words."""

    def __init__(self, key: str, source: str) -> None:
        self.key, self.source, self.rows = key, source, []

    def number(self, quantity: str, value: float, form: str = ",.0f", **about: object) -> str:
        """The value in the given format, noted down."""
        self.rows.append({"quantity": quantity, "value": float(value), **about})
        return format(value, form).replace("-", "−")

    def span(
        self, quantity: str, values: Iterable[float], form: str = ",.0f", **about: object
    ) -> str:
        """`2.50 to 2.75`, `12 or 13`, or the one value that all are."""
        low, high = min(values := list(values)), max(values)
        ends = [self.number(quantity, value, form, **about) for value in sorted({low, high})]
        return (" or " if form.endswith(".0f") and high - low == 1 else " to ").join(ends)

    def interval(self, quantity: str, interval: Interval, number: str, **about: object) -> str:
        """`number ± half of the interval`, noted down with the interval's verdict."""
        about |= {"low": interval.low, "high": interval.high, "n": interval.n}
        self.rows.append({"quantity": quantity, "value": interval.mean, **about})
        half = interval.half_width
        return number if math.isnan(half) else f"{number} ± {half:.2f}"

    def finding(self, text: str) -> Finding:
        """The text with what was noted down for it."""
        rows = pd.DataFrame(self.rows, columns=QUOTED).assign(key=self.key, source=self.source)
        return Finding(self.key, text, rows)


@dataclass(frozen=True)
class Compared:
    """Something that a question is asked about: its name in a sentence and what was found."""

    name: str
    interval: Interval
    about: dict[str, object]
    cut: tuple[float, ...] = ()  # the accuracies, if no path through the network is left

    @property
    def verdict(self) -> str:
        """What the interval decides; a network without a path decides by itself."""
        if self.cut:
            return CUT
        if self.interval.n < REPLICATES:
            return FEW
        if not self.interval.excludes_zero:
            return NONE
        return GAIN if self.interval.mean > 0 else LOSS


def answer(
    question: Question,
    asked: Mapping[str, Sequence[Compared]],
    quotes: Quotes,
    network: str = "",
) -> str:
    """What came of a question: a sentence for each place that it was asked at.

    asked: the beginning of its sentence, such as `With 90% removed`, and what was compared there.
    network: named where nothing else can be said than that the seeds are too few.
    """
    told = [
        _sentence(question, compared, quotes, where)
        for where, compared in asked.items()
        if any(one.verdict != FEW for one in compared)
    ]
    few = {one.interval.n for compared in asked.values() for one in compared if one.verdict == FEW}
    if few:
        seeds = " or ".join({1: "one", 2: "two"}[n] for n in sorted(few))
        plural = few != {1}
        run = f"{seeds} {'seeds were' if plural else 'seed was'} run, which "
        run += f"{'carry' if plural else 'carries'} no finding"
        about = f" on {question.subject}" + (f" ({network})" if network else "")
        told.append(f"Elsewhere {run}." if told else f"{run[0].upper()}{run[1:]}{about}.")
    return " ".join(told)


def _sentence(question: Question, compared: Sequence[Compared], quotes: Quotes, where: str) -> str:
    """The number of seeds follows `where`, or, if they differ, every interval."""
    seeds = {one.interval.n for one in compared if one.verdict in (GAIN, LOSS, NONE)}
    told: dict[str, list[str]] = {verdict: [] for verdict in (GAIN, LOSS, CUT, NONE, FEW)}
    for one in compared:
        told[one.verdict].append(_said(one, quotes, with_seeds=len(seeds) > 1))
    does = []
    if told[GAIN]:
        does.append(f"{question.gain} {listed(told[GAIN])}")
    if told[LOSS]:
        does.append(f"{question.loss} {listed(told[LOSS])}")
    if told[CUT]:
        does.append(f"cuts every path with {listed(told[CUT])}")
    parts = [f"{question.subject} {listed(does)}"] if does else []
    if told[NONE]:
        whose = question.neither if does else question.nothing
        parts.append(f"{NONE} {whose} {listed(told[NONE])}")
    if len(seeds) == 1:
        where += f" ({max(seeds)} seeds)"
    return f"{where}, {'; '.join(parts)}."


def _said(one: Compared, quotes: Quotes, with_seeds: bool) -> str:
    if one.verdict == FEW:
        return one.name
    if one.verdict == CUT:
        about = {"verdict": CUT, **one.about}
        number = quotes.number("runs without a path", len(one.cut), **about)
        reached = quotes.span("test_accuracy", one.cut, ".2f", **about)
        runs = f"{number} run{'s' * (len(one.cut) > 1)}"
        return f"{one.name} ({runs}, accuracy {reached} percent)"
    number = style.signed(one.interval.mean)
    shown = quotes.interval("difference", one.interval, number, verdict=one.verdict, **one.about)
    return f"{one.name} ({shown}{f', {one.interval.n} seeds' if with_seeds else ''})"


def powers(quotes: Quotes, quantity: str, exponents: Iterable[float], form: str = ".2f") -> str:
    """The span of powers of ten with these exponents."""
    ends = quotes.span(quantity, exponents, form).split(" to ")
    return " to ".join(f"10<sup>{end}</sup>" for end in ends)


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
