"""What a mask did to a network: weights that still carry signal, multiply-adds, conservation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvTransposeNd

from common.pruning.masks import Masks
from common.pruning.parameters import functional_call, prunable, weight_places
from common.pruning.precision import double
from common.pruning.scores import Batch, in_mode, loss_gradients

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


def multiply_adds(model: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """Parameter name -> multiply-accumulate operations of its layer for one input of `shape`.

    Each weight is used once per position of the layer's output (of its input, for a transposed
    convolution), in every layer that shares it. This is the "FLOPs" of the pruning literature;
    biases and normalisation are not counted. Shapes are propagated on the meta device: nothing is
    computed. (torch's FlopCounterMode counts modules, not weights: of attention it knows one sum.)
    """
    weights, positions = prunable(model), Counter()
    names = {id(weight): name for name, weight in weights.items()}

    def record(name: str) -> Hook:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            map_ = inputs[0] if isinstance(module, _ConvTransposeNd) else output
            if isinstance(module, nn.MultiheadAttention):
                positions[name] += inputs[0].numel() // module.embed_dim
            elif isinstance(module, nn.Linear):
                positions[name] += map_.numel() // module.out_features
            else:
                positions[name] += map_.numel() // map_.shape[1]

        return hook

    # Attention uses the weight of its output projection without calling that layer.
    users = {m.out_proj: m for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    places = ((module, getattr(module, attribute)) for module, attribute in weight_places(model))
    hooks = [(users.get(m, m), record(names[id(w)])) for m, w in places if w is not None]
    meta = {n: t.to("meta") for n, t in _tensors(model)}
    with in_mode(model, training=False), _hooked(hooks), torch.no_grad():
        functional_call(model, (meta,), (torch.ones(1, *shape, device="meta"),))
    return {name: weight.numel() * positions[name] for name, weight in weights.items()}


def effective_masks(model: nn.Module, masks: Masks, shape: Sequence[int]) -> Masks:
    """Masks of the weights that lie on a path of kept weights from input to output.

    Nothing of the input reaches the output through the others (Vysogorets and Kempe 2023); a bias
    is no input. The network runs once on booleans: a layer's output is 1 where a path from the
    input arrives, and the backward pass is 1 where a path to the output leaves, so nothing
    overflows at any depth. It does so on the CPU, where a convolution of zeros is zero: cuDNN's may
    be noise (pytorch issue 35655), which would be a path. Maximum pooling, as a module, passes any
    path of its window. Needs layers that keep 0 and keep positive values positive (ReLU and
    BatchNorm; not attention).
    """
    boolean = {name: masks[name].float().cpu() for name in prunable(model)}
    leaves = {name: mask.requires_grad_() for name, mask in boolean.items()}
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors(model):
        # No bias starts a path, and normalisation passes what it gets.
        neutral = torch.ones_like if name.endswith(("running_var", "weight")) else torch.zeros_like
        tensors[name] = leaves.get(name, neutral(tensor, device="cpu"))
    hooks: list[tuple[nn.Module, Hook]] = []
    for module in model.modules():
        if isinstance(module, (nn.MaxPool1d, nn.MaxPool2d)):
            hooks.append((module, _average_in_place_of_maximum))
        elif any(True for _ in module.parameters(recurse=False)):
            hooks.append((module, lambda module, inputs, output: _Path.apply(output)))
    with in_mode(model, training=False), _hooked(hooks), torch.enable_grad():
        output = functional_call(model, (tensors,), (torch.ones(1, *shape),))
        gradients = torch.autograd.grad(
            output.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return {
        name: masks[name] & (gradient > 0).to(masks[name].device)
        for name, gradient in zip(leaves, gradients, strict=True)
    }


def flow_through_units(
    incoming: Tensor, outgoing: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Per hidden unit, the scores that enter it and those that leave it: ((units,), (units,)).

    incoming: scores of the layer's weight, (units, inputs, ...); bias: of its bias, (units,);
    outgoing: scores of the next layer's weight, (outputs, units, ...), or (outputs,
    units*positions) of a linear layer behind a flattened map. SynFlow conserves: both are equal for
    every unit (Tanaka et al. 2020, theorem 1).
    """
    units = len(incoming)
    into = incoming.reshape(units, -1).sum(1)
    out = outgoing.reshape(len(outgoing), units, -1).sum((0, 2))
    return (into if bias is None else into + bias), out


def gradient_norm(
    model: nn.Module,
    batches: Sequence[Batch],
    masks: Masks | None = None,
    temperature: float = 1.0,
) -> float:
    """Squared norm of the loss's gradient with respect to the prunable weights, of those that
    `masks` keep; what GraSP sets out to preserve (Wang et al. 2020, eq. 6)."""
    gradients = loss_gradients(model, batches, temperature)
    kept = (g if masks is None else g[masks[name]] for name, g in gradients.items())
    return sum(float(double(g).square().sum()) for g in kept)


class _Path(torch.autograd.Function):
    """1 where anything positive arrives, forward and backward."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return (gradient > 0).to(gradient.dtype)


def _average_in_place_of_maximum(
    module: nn.MaxPool1d | nn.MaxPool2d, inputs: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    pool = F.avg_pool1d if isinstance(module, nn.MaxPool1d) else F.avg_pool2d
    return pool(inputs[0], module.kernel_size, module.stride, module.padding, module.ceil_mode)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, those of any floating type in float32."""
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        yield name, tensor.detach().float() if tensor.is_floating_point() else tensor


@contextmanager
def _hooked(hooks: Sequence[tuple[nn.Module, Hook]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield
