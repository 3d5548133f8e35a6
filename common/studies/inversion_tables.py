"""Inversion and what was taken for it side by side: masks, gradient flow and short trainings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from common import datasets
from common.base import environment
from common.base.errors import ConfigurationError
from common.pruning import find_method
from common.pruning.masks import Masks
from common.pruning.scores import loss_gradients
from common.results.statistics import accuracy_interval
from common.runs.options import number_in, whole
from common.studies import inversion
from common.studies.network import REPRODUCTION, SETTING, Network, Setting
from common.studies.tables import PROVENANCE, Table, of_units, read, read_asked, select, values
from common.training import loop

# The right procedure and, isolated, what was taken for it. (An empty list prunes nothing, whatever
# the scores: one method stands for all.)
CASES: tuple[tuple[str, str], ...] = (
    ("magnitude", "unmodified"),
    ("magnitude", "inverted"),
    ("magnitude", "batchnorm"),
    ("SNIP", "unmodified"),
    ("SNIP", "inverted"),
    ("SNIP", "batchnorm"),
    ("grasp", "unmodified"),
    ("grasp", "inverted"),
    ("grasp", "reciprocal"),
    ("synflow", "unmodified"),
    ("synflow", "inverted"),
    ("synflow", "empty_list"),
    ("synflow", "reciprocal"),
)
TRAINED = "small_vgg"  # the network of the short trainings, few steps of which a CPU can do
STEPS = 300
CASE = ("method", "procedure", "sparsity", "seed")
LAYERS = (*CASE, "layer", "size", "kept", "norms", "norms_kept", "gradient_norm")
OUTCOMES = (
    *CASE,
    *SETTING,
    *("prunable", "kept", "counted_kept", "counted_total", "check_passed", "layers_collapsed"),
    *("layers_silent", "overlap", "seconds", *PROVENANCE),
)
TRAINING = (
    *(*CASE, *SETTING, "step", "batch_size", "learning_rate", "train_loss", "train_accuracy"),
    *("test_loss", "test_accuracy", "test_images", "precision", *PROVENANCE),
)


class Portions:
    """A loader cut into short epochs of `batches` batches each; the order goes on where it was."""

    def __init__(self, loader: datasets.Loader, batches: int) -> None:
        self.loader, self.batches, self.epoch = loader, batches, 0
        self.labels = loader.labels[: batches * loader.batch_size]
        self._rest: Iterator[tuple[Tensor, Tensor]] = iter(())

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch += 1
        for _ in range(self.batches):
            batch = next(self._rest, None)
            if batch is None:
                self._rest = iter(self.loader)
                batch = next(self._rest)
            yield batch


def measure(
    folder: Path,
    sparsity: float,
    seeds: Sequence[int],
    steps: int = STEPS,
    *,
    setting: Setting = REPRODUCTION,
) -> None:
    """All tables of the study at one sparsity; the first seed's masks of TRAINED are trained."""
    sparsity, seeds = number_in(0, 1)("sparsity", sparsity), values("seeds", seeds)
    trained = replace(setting, model=TRAINED)
    measure_procedures(folder, CASES, [sparsity], seeds, setting=setting)
    measure_training(folder, CASES, [sparsity], seeds[:1], steps=steps, setting=trained)


def measure_procedures(
    folder: Path,
    cases: Sequence[tuple[str, str]],
    sparsities: Sequence[float],
    seeds: Sequence[int],
    *,
    setting: Setting = REPRODUCTION,
) -> None:
    """Masks and gradient flow of every (method, procedure), into layers.csv and outcomes.csv."""
    sparsities = values("sparsities", sparsities)
    layers = Table(folder / "layers.csv", LAYERS, CASE)
    outcomes = Table(folder / "outcomes.csv", OUTCOMES, CASE)
    for seed in values("seeds", seeds):
        reference = {}
        for sparsity, (method, procedure) in itertools.product(sparsities, cases):
            case = {"method": method, "procedure": procedure, "sparsity": sparsity, "seed": seed}
            if outcomes.has(**case):
                continue
            network = setting.network(seed)
            started = time.perf_counter()
            outcome = inversion.PROCEDURES[procedure](network, method, sparsity)
            seconds = time.perf_counter() - started
            if procedure == "unmodified":
                reference = {(method, sparsity): outcome.masks}
            rows = _layer_rows(network, outcome.masks)
            layers.add({**case, **row} for row in rows)
            facts = _facts(outcome, rows, reference.get((method, sparsity)), sparsity)
            outcomes.add([{**case, **setting.columns(), **facts, "seconds": round(seconds, 2)}])


def measure_training(
    folder: Path,
    cases: Sequence[tuple[str, str]],
    sparsities: Sequence[float],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    records: int = 6,
    test_images: int = 1000,
    batch_size: int = 64,
    setting: Setting = REPRODUCTION,
) -> None:
    """`steps` steps of training of every (method, procedure) at the protocol's first learning rate,
    recorded `records` times on the first `test_images` test images, into training.csv."""
    sparsities, seeds = values("sparsities", sparsities), values("seeds", seeds)
    steps = read_steps(steps, records)
    table = Table(folder / "training.csv", TRAINING, (*CASE, "model"))
    for seed in seeds:
        for sparsity, (method, procedure) in itertools.product(sparsities, cases):
            case = {"method": method, "procedure": procedure, "sparsity": sparsity, "seed": seed}
            if table.has(**case, model=setting.model):
                continue
            network = setting.network(seed)
            outcome = inversion.PROCEDURES[procedure](network, method, sparsity)
            fixed = {**case, **setting.columns()}
            counts = (steps, records, test_images, batch_size)
            table.add({**fixed, **row} for row in short_training(network, outcome.masks, *counts))


