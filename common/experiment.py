"""One run's parameters: validated, resolved against the protocol, and its identity."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from common import models, protocols
from common.datasets import DATASETS
from common.environment import workplace
from common.errors import ConfigurationError, unknown
from common.protocols import Protocol
from common.pruning import ablations, check_sparsity, find

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEFAULT_PROTOCOL = "quick"

# The notebooks' parameters, in the order in which they stand there.
PARAMETERS = (
    "protocol",
    "dataset",
    "model",
    "sparsity",
    "ablation",
    "seed",
    "variant",
    "epochs",
    "batch_size",
    "pretrain_epochs",
    "precision",
    "device",
    "data_dir",
    "results_dir",
)


@dataclass(frozen=True)
class Experiment:
    """A run that can be carried out: every parameter has a value. Made by `configure`.

    sparsity: fraction of prunable weights removed. epochs: of training after pruning.
    hyper: the protocol as it applies to this model, data set and number of epochs.
    """

    method: str
    variant: str
    ablation: str
    sparsity: float
    seed: int
    epochs: int
    batch_size: int
    pretrain_epochs: int
    precision: str
    device: str
    data_dir: str | None
    results_dir: Path
    hyper: Protocol

    @property
    def protocol(self) -> str:
        """The protocol's name."""
        return self.hyper.name

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.hyper.dataset

    @property
    def model(self) -> str:
        """The model's name."""
        return self.hyper.model

    @property
    def run_id(self) -> str:
        """The run's name among its method's runs: everything that can change its result, readable.

        Where it runs (device, folders) is not part of it.
        """
        parts = [self.protocol, self.dataset, self.model]
        parts += [self.variant] if self.variant else []
        parts += [f"sparsity{self.sparsity!r}", self.ablation, f"seed{self.seed}"]
        parts += [f"pretrain{self.pretrain_epochs}"] if self.pretrain_epochs else []
        parts += [f"epochs{self.epochs}"]
        parts += [f"batch{self.batch_size}"] if self.batch_size != self.hyper.batch_size else []
        parts += [self.precision] if self.precision != self.hyper.precision else []
        return "_".join(parts)

    @property
    def folder(self) -> Path:
        """Where the run's results lie: results_dir/method/run_id."""
        return self.results_dir / self.method / self.run_id

    def parameters(self) -> dict[str, object]:
        """The notebook's parameters with this run's values; configuring with them gives the run
        again."""
        values = {name: getattr(self, name) for name in PARAMETERS}
        return {**values, "results_dir": str(self.results_dir)}


def configure(
    method: str,
    *,
    protocol: str | None = None,
    dataset: str | None = None,
    model: str | None = None,
    sparsity: float | None = None,
    ablation: str | None = None,
    seed: int | None = None,
    variant: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    pretrain_epochs: int | None = None,
    precision: str | None = None,
    device: str | None = None,
    data_dir: str | Path | None = None,
    results_dir: str | Path | None = None,
) -> Experiment:
    """A validated run of `method` (the name of its folder under `trials/`).

    None or "" means what the protocol says. Neither data nor device is touched. Raises
    ConfigurationError naming the parameter, its value and the choices.
    """
    base = protocols.find(_text(protocol, DEFAULT_PROTOCOL))
    variant = _text(variant, "")
    find(method, variant)
    ablation = _text(ablation, "none").replace(" ", "")
    ablations.parse(ablation)
    sparsity = base.sparsity if sparsity is None or sparsity == "" else sparsity
    check_sparsity(sparsity)
    dataset = _text(dataset, base.dataset)
    if dataset not in DATASETS:
        raise unknown("dataset", dataset, DATASETS)
    model = _text(model, base.model)
    models.check(model, DATASETS[dataset].shape)
    hyper = base.for_run(model, dataset, _whole("epochs", epochs, least=0))
    precision = _text(precision, hyper.precision)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    return Experiment(
        method=method,
        variant=variant,
        ablation=ablation,
        sparsity=float(sparsity),
        seed=_whole("seed", seed, least=0) or 0,
        epochs=hyper.epochs,
        batch_size=_whole("batch_size", batch_size, least=1) or hyper.batch_size,
        pretrain_epochs=_whole("pretrain_epochs", pretrain_epochs, least=0) or 0,
        precision=precision,
        device=_device(_text(device, "auto")),
        data_dir=str(data_dir) if data_dir else None,
        results_dir=Path(_text(results_dir, str(default_results() / "notebooks"))),
        hyper=hyper,
    )


def default_results() -> Path:
    """Where results lie unless told otherwise: results/ in the repository, or in the working folder
    where the repository cannot be written."""
    return workplace() / "results"


def from_notebook(method: str, variables: dict[str, object]) -> Experiment:
    """`configure` with the values of a notebook's parameters cell; pass it `globals()`."""
    return configure(method, **{name: variables[name] for name in PARAMETERS})


def _text(value: object, default: str) -> str:
    """The value, or the default where it is not given."""
    return default if value is None or value == "" else str(value)


def _whole(name: str, value: object, least: int) -> int | None:
    """A whole number of at least `least`, or None where it is not given."""
    if value is None or value == "":
        return None
    if not isinstance(value, Real) or isinstance(value, bool) or value % 1 != 0:
        raise ConfigurationError(f"{name}={value!r} is not a whole number (None: the protocol's)")
    if value < least:
        raise ConfigurationError(f"{name}={value!r} is below {least}")
    return int(value)


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise unknown("device", name, ("auto", "cpu", "cuda", "cuda:N", "mps"))
    return name
