r"""What a weight is worth: one function a method.

Each takes the model and what the method may look at besides (`Context`), and returns a score for
every prunable weight, `{parameter name: tensor of the weight's shape}`; the highest are kept. The
model is left exactly as found: weights, BatchNorm statistics and train/eval state. In a round after
the first the pruned weights of the model are zero.

Notation: w a weight, L the loss, g = dL/dw, H the Hessian of L.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.base import environment
from common.base.errors import ConfigurationError
from common.pruning import memory
from common.pruning.parameters import functional_call, prunable
from common.pruning.precision import full_float32

Scores = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]
Initialise = Callable[[nn.Module, torch.Generator], None]

GRASP_TEMPERATURE = 200.0


@dataclass(frozen=True, eq=False)
class Context:
    """What a score may look at besides the model.

    shape: of one input, without the batch dimension (data-free scores make their own input).
    batches: scoring images and labels, (B, *shape) and (B,).
    generator: the run's stream for random scores.
    dense: the weights as they were before any pruning; set for methods that may revive weights.
    masks: what the rounds before this one kept; empty in the first.
    initialise: draws all of the model's weights, in place, as its own were drawn.
    inputs: how many random inputs a score that makes its own looks at.
    """

    shape: tuple[int, ...] = ()
    batches: Sequence[Batch] = ()
    generator: torch.Generator = field(default_factory=torch.Generator)
    dense: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    initialise: Initialise | None = None
    inputs: int = 100
    # Buffers that SynFlow overwrites from round to round; None where its scores are to last.
    _buffers: dict[str, Tensor] | None = None


ScoreFunction = Callable[[nn.Module, Context], Scores]


def apart(scores: Scores, model: nn.Module) -> Scores:
    """The scores without a graph, and none of them a weight itself, whatever a method returns."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}

    def own(score: Tensor) -> Tensor:
        return score.detach().clone() if score.data_ptr() in weights else score.detach()

    if not isinstance(scores, dict) or not all(isinstance(s, Tensor) for s in scores.values()):
        return scores  # not what it should be, which is said elsewhere
    return {name: own(score) for name, score in scores.items()}


def random(model: nn.Module, context: Context) -> Scores:
    """U(0, 1) (Su et al. 2020, Liu et al. 2022)."""
    return {
        name: torch.rand(weight.shape, generator=context.generator).to(weight.device)
        for name, weight in prunable(model).items()
    }


def magnitude(model: nn.Module, context: Context) -> Scores:
    """abs(w) (Han et al. 2015)."""
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}


def snip(model: nn.Module, context: Context) -> Scores:
    """abs(w g): the first-order change of the loss when w is removed (Lee et al. 2019, eq. 4-6)."""
    weights = prunable(model)
    gradients = loss_gradients(model, context.batches)
    return {name: gradients[name].mul_(w.detach()).abs_() for name, w in weights.items()}


def force(model: nn.Module, context: Context) -> Scores:
    """abs(w g), g taken in the pruned network and w from before pruning (de Jorge et al. 2021, §4).

    A weight that an earlier round pruned still has a gradient, so it may return.
    """
    # Without any pruning the weights are their own.
    dense = context.dense or prunable(model)
    gradients = loss_gradients(model, context.batches)
    return {name: gradients[name].mul_(w.detach()).abs_() for name, w in dense.items()}


def grasp(model: nn.Module, context: Context) -> Scores:
    """w (Hg), signed; the loss on logits / 200 (Wang et al. 2020, eq. 8).

    Removing w changes the squared norm of g by -2 w (Hg) to first order: the weights with the
    lowest scores go, which raises it most.
    """
    products = _hessian_gradient_product(model, context.batches, GRASP_TEMPERATURE)
    return {name: products[name].mul_(w.detach()) for name, w in prunable(model).items()}


def grasp_absolute(model: nn.Module, context: Context) -> Scores:
    """abs(w Hg): weights that change the gradient's norm most, in either direction."""
    return {name: score.abs_() for name, score in grasp(model, context).items()}


def synflow(model: nn.Module, context: Context) -> Scores:
    """abs(w dR/dw), R the sum of the outputs for all-ones input and abs() of every parameter
    (Tanaka et al. 2020, eq. 2)."""
    names = list(prunable(model))
    return synaptic_flow(model, context.shape, torch.abs, names, context._buffers)[1]


def synflow_l2(model: nn.Module, context: Context) -> Scores:
    """SynFlow with the squares of the parameters in place of their absolute values: the share of
    each weight in the L2 path norm (Gebhart et al. 2021)."""
    names = list(prunable(model))
    return synaptic_flow(model, context.shape, _square, names, context._buffers)[1]


