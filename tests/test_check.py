"""A method from outside: how it is had, what it is told when it is not well made, its verdict."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pandas as pd
import pytest
from helpers import assert_same_tables, carry_out, untimed

import trials.__main__ as cli
from common.base.errors import ConfigurationError
from common.check import kept, verdict, well_made
from common.check.battery import battery
from common.pruning import METHODS, outside
from common.results.run_folder import is_done
from common.results.schema import SUMMARY
from common.runs.experiment import configure
from common.sweep import batch

HEAD = """
import torch
from torch.nn import functional as F
from common.pruning import Method, prunable
from common.pruning.scores import synflow
"""
SIZE = """
def size(model, context):
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}
"""
TWICE = SIZE + "METHOD = Method(size, iterations=2)"
FLOW = """
def flow(model, context):
    return synflow(model, context)

METHOD = Method(flow, iterations=100)
"""
DISGUISE = """
import copy

def revelation(model, context):
    network = copy.deepcopy(model)
    context.initialise(network, context.generator)
    return {name: weight.detach().abs() for name, weight in prunable(network).items()}
"""


@pytest.fixture(autouse=True)
def _registry():
    before = dict(METHODS), dict(outside.LOADED)
    yield
    for registry, entries in zip((METHODS, outside.LOADED), before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.fixture
def write(tmp_path):
    def to(code: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(HEAD + code)
        return str(tmp_path / name)

    return to


# The door


def test_a_file_is_a_method_of_every_grid(write, tmp_path):
    score = write(SIZE)
    path = tmp_path / "g.yaml"
    path.write_text(f"runs:\n- {{method: [magnitude, '{score}'], variant: ['', scope-erk]}}\n")
    with pytest.raises(ConfigurationError, match="magnitude's variant='scope-erk'"):
        batch.jobs_of(str(path), [], tmp_path)
    _, jobs = batch.jobs_of(str(path), [f"method={score}"], tmp_path)
    assert [job.parameters["variant"] for job in jobs] == ["", "scope-erk"]
    for job in jobs:
        assert re.fullmatch("mine@[0-9a-f]{8}", job.method)
        assert job.parameters["score"] == f"{score}@{job.method[-8:]}"
        assert job.notebook.name == "one_run.ipynb"
    assert METHODS[jobs[0].method]["scope-erk"].scope == "erk"


def test_a_changed_file_is_another_method(write):
    first = outside.register(write(SIZE))
    write(SIZE.replace(".abs()", ".abs().sqrt()"))
    with pytest.raises(ConfigurationError, match=f"has changed: it was {first.label[-8:]}"):
        outside.register(first.spec)
    assert outside.register(str(first.path)).label != first.label


def test_what_an_installed_package_offers(write, monkeypatch):
    path = Path(write(SIZE, "offered.py"))
    monkeypatch.syspath_prepend(path.parent)
    entry = EntryPoint("theirs", "offered:size", outside.GROUP)
    monkeypatch.setattr(outside, "entry_points", lambda group: [entry])
    assert configure("theirs").method.startswith("theirs@")


@pytest.mark.parametrize(
    ("code", "name", "says"),
    [
        (None, "", r"mine.py cannot be read \(No such file"),
        (
            "def size(model):\n  return {}",
            "",
            r"mine.py:6: size\(model\) does not take \(model, con",
        ),
        ("def a(m, c): ...\ndef b(m, c): ...", "", r"defines 2 functions \(a, b\): name the score"),
        ("x = 1", "", "mine.py defines none"),
        (SIZE, ":syze", "mine.py: function='syze' is not known .*mean 'size'"),
        ("x = 1 +", "", "mine.py:6: SyntaxError"),
        ("import nothing_of_that_name", "", "mine.py:6: ModuleNotFoundError"),
        (SIZE + "METHOD = 100", "", "METHOD is of type int"),
        (SIZE + "METHOD = Method(size, scope='layer')", "", "mine.py:9: .*scope='layer' is not"),
    ],
)
def test_what_cannot_be_had(write, tmp_path, capsys, code, name, says):
    path = write(code) if code else str(tmp_path / "mine.py")
    assert cli.main(["check", path + name, "--results", str(tmp_path)]) == 2
    assert re.search(says, capsys.readouterr().err)


# 1. Is it well made?

STATISTICS = """
def loss(model, context):
    (images, labels), = context.batches
    model.train()
    loss = F.cross_entropy(model(images), labels)
    weights = prunable(model)
    found = torch.autograd.grad(loss, list(weights.values()))
    return {name: g.abs() for name, g in zip(weights, found)}

