"""Where BatchNorm stops helping: the variance at its inputs in a pruned network, and its epsilon.

BatchNorm divides by sqrt(variance + epsilon) (Ioffe and Szegedy 2015, 1502.03167, algorithm 1). It
makes up for small weights as long as the variance that they leave is well above epsilon; below, the
signal shrinks in every layer.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.base.errors import ConfigurationError
from common.datasets import Loader
from common.pruning import ablations, find_method, prunable
from common.pruning import masks as masking
from common.pruning.masks import Masks
from common.studies.inversion_tables import (
    CASE,
    STEPS,
    TRAINING,
    read_steps,
    short_training,
    trainings,
)
from common.studies.layer_collapse import Line, masks_of
from common.studies.network import SETTING, Network, Setting
from common.studies.tables import PROVENANCE, Table, read_asked, values

FRANKLE2021 = Setting("resnet20", "cifar10", "frankle2021")
METHODS = ("magnitude", "SNIP", "grasp")
TRANSFORMS = {"unmodified": None, "inverted": ablations.invert}
IMAGES = 128
# Below every variance that weights leave, and far above the smallest float32.
TINY = 1e-20

# What is done to the pruned network before it is trained:
# none; epsilon: every BatchNorm's is TINY; rescaled: the kept weights of each layer times one
# factor, which gives them the norm that the layer had before pruning.
TREATMENTS = ("none", "epsilon", "rescaled")
RUNS: tuple[tuple[str, str, float, str], ...] = (
    *(("magnitude", "inverted", 0.98, treatment) for treatment in TREATMENTS),
    ("magnitude", "unmodified", 0.98, "none"),
    *(("magnitude", "inverted", 0.9, treatment) for treatment in ("none", "epsilon")),
    ("SNIP", "inverted", 0.98, "epsilon"),
)

UNIT = (*CASE, "model")
SIGNAL = (
    *(*CASE, *SETTING, "layer", "size", "kept", "epsilon", "variance", "variance_tiny_epsilon"),
    *("channels", "channels_below", "channels_empty", "output_kept", "layers_collapsed"),
    *("logits_std", "logits_std_tiny_epsilon", "images", *PROVENANCE),
)
_TREATED = (*CASE, "treatment", "epsilon")
SIGNAL_TRAINING = (*_TREATED, *(name for name in TRAINING if name not in CASE))


@torch.no_grad()
def variances(module: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What a forward pass in train mode finds: BatchNorm layer -> variance of each channel (C,) at
    its input, over images and positions, as BatchNorm itself takes it (divided by their number),
    from input to output; and the logits (B, classes). The module stays as it is."""
    twin, found = copy.deepcopy(module).train(), {}

    def note(layer: nn.Module, inputs: tuple[Tensor], name: str) -> None:
        (x,) = inputs
        found[name] = x.transpose(0, 1).flatten(1).var(1, correction=0)

    for name, layer in batchnorms(twin).items():
        layer.register_forward_pre_hook(partial(note, name=name))
    logits = twin(images)
    return {name: found[name] for name in batchnorms(twin)}, logits


def batchnorms(module: nn.Module) -> dict[str, _BatchNorm]:
    """Name -> BatchNorm layer, from input to output."""
    return {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm)}


@contextlib.contextmanager
def epsilon(module: nn.Module, value: float) -> Iterator[None]:
    """Every BatchNorm of `module` with this epsilon."""
    before = {layer: layer.eps for layer in batchnorms(module).values()}
    try:
        for layer in before:
            layer.eps = value
        yield
    finally:
        for layer, own in before.items():
            layer.eps = own


@torch.no_grad()
def rescale(module: nn.Module, norms: dict[str, float]) -> None:
    """Multiply the weights of each prunable layer by the factor that gives them this norm; a layer
    without weights stays empty. Were epsilon 0, the output of no BatchNorm would change by it."""
    for name, weight in prunable(module).items():
        own = float(weight.norm())
        weight.mul_(norms[name] / own if own else 1.0)


