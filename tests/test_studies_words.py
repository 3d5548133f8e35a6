"""What the inversion studies say of their tables: each sentence follows from the rows."""

import pandas as pd
import pytest

from common.base.errors import ConfigurationError
from common.studies import batchnorm, batchnorm_plots, inversion_curves, inversion_tables
from common.studies import batchnorm_words as of_batchnorm
from common.studies import inversion_words as of_inversion
from common.studies.network import REPRODUCTION, TANAKA2020, Setting
from common.studies.tables import COMMITTED

HOME = COMMITTED / "inversion"
SEEDS = [0, 1, 2]
NETWORKS = [["resnet20", "frankle2021"], ["vgg16", "seed"]]


@pytest.fixture(scope="module")
def faults():
    return inversion_tables.tables(HOME, REPRODUCTION, 0.6, 300, SEEDS)


@pytest.fixture(scope="module")
def epsilon():
    networks = batchnorm.settings(NETWORKS, "cifar10")
    return batchnorm.tables(HOME, networks, [0.6, 0.9, 0.98], 300, SEEDS)


# What is asked for


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"setting": REPRODUCTION}, "dataset='cifar10': .*holds 'cifar100'"),
        ({"exponents": [1.0]}, r"exponents=\[1.0\]: .*rounds.csv holds 0.25, 0.5"),
        ({"seeds": [0, 3]}, r"seeds=\[0, 3\]: .*holds 0, 1, 2"),
    ],
)
def test_the_tables_of_inversion_are_of_what_is_asked_for(wrong, said):
    asked = {"setting": TANAKA2020, "exponents": [0.25], "seeds": [1]}
    _, sweep, rounds = inversion_curves.tables(HOME, **asked)
    assert set(sweep["seed"]) == {1}
    assert rounds.groupby(["seed", "exponent"]).ngroups == 1
    with pytest.raises(ConfigurationError, match=said):
        inversion_curves.tables(HOME, **{**asked, **wrong})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"setting": TANAKA2020}, "dataset='cifar100': .*holds 'cifar10'"),
        ({"sparsity": 0.5}, r"sparsity=0.5: .*outcomes.csv holds 0.3, 0.6, 0.9, 0.98"),
        ({"sparsity": "much"}, "sparsity='much': .*outcomes.csv holds"),
        ({"sparsity": 0.9}, "sparsity=0.9: .*training.csv holds 0.6"),
        ({"steps": 100}, "steps=100: .*training.csv holds 300"),
        ({"steps": None}, "steps=None is not a multiple"),
        ({"seeds": [1]}, r"seeds=\[1\]: .*training.csv holds 0"),
    ],
)
def test_the_tables_of_the_faults_are_of_what_is_asked_for(wrong, said):
    asked = {"setting": REPRODUCTION, "sparsity": 0.6, "steps": 300, "seeds": [0]}
    outcomes, layers, training = inversion_tables.tables(HOME, **asked)
    assert set(outcomes["seed"]) == set(layers["seed"]) == set(training["seed"]) == {0}
    assert set(layers["sparsity"]) == {0.6}
    with pytest.raises(ConfigurationError, match=said):
        inversion_tables.tables(HOME, **{**asked, **wrong})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"networks": [["vgg16", "frankle2021"]]},
            r"networks=.* holds \['resnet20', 'frankle2021'",
        ),
        ({"networks": [["resnet21", "seed"]]}, "model='resnet21' is not known"),
        ({"networks": ["resnet20"]}, "networks: 'resnet20' is not .model, protocol"),
        ({"networks": "resnet20"}, "networks='resnet20' is not a list"),
        ({"sparsities": [0.6]}, r"sparsities=\[0.6\]: networks are trained at 0.9, 0.98"),
        ({"sparsities": [0.5, 0.9]}, r"sparsities=.*signal.csv holds 0.6, 0.9, 0.98"),
        ({"steps": 12}, "steps=12: .*signal_training.csv holds 300"),
    ],
)
def test_the_tables_of_the_epsilon_are_of_what_is_asked_for(wrong, said):
    asked = {"networks": NETWORKS[:1], "sparsities": [0.9], "steps": 300, "seeds": [0]}

    def tables(networks, **others):
        return batchnorm.tables(HOME, batchnorm.settings(networks, "cifar10"), **others)

    variances, treated = tables(**asked)
    assert set(variances["model"]) == {"resnet20"}
    assert set(treated["sparsity"]) == {0.9}
    with pytest.raises(ConfigurationError, match=said):
        tables(**{**asked, **wrong})


# Inversion


@pytest.mark.parametrize(
    ("others", "said"), [(0, "No other is in both"), (7, "Up to 7 other weights")]
)
def test_complements_but_for_ties(others, said):
    table = pd.DataFrame(
        {
            **{"method": ["SNIP", "grasp", "grasp"], "sparsity": 0.5, "prunable": 1000},
            **{"tied": [1, 40, 52], "in_both_untied": [0, others, 0]},
        }
    )
    told = of_inversion.complements(table)
    assert "With 50% of 1,000 weights removed" in told
    assert "SNIP 1 and GraSP 40 to 52" in told
    assert said in told


def test_the_layer_that_goes_first_is_named_with_the_compressions_of_the_seeds():
    rows = []
    for seed, dies in enumerate((1.0, 2.0, None)):
        for exponent in (0.0, 1.0, 2.0):
            line = {"method": "SNIP", "iterations": 1, "images_per_class": 10, "seed": seed}
            line |= {"exponent": exponent, "size": 10}
            gone = dies is not None and exponent >= dies
            rows += [{**line, "layer": "a", "kept": 0 if gone else 5}]
            rows += [{**line, "layer": "b", "kept": 0 if gone and seed == 1 else 5}]
    (told,) = of_inversion.first_emptied(pd.DataFrame(rows)).splitlines()
    assert "**SNIP, one shot**: a (1 seed) or a, b (1 seed), at $10^{1}$ to $10^{2}$" in told
    assert "(2 of 3 seeds)" in told
    alive = pd.DataFrame(rows).assign(kept=5)
    assert of_inversion.first_emptied(alive) == "- **SNIP, one shot**: none (3 seeds)."


def test_rounds_are_told_by_what_their_last_two_leave():
    rows = []
    for seed, (inverted, reciprocal) in enumerate(
        (([9, 2, 0, 0], [9, 1, 8, 2]), ([9, 0, 0, 0], [9, 1, 9, 4]))
    ):
        for procedure, left in (("inverted", inverted), ("reciprocal", reciprocal)):
            setting = dict.fromkeys(inversion_curves.ROUND, "")
            setting |= {"procedure": procedure, "exponent": 0.25, "seed": seed, "density": 1.0}
            rows += [{**setting, "round": r, "first": n, "last": 90} for r, n in enumerate(left)]
    told = of_inversion.rounds_told(pd.DataFrame(rows)).splitlines()
    assert told[0] == "What is left of the 9 weights of first (2 seeds):"
    assert "properly inverted none from round 2 on" in told[-1]
    assert "by 1/S 8 to 9 after round 2 and 2 to 4 after round 3" in told[-1]
    assert "score 10 times as high" in of_inversion.imbalance(pd.DataFrame(rows))


# Its faults


def test_the_faults_are_told_as_their_rows_have_them(faults):
    outcomes, layers, _ = faults
    dense = outcomes["prunable"].iloc[0]
    assert f"keeps {dense:,} of {dense:,} weights (3 seeds)" in of_inversion.empty_list(
        outcomes, 0.6
    )
    told = of_inversion.silent(outcomes, layers, 0.6).splitlines()
    rows = outcomes.query("method == 'SNIP' and procedure == 'batchnorm' and sparsity == 0.6")
    ends = f"{rows['layers_silent'].min()} to {rows['layers_silent'].max()} of 13 layers"
    (snip,) = [line for line in told if line.startswith("- **SNIP**")]
    assert f"none in {ends}; a gradient arrives in 0 of 14 layers" in snip
    assert snip.endswith("Properly inverted: in 14 of 14 layers.")
    table = of_inversion.silent_layers(outcomes)
    assert ends.startswith(table.loc["SNIP", "60%"])
    alive = layers.assign(gradient_norm=1.0)
    assert "arrives in 14 of 14" in of_inversion.silent(outcomes, alive, 0.6)
    assert "**GraSP**: of what 1/S keeps, the method keeps 75% itself; of what −S keeps, 0%" in (
        of_inversion.reciprocals(outcomes, 0.6)
    )
    failed = outcomes.assign(check_passed=[False] + [True] * (len(outcomes) - 1))
    assert f"for {len(outcomes) - 1} of {len(outcomes)} masks" in of_inversion.checks(failed)


