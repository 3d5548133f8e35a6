"""The studies: what they measure on tiny networks, and their notebooks."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from helpers import execute_notebook, outputs

from common.base.environment import hardware
from common.base.errors import ConfigurationError
from common.plots.tables import caption
from common.pruning import METHODS, find_method, prunable
from common.pruning.diagnostics import gradient_norm
from common.pruning.rounds import prune_rounds
from common.pruning.scores import GRASP_TEMPERATURE
from common.runs.experiment import configure
from common.runs.run import Run
from common.studies import (
    batchnorm,
    conservation,
    imagenet,
    imagenet_cost,
    inversion,
    inversion_curves,
    inversion_tables,
    layer_collapse,
)
from common.studies import layer_collapse_plots as figures
from common.studies.captions import study_caption
from common.studies.conservation import Kind
from common.studies.layer_collapse import Line
from common.studies.network import REPRODUCTION, SETTING, TANAKA2020, Setting
from common.studies.tables import COMMITTED, PROVENANCE, Table, folder, read, read_asked

ROOT = Path(__file__).resolve().parent.parent
# Notebook -> the folder of its tables.
STUDIES = {
    **{n: n for n in ("layer_collapse", "conservation", "inversion", "chaos", "imagenet")},
    **dict.fromkeys(("inversion_faults", "batchnorm_epsilon"), "inversion"),
}
TINY = Setting("small_vgg", "digits", "tanaka2020", "cpu")


@pytest.fixture(scope="module")
def tiny():
    return TINY.network(0)


# Tables


def test_a_table_continues_replaces_and_stays_whole(tmp_path):
    path = tmp_path / "t.csv"
    table = Table(path, ("method", "exponent", "kept"), ("method", "exponent"))
    table.add([{"method": "SNIP", "exponent": 0.25, "kept": 7}])
    again = Table(path, ("method", "exponent", "kept"), ("method", "exponent"))
    assert again.has(method="SNIP", exponent=0.25)
    assert not again.has(method="SNIP", exponent=0.5)
    again.add([{"method": "SNIP", "exponent": 0.25, "kept": 8}])
    assert read(path)["kept"].tolist() == [8]
    with pytest.raises(ValueError, match="kept"):
        again.add([{"method": "SNIP", "exponent": 1.0}])
    with pytest.raises(ConfigurationError, match="other columns"):
        Table(path, ("method", "kept"), ("method",))


def test_committed_tables_are_read_and_never_measured_into(tmp_path, monkeypatch):
    monkeypatch.setattr("common.studies.tables.COMMITTED", tmp_path / "committed")
    with pytest.raises(ConfigurationError, match="recompute=True"):
        folder("layer_collapse", recompute=False)
    inside = tmp_path / "committed" / "layer_collapse"
    with pytest.raises(ConfigurationError, match="committed"):
        folder("layer_collapse", recompute=True, results_dir=inside)
    own = tmp_path / "own"
    assert folder("layer_collapse", recompute=True, results_dir=own) == own


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"model": "resnet20"}, "^model='resnet20': .*held.csv holds 'vgg11', 'vgg16'; recompute"),
        ({"model": "vgg11", "seeds": [0, 1]}, r"seeds=\[0, 1\]: .* holds 0; recompute"),
        ({"exponents": [0.1]}, r"exponents=\[0.1\]: .* holds 0.25, 1.0; recompute=True with a res"),
        ({"methods": [["SNIP", 3, 1]]}, r"holds \['SNIP', 1, 10\], \['SNIP', 100, 1\]; recompute"),
        ({"methods": [["SNIPP", 1, 1]]}, "methods='SNIPP' is not known .did you mean 'SNIP'"),
        ({"methods": ["SNIP"]}, "methods: 'SNIP' is not .method, rounds"),
        ({"methods": [["SNIP", 0, 1]]}, "methods=0 is below 1"),
        ({"seeds": 0}, "seeds=0 is not a list"),
        ({"seeds": []}, r"seeds=\[\] is not a list"),
        ({"seeds": ["a"]}, "seeds='a' is not a whole number"),
        ({"exponents": ["far"]}, "exponents='far' is not a number"),
    ],
)
def test_what_a_table_does_not_hold_is_one_error_that_says_what_it_does(tmp_path, asked, said):
    held = pd.DataFrame(
        [
            ("vgg16", "SNIP", 1, 10, 0, 0.25),
            ("vgg16", "SNIP", 100, 1, 1, 1.0),
            ("vgg11", "SNIP", 1, 10, 0, 0.25),
        ],
        columns=["model", "method", "iterations", "images_per_class", "seed", "exponent"],
    )
    held.to_csv(tmp_path / "held.csv", index=False)
    with pytest.raises(ConfigurationError, match=said):
        read_asked(tmp_path / "held.csv", **asked)
    with pytest.raises(ConfigurationError, match=r"no table .*other.csv; recompute=True"):
        read_asked(tmp_path / "other.csv", **asked)


def test_what_is_asked_for_and_there_is_all_that_is_read(tmp_path):
    held = pd.DataFrame({"model": ["a", "a", "b"], "seed": [0, 1, 0], "exponent": [0.1 + 0.2] * 3})
    held.to_csv(tmp_path / "held.csv", index=False)
    found = read_asked(tmp_path / "held.csv", model="a", seeds=[1], exponents=[0.3])
    assert found[["model", "seed"]].to_numpy().tolist() == [["a", 1]]
    assert len(read_asked(tmp_path / "held.csv", model=None, seeds=None)) == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": "resnet21"}, "model='resnet21' is not known .did you mean.*vgg16"),
        ({"dataset": "mnisty"}, "dataset='mnisty' is not known"),
        ({"protocol": "nonsense"}, "protocol='nonsense' is not known; choose from: quick"),
    ],
)
def test_a_setting_has_names_that_are_known(wrong, said):
    with pytest.raises(ConfigurationError, match=said):
        replace(TINY, **wrong)


# Settings


def test_a_network_is_made_once_for_its_seed_and_setting():
    network = TINY.network(0)
    assert replace(TINY).network(0) is network
    assert TINY.network(1) is not network
    assert replace(TINY, protocol="seed").network(1).hyper.name == "seed"


def test_rows_say_their_setting_and_where_they_were_measured(tiny):
    found = TINY.columns()
    assert set(found) == {*SETTING, *PROVENANCE}
    assert [found[name] for name in SETTING] == ["digits", "small_vgg", "tanaka2020"]
    assert found["device"] == hardware(tiny.device)


# Layer collapse


@pytest.fixture(scope="module")
def collapse(tmp_path_factory):
    home = tmp_path_factory.mktemp("collapse")
    lines = [Line("random"), Line("magnitude"), Line("synflow", 1), Line("synflow", 30)]
    layer_collapse.measure(home, lines, [0.0, 1.0, 2.0, 4.0], [0, 1], setting=TINY)
    return layer_collapse.tables(home)


def test_every_compression_keeps_its_exact_number_of_weights(collapse):
    summary, layers = collapse
    expected = (summary["prunable"] * 10.0 ** -summary["exponent"]).round()
    assert (summary["kept"] == expected).all()
    total = layers.groupby(list(layer_collapse.UNIT))["kept"].sum()
    assert sorted(total) == sorted(summary["kept"])


def test_one_ranking_for_all_compressions_gives_the_masks_of_an_ordinary_run(tiny):
    from common.pruning.rounds import prune_rounds

    ((_, at_once),) = layer_collapse.masks_of(tiny, Line("magnitude"), [1.0])
    magnitude = find_method("magnitude")
    alone = prune_rounds(tiny.fresh(), magnitude, 0.9, tiny.context(magnitude))
    assert all(torch.equal(at_once[name], alone[name]) for name in alone)


@pytest.mark.parametrize(("method", "rounds"), [("ntk_sap", 2), ("prospr", 1)])
def test_every_method_scores_on_what_an_ordinary_run_gives_it(
    method, rounds, tmp_path, monkeypatch
):
    monkeypatch.setitem(METHODS[method], "", replace(find_method(method), iterations=rounds))
    layer_collapse.measure(tmp_path, [Line(method, rounds)], [1.0], [3], setting=TINY)
    options = {"protocol": TINY.protocol, "dataset": TINY.dataset, "model": TINY.model}
    options |= {"seed": 3, "sparsity": 0.9, "device": "cpu", "results_dir": tmp_path}
    masks = Run(configure(method, **options)).prune()
    _, layers = layer_collapse.tables(tmp_path)
    assert dict(zip(layers["layer"] + ".weight", layers["kept"], strict=True)) == {
        name: int(mask.sum()) for name, mask in masks.items()
    }


def test_synflow_in_rounds_gets_furthest_and_critical_compressions_are_brackets(collapse):
    summary, _ = collapse
    critical = layer_collapse.critical(summary)
    reached = critical.groupby(["method", "iterations"])["reached"].min()
    assert reached["synflow", 30] == 10_000 > reached["synflow", 1]
    assert reached["synflow", 30] < layer_collapse.maximum(summary)
    ended = critical.dropna(subset="collapsed")
    assert (ended["collapsed"] > ended["reached"]).all()


def test_a_stopped_measurement_goes_on_and_repeats_nothing(tmp_path):
    layer_collapse.measure(tmp_path, [Line("magnitude")], [0.0, 1.0], [0], setting=TINY)
    first = read(tmp_path / "summary.csv")
    layer_collapse.measure(tmp_path, [Line("magnitude")], [0.0, 1.0, 2.0], [0], setting=TINY)
    second = read(tmp_path / "summary.csv")
    pd.testing.assert_frame_equal(second.iloc[: len(first)], first)
    assert second["exponent"].tolist() == [0.0, 1.0, 2.0]


def test_the_layers_are_those_of_the_rows_that_are_asked_for(tmp_path):
    lines, exponents = [Line("random"), Line("magnitude")], [1.0, 2.0]
    layer_collapse.measure(tmp_path, lines, exponents, [0, 1], setting=TINY)
    asked = {"methods": [["random", 1, 0]], "exponents": [2.0], "seeds": [1]}
    summary, layers = layer_collapse.tables(tmp_path, TINY, **asked)
    assert summary[["method", "exponent", "seed"]].to_numpy().tolist() == [["random", 2.0, 1]]
    assert layers["kept"].sum() == summary["kept"].item()
    with pytest.raises(ConfigurationError, match=r"protocol='seed': .*holds 'tanaka2020'"):
        layer_collapse.tables(tmp_path, replace(TINY, protocol="seed"))


def test_agreement_is_one_for_independent_draws():
    drawn = np.random.default_rng(0).binomial(10_000, 0.2, size=(40, 50))
    rows = [
        {"method": "random", "iterations": 1, "images_per_class": 0, "seed": seed, "exponent": 0.7}
        | {"layer": f"l{layer}", "size": 10_000, "kept": kept}
        for seed, counts in enumerate(drawn)
        for layer, kept in enumerate(counts)
    ]
    (found,) = layer_collapse.agreement(pd.DataFrame(rows)).to_dict("records")
    assert found["noise"] == pytest.approx(1, abs=0.05)


def test_captions_say_what_was_measured_less(collapse):
    summary, _ = collapse
    assert figures.coverage(summary) == ""
    fewer = summary[(summary["method"] != "random") | (summary["exponent"] < 2)]
    assert "Random: 2, 2" in figures.coverage(fewer)


def test_captions_name_hardware_once_however_it_was_worded(collapse):
    devices = ["cpu: old, 1 threads", "cpu: old, 1 thread", "cpu: old, 11 threads"]
    table = collapse[0].iloc[:3].assign(device=devices)
    assert "; cpu: old, 1 thread, cpu: old, 11 threads; torch" in study_caption(table)
    assert "device mixed (cpu: old, 1 thread, cpu: old, 11 threads)" in caption(table)
    assert caption(table.iloc[:2]).split("; ")[3] == "cpu: old, 1 thread"


# Conservation


@pytest.fixture(scope="module")
def conserved(tmp_path_factory):
    home = tmp_path_factory.mktemp("conservation")
    conservation.measure(home, [0], setting=TINY)
    return read(home / "layers.csv"), read(home / "units.csv")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"setting": replace(TANAKA2020, dataset="cifar10")}, "dataset='cifar10': .*'cifar100'"),
        ({"setting": replace(TANAKA2020, model="resnet20")}, "residual.*choose from: vgg11"),
        ({"seeds": [1]}, r"seeds=\[1\]: .*units.csv holds 0"),
        ({"seeds": None}, "seeds=None is not a list"),
        ({"exponents": [1.0, 4.0]}, "pruned.csv holds 1.0, 2.0, 3.0"),
        ({"images_per_class": 10}, "images_per_class=10: .*layers.csv holds 1"),
    ],
)
def test_what_the_tables_of_conservation_do_not_hold_is_said(wrong, said):
    asked = {"setting": TANAKA2020, "exponents": [1.0], "seeds": [0, 1, 2], "images_per_class": 1}
    with pytest.raises(ConfigurationError, match=said):
        conservation.tables(COMMITTED / "conservation", **{**asked, **wrong})


def of(layers, method, signed, batchnorm):
    chosen = (layers["method"] == method) & (layers["signed"] == signed)
    return layers[chosen & (layers["batchnorm"] == batchnorm)]


@pytest.mark.parametrize("kind", [("synflow", False, "eval"), ("SNIP", True, "eval")])
def test_conserved_scores_agree_for_every_unit_and_layer(conserved, kind):
    rows = of(conserved[0], *kind)
    assert rows["discrepancy_max"].max() < 1e-10
    assert np.ptp(rows["total"]) < 1e-10 * rows["total"].abs().max()


@pytest.mark.parametrize("kind", [("SNIP", False, "train"), ("magnitude", False, "none")])
def test_other_scores_do_not(conserved, kind):
    assert of(conserved[0], *kind)["discrepancy_median"].max() > 0.1


def test_batch_statistics_leave_nothing_that_enters_a_unit(conserved):
    rows = of(conserved[0], "SNIP", True, "train")
    assert rows["discrepancy_median"].min() > 0.999
    assert rows["total"].iloc[:-1].abs().max() < 1e-4 * abs(rows["total"].iloc[-1])


def test_grasp_layers_sum_to_minus_their_squared_gradient_norm(tiny):
    kind = Kind("grasp", True, "train")
    scores = conservation.scores_of(tiny, kind, 10)
    context = tiny.context(find_method("grasp"))
    module = tiny.fresh()
    for name in list(scores)[:-1]:
        others = {n: torch.full_like(w, n == name, dtype=bool) for n, w in prunable(module).items()}
        norm = gradient_norm(module, context.batches, others, temperature=GRASP_TEMPERATURE)
        assert float(scores[name].sum()) == pytest.approx(-norm, rel=0.02)


def test_mean_scores_of_synflow_are_inverse_to_the_layers_sizes(conserved):
    slopes = conservation.slopes(conserved[0]).set_index(["method", "signed", "batchnorm"])
    assert slopes.loc[("synflow", False, "eval"), "slope"] == pytest.approx(-1, abs=1e-9)
    assert slopes.loc[("random", False, "none"), "slope"] == pytest.approx(0, abs=0.05)


def test_batchnorm_is_pinned_and_released(tiny):
    module = tiny.fresh().eval()
    with conservation.pinned_batchnorm(module, "train"):
        module.eval()
        assert module.norm1_1.training
        assert not module.conv1_1.training
    module.train()
    assert module.norm1_1.training
    module.eval()
    assert not module.norm1_1.training


def test_residual_networks_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="residual"):
        conservation.measure(tmp_path, [0], setting=replace(TINY, model="resnet20"))


# Inversion


def test_the_empty_list_prunes_nothing_and_passes_its_check(tiny):
    outcome = inversion.fault_empty_list(tiny, "synflow", 0.98)
    assert all(mask.all() for mask in outcome.masks.values())
    assert outcome.counted == (0, 0)
    assert inversion.check_passes(outcome.counted, 0.98)


@pytest.mark.parametrize("method", ["magnitude", "SNIP"])
def test_batchnorm_weights_among_the_scores_silence_the_network(method):
    network = replace(TINY, protocol="seed").network(0)
    outcome = inversion.fault_batchnorm_among_scores(network, method, 0.6)
    norms = torch.cat([outcome.masks[n] for n in inversion.norm_weights(network.module)])
    assert norms.float().mean() < 0.1
    rows = inversion_tables._layer_rows(network, outcome.masks)
    assert all(row["gradient_norm"] == 0 for row in rows)
    right = inversion.inverted(network, method, 0.6)
    assert all(
        row["gradient_norm"] > 0 for row in inversion_tables._layer_rows(network, right.masks)
    )


def test_reciprocals_do_not_reverse_signed_scores():
    scores = {"w": torch.tensor([-2.0, -1.0, 1.0, 2.0])}
    assert inversion.fault_inverse(scores)["w"].argsort().tolist() == [1, 0, 3, 2]


def test_pruned_weights_return_under_the_alternation(tiny):
    seen = []
    inversion.fault_alternation(tiny, 1 - 10**-0.25, seen.append)
    masks = [torch.cat([m.flatten() for m in done.masks.values()]) for done in seen]
    for before, after in itertools.pairwise(masks):
        assert after[~before].all()
    assert all(done.masks["conv1_1.weight"].any() for done in seen)


def test_the_alternation_ends_between_the_dense_network_and_one_shot(tiny):
    seen = []
    final = inversion.fault_alternation(tiny, 1 - 10**-0.5, seen.append)
    assert all(mask.all() for mask in seen[-2].masks.values())
    one_shot = replace(find_method("synflow"), iterations=1)
    scores = one_shot.score(tiny.fresh(), tiny.context(one_shot))
    assert not final["conv1_1.weight"].any()
    kept = torch.cat([scores[name][mask] for name, mask in final.items()])
    gone = torch.cat([scores[name][~mask] for name, mask in final.items()])
    assert kept.max() <= gone.min()


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_proper_inversion_of_synflow_cuts_the_network(tiny, sparsity):
    masks = inversion.synflow_inverted(tiny, sparsity)
    assert not masks["conv1_1.weight"].any()


def test_one_shot_masks_and_inverted_masks_are_complements(tmp_path):
    inversion_curves.measure_complement(tmp_path, [0], setting=TINY)
    found = read(tmp_path / "complement.csv")
    assert len(found) == len(inversion_curves.ONE_SHOT)
    assert (found["in_both_untied"] <= 1).all()
    assert (found["in_both"] + found["in_neither"] <= 2 * found["tied"]).all()


def test_short_epochs_run_through_the_data_in_one_order(tiny):
    from common.datasets import Loader

    data = tiny.data
    parts = (data.train_images[:64], data.train_labels[:64], data.mean, data.std, 16)
    whole = [y for _, y in Loader(*parts, seed=0)]
    portions = inversion_tables.Portions(Loader(*parts, seed=0), 2)
    cut = [y for _ in range(2) for _, y in portions]
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_faults_are_reachable_from_the_inversion_study_alone():
    sources = [*ROOT.glob("common/**/*.py"), *ROOT.glob("trials/**/*.py")]
    texts = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sources
    }
    naming = {name for name, text in texts.items() if re.search(r"\bfault_", text)}
    own = {f"common/studies/{name}.py" for name in ("inversion", "inversion_curves")}
    assert naming == own
    using = {n for n, text in texts.items() if re.search(r"import .*\binversion\b", text)}
    assert using == {f"common/studies/inversion_{name}.py" for name in ("curves", "tables")}


# Where BatchNorm stops helping


@pytest.fixture
def one_convolution():
    """1 x 1 weights 2 and -0.5 on the images' two channels, a third output without a weight."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 1, bias=False), torch.nn.BatchNorm2d(3), torch.nn.Flatten()
    )
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[2.0, 0], [0, -0.5], [0, 0]])[..., None, None])
    return module


# Both channels have mean 0; their variances are 1 and 9.
IMAGES = torch.tensor([[[[1.0, -1]], [[3, -3]]], [[[-1, 1]], [[3, -3]]]])


def test_variances_are_those_of_the_closed_form(one_convolution):
    state = {name: t.clone() for name, t in one_convolution.state_dict().items()}
    found, logits = batchnorm.variances(one_convolution.eval(), IMAGES)
    assert found["1"].tolist() == [4.0, 2.25, 0.0]
    # What BatchNorm makes of them: variance / (variance + epsilon).
    after = logits.unflatten(1, (3, 2)).transpose(0, 1).flatten(1).var(1, correction=0)
    assert after.tolist() == pytest.approx([4 / (4 + 1e-5), 2.25 / (2.25 + 1e-5), 0], rel=1e-6)
    assert not one_convolution.training
    assert all(torch.equal(t, state[name]) for name, t in one_convolution.state_dict().items())
    assert not one_convolution[1]._forward_pre_hooks


def test_tiny_weights_fall_below_epsilon_and_the_output_with_them(one_convolution):
    usual = batchnorm.variances(one_convolution, IMAGES)[1].std()
    with torch.no_grad():
        one_convolution[0].weight.mul_(1e-4)
    found, logits = batchnorm.variances(one_convolution, IMAGES)
    assert found["1"][:2].tolist() == pytest.approx([4e-8, 2.25e-8])
    assert (found["1"] < one_convolution[1].eps).all()
    assert logits.std() < 0.1 * usual
    with batchnorm.epsilon(one_convolution, batchnorm.TINY):
        _, logits = batchnorm.variances(one_convolution, IMAGES)
    assert float(logits.std()) == pytest.approx(float(usual), rel=1e-5)
    assert one_convolution[1].eps == 1e-5