def tables(
    folder: Path, setting: Setting, sparsity: float, steps: int, seeds: Sequence[int]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(outcomes, layers, training) of a measurement, of what is asked for: outcomes at all its
    sparsities, layers at `sparsity`, and there the first seed's training, of TRAINED.

    Raises ConfigurationError, which says what there is, where something was not measured.
    """
    path, seeds = folder / "outcomes.csv", values("seeds", seeds)
    outcomes = read_asked(path, **setting.names(), seeds=seeds)
    layers = of_units(read(folder / "layers.csv"), select(outcomes, path, sparsity=sparsity), CASE)
    asked = {**setting.names(), "model": TRAINED, "sparsity": sparsity, "seeds": seeds[:1]}
    return outcomes, layers, trainings(folder / "training.csv", steps, **asked)


def trainings(path: Path, steps: int, **asked: object) -> pd.DataFrame:
    """The rows of a table of short trainings that are as long, and of what else is asked for.

    Raises ConfigurationError as `tables.read_asked` does.
    """
    found = read_asked(path, **asked)
    keys = [name for name in (*CASE, "treatment") if name in found]
    lengths = found.groupby(keys)["step"].transform("max")
    return select(found.assign(steps=lengths), path, steps=read_steps(steps))


def ends(training: pd.DataFrame) -> pd.DataFrame:
    """The last record of each training with two columns more, `training images` (those of the steps
    since the record before) and `test images`: the share right, and whether the interval of that
    many images (`accuracy_interval`) is above chance, below it or holds it."""
    *_, before, last = sorted(training["step"].unique())
    rows = training[training["step"] == last]
    chance = 100 / datasets.DATASETS[rows["dataset"].iloc[0]].classes

    def told(accuracy: float, images: int) -> str:
        found = accuracy_interval(accuracy, images)
        side = "above" if found.low > chance else "below" if found.high < chance else "at"
        return f"{accuracy:.1f}% ({side} chance)"

    seen = (last - before) * rows["batch_size"]
    return rows.assign(
        **{
            "training images": list(map(told, rows["train_accuracy"], seen)),
            "test images": list(map(told, rows["test_accuracy"], rows["test_images"])),
        }
    )


def read_steps(steps: object, records: int = 1) -> int:
    """The parameter `steps`, of a training that is recorded so many times, at equal distances.

    Raises ConfigurationError.
    """
    number = whole("steps", steps, least=records)
    if number is None or number % records:
        raise ConfigurationError(f"steps={steps!r} is not a multiple of {records}")
    return number


def _layer_rows(network: Network, masks: Masks) -> list[dict]:
    """Per prunable layer: weights kept, BatchNorm weights that follow it kept, norm of the kept
    weights' gradient on SNIP's scoring images, ten of each class."""
    module = network.module
    gradients = loss_gradients(module, network.context(find_method("SNIP")).batches)
    norms, rows = inversion.norm_weights(module), []
    for name, _ in module.named_parameters():
        if name in gradients:
            rows.append(
                {
                    "layer": name.removesuffix(".weight"),
                    "size": masks[name].numel(),
                    "kept": int(masks[name].sum()),
                    "norms": 0,
                    "norms_kept": 0,
                    "gradient_norm": float(gradients[name][masks[name]].norm()),
                }
            )
        elif name in norms:
            left = masks.get(name, torch.ones_like(norms[name], dtype=bool))
            rows[-1].update(norms=left.numel(), norms_kept=int(left.sum()))
    return rows


def _facts(
    outcome: inversion.Outcome, rows: list[dict], reference: Masks | None, sparsity: float
) -> dict:
    kept = sum(row["kept"] for row in rows)
    common = None
    if reference is not None:
        common = sum(int((mask & outcome.masks[n]).sum()) for n, mask in reference.items())
    return {
        "prunable": sum(row["size"] for row in rows),
        "kept": kept,
        "counted_kept": outcome.counted[0],
        "counted_total": outcome.counted[1],
        "check_passed": inversion.check_passes(outcome.counted, sparsity),
        "layers_collapsed": sum(row["kept"] == 0 for row in rows),
        "layers_silent": sum(row["norms"] > 0 and row["norms_kept"] == 0 for row in rows),
        "overlap": float("nan") if common is None else common / kept,
    }


def short_training(
    network: Network,
    masks: Masks,
    steps: int,
    records: int,
    test_images: int,
    batch_size: int,
    precision: str | None = None,
) -> Iterator[dict]:
    """Train the network's module as it is, masked: a row of TRAINING per record (without the case,
    the setting and the provenance), the first before any step. precision: None for the
    protocol's."""
    data, hyper = network.data, network.hyper
    loader = datasets.Loader(
        data.train_images,
        data.train_labels,
        data.mean,
        data.std,
        batch_size,
        augment=hyper.augment if data.spec.natural else None,
        seed=network.seed,
    )
    test = datasets.Loader(
        data.test_images[:test_images], data.test_labels[:test_images], data.mean, data.std, 500
    )
    portion = steps // records
    precision = environment.resolve_precision(precision or hyper.precision, network.device)
    history = loop.train(
        network.module, masks, Portions(loader, portion), test, hyper, records, precision
    )
    for row in history.rows:
        yield {
            "step": row["epoch"] * portion,
            "batch_size": batch_size,
            "test_images": min(test_images, len(data.test_labels)),
            "precision": precision,
            **{
                name: row[name] if row[name] is not None else float("nan")
                for name in TRAINING
                if name in row
            },
        }
