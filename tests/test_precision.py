"""That scoring does not depend on TF32: by the settings seen, and by rounding as a GPU would."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.base.seeding import generator
from common.models import initialise
from common.pruning import METHODS, Method, ntk_sap, prospr, prunable, prune
from common.pruning.diagnostics import gradient_norm
from common.pruning.precision import full_float32
from common.pruning.scores import Context, loss_gradients

METHODS_AND_VARIANTS = [(name, variant) for name in METHODS for variant in METHODS[name]]
SHAPE, CLASSES = (3, 8, 8), 5


def allowed() -> dict[str, bool]:
    """Whether torch may use TF32, for what."""
    return {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "products": torch.backends.cuda.matmul.allow_tf32,
    }


class Tf32(TorchDispatchMode):
    """As a GPU that has it: convolutions and matrix products round float32 inputs to 10 bits of
    mantissa, where the settings allow that."""

    KINDS = {"convolution": "convolutions", "convolution_backward": "convolutions"} | dict.fromkeys(
        ("mm", "addmm", "bmm", "baddbmm"), "products"
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kind = self.KINDS.get(function.overloadpacket.__name__)
        if kind and allowed()[kind]:
            args = [
                self.rounded(value) if isinstance(value, torch.Tensor) else value for value in args
            ]
        return function(*args, **(kwargs or {}))

    @staticmethod
    def rounded(value: torch.Tensor) -> torch.Tensor:
        if value.dtype is not torch.float32:
            return value
        bits = value.detach().clone().view(torch.int32)
        return bits.add_(1 << 12).bitwise_and_(-1 << 13).view(torch.float32)


@pytest.fixture
def tf32():
    """The process allows TF32 for everything."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


class Watching(nn.Module):
    """A small network that keeps what it saw of the settings in its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.linear = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, CLASSES)
        initialise(self, "kaiming_normal", "ones", generator(0, "watching"))
        self.seen: list[dict[str, bool]] = []
        self.broken = False

    def __deepcopy__(self, memo):
        copy = type(self)()
        copy.load_state_dict(self.state_dict())
        copy.seen, copy.broken = self.seen, self.broken
        return copy

    def forward(self, x):
        self.seen.append(allowed())
        if self.broken:
            raise ZeroDivisionError
        x = self.conv2(torch.relu(self.norm(self.conv1(x)))).tanh()
        if x.requires_grad:
            x.register_hook(lambda gradient: self.seen.append(allowed()))
        return self.linear(x.mean((2, 3)))


def context() -> Context:
    stream = generator(0, "test")
    images = torch.randn(10, *SHAPE, generator=stream)
    batches = [(images[:5], torch.arange(5)), (images[5:], torch.arange(5))]

    def redraw(model, stream):
        initialise(model, "kaiming_normal", "ones", stream)

    return Context(SHAPE, batches, generator(0, "scores"), initialise=redraw, inputs=6)


def measures():
    """(name, what runs the network): every method, and what is measured with its like."""
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(Watching()).items()}
    yield from (
        pytest.param(METHODS[name][variant].score, id=f"{name} {variant}".strip())
        for name, variant in METHODS_AND_VARIANTS
    )
    yield pytest.param(lambda m, c: loss_gradients(m, c.batches), id="loss_gradients")
    yield pytest.param(lambda m, c: {"norm": gradient_norm(m, c.batches)}, id="gradient_norm")
    yield pytest.param(lambda m, c: ntk_sap.ntk_trace(m, c, masks), id="ntk_trace")
    yield pytest.param(
        lambda m, c: {k: g[1] for k, g in enumerate(prospr.training(m, c.batches))}, id="training"
    )


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("measure", measures())
def test_scores_are_computed_without_tf32(measure):
    model = Watching()
    measure(model, context())
    assert allowed() == {"convolutions": True, "products": True}
    assert all(seen == {"convolutions": False, "products": False} for seen in model.seen)
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("measure", measures())
def test_scores_of_a_device_with_tf32_are_those_of_one_without(measure):
    expected = measure(Watching(), context())
    with Tf32():
        found = measure(Watching(), context())
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value))


@pytest.mark.usefixtures("tf32")
def test_the_emulation_rounds():
    model, images = Watching(), torch.randn(4, *SHAPE)
    whole = model(images)
    with Tf32():
        rounded = model(images)
        with full_float32():
            assert torch.equal(model(images), whole)
    error = float(((rounded - whole).norm() / whole.norm()).detach())
    assert 2**-13 < error < 2**-8
    value = torch.tensor([1 + 2**-10, 1 + 2**-12, -(1 + 2**-11), 3e38, 0.0])
    expected = torch.tensor([1 + 2**-10, 1, -(1 + 2**-10), 3e38, 0.0])
    torch.testing.assert_close(Tf32.rounded(value), expected, rtol=2**-12, atol=0)


@pytest.mark.usefixtures("tf32")
def test_a_method_of_ones_own_is_scored_without_tf32_too():
    seen = []

    def score(model, context):
        seen.append(allowed())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        Method(score).score(Watching(), context())
    assert seen == [{"convolutions": False, "products": False}]
    # The traceback still holds the frames of the score.
    assert error.tb is not None
    assert allowed() == {"convolutions": True, "products": True}


@pytest.mark.usefixtures("tf32")
def test_after_a_score_that_fails_training_has_tf32_again():
    model = Watching()
    model.broken = True
    for name in ("SNIP", "grasp", "ntk_sap", "prospr", "synflow"):
        with pytest.raises(ZeroDivisionError):
            METHODS[name][""].score(model, context())
        assert allowed() == {"convolutions": True, "products": True}, name
    with pytest.raises(ZeroDivisionError):
        prune(model, "SNIP", 0.5, batches=context().batches)
    assert allowed() == {"convolutions": True, "products": True}


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="from torch 2.9 on")
def test_settings_of_the_newer_interface_come_back():
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = products.fp32_precision
    try:
        products.fp32_precision = "tf32"
        with full_float32():
            inside = [products.fp32_precision, convolutions.fp32_precision, *allowed().values()]
        after = [products.fp32_precision, convolutions.fp32_precision]
    finally:
        products.fp32_precision = before
    assert inside == ["ieee", "ieee", False, False]
    assert after == ["tf32", "tf32"]
