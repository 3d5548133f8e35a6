"""What may be said follows from the intervals, and every number from the tables."""

import re

import numpy as np
import pandas as pd
import pytest

from common import findings
from common.environment import ROOT
from common.errors import ConfigurationError

SETTING = {"dataset": "mnist", "model": "lenet_300_100", "protocol": "quick", "epochs": 2}
RESULTS = ROOT / "figures" / "results"
T975 = {2: 4.302653, 3: 3.182446, 4: 2.776445}  # Student's t at 0.975, by degrees of freedom


def grid(sparsity=0.9, epochs=2, model="lenet_300_100", cut=(), **accuracies):
    """A summary: SNIP_shuffle=(50, 51) are the runs of SNIP, shuffled, in seeds 0 and 1."""
    rows = []
    for name, values in accuracies.items():
        method, _, ablation = name.partition("_")
        rows += [
            {**SETTING, "model": model, "variant": "", "sparsity": sparsity, "seed": seed}
            | {"method": method, "ablation": ablation or "none", "test_accuracy": float(value)}
            | {"effective_sparsity": 1.0 if name in cut else sparsity, "epochs": epochs}
            for seed, value in enumerate(values)
        ]
    return pd.DataFrame(rows)


def told(tmp_path, key, *parts, name="grid"):
    """The text of one finding in a grid of these parts, with little else published."""
    summaries = {"grid": parts[0], name: pd.concat(parts, ignore_index=True)}
    return findings.find(findings.Published(tmp_path, "grid", summaries=summaries))[key].text


PLAIN = (50, 60, 70)


@pytest.mark.parametrize(
    ("shuffled", "expected"),
    [
        (
            {"SNIP": (52, 63, 74)},
            "With 90% removed (3 seeds), shuffling the mask within its layers helps SNIP "
            "(+3.00 ± 2.48).",
        ),
        (
            {"SNIP": (48, 57, 66)},
            "With 90% removed (3 seeds), shuffling the mask within its layers hurts SNIP "
            "(−3.00 ± 2.48).",
        ),
        (
            {"SNIP": (51, 62, 76), "grasp": (50, 60, 70)},
            "With 90% removed (3 seeds), no difference found from shuffling the mask within its "
            "layers for SNIP (+3.00 ± 6.57) and GraSP (+0.00 ± 0.00).",
        ),
        (
            {"magnitude": (50, 62, 70), "SNIP": (52, 63, 74), "grasp": (48, 57, 66)},
            "With 90% removed (3 seeds), shuffling the mask within its layers helps SNIP "
            "(+3.00 ± 2.48) and hurts GraSP (−3.00 ± 2.48); no difference found for magnitude "
            "(+0.67 ± 2.87).",
        ),
        (
            {"SNIP": (99,)},
            "One seed was run, which carries no finding on shuffling the mask within its layers.",
        ),
        (
            {"SNIP": (70, 80)},  # twice the same: two seeds may agree by chance
            "Two seeds were run, which carry no finding on shuffling the mask within its layers.",
        ),
        (
            {"SNIP": (52, 63, 74), "grasp": (90,)},
            "With 90% removed (3 seeds), shuffling the mask within its layers helps SNIP "
            "(+3.00 ± 2.48). Elsewhere one seed was run, which carries no finding.",
        ),
    ],
)
def test_what_is_said_follows_from_the_interval(tmp_path, shuffled, expected):
    ablated = {f"{method}_shuffle": values for method, values in shuffled.items()}
    runs = grid(**dict.fromkeys(shuffled, PLAIN), **ablated)
    assert told(tmp_path, "shuffle", runs) == expected


def test_every_sparsity_has_its_sentence_and_every_interval_its_seeds_where_they_differ(tmp_path):
    some = grid(0.98, SNIP=PLAIN, SNIP_reinit=(50, 60, 70))
    four = {"SNIP": (50, 60, 70, 80), "grasp": PLAIN}
    runs = grid(**four, SNIP_reinit=(51, 61, 71, 81), grasp_reinit=(51, 61, 71))
    assert told(tmp_path, "reinit", some, runs) == (
        "With 90% removed, redrawing the weights helps SNIP (+1.00 ± 0.00, 4 seeds) and GraSP "
        "(+1.00 ± 0.00, 3 seeds). With 98% removed (3 seeds), no difference found from redrawing "
        "the weights for SNIP (+0.00 ± 0.00)."
    )


def test_methods_beat_random_pruning_or_are_beaten_by_it(tmp_path):
    runs = grid(random=PLAIN, SNIP=(52, 63, 74), grasp=(48, 57, 66), synflow=(50, 62, 70))
    assert told(tmp_path, "random", runs) == (
        "With 90% removed (3 seeds), random pruning is beaten by SNIP (+3.00 ± 2.48) and beats "
        "GraSP (−3.00 ± 2.48); no difference found for SynFlow (+0.67 ± 2.87)."
    )
    alike = grid(random=PLAIN, SNIP=PLAIN)
    assert "no difference found between random pruning and SNIP" in told(tmp_path, "random", alike)