def test_a_tiny_epsilon_and_rescaled_layers_are_the_same_function(tiny):
    """In float32: a tiny epsilon is numerically sound."""
    masks = inversion.inverted(tiny, "magnitude", 0.5).masks
    norms = batchnorm._norms(tiny, masks)
    images = tiny.data.train_images[:32].permute(0, 3, 1, 2) / 255
    with batchnorm.epsilon(tiny.module, batchnorm.TINY):
        before, small = batchnorm.variances(tiny.module, images)
        batchnorm.rescale(tiny.module, norms)
        after, large = batchnorm.variances(tiny.module, images)
    assert all(after[name].mean() > 2 * before[name].mean() for name in after)
    last = list(prunable(tiny.module))[-1]
    factor = norms[last] / float(tiny.fresh().get_parameter(last).detach()[masks[last]].norm())
    assert torch.allclose(small * factor, large, rtol=1e-3, atol=1e-3 * float(large.std()))


@pytest.fixture(scope="module")
def measured_signal(tmp_path_factory):
    home = tmp_path_factory.mktemp("signal")
    batchnorm.measure_signal(home, ["magnitude", "SNIP"], [0.6, 0.98], [0], setting=TINY)
    runs = [("magnitude", "inverted", 0.98, treatment) for treatment in batchnorm.TREATMENTS]
    batchnorm.measure_training(
        home, runs, [0], steps=4, records=2, test_images=50, batch_size=16, setting=TINY
    )
    return read(home / "signal.csv"), read(home / "signal_training.csv")


