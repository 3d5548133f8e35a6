"""What proper inversion does to a network: complements, compressions, and SynFlow's rounds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from common.pruning import ablations, keep_count, prunable
from common.pruning.masks import select
from common.pruning.rounds import Round
from common.studies import inversion, layer_collapse
from common.studies.layer_collapse import Line
from common.studies.network import SETTING, TANAKA2020, Setting
from common.studies.tables import PROVENANCE, Table, layer_rows, read_asked, values

ONE_SHOT = (Line("magnitude"), Line("SNIP", 1, 10), Line("grasp", 1, 10), Line("synflow", 1))
ROUNDS = Line("synflow", 100)
HALF = 0.5  # the sparsity at which a mask and its inversion would be complements
SWEEP_UNIT = ("method", "iterations", "images_per_class", "seed", "exponent")
SWEEP = (*SWEEP_UNIT, *SETTING, "prunable", "layer", "size", "kept", *PROVENANCE)
COMPLEMENT_UNIT = ("method", "seed", "sparsity")
COMPLEMENT = (
    *(*COMPLEMENT_UNIT, *SETTING, "prunable", "in_both", "in_neither", "tied", "in_both_untied"),
    *PROVENANCE,
)
ROUND_UNIT = ("procedure", "exponent", "seed")
ROUND = (*ROUND_UNIT, *SETTING, "round", "density", *PROVENANCE)


def measure(
    folder: Path,
    exponents: Sequence[float],
    seeds: Sequence[int],
    *,
    setting: Setting = TANAKA2020,
) -> None:
    """All tables of the study: SynFlow's rounds at 10^exponent, the other methods at every
    compression of the study of layer collapse."""
    exponents, seeds = values("exponents", exponents), values("seeds", seeds)
    measure_complement(folder, seeds, setting=setting)
    measure_sweep(folder, ONE_SHOT, layer_collapse.EXPONENTS, seeds, setting=setting)
    measure_sweep(folder, [ROUNDS], [0.01, *exponents], seeds[:1], setting=setting)
    measure_rounds(folder, exponents, seeds, setting=setting)


def measure_complement(
    folder: Path,
    seeds: Sequence[int],
    *,
    setting: Setting = TANAKA2020,
) -> None:
    """How far mask and inverted mask of one-shot methods are from exact complements at half the
    weights, into complement.csv: weights that both keep, or neither, and those tied at the
    threshold, between which either draws lots."""
    table = Table(folder / "complement.csv", COMPLEMENT, COMPLEMENT_UNIT)
    for seed in values("seeds", seeds):
        for line in ONE_SHOT:
            unit = {"method": line.method, "seed": seed, "sparsity": HALF}
            if table.has(**unit):
                continue
            network = setting.network(seed)
            method = line.chosen()
            context = network.context(method)
            scores = method.score(network.fresh(), context)
            keep = keep_count(sum(network.sizes().values()), HALF)
            own = {name: score.clone() for name, score in scores.items()}
            right, flat = _flat(select(own, keep, context.generator)), _flat(scores)
            left = _flat(select(ablations.invert(scores), keep, context.generator))
            tied = flat == flat[right].min()
            counted = {
                "prunable": sum(network.sizes().values()),
                "in_both": int((right & left).sum()),
                "in_neither": int((~right & ~left).sum()),
                "tied": int(tied.sum()),
                "in_both_untied": int((right & left & ~tied).sum()),
            }
            table.add([{**unit, **setting.columns(), **counted}])


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def measure_sweep(
    folder: Path,
    lines: Sequence[Line],
    exponents: Sequence[float],
    seeds: Sequence[int],
    *,
    setting: Setting = TANAKA2020,
) -> None:
    """What each layer keeps of properly inverted masks at the compressions 10^exponent, into
    sweep.csv."""
    exponents = values("exponents", exponents)
    table = Table(folder / "sweep.csv", SWEEP, SWEEP_UNIT)
    for seed in values("seeds", seeds):
        for line in lines:
            unit = {**vars(line), "seed": seed}
            left = [e for e in exponents if not table.has(**unit, exponent=e)]
            if not left:
                continue
            network = setting.network(seed)
            common = {**setting.columns(), "prunable": sum(network.sizes().values())}
            for exponent, masks in layer_collapse.masks_of(network, line, left, ablations.invert):
                fixed = {**unit, "exponent": exponent, **common}
                table.add({**fixed, **row} for row in layer_rows(masks))


def measure_rounds(
    folder: Path,
    exponents: Sequence[float],
    seeds: Sequence[int],
    *,
    setting: Setting = TANAKA2020,
) -> None:
    """SynFlow round by round, inverted properly and by 0/0, into rounds.csv: a row per round with a
    column per layer (weights kept). Round 0 is the dense network."""
    runs = {"inverted": inversion.synflow_inverted, "reciprocal": inversion.fault_alternation}
    exponents, table = values("exponents", exponents), None
    for seed in values("seeds", seeds):
        network = setting.network(seed)
        names = [name.removesuffix(".weight") for name in prunable(network.module)]
        table = table or Table(folder / "rounds.csv", (*ROUND, *names), ROUND_UNIT)
        for exponent, (procedure, run) in itertools.product(exponents, runs.items()):
            unit = {"procedure": procedure, "exponent": exponent, "seed": seed}
            if table.has(**unit):
                continue
            fixed = {**unit, **setting.columns()}
            sizes = {n.removesuffix(".weight"): size for n, size in network.sizes().items()}
            rows = [{**fixed, "round": 0, "density": 1.0, **sizes}]

            def note(done: Round, rows: list[dict] = rows, fixed: dict = fixed) -> None:
                kept = {n.removesuffix(".weight"): int(m.sum()) for n, m in done.masks.items()}
                rows.append({**fixed, "round": done.step, "density": done.density, **kept})

            run(network, 1 - 10.0**-exponent, note)
            table.add(rows)


def tables(
    folder: Path, setting: Setting, exponents: Sequence[float], seeds: Sequence[int]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(complement, sweep, rounds) of a measurement, of what is asked for; exponents: of rounds.

    Raises ConfigurationError, which says what there is, where something was not measured.
    """
    asked = {**setting.names(), "seeds": values("seeds", seeds)}
    complement, sweep = (
        read_asked(folder / f"{name}.csv", **asked) for name in ("complement", "sweep")
    )
    exponents = values("exponents", exponents)
    return complement, sweep, read_asked(folder / "rounds.csv", **asked, exponents=exponents)


def layers_of(rounds: pd.DataFrame) -> list[str]:
    """The layers that rounds.csv has columns of, from input to output."""
    return list(rounds.columns[len(ROUND) :])


def first_deaths(rounds: pd.DataFrame) -> pd.DataFrame:
    """Per procedure, exponent and seed: the layer that is emptied first and the round, how many
    layers the last round leaves empty, and what it keeps of the first layer and in all."""
    layers, rows = layers_of(rounds), []
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
