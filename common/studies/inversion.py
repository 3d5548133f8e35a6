"""Inversion of a ranking, and three faults that were taken for it.

Everything named `fault_...` here is wrong on purpose: a demonstration, in our own words, of what a
reproduction (COMP6258) and the released code behind Tanaka et al. 2020 did. Nothing else in the
suite can reach it; the suite's own inversion is `common.pruning.ablations.invert`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from common.base.seeding import generator
from common.pruning import ablations, find_method, keep_count, prunable
from common.pruning import masks as masking
from common.pruning.masks import Masks, select
from common.pruning.rounds import Round, prune_rounds
from common.pruning.schedule import density_after
from common.pruning.scores import Context, Scores
from common.studies.network import Network

CHECK_TOLERANCE = 5  # weights by which the reproduction's own check let a mask be off


@dataclass
class Outcome:
    """masks: of the prunable weights, and under the fault of the BatchNorm weights too.
    counted: (kept, total) weights as the procedure's own check counts them."""

    masks: Masks
    counted: tuple[int, int]


def unmodified(network: Network, method: str, sparsity: float) -> Outcome:
    """The method as published."""
    return _pruned(network, method, sparsity, None)


def inverted(network: Network, method: str, sparsity: float) -> Outcome:
    """The opposite end of the ranking, in every round: scores negated."""
    return _pruned(network, method, sparsity, ablations.invert)


def fault_empty_list(network: Network, method: str, sparsity: float) -> Outcome:
    """FAULT 1. The weights to prune are looked for by the mask that their layer carries as a
    buffer. Plain layers carry none: nothing is listed, nothing pruned, and 0 of 0 is no surprise.
    """
    module = network.fresh()
    listed = list(fault_masked_parameters(module))
    context = network.context(find_method(method))
    scores = find_method(method).score(module, context) if listed else {}
    total = sum(mask.numel() for mask, _ in listed)
    select(scores, keep_count(total, sparsity), context.generator)
    counted = int(sum(mask.sum() for mask, _ in listed)), total
    return Outcome(
        {n: torch.ones_like(w, dtype=bool) for n, w in prunable(module).items()}, counted
    )


def fault_masked_parameters(module: nn.Module) -> Iterator[tuple[Tensor, nn.Parameter]]:
    """(mask, weight) of every layer with a buffer `weight_mask`."""
    for layer in module.modules():
        buffers = dict(layer.named_buffers(recurse=False))
        if "weight_mask" in buffers:
            yield buffers["weight_mask"], layer.weight


def check_passes(counted: tuple[int, int], sparsity: float) -> bool:
    """The reproduction's check: abs(kept - (1 - sparsity) * total) < 5, on what it counts."""
    kept, total = counted
    return abs(kept - (1 - sparsity) * total) < CHECK_TOLERANCE


def fault_batchnorm_among_scores(network: Network, method: str, sparsity: float) -> Outcome:
    """FAULT 2. BatchNorm weights compete with the others in one ranking, here an inverted one:
    their scores are among the highest, so they go first and their layers fall silent."""
    module = network.fresh()
    weights = {**prunable(module), **norm_weights(module)}
    scores = {name: weight.detach().abs() for name, weight in weights.items()}
    if method == "SNIP":
        gradients = _gradients(module, network.context(find_method(method)), weights)
        scores = {name: score.mul_(gradients[name].abs()) for name, score in scores.items()}
    elif method != "magnitude":
        raise ValueError(f"this fault is shown for magnitude and SNIP, not for {method}")
    total = sum(score.numel() for score in scores.values())
    ties = generator(network.seed, "pruning", 1)
    masks = select(ablations.invert(scores), keep_count(total, sparsity), ties)
    masking.apply(module, masks)
    return Outcome(masks, (masking.kept(masks), total))


def fault_reciprocal(network: Network, method: str, sparsity: float) -> Outcome:
    """FAULT 3. 1/score as the inverted score. Of signed scores it keeps the positive ones, as the
    method itself does; of iterative ones see `fault_alternation`."""
    if find_method(method).iterations > 1:
        return _outcome(fault_alternation(network, sparsity))
    return _pruned(network, method, sparsity, fault_inverse)


def fault_inverse(scores: Scores) -> Scores:
    """v / v^2 for every score, zeros left out (0/0 is for `fault_alternation`)."""
    return {n: torch.where(v == 0, 0, v / v.square()) for n, v in scores.items()}


def fault_alternation(
    network: Network, sparsity: float, observe: Callable[[Round], None] | None = None
) -> Masks:
    """FAULT 3 in SynFlow's rounds. What a round pruned scores 0 in the next, 0/0 = NaN ranks as the
    largest and fails every comparison, so it returns, with its weight, while what was there goes.

    Masks only hide weights here, as in the released code: a weight that returns has its old value.
    """
    method, module = find_method("synflow"), network.fresh()
    context, weights = network.context(method), prunable(module)
    dense = {name: weight.detach().clone() for name, weight in weights.items()}
    total = sum(weight.numel() for weight in weights.values())
    for step in range(1, method.iterations + 1):
        density = density_after(step, method.iterations, 1 - sparsity, method.schedule)
        scores = {name: v.div_(v.square()) for name, v in method.score(module, context).items()}
        remove = int((1 - density) * total)
        # kthvalue sorts NaN above everything, and `<=` is False for it.
        flat = torch.cat([score.flatten() for score in scores.values()])
        threshold = flat.kthvalue(remove).values if remove else torch.tensor(-math.inf)
        masks = {name: ~(score <= threshold) for name, score in scores.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(dense[name])
        masking.apply(module, masks)
        if observe is not None:
            observe(Round(step, density, masks))
    return masks


def synflow_inverted(
    network: Network, sparsity: float, observe: Callable[[Round], None] | None = None
) -> Masks:
    """SynFlow with the ranking of every round reversed, its rounds observed."""
    method = find_method("synflow")
    context = network.context(method)
    return prune_rounds(
        network.fresh(), method, sparsity, context, transform=ablations.invert, observe=observe
    )


def norm_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameter name -> BatchNorm weight, from input to output."""
    return {
        f"{name}.weight": layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
    }


def _pruned(network: Network, method: str, sparsity: float, transform) -> Outcome:
    chosen = find_method(method)
    context = network.context(chosen)
    return _outcome(prune_rounds(network.fresh(), chosen, sparsity, context, transform=transform))


def _outcome(masks: Masks) -> Outcome:
    return Outcome(masks, (masking.kept(masks), sum(mask.numel() for mask in masks.values())))


def _gradients(module: nn.Module, context: Context, names) -> dict[str, Tensor]:
    """dL/dp of the named parameters, in train mode; the module stays as it is."""
    twin = copy.deepcopy(module).train()
    count = sum(len(labels) for _, labels in context.batches)
    for images, labels in context.batches:
        F.cross_entropy(twin(images), labels, reduction="sum").div(count).backward()
    parameters = dict(twin.named_parameters())
    return {name: parameters[name].grad for name in names}


PROCEDURES: dict[str, Callable[[Network, str, float], Outcome]] = {
    "unmodified": unmodified,
    "inverted": inverted,
    "empty_list": fault_empty_list,
    "batchnorm": fault_batchnorm_among_scores,
    "reciprocal": fault_reciprocal,
}