def test_masks_of_the_signal_are_those_of_the_inversion_study(measured_signal, tiny):
    rows, _ = measured_signal
    for (method, procedure, sparsity), part in rows.groupby(["method", "procedure", "sparsity"]):
        masks = inversion.PROCEDURES[procedure](tiny, method, sparsity).masks
        kept = [int(mask.sum()) for mask in masks.values()]
        assert [*part["kept"], part["output_kept"].iloc[0]] == kept


def test_each_treatment_starts_from_the_same_mask(measured_signal):
    _, training = measured_signal
    assert training["epsilon"].tolist() == [1e-5] * 3 + [batchnorm.TINY] * 3 + [1e-5] * 3
    assert training.groupby("treatment")["step"].apply(list).tolist() == [[0, 2, 4]] * 3
    assert np.isfinite(training["test_loss"]).all()


def test_a_network_without_batchnorm_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="BatchNorm"):
        batchnorm.measure_signal(
            tmp_path, ["magnitude"], [0.5], [0], setting=replace(TINY, model="lenet_300_100")
        )


# ImageNet


def test_one_way_down_is_the_way_to_each_compression_and_needs_no_images(tmp_path):
    setting = replace(TINY, images=False)
    line = imagenet.Line("synflow", "", 4)
    network = setting.network(0)
    found = imagenet.prune(network, line, [0.5, 1.0], lambda masks: masks)
    two_rounds = replace(find_method("synflow"), iterations=2)
    context = network.context(two_rounds)
    alone = prune_rounds(network.fresh(), two_rounds, 1 - 10**-0.5, context)
    assert all(torch.equal(found[0.5][name], mask) for name, mask in alone.items())
    imagenet.measure(tmp_path, setting, [1.0, 4.0], [0], [line, imagenet.Line("random", "erk")])
    summary, layers = imagenet.tables(tmp_path, "tanaka2020", {"digits": ["small_vgg"]})
    assert summary["kept"].tolist() == [
        round(n / 10**e) for n, e in summary[["prunable", "exponent"]].to_numpy()
    ]
    assert (summary["effective"] <= summary["kept"]).all()
    assert layers.groupby("layer")["role"].first().value_counts()["body"] == 4
    shares = imagenet.shares(layers)
    assert shares.groupby(list(imagenet.UNIT))["share"].sum().tolist() == pytest.approx([1.0] * 4)
    reached = imagenet.reached(summary)
    assert (reached["connected"] == 1.0).all()  # ten weights are no path and a layer is empty
    with pytest.raises(ConfigurationError, match=r"not multiples of 0\.5"):
        imagenet.measure(tmp_path, setting, [0.7], [0])


