"""The tables of the inversion study: masks, gradient flow, rounds, compressions and trainings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from common import datasets, environment, training
from common.pruning import ablations, find, keep_count, prunable
from common.pruning.masks import Masks, select
from common.pruning.rounds import Round
from common.pruning.scores import loss_gradients
from common.studies import inversion, layer_collapse
from common.studies.layer_collapse import Line
from common.studies.network import Network
from common.studies.tables import PROVENANCE, Table, provenance

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
ONE_SHOT = (Line("magnitude"), Line("SNIP", 1, 10), Line("grasp", 1, 10), Line("synflow", 1))
CASE = ("method", "procedure", "sparsity", "seed")
SETTING = ("dataset", "model", "protocol")
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
SWEEP_UNIT = ("method", "iterations", "images_per_class", "seed", "exponent")
SWEEP = (*SWEEP_UNIT, *SETTING, "prunable", "layer", "size", "kept", *PROVENANCE)
COMPLEMENT_UNIT = ("method", "seed", "sparsity")
COMPLEMENT = (
    *(*COMPLEMENT_UNIT, *SETTING, "prunable", "in_both", "in_neither", "tied", "in_both_untied"),
    *PROVENANCE,
)
ROUND_UNIT = ("procedure", "exponent", "seed")
ROUND = (*ROUND_UNIT, *SETTING, "round", "density", *PROVENANCE)


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


def measure_procedures(
    folder: Path,
    cases: Sequence[tuple[str, str]],
    sparsities: Sequence[float],
    seeds: Sequence[int],
    *,
    dataset: str = "cifar10",
    model: str = "vgg16",
    protocol: str = "seed",
    device: str = "auto",
    data_dir: str | Path | None = None,
) -> None:
    """Masks and gradient flow of every (method, procedure), into layers.csv and outcomes.csv."""
    layers = Table(folder / "layers.csv", LAYERS, CASE)
    outcomes = Table(folder / "outcomes.csv", OUTCOMES, CASE)
    for seed in seeds:
        network, reference = None, {}
        for sparsity, (method, procedure) in itertools.product(sparsities, cases):
            case = {"method": method, "procedure": procedure, "sparsity": sparsity, "seed": seed}
            if outcomes.has(**case):
                continue
            network = network or Network(model, dataset, seed, protocol, device, data_dir)
            setting = {"dataset": dataset, "model": model, "protocol": protocol}
            place = provenance(network.device)
            started = time.perf_counter()
            outcome = inversion.PROCEDURES[procedure](network, method, sparsity)
            seconds = time.perf_counter() - started
            if procedure == "unmodified":
                reference = {(method, sparsity): outcome.masks}
            rows = _layer_rows(network, outcome.masks)
            layers.add({**case, **row} for row in rows)
            facts = _facts(outcome, rows, reference.get((method, sparsity)), sparsity)
            outcomes.add([{**case, **setting, **facts, "seconds": round(seconds, 2), **place}])


def measure_training(
    folder: Path,
    cases: Sequence[tuple[str, str]],
    sparsities: Sequence[float],
    seeds: Sequence[int],
    *,
    steps: int = 300,
    records: int = 6,
    test_images: int = 1000,
    batch_size: int | None = None,
    dataset: str = "cifar10",
    model: str = "vgg16",
    protocol: str = "seed",
    device: str = "auto",
    data_dir: str | Path | None = None,
) -> None:
    """`steps` steps of training of every (method, procedure) at the protocol's first learning rate,
    recorded `records` times on the first `test_images` test images, into training.csv."""
    table = Table(folder / "training.csv", TRAINING, (*CASE, "model"))
    for seed in seeds:
        network = None
        for sparsity, (method, procedure) in itertools.product(sparsities, cases):
            case = {"method": method, "procedure": procedure, "sparsity": sparsity, "seed": seed}
            if table.has(**case, model=model):
                continue
            network = network or Network(model, dataset, seed, protocol, device, data_dir)
            outcome = inversion.PROCEDURES[procedure](network, method, sparsity)
            setting = {"dataset": dataset, "model": model, "protocol": protocol}
            fixed = {**case, **setting, **provenance(network.device)}
            size = batch_size or network.hyper.batch_size
            table.add(
                {**fixed, **row}
                for row in _train(network, outcome, steps, records, test_images, size)
            )


def _layer_rows(network: Network, masks: Masks) -> list[dict]:
    """Per prunable layer: weights kept, BatchNorm weights that follow it kept, norm of the kept
    weights' gradient on ten scoring images of each class."""
    module = network.module
    gradients = loss_gradients(module, network.context(10).batches)
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


