"""The parameters of filter pruning, and how they go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.base.errors import ConfigurationError, shown
from common.pruning import ablations
from common.runs.options import Option, Trial, number_in, one_of, whole_from
from common.training import protocols
from common.training.protocols import Protocol

if TYPE_CHECKING:
    from common.runs.experiment import Experiment

SCOPES = {
    "global": "norms of all layers are compared",
    "layer": "the same share of every layer's channels goes",
}
RATES = {
    "last_rate": "the protocol's last learning rate throughout",
    "all_rates": "the learning rates of a whole training once more",
}


@dataclass(frozen=True)
class Variant:
    """How a variant chooses what goes.

    penalised: what the penalty groups while the network trains: `channels`, `weights` or nothing.
    proximal: whether by the proximal step. removed: `channels` or `weights`. by: the norm that
    ranks channels. scope: whether it ranks them over the network or in each layer.
    """

    penalised: str = "channels"
    proximal: bool = True
    removed: str = "channels"
    by: str = "l2"
    scope: str = "global"


VARIANTS = {
    "": Variant(),
    "subgradient": Variant(proximal=False),
    # Norms of filters of different sizes do not compare: Li et al. rank within a layer.
    "l1_filter": Variant(penalised="", by="l1", scope="layer"),
    "unstructured": Variant(penalised="weights", removed="weights"),
}


def variant(experiment: Experiment) -> Variant:
    """The run's variant, with the scope that it was told."""
    found = VARIANTS[experiment.variant]
    scope = experiment.options["scope"]
    return Variant(**{**vars(found), "scope": scope}) if scope else found


def sparse_hyper(experiment: Experiment) -> Protocol:
    """The training with the penalty: the protocol's, as long as the run was told."""
    base = protocols.find(experiment.protocol)
    epochs = experiment.options["sparse_epochs"]
    return base.for_run(experiment.model, experiment.dataset, epochs)


def fine_tuning_hyper(experiment: Experiment) -> Protocol:
    """The training of what is left. Weights drawn anew are trained, not tuned."""
    redrawn = "weights" in ablations.parse(experiment.ablation)
    if redrawn or experiment.options["fine_tune_at"] == "all_rates":
        return experiment.hyper
    base = protocols.find(experiment.protocol)
    return base.for_run(experiment.model, experiment.dataset, None).at_last_rate()


def compares(experiment: Experiment) -> bool:
    """Whether the run trains an unstructured mask beside the small network."""
    return experiment.options["compare"] and VARIANTS[experiment.variant].removed == "channels"


def all_epochs(experiment: Experiment) -> float:
    """Of the training with the penalty, of what is left, and of the mask beside it."""
    after = experiment.epochs * (2 if compares(experiment) else 1)
    return sparse_hyper(experiment).epochs + after


def check(experiment: Experiment) -> None:
    """Raises ConfigurationError where a run's parameters do not go together."""
    options, chosen = experiment.options, VARIANTS[experiment.variant]
    if options["penalty"] and not chosen.penalised:
        raise ConfigurationError(
            f"penalty={options['penalty']!r}: variant={experiment.variant!r} trains without one; "
            "leave it at None"
        )
    for name in ("threshold", "scope"):
        if options[name] is not None and chosen.removed == "weights":
            raise ConfigurationError(
                f"{name}={options[name]!r}: variant={experiment.variant!r} removes weights, not "
                "channels, by sparsity alone; leave it at None"
            )
    if options["threshold"] is not None:
        if options["scope"] == "layer":
            raise ConfigurationError(
                f"scope='layer': threshold={options['threshold']!r} removes whatever is below it, "
                "wherever it is; leave one of them at None"
            )
        if "scores" in ablations.parse(experiment.ablation):
            raise ConfigurationError(
                f"ablation={experiment.ablation!r}: a threshold has no other end to start from; "
                "leave threshold at None"
            )


def _yes_or_no(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={shown(value)} is neither True nor False")
    return value


TRIAL = Trial(
    options=(
        Option("penalty", None, number_in(0)),
        Option("sparse_epochs", None, whole_from(0)),
        Option("threshold", None, number_in(0)),
        Option("scope", None, one_of(SCOPES)),
        Option("fine_tune_at", "last_rate", one_of(RATES)),
        Option("compare", True, _yes_or_no),
    ),
    variants=tuple(VARIANTS),
    check=check,
    epochs=all_epochs,
)
