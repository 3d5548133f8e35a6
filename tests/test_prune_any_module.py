"""Networks that are not ours: pruned by the core alone, and kept pruned through training."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from common.base.errors import ConfigurationError
from common.pruning import apply, kept, prunable, prune, save_masks, scores
from common.pruning.scores import Context


def train_a_little(model, masks, images, labels, steps=3):
    """SGD with momentum and weight decay, both of which move pruned weights."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=0.1)
    before = {name: w.detach().clone() for name, w in prunable(model).items()}
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        apply(model, masks)
    for name, weight in prunable(model).items():
        assert not weight[~masks[name]].any(), name
        assert not masks[name].any() or not torch.equal(weight, before[name])


def assert_exact(model, masks, sparsity):
    weights = prunable(model)
    assert list(masks) == list(weights)
    total = sum(w.numel() for w in weights.values())
    assert kept(masks) == round((1 - sparsity) * total)
    assert sum(int((w != 0).sum()) for w in weights.values()) <= kept(masks)


@pytest.fixture(scope="module")
def resnet50():
    return torchvision.models.resnet50(weights=None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "variant", "sparsity"),
    [("magnitude", "", 0.9), ("SNIP", "", 0.95), ("synflow", "one_shot", 0.8)],
)
def test_torchvisions_resnet50(resnet50, method, variant, sparsity):
    model = copy.deepcopy(resnet50)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([3, 900])
    masks = prune(model, method, sparsity, variant=variant, batches=[(images, labels)])
    assert len(masks) == 54  # 53 convolutions and the linear layer
    assert sum(mask.numel() for mask in masks.values()) == 25_502_912
    assert_exact(model, masks, sparsity)
    if method == "magnitude":
        train_a_little(model, masks, images, labels, steps=1)


class Translator(nn.Module):
    """Words in, words out: attention, and a last layer that shares the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.last = nn.Linear(8, 11)
        self.last.weight = self.embedding.weight

    def forward(self, words):
        return self.last(self.layer(self.embedding(words)).mean(1))


@pytest.mark.parametrize("method", ["random", "magnitude", "SNIP", "grasp"])
def test_a_transformer_with_a_shared_weight(method):
    model = Translator()
    assert list(prunable(model)) == [
        "layer.self_attn.in_proj_weight",
        "layer.self_attn.out_proj.weight",
        "layer.linear1.weight",
        "layer.linear2.weight",
        "embedding.weight",  # the last layer's
    ]
    words, labels = torch.randint(11, (6, 5)), torch.randint(11, (6,))
    masks = prune(model, method, 0.7, batches=[(words, labels)])
    assert_exact(model, masks, 0.7)
    assert model.last.weight is model.embedding.weight
    train_a_little(model, masks, words, labels)


def test_dropout_is_the_same_in_both_passes_of_grasp():
    """Else the first gradient would be another function's than the one that is differentiated."""
    model = Translator().double().train()
    words, labels = torch.randint(11, (6, 5)), torch.randint(11, (6,))
    parts = [(words[:4], labels[:4]), (words[4:], labels[4:])]
    found = scores.grasp(model, Context(batches=parts))
    g = scores.loss_gradients(model, parts, scores.GRASP_TEMPERATURE)
    step = 1e-4 / max(float(x.abs().max()) for x in g.values())
    sides = []
    for sign in (1, -1):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for name, weight in prunable(other).items():
                weight += sign * step * g[name]
        sides.append(scores.loss_gradients(other, parts, scores.GRASP_TEMPERATURE))
    largest = max(float(x.abs().max()) for x in found.values())
    for name, weight in prunable(model).items():
        expected = weight.detach() * (sides[0][name] - sides[1][name]) / (2 * step)
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5 * largest)


def test_dropout_neither_moves_nor_follows_the_global_generator():
    model = Translator().train()
    batches = [(torch.randint(11, (6, 5)), torch.randint(11, (6,)))]
    for score in (scores.snip, scores.grasp):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = score(model, Context(batches=batches))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        two = score(model, Context(batches=batches))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_transformer_encoder_layer_by_synflow():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    masks = prune(layer, "synflow", 0.5, shape=(5, 16))
    assert_exact(layer, masks, 0.5)
    separate = nn.MultiheadAttention(16, 4, kdim=8, vdim=12)
    assert list(prunable(separate)) == [
        *("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")
    ]


class Painter(nn.Module):
    """Convolutions of every kind and dimension."""

    def __init__(self):
        super().__init__()
        self.volume = nn.Conv3d(1, 4, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)
        self.line = nn.Conv1d(4, 5, 3)
        self.last = nn.Linear(5, 3)
        self.norm = nn.GroupNorm(1, 4)

    def forward(self, x):
        x = F.relu(self.volume(x)).flatten(1, 2)
        x = F.relu(self.norm(self.up(F.relu(self.grouped(x)))))
        return self.last(F.relu(self.line(x.flatten(2))).mean(2))