def test_a_network_that_inversion_cuts_needs_no_replicate(tmp_path):
    runs = grid(
        **{"SNIP": PLAIN, "synflow": PLAIN, "magnitude": PLAIN, "grasp": (10,)},
        **{"SNIP_invert": (10,), "synflow_invert": (9.8, 11.35, 10), "grasp_invert": (10,)},
        magnitude_invert=(10, 10, 10),  # not cut, and three seeds
        cut=("SNIP_invert", "synflow_invert", "grasp_invert", "grasp"),
    )
    assert told(tmp_path, "invert", runs) == (
        "With 90% removed (3 seeds), inverting the scores hurts magnitude (−50.00 ± 24.84) and "
        "cuts every path with SNIP (1 run, accuracy 10.00 percent) and SynFlow (3 runs, accuracy "
        "9.80 to 11.35 percent). "
        "Elsewhere one seed was run, which carries no finding."
    ), "what has no path when it is unmodified is not cut by the inversion"


def test_a_grid_beside_is_told_network_by_network(tmp_path):
    parts = [
        grid(SNIP=PLAIN, SNIP_shuffle=(51, 61, 71)),
        grid(model="vgg11", SNIP=PLAIN, SNIP_shuffle=(51,)),
    ]
    assert told(tmp_path, "mnist/lenet_300_100/shuffle", *parts, name="mnist").startswith(
        "With 90% of LeNet-300-100 removed (3 seeds), shuffling"
    )
    assert told(tmp_path, "mnist/vgg11/shuffle", *parts, name="mnist").endswith("(VGG-11).")


def test_seeds_decide_how_the_tables_are_to_be_read(tmp_path):
    one, three = grid(SNIP=(50,)), grid(SNIP=PLAIN)
    dense = grid(0.0, SNIP=PLAIN)
    assert told(tmp_path, "setting", one).endswith("2 epochs (protocol `quick`), one seed, 1 runs.")
    assert "One seed is no replicate" in told(tmp_path, "reading", one)
    assert "± is half of the 95 percent t-interval" in told(tmp_path, "reading", three)
    reached = told(tmp_path, "dense", dense, three)
    assert reached == "The dense network reaches 60.00 ± 24.84 percent (3 seeds)."


def test_intervals_are_counted_with_those_that_chance_alone_gives(tmp_path):
    runs = grid(**{"SNIP": PLAIN, "SNIP_shuffle": (52, 63, 74), "SNIP_reinit": (50, 62, 70)})
    assert told(tmp_path, "intervals", runs) == (
        "Of the 2 intervals of differences behind these findings 1 exclude zero. At 95 percent "
        "about 0.1 would if nothing made a difference, since none is corrected for the others."
    )


def test_findings_take_their_places_in_a_page(tmp_path):
    page = (
        "a <!-- finding: shuffle -->old\nlines<!-- /finding --> b <!-- finding: mnist/x/invert -->"
    )
    page += "<!-- /finding -->"
    runs = grid(SNIP=PLAIN, SNIP_shuffle=(51, 61, 71))
    found = findings.find(findings.Published(tmp_path, "grid", summaries={"grid": runs}))
    filled = findings.with_findings(page, found)
    text = found["shuffle"].text
    assert filled == page.replace("old\nlines", text), "MNIST is not published: nothing is shown"
    assert findings.with_findings(filled, found) == filled
    with pytest.raises(ConfigurationError, match=r"finding='shufle' is not known.*'shuffle'"):
        findings.with_findings("<!-- finding: shufle --><!-- /finding -->", found)


def committed(grid, source=None):
    return findings.find(findings.Published(RESULTS, grid, source))


@pytest.fixture(scope="module")
def shown():
    """The findings behind the committed page."""
    setting = pd.read_csv(ROOT / "figures" / "findings.csv").query("key == 'setting'")
    grid = setting["source"].iloc[0].split("/")[1]
    return committed(grid, "mge2024")


# Names with numbers in them, code, and the base of a power of ten.
NAMES = re.compile(r"\b[A-Za-z]+(?:-\d+)+|et al\. \d{4}|`[^`]*`|10<sup>")
NUMBER = re.compile(r"[+−]?\d[\d,]*(?:\.\d+)?")


def written(row):
    """Every way in which a text may write a quoted row's numbers."""
    numbers = [row["value"], row["n"], 100 * row["sparsity"], (row["high"] - row["low"]) / 2]
    forms = ("{:.2f}", "{:+.2f}", "{:,.0f}", "{:.1f}", "{:.4g}")
    known = {form.format(x + 0.0) for x in numbers if not np.isnan(x) for form in forms}
    return {text.replace("-", "−") for text in known}