@pytest.mark.slow
def test_costs_are_measured_in_processes_of_their_own(tmp_path):
    setting = replace(TINY, images=False)
    chosen = [imagenet_cost.Case("SNIP", 2, 4), imagenet_cost.Case("synflow", rounds=2)]
    imagenet_cost.measure(tmp_path, setting, chosen)
    cost = read(tmp_path / "cost.csv")
    assert (cost["kept"] == cost["asked"]).all()
    assert (cost["peak_bytes"] >= cost["idle_bytes"]).all()
    imagenet_cost.measure_structured(tmp_path, setting)
    saved = read(tmp_path / "structured.csv").set_index("how")
    assert (saved["parameters"]["dense"] > saved["parameters"].drop("dense")).all()
    assert saved["exported_difference"].max() < 1e-4


# Committed tables and notebooks


@pytest.mark.parametrize("study", sorted(set(STUDIES.values())))
def test_committed_tables_hold_no_machine_paths(study):
    paths = list((COMMITTED / study).glob("*.csv"))
    assert paths
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert "/tmp" not in text
        assert "/work" not in text


def tables_of_inversion(setting=TANAKA2020, exponents=(0.25,), seeds=(0,)):
    return inversion_curves.tables(COMMITTED / "inversion", setting, list(exponents), list(seeds))