@pytest.mark.parametrize("method", ["random", "magnitude", "SNIP", "grasp", "synflow"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_of_every_kind(method, layout):
    model = Painter()
    for module in (model.grouped, model.up):
        module.to(memory_format=layout)
    images, labels = torch.randn(4, 1, 2, 6, 6), torch.tensor([0, 1, 2, 0])
    masks = prune(model, method, 0.6, batches=[(images, labels)])
    assert_exact(model, masks, 0.6)
    assert {name: tuple(mask.shape) for name, mask in masks.items()} == {
        "volume.weight": (4, 1, 3, 3, 3),
        "grouped.weight": (8, 2, 3, 3),
        "up.weight": (8, 2, 2, 2),
        "line.weight": (5, 4, 3),
        "last.weight": (3, 5),
    }
    train_a_little(model, masks, images, labels)


def test_a_bare_layer_and_a_layer_used_twice():
    layer = nn.Linear(10, 10)
    assert list(prune(layer, "magnitude", 0.5)) == ["weight"]
    twice = nn.Sequential(layer, nn.ReLU(), layer)
    assert list(prunable(twice)) == ["0.weight"]
    assert list(prune(twice, "synflow", 0.9, shape=(10,))) == ["0.weight"]
    assert int((layer.weight != 0).sum()) == 10


@pytest.mark.parametrize("method", ["SNIP", "grasp", "synflow", "prospr"])
def test_a_layer_used_twice_keeps_its_weights(method):
    layer = nn.Linear(10, 10)
    own, before = layer.weight, layer.weight.detach().clone()
    batch = (torch.randn(8, 10), torch.randint(10, (8,)))
    masks = prune(nn.Sequential(layer, nn.ReLU(), layer), method, 0.5, batches=[batch])
    assert layer.weight is own
    assert torch.equal(own, before * masks["0.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_models_of_any_precision(dtype):
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10)).to(dtype)
    for method in ("magnitude", "synflow"):
        other = copy.deepcopy(model)
        masks = prune(other, method, 0.9, shape=(40,))
        assert_exact(other, masks, 0.9)
        assert all(p.dtype == dtype for p in other.parameters())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("snip", {}, r"method='snip'.*random, magnitude, SNIP"),
        ("synflow", {"variant": "l1"}, r"synflow's variant='l1'.*one_shot, l2, linear"),
        ("synflow", {}, r"synflow needs the shape.*shape=\(3, 32, 32\)"),
        ("SNIP", {}, r"SNIP scores on data.*batches="),
        ("SNIP", {"batches": (torch.ones(4, 3), torch.ones(4))}, r"batches=\[\(images, labels\)"),
        ("SNIP", {"batches": [("images", "labels")]}, "batches must be a list of pairs of tensors"),
        (["SNIP"], {}, r"method=\['SNIP'\] is not known"),
        ("synflow", {"shape": 3}, "synflow needs the shape"),
        ("magnitude", {"sparsity": 1.0}, r"sparsity=1.0 is not a number in \[0, 1\)"),
        ("magnitude", {"sparsity": "0.5"}, r"sparsity='0.5' is not a number"),
        ("magnitude", {"ablation": "invrt"}, r"ablation='invrt'.*did you mean 'invert'"),
    ],
)
def test_bad_input(method, options, message):
    with pytest.raises(ConfigurationError, match=message):
        prune(nn.Linear(3, 3), method, **{"sparsity": 0.5, **options})


@pytest.mark.parametrize("method", ["synflow", "ntk_sap"])
def test_a_module_of_tokens_is_told_what_the_method_needs(method):
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(16, 3))
    options = {"shape": (4,), "initialise": lambda model, generator: None}
    with pytest.raises(
        ConfigurationError, match=r"shape \(4,\), .*prune the module behind their emb"
    ):
        prune(model, method, 0.5, **options)
    behind = prune(model[1:], method, 0.5, **options | {"shape": (4, 4)})
    assert int(behind["2.weight"].sum()) == 24


def test_what_cannot_be_pruned():
    with pytest.raises(ConfigurationError, match=r"model=None is not a torch\.nn\.Module"):
        prune(None, "magnitude", 0.5)
    model, batches = nn.Linear(3, 3), [(torch.ones(2, 3), torch.tensor([0, 1]))]
    with torch.inference_mode():
        frozen = nn.Linear(3, 3)
        masks = prune(model, "SNIP", 0.5, batches=batches)
    assert int((model.weight != 0).sum()) == kept(masks) == 4
    for call in (lambda: prune(frozen, "magnitude", 0.5), lambda: apply(frozen, masks)):
        with pytest.raises(ConfigurationError, match=r"was made in torch\.inference_mode"):
            call()


@pytest.mark.parametrize(
    "mask",
    [
        torch.full((3, 3), 2),
        torch.ones(3, 3),
        [True] * 9,
        None,
        torch.ones(3, 3, device="meta").bool(),
    ],
    ids=lambda mask: str(getattr(mask, "dtype", mask))[:12],
)
def test_what_is_no_mask(mask, tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"the mask of weight is .*; a mask is a torch\.bool"
    ):
        apply(nn.Linear(3, 3), {"weight": mask})
    for door in (kept, lambda masks: save_masks(masks, tmp_path / "masks")):
        with pytest.raises(ConfigurationError, match=r"the mask of weight is "):
            door({"weight": mask})
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match="masks are a dictionary"):
        apply(nn.Linear(3, 3), [mask])