def synaptic_flow(
    model: nn.Module,
    shape: Sequence[int],
    positive: Callable[[Tensor], Tensor] = torch.abs,
    names: Sequence[str] | None = None,
    buffers: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Scores]:
    """R and the scores p dR/dp of the parameters `names` (all when None) of the positive network.

    positive: of a parameter, what it is in the positive network, value by value. buffers: float64
    tensors by parameter name to work in, the scores among them; filled where empty.
    In float64 throughout: R grows by a factor a layer and passes float32's range on deep networks
    (ResNet-56: 6e70). In eval mode: BatchNorm in train mode would normalise the flow away and break
    its conservation. On Apple's GPUs, which have no float64, the CPU does it and keeps the scores.
    """
    on = environment.float64_device(next(model.parameters()).device)
    held = _positive_network(model, positive, {} if buffers is None else buffers, on)
    statistics = {
        name: b.detach().to(on, torch.float64 if b.is_floating_point() else None)
        for name, b in model.named_buffers()
    }
    leaves = {name: p.detach() for name, p in held.items()}
    names = list(held) if names is None else names
    unreached = set(names)
    for name in names:
        leaves[name].requires_grad_().register_post_accumulate_grad_hook(
            partial(_score_in_place, name=name, unreached=unreached)
        )
    ones = torch.ones(1, *shape, dtype=torch.float64, device=on)
    passing = takes_made_input("SynFlow", shape)
    with in_mode(model, training=False), torch.enable_grad(), passing:
        flow = functional_call(model, (leaves, statistics), (ones,)).sum()
    flow.backward()
    for name in unreached:
        held[name].zero_()
    return flow.detach(), {name: held[name] for name in names}


def _positive_network(
    model: nn.Module,
    positive: Callable[[Tensor], Tensor],
    held: dict[str, Tensor],
    on: torch.device,
) -> dict[str, Tensor]:
    """`positive` of every parameter, in float64, written into the tensors of `held`."""
    for name, p in model.named_parameters():
        if name not in held:
            held[name] = torch.empty_like(p, dtype=torch.float64, device=on, requires_grad=False)
        for part, own in memory.parts(held[name], p.detach().to(on)):
            part.copy_(positive(own))
    return held


@torch.no_grad()
def _score_in_place(p: Tensor, name: str, unreached: set[str]) -> None:
    """p dR/dp in place of p, as soon as the backward pass has the gradient and needs p no more: so
    there is never more than one layer's gradient."""
    p.mul_(p.grad)
    p.grad = None
    unreached.remove(name)


def _square(p: Tensor) -> Tensor:
    # In the parameter's own precision it would be rounded.
    return p.double().square()


@full_float32()
def loss_gradients(
    model: nn.Module, batches: Sequence[Batch], temperature: float = 1.0
) -> dict[str, Tensor]:
    """dL/dw of every prunable weight, L the mean cross-entropy over all images of all batches."""
    total: dict[str, Tensor] = {}
    for names, weights, loss in _losses(model, batches, temperature):
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        for name, gradient in zip(names, gradients, strict=True):
            total[name] = total[name].add_(gradient) if name in total else gradient
    return total


def _hessian_gradient_product(
    model: nn.Module, batches: Sequence[Batch], temperature: float
) -> dict[str, Tensor]:
    """Hg of every prunable weight: the gradient of <g, c> with c the value of g held constant.

    One batch needs one forward pass, g being its own constant; several need g over all of them
    first.
    """
    constant = loss_gradients(model, batches, temperature) if len(batches) > 1 else None
    total: dict[str, Tensor] = {}
    for names, weights, loss in _losses(model, batches, temperature):
        gradients = torch.autograd.grad(
            loss, weights, create_graph=True, allow_unused=True, materialize_grads=True
        )
        product = sum(
            (g * (g.detach() if constant is None else constant[name])).sum()
            for name, g in zip(names, gradients, strict=True)
        )
        products = torch.autograd.grad(product, weights, allow_unused=True, materialize_grads=True)
        for name, value in zip(names, products, strict=True):
            total[name] = total[name].add_(value) if name in total else value
    return total


def _losses(
    model: nn.Module, batches: Sequence[Batch], temperature: float
) -> Iterator[tuple[list[str], list[Tensor], Tensor]]:
    """For each batch: the prunable names, their weights as leaves, and the batch's share of the
    mean loss, in train mode."""
    if not batches:
        raise ValueError("this score needs images and labels: give it batches of (images, labels)")
    count = sum(len(labels) for _, labels in batches)
    with as_in_training(model), torch.enable_grad():
        for images, labels in batches:
            leaves = {n: w.detach().requires_grad_() for n, w in prunable(model).items()}
            # BatchNorm writes its running statistics into these copies.
            buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
            logits = functional_call(model, (leaves, buffers), (images,)) / temperature
            loss = F.cross_entropy(logits, labels, reduction="sum") / count
            yield list(leaves), list(leaves.values()), loss


@contextlib.contextmanager
def as_in_training(model: nn.Module, stream: int = 0) -> Iterator[None]:
    """The model in train mode: BatchNorm normalises by the batch, as in the papers. Dropout, where
    a model has it, drops the same units whenever `stream` is the same."""
    device = next(model.parameters()).device
    own_stream = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with in_mode(model, training=True), own_stream:
        torch.manual_seed(stream)
        yield


@contextlib.contextmanager
def takes_made_input(method: str, shape: Sequence[int]) -> Iterator[None]:
    """Around a forward pass of an input that `method` makes itself: where the network cannot take
    one, raises ConfigurationError, which says what it needs."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        if "memory" in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(
            f"{method} sends an input of its own through the network, floating-point numbers of "
            f"shape {tuple(shape)}, which this one does not take ({reason}). Give it the shape of "
            "one input; where inputs are tokens, prune the module behind their embedding, with the "
            "shape of what the embedding gives"
        ) from error


@contextlib.contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """The model in train or eval mode; afterwards every module in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was