def tables_of_faults(setting=REPRODUCTION, sparsity=0.6, steps=300, seeds=(0,)):
    return inversion_tables.tables(COMMITTED / "inversion", setting, sparsity, steps, list(seeds))


def tables_of_epsilon(networks=(("resnet20", "frankle2021"),), sparsities=(0.98,), steps=300):
    settings = batchnorm.settings(list(networks), "cifar10")
    return batchnorm.tables(COMMITTED / "inversion", settings, list(sparsities), steps, [0])


@pytest.mark.parametrize(
    ("tables", "wrong", "said"),
    [
        (tables_of_inversion, {"setting": REPRODUCTION}, "dataset='cifar10': .*holds 'cifar100'"),
        (tables_of_inversion, {"exponents": [1.0]}, "rounds.csv holds 0.25, 0.5"),
        (tables_of_inversion, {"seeds": [0, 3]}, r"seeds=\[0, 3\]: .*holds 0, 1, 2"),
        (tables_of_faults, {"sparsity": 0.5}, "outcomes.csv holds 0.3, 0.6, 0.9, 0.98"),
        (tables_of_faults, {"sparsity": "much"}, "sparsity='much': .*outcomes.csv holds"),
        (tables_of_faults, {"sparsity": 0.9}, "sparsity=0.9: .*training.csv holds 0.6"),
        (tables_of_faults, {"steps": 100}, "steps=100: .*training.csv holds 300"),
        (tables_of_faults, {"steps": None}, "steps=None is not a multiple"),
        (tables_of_epsilon, {"networks": [["vgg16", "frankle2021"]]}, "networks=.* holds"),
        (tables_of_epsilon, {"networks": [["resnet21", "seed"]]}, "model='resnet21' is not known"),
        (tables_of_epsilon, {"networks": ["resnet20"]}, "'resnet20' is not .model, protocol"),
        (tables_of_epsilon, {"sparsities": [0.6]}, "networks are trained at 0.9, 0.98"),
        (tables_of_epsilon, {"sparsities": [0.5, 0.9]}, "signal.csv holds 0.6, 0.9, 0.98"),
    ],
)
def test_what_the_tables_of_inversion_do_not_hold_is_said(tables, wrong, said):
    assert all(len(table) for table in tables())
    with pytest.raises(ConfigurationError, match=said):
        tables(**wrong)