def _train(
    network: Network,
    outcome: inversion.Outcome,
    steps: int,
    records: int,
    test_images: int,
    batch_size: int,
) -> Iterator[dict]:
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
    precision = environment.resolve_precision(hyper.precision, network.device)
    history = training.train(
        network.module, outcome.masks, Portions(loader, portion), test, hyper, records, precision
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


def measure_complement(
    folder: Path,
    seeds: Sequence[int],
    sparsity: float = 0.5,
    lines: Sequence[Line] = ONE_SHOT,
    *,
    dataset: str = "cifar10",
    model: str = "vgg16",
    protocol: str = "seed",
    device: str = "auto",
    data_dir: str | Path | None = None,
) -> None:
    """How far mask and inverted mask of one-shot methods are from exact complements, into
    complement.csv: weights that both keep, or neither, and those tied at the threshold, between
    which either draws lots."""
    table = Table(folder / "complement.csv", COMPLEMENT, COMPLEMENT_UNIT)
    for seed in seeds:
        network = None
        for line in lines:
            unit = {"method": line.method, "seed": seed, "sparsity": sparsity}
            if table.has(**unit):
                continue
            network = network or Network(model, dataset, seed, protocol, device, data_dir)
            module, context = network.fresh(), network.context(line.images_per_class)
            scores = find(line.method).score(module, context)
            keep = keep_count(sum(network.sizes().values()), sparsity)
            right = _flat(
                select({n: s.clone() for n, s in scores.items()}, keep, context.generator)
            )
            flat = _flat(scores)
            left = _flat(select(ablations.invert(scores), keep, context.generator))
            tied = flat == flat[right].min()
            setting = {"dataset": dataset, "model": model, "protocol": protocol}
            counted = {"prunable": sum(network.sizes().values())}
            counted |= {
                "in_both": int((right & left).sum()),
                "in_neither": int((~right & ~left).sum()),
                "tied": int(tied.sum()),
                "in_both_untied": int((right & left & ~tied).sum()),
            }
            table.add([{**unit, **setting, **counted, **provenance(network.device)}])


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def measure_sweep(
    folder: Path,
    lines: Sequence[Line],
    exponents: Sequence[float],
    seeds: Sequence[int],
    *,
    dataset: str = "cifar100",
    model: str = "vgg16",
    protocol: str = "tanaka2020",
    device: str = "auto",
    data_dir: str | Path | None = None,
) -> None:
    """What each layer keeps of properly inverted masks at the compressions 10^exponent, into
    sweep.csv."""
    table = Table(folder / "sweep.csv", SWEEP, SWEEP_UNIT)
    for seed in seeds:
        network = None
        for line in lines:
            unit = {**vars(line), "seed": seed}
            left = [e for e in exponents if not table.has(**unit, exponent=e)]
            if not left:
                continue
            network = network or Network(model, dataset, seed, protocol, device, data_dir)
            sizes = network.sizes()
            common = {"dataset": dataset, "model": model, "protocol": protocol}
            common |= {"prunable": sum(sizes.values()), **provenance(network.device)}
            for exponent, masks in layer_collapse.masks_of(network, line, left, ablations.invert):
                table.add(
                    {
                        **unit,
                        "exponent": exponent,
                        **common,
                        "layer": name.removesuffix(".weight"),
                        "size": sizes[name],
                        "kept": int(mask.sum()),
                    }
                    for name, mask in masks.items()
                )


def measure_rounds(
    folder: Path,
    exponents: Sequence[float],
    seeds: Sequence[int],
    *,
    dataset: str = "cifar100",
    model: str = "vgg16",
    protocol: str = "tanaka2020",
    device: str = "auto",
    data_dir: str | Path | None = None,
) -> None:
    """SynFlow round by round, inverted properly and by 0/0, into rounds.csv: a row per round with a
    column per layer (weights kept). Round 0 is the dense network."""
    runs = {"inverted": inversion.synflow_inverted, "reciprocal": inversion.fault_alternation}
    table = None
    for seed in seeds:
        network = Network(model, dataset, seed, protocol, device, data_dir)
        names = [name.removesuffix(".weight") for name in prunable(network.module)]
        table = table or Table(folder / "rounds.csv", (*ROUND, *names), ROUND_UNIT)
        for exponent, (procedure, run) in itertools.product(exponents, runs.items()):
            unit = {"procedure": procedure, "exponent": exponent, "seed": seed}
            if table.has(**unit):
                continue
            fixed = {**unit, "dataset": dataset, "model": model, "protocol": protocol}
            fixed |= provenance(network.device)
            sizes = {n.removesuffix(".weight"): size for n, size in network.sizes().items()}
            rows = [{**fixed, "round": 0, "density": 1.0, **sizes}]

            def note(done: Round, rows: list[dict] = rows, fixed: dict = fixed) -> None:
                kept = {n.removesuffix(".weight"): int(m.sum()) for n, m in done.masks.items()}
                rows.append({**fixed, "round": done.step, "density": done.density, **kept})

            run(network, 1 - 10.0**-exponent, note)
            table.add(rows)


def first_deaths(rounds: pd.DataFrame) -> pd.DataFrame:
    """Per procedure, exponent and seed: the layer that is emptied first and the round, how many
    layers the last round leaves empty, and what it keeps of the first layer and in all."""
    layers = list(rounds.columns[len(ROUND) :])
    rows = []
    for key, part in rounds.groupby(list(ROUND_UNIT), sort=False):
        counts = part.set_index("round")[layers]
        dead = counts == 0
        when = dead.any(axis=1)
        first = when.idxmax() if when.any() else None
        last = counts.iloc[-1]
        rows.append(
            {
                **dict(zip(ROUND_UNIT, key, strict=True)),
                "first_death": ", ".join(dead.columns[dead.loc[first]]) if first else "none",
                "round": first if first else float("nan"),
                "rounds_with_a_dead_layer": int(when.sum()),
                "dead_at_the_end": int((last == 0).sum()),
                "first_layer_kept": last.iloc[0] / counts.iloc[0, 0],
                "kept": int(last.sum()),
            }
        )
    return pd.DataFrame(rows)
