r"""ProsPr: keep the weights that the loss after the first steps of training hangs on.

Alizadeh et al. 2022, "Prospect Pruning: Finding Trainable Weights at Initialization using
Meta-Gradients", arXiv 2202.08132, alg. 1. Multiply the initial weights by a mask c of ones, take M
steps of SGD on M batches, and ask how the loss on one more batch depends on the mask:

    w_0 = c ⊙ w,   v_{k+1} = μ v_k + g_k(w_k),   w_{k+1} = w_k - α v_{k+1},   S = |dL_M(w_M)/dc|

at c = 1. Since dw_0/dc = w this is |w ⊙ dL_M/dw_0|: with M = 0 it is SNIP. The variant
`first_order` takes the trained network to depend on its start as if dw_M/dw_0 were the identity:
S = |w ⊙ dL_M/dw_M| (their first-order approximation).

| hyperparameter | value | source |
|---|---|---|
| M | 3 steps | the authors' code, its example of use and its default |
| α, μ | 0.5, 0.9 | its example of use (its command line has 0.1 and 0) |
| batch | about 128 images | its command line's default (`--meta-batch-size`) |
| in each step | a new batch | its function's default (`new_data_in_inner`) |

All parameters train, BatchNorm normalises by the batch, no weight decay. Decided otherwise: images
are class-balanced and un-augmented, as for every method here; the derivative goes through the
momentum of all steps, where the authors' code cuts it in the first.

The derivative is taken backwards through the steps by hand. With a = dL_M/dw and b = dL_M/dv,

    β = b - α a,   a <- a + H_k(w_k) β,   b <- μ β,   from k = M-1 to 0, starting at a = g_M(w_M),

one Hessian-vector product a step. What autograd through the unrolled steps would give, to rounding,
but the graph of a single step is held at any time: about 15 MB an image for VGG-16 on CIFAR
(2 GB in all) and a copy of the parameters for every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.pruning.masks import Masks
from common.pruning.methods import PROSPR_STEPS as STEPS
from common.pruning.parameters import functional_call, prunable
from common.pruning.precision import full_float32
from common.pruning.scores import Batch, Context, Scores, as_in_training

LEARNING_RATE = 0.5
MOMENTUM = 0.9

Parameters = dict[str, Tensor]


def prospr(model: nn.Module, context: Context) -> Scores:
    """|w dL_M/dw_0|, exact. Step k sees batch k of the context and the loss is that of the batch
    after the last step; where the context has fewer, they take turns."""
    path = []
    for w, _, gradient in training(model, context.batches):
        path.append(w)
        a = gradient
    b = {name: torch.zeros_like(g) for name, g in a.items()}
    for step in reversed(range(STEPS)):
        beta = {name: b[name] - LEARNING_RATE * a[name] for name in a}
        product = _gradient(model, path[step], context.batches, step, along=beta)[1]
        a = {name: a[name] + product[name] for name in a}
        b = {name: MOMENTUM * beta[name] for name in a}
    return _times_weight(model, a)


def prospr_first_order(model: nn.Module, context: Context) -> Scores:
    """|w dL_M/dw_M|: no second derivatives."""
    *_, (_, _, gradient) = training(model, context.batches)
    return _times_weight(model, gradient)


def training(
    model: nn.Module, batches: Sequence[Batch], masks: Masks | None = None
) -> Iterator[tuple[Parameters, float, Parameters]]:
    """The first steps of training: (w_k, L_k(w_k), g_k(w_k)) for k from 0 to M, all parameters by
    name. With `masks`, pruned weights are zero and stay it. The model is not changed."""
    if not batches:
        raise ValueError("this score needs images and labels: give it batches of (images, labels)")
    masks = masks or {}
    keep = {name: masks.get(name, 1) for name, _ in model.named_parameters()}
    w = {name: p.detach() * keep[name] for name, p in model.named_parameters()}
    v = {name: torch.zeros_like(p) for name, p in w.items()}
    for step in range(STEPS + 1):
        loss, g = _gradient(model, w, batches, step)
        yield w, loss, g
        v = {name: MOMENTUM * v[name] + g[name] * keep[name] for name in w}
        w = {name: w[name] - LEARNING_RATE * v[name] for name in w}


@full_float32()
def _gradient(
    model: nn.Module,
    parameters: Parameters,
    batches: Sequence[Batch],
    step: int,
    along: Parameters | None = None,
) -> tuple[float, Parameters]:
    """A step's loss and its gradient; `along` a direction, the Hessian's product with that."""
    images, labels = batches[step % len(batches)]
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    targets, zeros = list(leaves.values()), {"allow_unused": True, "materialize_grads": True}
    # BatchNorm writes its running statistics into these copies.
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    with as_in_training(model, stream=step), torch.enable_grad():
        loss = F.cross_entropy(functional_call(model, (leaves, buffers), (images,)), labels)
        gradients = torch.autograd.grad(loss, targets, create_graph=along is not None, **zeros)
        if along is not None:
            product = sum(
                (g * along[name]).sum() for name, g in zip(leaves, gradients, strict=True)
            )
            gradients = torch.autograd.grad(product, targets, **zeros)
    return float(loss.detach()), dict(zip(leaves, gradients, strict=True))


def _times_weight(model: nn.Module, gradient: Parameters) -> Scores:
    return {name: (gradient[name] * w.detach()).abs_() for name, w in prunable(model).items()}
