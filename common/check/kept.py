"""What a method keeps: beside every method of the suite, between seeds and under slight changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from common.base.seeding import generator
from common.pruning import METHODS, Masks, Method, find_method, kept, outside, prunable
from common.pruning.rounds import prune_rounds
from common.pruning.scores import Context, Scores, in_mode
from common.runs.network import Network
from common.studies.chaos import perturb
from common.studies.layer_collapse import UNIT
from common.studies.tables import layer_rows, provenance

CHANGE = 1e-6  # relative, of every weight
STREAM, WEIGHTS, SEED = "itself, another random stream", "itself, weights changed", "itself, seeds"
EXPONENTS = tuple(step / 2 for step in range(1, 9))  # compressions up to 10^4
IMAGES = 100  # of the pass that costs are counted in


def others() -> list[tuple[str, str]]:
    """(method, variant) of the suite that a method from outside stands beside: every method as
    published, and random pruning by ERK."""
    suite = [(method, "") for method in METHODS if method not in outside.LOADED]
    return [*suite[:1], ("random", "erk"), *suite[1:]]


def alike(method: Method, networks: Sequence[Network], sparsities: Sequence[float]) -> pd.DataFrame:
    """How like its scores and masks are to others', a row for each of them, sparsity and network.

    correlation: Spearman's, of the scores of the first round. overlap: the share of the kept
    weights that the other keeps too. agreement: the same within layers, beyond chance: 0 where each
    layer keeps as many of the same weights as two random masks of these densities, 1 where it could
    not keep more. densities: the share of the kept weights that the other keeps in the same layers,
    whichever they are. SEED compares each network with the next.
    """
    rows, own = [], []
    for network in networks:
        first, masks = _pruned(method, network, sparsities)
        own.append((network.seed, first, masks))
        for name, scores, theirs in _compared(method, network, sparsities):
            for sparsity in sparsities:
                pair = (first, masks[sparsity]), (scores, theirs[sparsity])
                rows.append((name, sparsity, network.seed, *_likeness(*pair)))
    for (seed, *one), (_, *other) in zip(own, own[1:] + own[:1], strict=True):
        for sparsity in sparsities if len(own) > 1 else ():
            pair = (one[0], one[1][sparsity]), (other[0], other[1][sparsity])
            rows.append((SEED, sparsity, seed, *_likeness(*pair)))
    columns = ("other", "sparsity", "seed", "correlation", "overlap", "agreement", "densities")
    return pd.DataFrame(rows, columns=columns)


def collapse(label: str, method: Method, network: Network) -> pd.DataFrame:
    """What each layer keeps at the compressions 10^EXPONENTS: a table for the figures of the layer
    collapse study, as its `layers` and its `summary`."""
    total = sum(weight.numel() for weight in prunable(network.build()).values())
    about = {
        **{"dataset": network.data.spec.name, "model": network.model},
        **{"protocol": network.hyper.name, "prunable": total, **provenance(network.device)},
    }
    rows = []
    for exponent in EXPONENTS:
        sparsity = 1 - 10.0**-exponent
        _, masks = _pruned(method, network, [sparsity])
        line = (label, method.iterations, method.images_per_class, network.seed, exponent)
        unit = dict(zip(UNIT, line, strict=True))
        rows += [{**unit, **row, **about} for row in layer_rows(masks[sparsity])]
    return pd.DataFrame(rows)


def cost(method: Method, network: Network, sparsity: float) -> float:
    """What pruning costs, in forward and backward passes over IMAGES images: both counted in
    multiply-adds of convolutions and matrix products."""
    with FlopCounterMode(display=False) as pruning:
        _pruned(method, network, [sparsity])
    module, shape = network.build(), network.data.spec.shape
    images = torch.zeros(IMAGES, *shape, device=network.device)
    with FlopCounterMode(display=False) as one_pass, in_mode(module, training=False):
        F.cross_entropy(module(images), images.new_zeros(IMAGES, dtype=torch.long)).backward()
    return pruning.get_total_flops() / one_pass.get_total_flops()


def _compared(
    method: Method, network: Network, sparsities: Sequence[float]
) -> Iterator[tuple[str, Scores, dict[float, Masks]]]:
    for name, variant in others():
        yield f"{name} {variant}".strip(), *_pruned(find_method(name, variant), network, sparsities)
    yield STREAM, *_pruned(method, network, sparsities, stream=1)
    yield WEIGHTS, *_pruned(method, network, sparsities, change=CHANGE)


def _pruned(
    method: Method,
    network: Network,
    sparsities: Sequence[float],
    stream: int = 0,
    change: float = 0.0,
) -> tuple[Scores, dict[float, Masks]]:
    """The scores of the first round, and the masks at each sparsity. One scoring serves them all
    where there is one round."""

    def start() -> tuple[torch.nn.Module, Context]:
        module, context = network.build(), network.context(method)
        if stream:
            draws = generator(network.seed, "pruning", stream)
            context = replace(context, generator=draws)
        if change:
            perturb(module, change, generator(network.seed, "changed weights"))
        return module, context

    module, context = start()
    first = {name: score.clone() for name, score in method.score(module, context).items()}
    known, masks = first if method.iterations == 1 else None, {}
    for sparsity in sparsities:
        module, context = start()
        masks[sparsity] = prune_rounds(module, method, sparsity, context, first=known)
    return first, masks


def _likeness(one: tuple[Scores, Masks], other: tuple[Scores, Masks]) -> tuple[float, ...]:
    (scores, ours), (their_scores, theirs) = one, other
    flat = [
        torch.cat([s[name].flatten().double() for name in ours]) for s in (scores, their_scores)
    ]
    numbers = [values.cpu().numpy() for values in flat]
    constant = any(np.ptp(values) == 0 for values in numbers)
    correlation = float("nan") if constant else float(spearmanr(*numbers).statistic)
    both = expected = most = 0.0
    for name, mask in ours.items():
        left = int(mask.sum()), int(theirs[name].sum())
        both += int((mask & theirs[name]).sum())
        expected += left[0] * left[1] / mask.numel()
        most += min(left)
    agreement = (both - expected) / (most - expected) if most > expected else float("nan")
    return correlation, both / kept(ours), agreement, most / kept(ours)