def test_who_learns_follows_from_the_interval_of_the_accuracy(faults):
    training = faults[2]
    above, at = of_inversion.learners(training).splitlines()[-2:]
    assert at.count("8.9") == 3
    assert "unmodified 36.5" in above
    guessing = training.assign(test_accuracy=11.5)  # 10 is within 9.7 to 13.6
    assert "above chance (10): none" in of_inversion.learners(guessing)
    assert "not above it: none" in of_inversion.learners(training.assign(test_accuracy=12.5))


# BatchNorm's epsilon


def test_where_nothing_gets_through_is_told_by_network_and_sparsity(epsilon):
    variances, _ = epsilon
    magnitude, snip, grasp = of_batchnorm.limits(variances).splitlines()
    assert "ResNet-20 at 98% (3 of 3 seeds) and VGG-16 at 98% (1 of 1 seed)" in magnitude
    assert "last layer has no weight left in ResNet-20 at 90% (3 of 3 seeds)" in snip
    assert "never below ε in every layer, at most in 2 of 21" in grasp
    large = variances.assign(variance=1.0, output_kept=5)
    assert "every layer of" not in of_batchnorm.limits(large)
    table = of_batchnorm.silenced(variances)
    row = table.loc[("ResNet-20", "Magnitude", "90%")]
    counts = batchnorm.summary(variances).query(
        "model == 'resnet20' and method == 'magnitude' and procedure == 'inverted'"
    )
    counts = counts[counts["sparsity"] == 0.9]["layers_below"]
    assert row["layers below ε"] == f"{counts.min()} to {counts.max()}"
    assert of_batchnorm.emptied(large) == ""


def test_both_halves_of_a_row_are_told(epsilon):
    """Right on training images above chance, on test images at chance: the one is not said without
    the other."""
    _, treated = epsilon
    last = treated[(treated["step"] == 300) & (treated["sparsity"] == 0.98)]
    row = last[(last["treatment"] == "epsilon") & (last["method"] == "magnitude")].iloc[0]
    train, test = f"{row['train_accuracy']:.1f}", f"{row['test_accuracy']:.1f}"
    said = of_batchnorm.cause(treated)
    assert (
        f"with an epsilon of 1e-20 above chance on training images ({train} percent), at chance on "
        f"test images ({test})"
    ) in said
    assert "as it is at chance on training and on test images (9.9 percent and 8.9)" in said
    table = of_batchnorm.treated_table(treated)
    of_row = ("Magnitude", "inverted", "98%", "with an epsilon of 1e-20")
    assert table.loc[of_row].tolist() == [f"{train} (above chance)", f"{test} (at chance)"]
    lucky = treated.assign(test_accuracy=20.5)
    assert "at chance on test" not in of_batchnorm.cause(lucky)
    alone = treated[treated["treatment"] == "none"]
    assert "No mask was trained in more than one way" in of_batchnorm.cause(alone)


def test_trainings_are_drawn_by_sparsity_on_both_kinds_of_images(epsilon):
    figure = batchnorm_plots.treated_training(epsilon[1])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:2] == ["Training images, 98% removed", "Test images, 98% removed"]
    curves = [line for line in figure.axes[1].lines if len(line.get_xdata()) > 2]
    ends = {round(float(line.get_ydata()[-1]), 1) for line in curves}
    assert {8.9, 9.5, 16.6, 31.7} <= ends
    assert "1 seed (0)" in " ".join(figure.get_supxlabel().split())


def test_a_setting_is_made_for_every_network():
    assert batchnorm.settings(NETWORKS, "cifar10", "cpu", None) == [
        Setting("resnet20", "cifar10", "frankle2021", "cpu"),
        Setting("vgg16", "cifar10", "seed", "cpu"),
    ]