def measure(
    folder: Path,
    networks: Sequence[Setting],
    sparsities: Sequence[float],
    steps: int,
    seeds: Sequence[int],
) -> None:
    """All tables of the study; of the first network and seed those of RUNS at these sparsities are
    trained."""
    runs, seeds = runs_at(sparsities), values("seeds", seeds)
    for setting in networks:
        measure_signal(folder, METHODS, sparsities, seeds, setting=setting)
    measure_training(folder, runs, seeds[:1], steps=steps, setting=networks[0])


def measure_signal(
    folder: Path,
    methods: Sequence[str],
    sparsities: Sequence[float],
    seeds: Sequence[int],
    *,
    setting: Setting = FRANKLE2021,
) -> None:
    """Variances before training of each method and its inversion, into signal.csv: a row per
    BatchNorm layer. Images: the first IMAGES training images in the seed's order, not augmented.

    size, kept: of the weights of the layer before; variance: the (lower) median over the channels;
    variance_tiny_epsilon, logits_std_tiny_epsilon: the same with an epsilon of TINY everywhere, so
    that no layer inherits a lost signal; channels_below: those whose variance is below epsilon,
    channels_empty: those where it is 0; output_kept: weights of the last layer, which no BatchNorm
    follows.

    Raises ConfigurationError for a network without BatchNorm.
    """
    sparsities, seeds = values("sparsities", sparsities), values("seeds", seeds)
    table = Table(folder / "signal.csv", SIGNAL, UNIT)
    exponents = {-math.log10(1 - sparsity): sparsity for sparsity in sparsities}
    for seed, method, procedure in itertools.product(seeds, methods, TRANSFORMS):
        case = {"method": method, "procedure": procedure, "seed": seed}
        due = [
            exponent
            for exponent, sparsity in exponents.items()
            if not table.has(**case, sparsity=sparsity, model=setting.model)
        ]
        if not due:
            continue
        network = setting.network(seed)
        if not batchnorms(network.module):
            raise ConfigurationError(
                f"model: {setting.model} has no BatchNorm, whose inputs are measured here"
            )
        for exponent, masks in _masks(network, method, procedure, due):
            fixed = {**case, "sparsity": exponents[exponent], **setting.columns()}
            table.add({**fixed, **row} for row in _rows(network, masks))


def measure_training(
    folder: Path,
    runs: Sequence[tuple[str, str, float, str]],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    records: int = 6,
    test_images: int = 1000,
    batch_size: int = 64,
    setting: Setting = FRANKLE2021,
) -> None:
    """`steps` steps of training of every (method, procedure, sparsity, treatment) from the same
    weights, in float32 and at the protocol's first learning rate, recorded `records` times on the
    first `test_images` test images, into signal_training.csv."""
    seeds, steps = values("seeds", seeds), read_steps(steps, records)
    table = Table(folder / "signal_training.csv", SIGNAL_TRAINING, (*UNIT, "treatment"))
    for seed, (method, procedure, sparsity, treatment) in itertools.product(seeds, runs):
        case = {"method": method, "procedure": procedure, "sparsity": sparsity, "seed": seed}
        if table.has(**case, treatment=treatment, model=setting.model):
            continue
        network = setting.network(seed)
        exponent = -math.log10(1 - sparsity)
        ((_, masks),) = _masks(network, method, procedure, [exponent])
        module = _masked(network, masks)
        value = next(iter(batchnorms(module).values())).eps
        if treatment == "epsilon":
            value = TINY
        elif treatment == "rescaled":
            rescale(module, _norms(network, masks))
        with epsilon(module, value):
            fixed = {**case, "treatment": treatment, "epsilon": value, **setting.columns()}
            counts = (steps, records, test_images, batch_size)
            rows = short_training(network, masks, *counts, precision="float32")
            table.add([{**fixed, **row} for row in rows])


def settings(networks: object, dataset: str, *where: object) -> list[Setting]:
    """[[model, protocol], ...] on a data set as settings; where: device and data_dir.

    Raises ConfigurationError.
    """
    return [Setting(m, dataset, protocol, *where) for m, protocol in values("networks", networks)]


