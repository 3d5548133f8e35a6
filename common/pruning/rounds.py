"""Pruning a network: rounds of scoring and masking, after which the weights are masked in place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.pruning import ablations
from common.pruning import masks as masking
from common.pruning.distributions import DISTRIBUTIONS
from common.pruning.masks import Masks
from common.pruning.methods import Method
from common.pruning.parameters import prunable
from common.pruning.schedule import density_after
from common.pruning.scores import Context, Scores

ScoreTransform = Callable[[Scores], Scores]


@dataclass(frozen=True)
class Round:
    """What a round left: its number (1-based), the density asked for and the masks."""

    step: int
    density: float
    masks: Masks


def prune_rounds(
    model: nn.Module,
    method: Method,
    sparsity: float,
    context: Context,
    *,
    transform: ScoreTransform | None = None,
    first: Scores | None = None,
    observe: Callable[[Round], None] | None = None,
) -> Masks:
    """Prune `sparsity` of the model's prunable weights by `method`; returns the masks.

    In each round the pruned network is scored, the scores pass `transform` (an inversion), and the
    best of the weights still there are kept (of all weights, where the method revives), exactly
    round(density * prunable). The model is left with the final masks applied.

    first: scores of the first round if they are known already.
    observe: called after every round. Raises NonFiniteScoresError naming the layer.
    """
    weights = prunable(model)
    if not weights:
        raise ValueError("the model has no convolution or linear layer, so nothing to prune")
    dense = _copies(weights) if method.revive else {}
    context = replace(context, dense=dense, _buffers={})
    total = sum(weight.numel() for weight in weights.values())
    masks: Masks | None = None
    for step in range(1, method.iterations + 1):
        density = density_after(step, method.iterations, 1 - sparsity, method.schedule)
        scores = first if first is not None and step == 1 else method.score(model, context)
        if transform is not None:
            scores = transform(scores)
        candidates = None if method.revive else masks
        keep = round(density * total)
        masks = keep_best(model, method.scope, scores, keep, context.generator, candidates)
        context = replace(context, masks=masks)
        _restore(weights, dense)
        masking.apply(model, masks)
        if observe is not None:
            observe(Round(step, density, masks))
    return masks


def keep_best(
    model: nn.Module,
    scope: str,
    scores: Scores,
    keep: int,
    stream: torch.Generator,
    candidates: Masks | None = None,
) -> Masks:
    """Masks of the `keep` weights of the highest scores, over the network or as the distribution
    `scope` shares them out, in the memory layout of the weights; of the `candidates` alone, if
    given. Ties are drawn from `stream`."""
    number: int | dict[str, int] = keep
    if scope != "global":
        weights = prunable(model)
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        left = {n: int(candidates[n].sum()) if candidates else weights[n].numel() for n in weights}
        number = DISTRIBUTIONS[scope](shapes, keep, left)
    return masking.like_weights(model, masking.select(scores, number, stream, candidates))


def prune_ablated(
    model: nn.Module,
    method: Method,
    sparsity: float,
    context: Context,
    ablation: str,
    seed: int,
    first: Scores | None = None,
    observe: Callable[[Round], None] | None = None,
) -> Masks:
    """`prune_rounds` with an ablation (see ablations.py): on the scores of every round, on the
    final masks, or on the weights that these are applied to.

    Raises ConfigurationError for an ablation that is not known, or for `reinit` where the context
    does not know how the model's weights are drawn.
    """
    ablated = ablations.parse(ablation)
    if "weights" in ablated and context.initialise is None:
        raise ConfigurationError(
            f"ablation={ablation!r} draws weights: give it initialise=(model, generator) -> None"
        )
    with _as_it_was(model) if "weights" in ablated else contextlib.nullcontext():
        # A shuffled mask keeps weights that the rounds set to zero.
        dense = _copies(prunable(model)) if "masks" in ablated else {}
        rounds = {"transform": ablated.get("scores"), "first": first, "observe": observe}
        masks = prune_rounds(model, method, sparsity, context, **rounds)
        if "masks" in ablated:
            masks = ablated["masks"](masks, generator(seed, "mask shuffle"))
            masks = masking.like_weights(model, masks)
            _restore(prunable(model), dense)
        if "weights" in ablated:
            ablated["weights"](model, context.initialise, generator(seed, "redrawn weights"))
        masking.apply(model, masks)
        return masks


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Puts the model back if what is done meanwhile fails: someone else's function draws weights
    after the masks were applied."""
    before = _copies(model.state_dict())
    try:
        yield
    except BaseException:
        model.load_state_dict(before)
        raise


def _copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


@torch.no_grad()
def _restore(weights: Mapping[str, Tensor], copies: Mapping[str, Tensor]) -> None:
    for name, copy in copies.items():
        weights[name].copy_(copy)