def test_both_accuracies_of_a_training_are_judged_by_their_intervals():
    """With a negligible epsilon inverted magnitude fits training images, and still guesses."""
    ends = inversion_tables.ends(tables_of_epsilon()[1]).query("method == 'magnitude'")
    ends = ends.set_index(["procedure", "treatment"])[["training images", "test images"]]
    told = ends.loc[("inverted", "epsilon")].tolist()
    assert told == ["18.9% (above chance)", "9.5% (at chance)"]
    assert ends.loc[("inverted", "none"), "training images"].endswith("(at chance)")
    assert ends.loc[("unmodified", "none"), "test images"].endswith("(above chance)")


def test_committed_variances_hold_together():
    rows = read(COMMITTED / "inversion" / "signal.csv")
    assert (rows["channels_empty"] <= rows["channels_below"]).all()
    assert (rows["channels_below"] <= rows["channels"]).all()
    majority = 2 * rows["channels_below"] > rows["channels"]
    assert majority[rows["variance"] >= rows["epsilon"]].sum() == 0
    assert (
        rows.loc[rows["kept"] == 0, "channels_empty"] == rows["channels"][rows["kept"] == 0]
    ).all()
    units = rows.groupby(list(batchnorm.UNIT))["layer"].nunique()
    assert sorted(units.unique()) == [13, 21]
    for version in {*rows["code_version"]}:
        assert re.fullmatch("[0-9a-f]{12}", version)