def runs_at(sparsities: Sequence[float]) -> list[tuple[str, str, float, str]]:
    """Those of RUNS at one of the sparsities. Raises ConfigurationError where there are none."""
    found = [run for run in RUNS if run[2] in values("sparsities", sparsities)]
    if not found:
        there = ", ".join(str(sparsity) for sparsity in sorted({run[2] for run in RUNS}))
        raise ConfigurationError(
            f"sparsities={sparsities!r}: networks are trained at {there}; name one of these too"
        )
    return found


def tables(
    folder: Path,
    networks: Sequence[Setting],
    sparsities: Sequence[float],
    steps: int,
    seeds: Sequence[int],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(variances, treated) of a measurement, of what is asked for: signal.csv, and the trainings of
    the first network and seed at those of the sparsities that RUNS has.

    networks: of one data set. Raises ConfigurationError, which says what there is, where something
    was not measured.
    """
    seeds, first = values("seeds", seeds), networks[0]
    named = [(setting.model, setting.protocol) for setting in networks]
    asked = {"dataset": first.dataset, "networks": named, "sparsities": sparsities}
    variances = read_asked(folder / "signal.csv", **asked, seeds=seeds)
    trained = list(dict.fromkeys(run[2] for run in runs_at(sparsities)))
    asked = {**first.names(), "sparsities": trained, "seeds": seeds[:1]}
    return variances, trainings(folder / "signal_training.csv", steps, **asked)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """signal.csv, a row per mask: BatchNorm layers, those whose (median) variance is below epsilon,
    weights of the last layer, layers without a weight, and the logits' standard deviation."""
    marked = table.assign(below=table["variance"] < table["epsilon"])
    return marked.groupby(["model", *CASE], sort=False, as_index=False).agg(
        layers=("layer", "size"),
        layers_below=("below", "sum"),
        output_kept=("output_kept", "first"),
        layers_collapsed=("layers_collapsed", "first"),
        logits_std=("logits_std", "first"),
        logits_std_tiny_epsilon=("logits_std_tiny_epsilon", "first"),
    )


def _masks(
    network: Network, method: str, procedure: str, exponents: Sequence[float]
) -> Iterator[tuple[float, Masks]]:
    chosen = find_method(method)
    line = Line(method, chosen.iterations, chosen.images_per_class)
    return masks_of(network, line, exponents, TRANSFORMS[procedure])


def _masked(network: Network, masks: Masks) -> nn.Module:
    module = network.fresh()
    masking.apply(module, masks)
    return module


@torch.no_grad()
def _norms(network: Network, masks: Masks) -> dict[str, float]:
    """The norm of each prunable layer's initial weights; the module is left masked."""
    norms = {name: float(weight.norm()) for name, weight in prunable(network.fresh()).items()}
    _masked(network, masks)
    return norms


def _rows(network: Network, masks: Masks) -> list[dict]:
    data, module = network.data, _masked(network, masks)
    parts = (data.train_images, data.train_labels, data.mean, data.std, IMAGES)
    images, _ = next(iter(Loader(*parts, seed=network.seed)))
    found, logits = variances(module, images)
    with epsilon(module, TINY):
        alone, logits_alone = variances(module, images)
    layers, before, rows = batchnorms(module), "", []
    for name, _ in module.named_modules():
        if f"{name}.weight" in masks:
            before = f"{name}.weight"
        elif name in layers:
            rows.append(
                {
                    "layer": name,
                    "size": masks[before].numel(),
                    "kept": int(masks[before].sum()),
                    "epsilon": layers[name].eps,
                    "variance": float(found[name].median()),
                    "variance_tiny_epsilon": float(alone[name].median()),
                    "channels": found[name].numel(),
                    "channels_below": int((found[name] < layers[name].eps).sum()),
                    "channels_empty": int((found[name] == 0).sum()),
                }
            )
    whole = {
        "output_kept": int(masks[list(masks)[-1]].sum()),
        "layers_collapsed": sum(not mask.any() for mask in masks.values()),
        "logits_std": float(logits.std()),
        "logits_std_tiny_epsilon": float(logits_alone.std()),
        "images": len(images),
    }
    return [{**row, **whole} for row in rows]
