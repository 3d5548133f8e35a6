"""One run's parameters: validated, resolved against the protocol, and its identity."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from common import models
from common.base.errors import unknown
from common.base.paths import default_results
from common.base.version import code_version
from common.datasets import DATASETS
from common.pruning import ablations, check_sparsity, outside
from common.runs import registry
from common.runs.options import path, text, whole
from common.training import protocols
from common.training.protocols import Protocol

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEFAULT_PROTOCOL = "quick"

# The notebooks' parameters, in the order in which they stand there.
PARAMETERS = (
    *("protocol", "dataset", "model", "sparsity", "ablation", "seed", "variant", "epochs"),
    *("batch_size", "pretrain_epochs", "precision", "device", "data_dir", "results_dir"),
)


@dataclass(frozen=True)
class Experiment:
    """A run that can be carried out: every parameter has a value. Made by `configure`.

    sparsity: fraction of prunable weights removed. epochs: of training after pruning.
    hyper: the protocol as it applies to this model, data set and number of epochs.
    options: the values of the method's own parameters, if it is a trial (`common.runs.registry`).
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
    options: Mapping[str, object] = field(default_factory=dict)

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
        return "_".join(parts + registry.chosen(self.method, self.options))

    @property
    def variant_label(self) -> str:
        """The variant as tables have it, with the options that are not the default."""
        return registry.label(self.method, self.variant, self.options)

    @property
    def all_epochs(self) -> float:
        """Of all trainings of the run together."""
        trial = registry.TRIALS.get(self.method)
        return self.pretrain_epochs + (trial.epochs(self) if trial else self.epochs)

    @property
    def folder(self) -> Path:
        """Where the run's results lie: results_dir/method/run_id."""
        return self.results_dir / self.method / self.run_id

    def parameters(self) -> dict[str, object]:
        """The notebook's parameters with this run's values; configuring with them gives the run
        again."""
        values = {name: getattr(self, name) for name in PARAMETERS}
        return {**values, "results_dir": str(self.results_dir), **self.options}


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
    **options: object,
) -> Experiment:
    """A validated run of `method` (the name of its folder under `trials/`, or a method from
    outside, see `common.pruning.outside`).

    None or "" means what the protocol says, or an option's default. options: the method's own
    parameters, if it has any. Neither data nor device is touched. Raises ConfigurationError naming
    the parameter, its value and the choices.
    """
    code_version()  # a result that could not say it would be worth nothing
    base = protocols.find(text(protocol, DEFAULT_PROTOCOL))
    variant = text(variant, "")
    method = registry.named(text(method, ""), variant)
    registry.find_method(method, variant)
    options = registry.read(method, options)
    ablation = text(ablation, "none").replace(" ", "")
    ablations.parse(ablation)
    sparsity = base.sparsity if sparsity is None or sparsity == "" else sparsity
    check_sparsity(sparsity)
    dataset = text(dataset, base.dataset)
    if dataset not in DATASETS:
        raise unknown("dataset", dataset, DATASETS)
    model = text(model, base.model)
    models.check(model, DATASETS[dataset].shape)
    hyper = base.for_run(model, dataset, whole("epochs", epochs, least=0))
    hyper, options = _apply_overrides(hyper, options)
    precision = text(precision, hyper.precision)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    experiment = Experiment(
        method=method,
        variant=variant,
        ablation=ablation,
        sparsity=float(sparsity) + 0.0,  # -0.0 is no run of its own
        seed=whole("seed", seed, least=0, most=2**63 - 1) or 0,
        epochs=hyper.epochs,
        batch_size=whole("batch_size", batch_size, least=1) or hyper.batch_size,
        pretrain_epochs=whole("pretrain_epochs", pretrain_epochs, least=0) or 0,
        precision=precision,
        device=check_device(text(device, "auto")),
        data_dir=path("data_dir", data_dir),
        results_dir=Path(path("results_dir", results_dir) or default_results() / "notebooks"),
        hyper=hyper,
        options=options,
    )
    if method in registry.TRIALS:
        registry.TRIALS[method].check(experiment)
    return experiment


def from_notebook(method: str, variables: dict[str, object]) -> Experiment:
    """`configure` with the values of a notebook's parameters cell; pass it `globals()`.

    Raises ConfigurationError as `configure` does, and for a parameter that papermill was given and
    the notebook does not have, which papermill itself lets pass.
    """
    names = (*PARAMETERS, *(option.name for option in registry.options(method)))
    own = ("score",) if outside.is_spec(method) else ()  # where the method itself comes from
    for name in injected(variables):
        if name not in names + own:
            raise unknown("parameter", name, names)
    return configure(method, **{name: variables[name] for name in names})


def injected(variables: Mapping[str, object]) -> list[str]:
    """The names that papermill's cell assigns, found among the cells that this notebook has run
    (IPython's `In`); none where the notebook was run by hand."""
    cells = [cell for cell in variables.get("In") or [] if isinstance(cell, str)]
    found = [cell for cell in cells if cell.startswith("# Parameters\n")]
    return [
        target.id
        for cell in found[:1]
        for node in ast.parse(cell).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]


def _apply_overrides(hyper: Protocol, options: dict) -> tuple[Protocol, dict]:
    """The protocol with the options that are called like one of its fields; options that say what
    it says anyway become None."""
    names = {one.name for one in fields(hyper)} & set(options)
    changed = {name: options[name] for name in names if options[name] is not None}
    same = {name: None for name, value in changed.items() if value == getattr(hyper, name)}
    return replace(hyper, **changed), {**options, **same}


def check_device(name: str) -> str:
    """The name, if it is one of a device; whether it is there is another question. Raises
    ConfigurationError."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", name):
        raise unknown("device", name, ("auto", "cpu", "cuda", "cuda:N", "mps"))
    return name
