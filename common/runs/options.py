"""What a trial has beyond a method: parameters and tables of its own, and how they go together."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from common.pruning.methods import Method
from common.runs.values import Read
from common.training.protocols import Protocol


class Configured(typing.Protocol):
    """What a trial may ask of a run before it starts; an `Experiment` has it."""

    @property
    def protocol(self) -> str: ...
    @property
    def dataset(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def sparsity(self) -> float: ...
    @property
    def ablation(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def epochs(self) -> int: ...
    @property
    def pretrain_epochs(self) -> int: ...
    @property
    def hyper(self) -> Protocol: ...
    @property
    def options(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class Option:
    """A parameter that one trial has beyond those of all.

    default: its value where None or "" is given. read: (name, value) -> the value as it counts, or
    ConfigurationError (`common.runs.values` has the usual ones). An option called like a field of
    `Protocol` replaces it; None there is what the protocol says.
    """

    name: str
    default: object
    read: Read


@dataclass(frozen=True)
class Table:
    """A table that every run of a trial leaves beside those of all runs, and that is collected.

    name: of the file, without `.csv`; no other trial has one of that name. columns: of the file.
    first: those that the rows of many runs have before, beginning with method and run_id. tell:
    the content of a run.json -> their values, by name. text: the columns of either kind that hold
    text. derive: the table of many runs -> the same with what follows from all of its rows.
    """

    name: str
    columns: tuple[str, ...]
    text: tuple[str, ...]
    first: tuple[str, ...] = ("method", "run_id")
    tell: Callable[[Mapping], Mapping[str, object]] = dict
    derive: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows


@dataclass(frozen=True)
class Trial:
    """What a trial has beyond a method.

    scored_by: the method whose scores and variants are also its own. variants: those that it has
    itself, where they are others.
    check: raises ConfigurationError where values do not go together.
    epochs: those of all its trainings together, which is what a run's time goes by.
    tables: those of its runs that are worth having in one.
    """

    options: tuple[Option, ...]
    scored_by: str = "magnitude"
    check: Callable[[Configured], None] = lambda experiment: None
    epochs: Callable[[Configured], float] = lambda experiment: experiment.epochs
    variants: Mapping[str, Method] | None = None
    tables: tuple[Table, ...] = ()