def test_every_number_in_a_finding_is_noted_down_with_its_source(shown):
    checked = 0
    for key, finding in shown.items():
        rows = finding.quoted.astype({"value": float, "sparsity": float, "n": float})
        rows = rows.astype({"low": float, "high": float}).to_dict("records")
        known = set().union(*map(written, rows)) if rows else set()
        for number in NUMBER.findall(NAMES.sub("", finding.text)):
            assert number in known, f"{key}: {number}"
            checked += 1
        assert (finding.quoted["key"] == key).all()
    assert checked > 50


def by_hand(row):
    """A difference between seeds from the committed table, by the formula."""
    table = pd.read_csv(ROOT / "figures" / f"{row['source']}.csv", keep_default_na=False)
    if row["source"].startswith("results/initialisation"):
        table = table[table["final"] & (table["dataset"] == row["key"].split("/")[1])]
        ours = table[table["init"] == row["variant"]].set_index("seed")["test_accuracy"]
        base = table[table["init"] == "kaiming_normal"].set_index("seed")["test_accuracy"]
        return (ours - base).to_numpy()
    at = np.isclose(table["sparsity"], row["sparsity"]) & (table["variant"] == row["variant"])
    if row["key"].startswith("mnist"):
        at &= table["model"] == row["key"].split("/")[1]
    plain = row["ablation"] == "none"
    base = (table["method"] == ("random" if plain else row["method"])) & (
        table["ablation"] == "none"
    )
    ours = (table["method"] == row["method"]) & (table["ablation"] == row["ablation"])
    ours, base = (table[at & one].set_index("seed")["test_accuracy"] for one in (ours, base))
    return (ours - base).dropna().to_numpy()


def test_every_difference_is_what_the_runs_give(shown):
    rows = findings.quoted(shown).query("quantity == 'difference'")
    assert len(rows) >= 12
    for row in rows.fillna({"variant": "", "ablation": "none"}).to_dict("records"):
        values = by_hand(row)
        n = len(values)
        half = T975[n - 1] * np.std(values, ddof=1) / np.sqrt(n)
        mean = np.mean(values)
        assert (row["value"], row["n"]) == (pytest.approx(mean), n), row
        assert (row["low"], row["high"]) == pytest.approx((mean - half, mean + half), abs=1e-4), row
        verdict = "gain" if mean > half else "loss" if mean < -half else "no difference found"
        assert row["verdict"] == verdict, row


def test_counts_are_what_the_studies_tables_hold(shown):
    def table(name):
        return pd.read_csv(RESULTS / f"{name}.csv", keep_default_na=False, na_values=["nan"])

    def values(key, quantity):
        rows = shown[key].quoted
        return sorted(rows.loc[rows["quantity"] == quantity, "value"])

    collapse = table("layer_collapse/summary").query("layers_collapsed == 0")
    magnitude = collapse.query("method == 'magnitude'").groupby("seed")["exponent"].max()
    reached = values("collapse", "critical exponent: magnitude")
    assert reached == pytest.approx(sorted({magnitude.min(), magnitude.max()}))
    training = table("inversion/signal_training").query(
        "method == 'magnitude' and procedure == 'inverted' and sparsity == 0.98 and step == 300"
    )
    other = training.query("treatment == 'epsilon'").iloc[0]
    plain = training.query("treatment == 'none'").iloc[0]
    key = "inversion/other_epsilon"
    expected = sorted([other["train_accuracy"], plain["train_accuracy"]])
    assert values(key, "train_accuracy") == expected
    assert values(key, "test_accuracy") == [other["test_accuracy"]]
    assert "on test images it is still at chance" in shown[key].text
    outcomes = table("inversion/outcomes").query("sparsity == 0.98 and procedure == 'empty_list'")
    assert values("inversion/empty_list", "kept") == list(outcomes["kept"].unique())
    rounds = table("inversion/rounds").query("exponent == 0.25 and round == 100")
    first = rounds.query("procedure == 'reciprocal'")["conv1_1"]
    ends = values("inversion/reciprocal", "conv1_1, reciprocal")
    assert ends == [first.min(), first.max()]


def test_two_findings_of_one_key_are_an_error(tmp_path):
    twice = pd.concat([grid(SNIP=PLAIN, SNIP_shuffle=PLAIN, epochs=e) for e in (2, 3)])
    with pytest.raises(ValueError, match="two findings of one key"):
        told(tmp_path, "shuffle", twice)


def test_what_was_not_run_is_not_told(tmp_path):
    runs = grid(SNIP=PLAIN, SNIP_shuffle=PLAIN)
    found = findings.find(findings.Published(tmp_path, "grid", summaries={"grid": runs}))
    assert set(found) == {"setting", "reading", "shuffle", "intervals"}