METHOD = Method(loss, images_per_class=10)
"""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            SIZE.replace("abs()", "abs().sum(0)"),
            "mine.py:7: size gives conv1_1.weight scores of sha",
        ),
        (
            TWICE.replace("weight.", "1 / weight."),
            "fails in the pruned network, whose pruned weights",
        ),
        (SIZE.replace("abs()", "log()"), r"mine.py:7: size gives \d+ of 144 .* NaN or infinite"),
        (STATISTICS, r"mine.py:10: loss changes norm1_1.* as a forward pass in train mode does"),
        (
            SIZE.replace("abs()", "abs() + torch.rand_like(weight)"),
            "mine.py:8: size draws from tor",
        ),
        (
            SIZE.replace("return", "model.eval()\n    return"),
            "mine.py:8: size leaves the model in an",
        ),
        (SIZE.replace("weight.detach()", "weight.data.mul_(2)"), "mine.py:8: size changes conv1_1"),
        (
            STATISTICS.replace("_per_class=10", "_per_class=0"),
            "gets no images: images_per_class is 0",
        ),
    ],
)
def test_what_is_not_well_made_is_told_what_helps(write, tmp_path, capsys, monkeypatch, code, says):
    monkeypatch.setattr(well_made, "LARGE", (well_made.SMALL,))
    monkeypatch.setattr(well_made, "CASES", (well_made.SMALL,))
    monkeypatch.setattr(batch, "run", None)
    assert cli.main(["check", write(code), "--results", str(tmp_path)]) == 1
    assert re.search(says, " ".join(capsys.readouterr().out.split()))
    assert not list(tmp_path.glob("check/*")), "nothing is run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "sees"),
    [
        ("random", {"random stream"}),
        ("magnitude", {"weights"}),
        ("SNIP", {"weights", "images", "labels"}),
        ("synflow", {"weights"}),
        ("phew", {"weights", "random stream"}),
    ],
)
def test_the_suites_own_are_well_made_and_look_at_what_they_say(monkeypatch, method, sees):
    monkeypatch.setattr(well_made, "LARGE", (well_made.Case("resnet20", "cifar10", 1),))
    monkeypatch.setattr(well_made, "CASES", (well_made.SMALL, *well_made.LARGE))
    found = METHODS[method][""]
    score = found.score.__wrapped__.load()
    own = outside.Outside(method, method, Path(score.__code__.co_filename), score)
    points = well_made.examine(own, found)
    assert points["met"].all(), points["told"].tolist()
    assert {name for name, seen in well_made.looks_at(found).items() if seen} == sees


# 2. What does it keep?


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(kept, "others", lambda: [("random", ""), ("magnitude", "")])


@pytest.mark.usefixtures("few")
def test_magnitude_from_outside_is_magnitude(write, tmp_path):
    bench = battery(write(SIZE), settings=["sparsity=0.9", "device=cpu"], results=tmp_path)
    alike = kept.alike(bench.method, bench.networks(2), [0.9]).set_index(["other", "seed"])
    same = alike.loc[["magnitude", kept.STREAM]]
    assert (same[["correlation", "overlap", "agreement", "densities"]] == 1).all(axis=None)
    assert alike.loc[kept.WEIGHTS, "overlap"].min() > 0.99
    for chance in ("random", kept.SEED):
        assert alike.loc[chance, "agreement"].abs().max() < 0.05
        assert alike.loc[chance, "correlation"].abs().max() < 0.2
    assert kept.cost(bench.method, bench.networks(1)[0], 0.9) == 0
    curve = kept.collapse(bench.outside.label, bench.method, bench.networks(1)[0])
    assert curve.groupby("exponent")["kept"].sum().iloc[1] == round(97_552 / 10)


# 3. Does it matter which weights?


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["none", "shuffle", "reinit", "invert"])
@pytest.mark.parametrize(("code", "method"), [(SIZE, "magnitude"), (FLOW, "synflow")])
def test_from_outside_the_numbers_are_the_suites_own(write, tmp_path, code, method, ablation):
    given = {"ablation": ablation, "results_dir": tmp_path, "sparsity": 0.98, "epochs": 1}
    runs = (carry_out(configure(name, device="cpu", **given)) for name in (method, write(code)))
    ours, theirs = (run.experiment.folder for run in runs)
    one, other = untimed(ours), untimed(theirs)
    for tables in (one, other):
        tables["summary"] = tables["summary"].drop(columns=["method", "code_version"])
    assert_same_tables(one, other)
    assert (ours / "masks.safetensors").stat().st_size > 97_552 / 8
    version = pd.read_csv(theirs / "summary.csv")["code_version"][0]
    assert re.search(r" mine\.py:[0-9a-f]{12}$", version)


def test_the_battery_is_a_grid_without_what_is_published(write, tmp_path, monkeypatch):
    bench = battery(write(SIZE), settings=["seed=0,1"], results=tmp_path, iterations=3)
    assert len(bench.own) == 2 * 2 * 4
    assert {run.variant for run in bench.own} == {"iterations-3"}
    assert len(bench.others) == 2 * 2 * len(kept.others())
    rows = [
        dict.fromkeys(SUMMARY, 0) | {"method": run.method, "run_id": run.run_id}
        for run in bench.others[:5]
    ]
    (tmp_path / "published").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "published" / "summary.csv", index=False)
    monkeypatch.setattr("common.check.battery.PUBLISHED", tmp_path)
    again = battery(write(SIZE), settings=["seed=0,1"], results=tmp_path, iterations=3)
    _, jobs = batch.jobs_of(str(again.write()), [], again.results)
    assert {job.folder for job in jobs} == {run.folder for run in (*again.own, *again.others[5:])}
    assert not any(is_done(job.folder) for job in jobs)


# 4. The verdict

SETTING = {"dataset": "digits", "model": "small_vgg", "protocol": "quick", "epochs": 8}


def made_up(method: tuple[str, str], **means: float) -> pd.DataFrame:
    """Three seeds of everything, each ablation at its mean, with a spread of half a point."""
    rows = []
    cells = [(*method, ablation, mean) for ablation, mean in means.items() if ablation != "random"]
    cells.append(("random", "", "none", means["random"]))
    for name, variant, ablation, mean in cells:
        for seed in range(4):
            wobble = ((seed * 7 + len(ablation)) % 4 - 1.5) / 4
            row = {"method": name, "variant": variant, "ablation": ablation, "seed": seed}
            rows.append(row | SETTING | {"sparsity": 0.98, "test_accuracy": mean + wobble})
    return pd.DataFrame(rows)


ALIKE = pd.DataFrame(
    [
        (other, 0.98, seed, 0.1, 0.5, agreement, share)
        for seed in range(3)
        for other, agreement, share in (
            ("random", 0.0, 0.8),
            ("magnitude", 0.5, 0.9),
            (kept.STREAM, 1.0, 1.0),
            (kept.WEIGHTS, 0.97, 1.0),
            (kept.SEED, 0.0, 0.9),
        )
    ],
    columns=["other", "sparsity", "seed", "correlation", "overlap", "agreement", "densities"],
)
SEES = {"weights": True, "images": False, "labels": False, "random stream": False}


def test_sentences_follow_from_intervals():
    summary = made_up(("mine", ""), none=90, shuffle=90, reinit=87, invert=10, random=80)
    said = verdict.told(summary, ("mine", ""), ALIKE, SEES)
    assert "no more than its layer densities, as far as these seeds tell**: shuffled " in said
    assert re.search(
        r"on the weights that it was made for\*\*: weights redrawn −3\.\d\d ± 0\.", said
    )
    assert re.search(r"order of its scores means something\*\*: inverted −(80|79)\.", said)
    assert re.search(r"better than Random \(\+(10|9)\.\d\d ± 0\.\d\d\)", said)
    assert "looks at weights, as tried. It is data-free." in said
    assert "disguise" not in said
    few = verdict.told(summary[summary["seed"] < 2], ("mine", ""), ALIKE, SEES)
    assert "too few seeds" in few
    assert "better than" not in few


@pytest.mark.usefixtures("few")
def test_random_in_disguise_is_told_so(write, tmp_path):
    bench = battery(write(DISGUISE), settings=["sparsity=0.98", "device=cpu"], results=tmp_path)
    alike = kept.alike(bench.method, bench.networks(2), [0.98])
    looks = well_made.looks_at(bench.method)
    assert looks == dict.fromkeys(looks, False) | {"random stream": True}
    summary = made_up((bench.outside.label, ""), none=90, shuffle=90, random=80)
    said = verdict.told(summary, (bench.outside.label, ""), alike, looks)
    assert said.startswith(
        "**It is random pruning in disguise.** Which weights of a layer it keeps"
    )
    assert "nearly as Magnitude does" in said
    assert "looks at nothing of the network" in said


@pytest.mark.slow
def test_a_report_from_an_empty_folder(tmp_path, monkeypatch, capsys):
    """The page's own example, typed by hand, one seed and no training."""
    page = (cli.ROOT / "trials" / "your_method" / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    (command,) = re.findall(r"^trials (check \S+)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path(command.split()[1]).write_text(code)
    settings = ["-p", "seed=0", "-p", "sparsity=0.9", "-p", "epochs=0", "-p", "device=cpu"]
    assert cli.main([*command.split(), *settings, "--results", "out"]) == 0
    (folder,) = Path("out/check").glob("*@*/")
    assert {"check.html", "check.ipynb", "summary.csv"} <= {p.name for p in folder.iterdir()}
    html = (folder / "check.html").read_text()
    assert "too few seeds" in html
    assert not re.search(r"<(script|link|img)[^>]* (src|href)=\"http", html)
    assert len(pd.read_csv(folder / "summary.csv")) == 4 + len(kept.others())
    assert "It looks at weights, as tried. It is data-free." in capsys.readouterr().out
