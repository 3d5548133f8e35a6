r"""NTK-SAP: keep the weights that the spectrum of the neural tangent kernel hangs on.

Wang, Li and Sun 2023, "NTK-SAP: Improving neural network pruning by aligning training dynamics",
arXiv 2304.02840. A kernel's eigenvalues say how fast training goes in each direction; their sum,
its trace, is what pruning should change least. Summed over inputs X and outputs,

    trace = ||d f(X; θ⊙m) / dθ||²  ~  E ||f(X; θ⊙m) - f(X; (θ+Δθ)⊙m)||² / ε²,   Δθ ~ N(0, ε²),

so a weight's score is the absolute derivative of the squared change with respect to its mask entry
m (their final saliency, alg. 1). Every draw takes new weights θ from the initialisation, new
Gaussian inputs X and one new Δθ: neither the data nor the model's own weights are looked at.

| hyperparameter | value | source |
|---|---|---|
| ε | 0.01, a standard deviation | the authors' code (`--ntksap_epsilon`) |
| rounds | 20, exponential | theirs for CIFAR-10 (`scripts/run.sh`) |
| passes over new inputs a round | 5 | the same |
| inputs a pass | 10 per class | theirs (`--prune-dataset-ratio`) |
| inputs to each new weights | 256 at most | theirs (`--prune-batch-size`) |
| variant `single_pass` | 100 rounds of one pass | theirs for CIFAR-100 and Tiny ImageNet |

Both take as many draws in all. Where classes are few, a single pass is a single draw, so noisy that
it prunes much of the trace away: hence the choice.

BatchNorm is as in their code: in eval mode, with the running statistics of that very batch in the
pruned network (unbiased variance), which the derivative takes for constants. Δθ moves the prunable
weights only. Two things are decided otherwise: the initialisation is the run's own, whatever its
scheme, where the authors draw Kaiming normal weights; and the kept weights are counted exactly.

Costs three forward passes and two backward ones a draw; memory for the activations of two forward
passes over at most 256 inputs, and some copies of the weights (VGG-16: 0.9 GB on CIFAR-10, 1.9 GB
on CIFAR-100).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.base.errors import ConfigurationError
from common.pruning.masks import Masks
from common.pruning.parameters import functional_call, prunable
from common.pruning.precision import double, full_float32
from common.pruning.scores import Context, Scores, takes_made_input

EPSILON = 0.01
BATCH = 256
PASSES = 5


def ntk_sap(model: nn.Module, context: Context) -> Scores:
    """|d/dm ||f(X; θ⊙m) - f(X; (θ+Δθ)⊙m)||²|, summed over the draws of five passes before the
    absolute value; 0 for what is pruned.

    Takes from the context the shape and number of inputs, the initialisation and the masks. Raises
    ConfigurationError where the initialisation is missing.
    """
    return _score(model, context, PASSES)


def ntk_sap_single_pass(model: nn.Module, context: Context) -> Scores:
    """`ntk_sap` with one pass: more noise a round, for more rounds."""
    return _score(model, context, 1)


def _score(model: nn.Module, context: Context, passes: int) -> Scores:
    masks = {
        name: context.masks.get(name, torch.ones_like(weight)).to(weight.dtype).requires_grad_()
        for name, weight in prunable(model).items()
    }
    total = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    for network, inputs in draws(model, context, passes):
        noise = {
            name: EPSILON * torch.randn(mask.shape, generator=context.generator).to(mask)
            for name, mask in masks.items()
        }
        with torch.enable_grad(), takes_made_input("NTK-SAP", context.shape):
            change = output_change(network, masks, noise, inputs)
        gradients = torch.autograd.grad(
            change, list(masks.values()), allow_unused=True, materialize_grads=True
        )
        for sum_, gradient in zip(total.values(), gradients, strict=True):
            sum_.add_(gradient)
    return {name: total[name].abs_().mul_(mask.detach()) for name, mask in masks.items()}


def draws(model: nn.Module, context: Context, passes: int) -> Iterator[tuple[nn.Module, Tensor]]:
    """(network with new weights, new Gaussian inputs (B, *shape)); each pass has `context.inputs`
    inputs. The network is a copy of the model, on its device, overwritten by the next draw."""
    if context.initialise is None:
        raise ConfigurationError(
            "NTK-SAP draws the weights anew: give it initialise=(model, generator) -> None"
        )
    like = next(model.parameters())
    network = copy.deepcopy(model)
    sizes = [min(BATCH, context.inputs - start) for start in range(0, context.inputs, BATCH)]
    for size in sizes * passes:
        context.initialise(network, context.generator)
        yield network, torch.randn(size, *context.shape, generator=context.generator).to(like)


def output_change(
    network: nn.Module, masks: Mapping[str, Tensor], noise: Mapping[str, Tensor], inputs: Tensor
) -> Tensor:
    """||f(X; θ⊙m) - f(X; (θ+Δθ)⊙m)||² over all inputs and outputs, differentiable in the masks.

    θ are the network's weights, Δθ is `noise`; both and the masks by parameter name. Leaves the
    network in eval mode.
    """
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    weights = {name: parameters[name] * mask for name, mask in masks.items()}
    moved = {name: (parameters[name] + noise[name]) * mask for name, mask in masks.items()}
    buffers = _statistics(network, parameters | weights, inputs)
    before = functional_call(network, (parameters | weights, buffers), (inputs,))
    after = functional_call(network, (parameters | moved, buffers), (inputs,))
    return (before - after).square().sum()


@full_float32()
def ntk_trace(
    model: nn.Module, context: Context, masks: Masks, passes: int = PASSES
) -> dict[str, float]:
    """Each prunable layer's part of the trace of the kernel of the network that `masks` leave.

    Mean over the inputs of all passes, new weights and inputs as in the score; outputs are probed
    with random signs, whose expected squared gradient is the trace (Hutchinson 1990). Two masks see
    the same weights, inputs and signs if the generators of their contexts are in the same state.
    """
    trace = dict.fromkeys(masks, 0.0)
    for network, inputs in draws(model, context, passes):
        parameters = {name: p.detach() for name, p in network.named_parameters()}
        weights = {n: (parameters[n] * mask).requires_grad_() for n, mask in masks.items()}
        buffers = _statistics(network, parameters | weights, inputs)
        with torch.enable_grad():
            outputs = functional_call(network, (parameters | weights, buffers), (inputs,))
        signs = torch.randint(2, outputs.shape, generator=context.generator).to(outputs) * 2 - 1
        gradients = torch.autograd.grad(
            outputs, list(weights.values()), signs, allow_unused=True, materialize_grads=True
        )
        for (name, mask), gradient in zip(masks.items(), gradients, strict=True):
            trace[name] += float(double(gradient[mask]).square().sum())
    return {name: value / (context.inputs * passes) for name, value in trace.items()}


@torch.no_grad()
def _statistics(
    network: nn.Module, parameters: Mapping[str, Tensor], inputs: Tensor
) -> dict[str, Tensor]:
    """The network's buffers, BatchNorm's running statistics being those of the inputs. Leaves the
    network in eval mode."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    functional_call(network, (dict(parameters), buffers), (inputs,))
    network.eval()
    return buffers
