"""What there is to run: the methods of `common.pruning`, and the trials around them, which have
parameters of their own.

A method from outside is called by its file, or by an entry point; it is registered when it is asked
for. A trial is a line in `TRIALS` under the name of its folder. Its options are then parameters of
its notebook, of grid files and of `-p name=value`; they stand in run.json, and in run_id where they
are not the default.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from common.base.errors import ConfigurationError, shown, unknown
from common.pruning import METHODS, Method, outside
from common.runs import filter_settings, ticket_settings
from common.runs.options import Option, Trial

TRIALS: dict[str, Trial] = {
    "lottery_ticket": ticket_settings.TRIAL,
    "filter_lasso": filter_settings.TRIAL,
}


def names() -> list[str]:
    """The methods and the trials, each the name of a folder."""
    return [*METHODS, *(name for name in TRIALS if name not in METHODS)]


def named(method: str, variant: str = "") -> str:
    """The name under which the registry has a method: its own, or the label of a method from
    outside (`common.pruning.outside`), which is loaded. Raises ConfigurationError if it cannot."""
    if method in outside.LOADED:
        method = outside.LOADED[method].spec
    elif method in names() or not outside.is_spec(method):
        return method
    return outside.register(method, variant).label


def variants(method: str) -> Collection[str]:
    """The variants of a method or a trial. Raises ConfigurationError."""
    if method not in names():
        raise unknown("method", method, names())
    trial = TRIALS.get(method)
    return (trial and trial.variants) or METHODS[trial.scored_by if trial else method]


def find_method(method: str, variant: str = "") -> Method:
    """What a method or a trial prunes by. Raises ConfigurationError with the choices."""
    if variant not in variants(method):
        raise unknown(f"{method}'s variant", variant, [v or '""' for v in variants(method)])
    trial = TRIALS.get(method)
    if trial is None:
        return METHODS[method][variant]
    return METHODS[trial.scored_by]["" if trial.variants else variant]


def options(method: str) -> tuple[Option, ...]:
    """The parameters that `method` has beyond those of all."""
    return TRIALS[method].options if method in TRIALS else ()


def chosen(method: str, values: Mapping[str, object]) -> list[str]:
    """`name-value` of every option of `method` that is not the default."""
    told = ((option, values[option.name]) for option in options(method))
    return [f"{option.name}-{value}" for option, value in told if value != option.default]


def label(method: str, variant: str, values: Mapping[str, object]) -> str:
    """The column `variant` of a table: with the options that are not the default, so that no figure
    takes runs of different ones for replicates."""
    return "+".join([variant] * bool(variant) + chosen(method, values))


def read_label(method: str, label: str) -> tuple[str, dict[str, str]]:
    """`label` undone: the variant, and the options that are not the default, as text."""
    variant, *told = label.split("+")
    if variant not in variants(method):
        variant, told = "", [variant, *told]
    return variant, dict(one.split("-", 1) for one in told)


def option_names() -> list[str]:
    """The parameters that some trial has beyond those of all."""
    return list(dict.fromkeys(o.name for trial in TRIALS.values() for o in trial.options))


def read(method: str, given: Mapping[str, object]) -> dict[str, object]:
    """The values of all options of `method`; defaults where None or "" is given.

    Raises ConfigurationError for a value that cannot be, or a name that `method` does not have.
    """
    own = {option.name: option for option in options(method)}
    for name in given:
        if name not in own:
            having = [m for m, trial in TRIALS.items() if name in {o.name for o in trial.options}]
            raise ConfigurationError(
                f"{method} has no parameter {shown(name)}"
                + (f"; it is one of {', '.join(having)}" if having else "")
                + (f"; {method}'s own are: {', '.join(own)}" if own else "")
            )
    values = {}
    for name, option in own.items():
        value = given.get(name)
        absent = value is None or value == ""
        values[name] = option.default if absent else option.read(name, value)
    return values