def pictures(study, tmp_path, **parameters):
    source = ROOT / "trials" / study / f"{study}.ipynb"
    return outputs(execute_notebook(source, tmp_path / "out.ipynb", **parameters), "image/png")


@pytest.mark.slow
@pytest.mark.parametrize(("study", "tables"), STUDIES.items())
def test_notebook_draws_the_committed_tables(study, tables, tmp_path):
    before = {p: p.read_bytes() for p in (COMMITTED / tables).glob("*")}
    assert pictures(study, tmp_path)
    assert {p: p.read_bytes() for p in (COMMITTED / tables).glob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_a_notebook_refuses_what_its_tables_do_not_hold(study, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=r"dataset='digits': .* 'cifar"):
        pictures(study, tmp_path, dataset="digits")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "parameters"),
    [
        ("layer_collapse", {"exponents": [0.0, 2.0, 4.0], "methods": [["magnitude", 1, 0]]}),
        ("conservation", {"exponents": [1.0]}),
        ("inversion", {"exponents": [0.25]}),
        ("inversion_faults", {"sparsity": 0.5, "steps": 12}),
        ("batchnorm_epsilon", {"networks": [["small_vgg", "seed"]], "steps": 12}),
        (
            "imagenet",
            {
                **{"models": ["small_vgg"], "compared_models": ["small_vgg"]},
                **{"compared_dataset": "digits", "exponents": [1.0]},
            },
        ),
        ("chaos", {"rounds": [1, 2], "small_exponents": [2.0], "training_seeds": [0, 1]}),
    ],
)
def test_notebook_measures_in_a_tiny_form(study, parameters, tmp_path):
    tiny = {"dataset": TINY.dataset, "device": TINY.device, "seeds": [0, 1]}
    if "networks" not in parameters:
        tiny |= {"model": TINY.model}
    own = {"recompute": True, "results_dir": str(tmp_path / "own")}
    assert pictures(study, tmp_path, **own, **tiny, **parameters)
    assert list((tmp_path / "own").glob("*.csv"))
