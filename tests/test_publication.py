"""What the repository shows comes from its tables: figures, notebooks, the README's numbers."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from common import plots
from common.base.errors import ConfigurationError
from common.commands import publish
from common.results.collected import Collected, collect, write_collected
from trials.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in publish.PAGES}
TABLES = sorted(FIGURES.glob("results/*/*.csv"))


def published() -> dict:
    """The parameters with which figures/rendered.ipynb was made."""
    return nbformat.read(FIGURES / "rendered.ipynb", as_version=4).metadata["given"]


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def texts(svg: str) -> list[str]:
    return sorted(re.findall(r"<!-- (.*?) -->", svg, re.DOTALL))


def drawn_by(svg: str) -> str:
    return re.search(r"Matplotlib v([\d.]+)", svg)[1]


@pytest.mark.slow
def test_publishing_the_committed_tables_again_changes_nothing(tmp_path):
    home, (grid, source) = tmp_path / "home", (published()["grid"], published()["reference"])
    shutil.copytree(FIGURES, home / "figures")
    for name in PAGES:
        shutil.copy(ROOT / name, home / name)
    for drawn in [
        *home.glob("figures/*.png"),
        *home.glob("figures/*.svg"),
        *home.glob("figures/*.csv"),
    ]:
        drawn.unlink()
    publish.publish(FIGURES / "results" / grid, source, Console(quiet=True), home)
    for name, text in PAGES.items():
        assert (home / name).read_text(encoding="utf-8") == text
    again, before = home / "figures", FIGURES
    names = [sorted(p.name for p in folder.glob("*.*")) for folder in (before, again)]
    assert names[0] == names[1]
    assert len([name for name in names[0] if name.endswith(".svg")]) >= 10
    for path in [*before.glob("*.csv"), *before.glob(f"results/{grid}/*.csv")]:
        assert path.read_text() == (again / path.relative_to(before)).read_text(), path.name
    for path in before.glob("*.svg"):
        ours, theirs = path.read_text(), (again / path.name).read_text()
        # Another matplotlib may place things a little differently, but says and draws the same.
        assert texts(ours) == texts(theirs), path.name
        assert ours.count("clip-path") == theirs.count("clip-path"), path.name
        if drawn_by(ours) == drawn_by(theirs):
            assert ours == theirs, path.name
            picture = path.with_suffix(".png").name
            assert np.abs(pixels(before / picture) - pixels(again / picture)).max() <= 2, picture
    told = [
        [
            "".join(output.get("data", {}).get("text/html", ""))
            for cell in nbformat.read(folder / "rendered.ipynb", as_version=4).cells
            for output in cell.get("outputs", [])
        ]
        for folder in (before, again)
    ]
    assert told[0] == told[1]


def test_every_result_is_of_a_known_state_of_the_code():
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True
    )
    folders = set()
    for path in TABLES:
        table = pd.read_csv(path, dtype=str)
        if "code_version" not in table:
            continue
        folders.add(path.parent)
        for version in table["code_version"].unique():
            assert re.fullmatch(r"[0-9a-f]{12}", version), f"{path}: {version}"
            if shallow.stdout.strip() == "false":
                known = ["git", "merge-base", "--is-ancestor", version, "HEAD"]
                done = subprocess.run(known, cwd=ROOT, capture_output=True, text=True)
                assert done.returncode == 0, f"{path}: {version}: {done.stderr}"
    assert folders == {path.parent for path in TABLES}


def findings() -> dict[str, str]:
    return pd.read_csv(FIGURES / "findings.csv", index_col="key")["text"].to_dict()


@pytest.mark.parametrize("name", PAGES)
def test_pages_show_the_tables_and_findings_of_what_is_published(name):
    summary = collect(FIGURES / "results" / published()["grid"]).summary
    tables = publish.page_tables(summary, published()["reference"])
    assert publish.with_tables(PAGES[name], tables) == PAGES[name]
    assert publish.with_findings(PAGES[name], findings()) == PAGES[name]


@pytest.mark.parametrize("name", PAGES)
def test_no_result_stands_on_a_page_without_its_table(name):
    text = re.sub(r"<!-- (table|finding): .*?<!-- /\1 -->", "", PAGES[name], flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)|`[^`]*`|arXiv\s[\d.]+|Python [\d.]+ to [\d.]+", "", text)
    # Accuracies, differences, counts of runs; the level of the intervals is none.
    assert not re.findall(r"\d+\.\d+|[+−]\d|\d+ points|(?<!95) percent (?!t?-?interval)\d", text)


def test_a_sentence_that_no_notebook_computes_cannot_be_quoted():
    text = "<!-- finding: a -->old<!-- /finding --> and <!-- finding: b --><!-- /finding -->"
    after = publish.with_findings(text, {"a": "new", "b": "+1.0 [0.5, 1.5]", "c": "other"})
    assert re.sub(r"<!--.*?-->", "", after) == "new and +1.0 [0.5, 1.5]"
    with pytest.raises(ConfigurationError, match="no finding is called b"):
        publish.with_findings(text, {"a": "new"})


def row(**changes):
    plain = {"method": "SNIP", "variant": "", "ablation": "none", "dataset": "digits"}
    plain |= {"model": "small_vgg", "protocol": "quick", "epochs": 1, "seed": 0, "sparsity": 0.9}
    plain |= {"run_id": "a", "code_version": "0123456789ab", "test_accuracy": 50.0}
    return plain | changes


@pytest.mark.parametrize("version", ["unknown", "0123456789ab+", ""])
def test_results_of_uncommitted_code_are_not_published(version):
    with pytest.raises(ConfigurationError, match="is not a commit"):
        publish.check(pd.DataFrame([row(), row(seed=1, code_version=version)]))


def test_the_reference_that_a_page_shows_is_asked_for(tmp_path):
    write_collected(collect(FIGURES / "results" / published()["grid"]), tmp_path / "grid")
    (tmp_path / "README.md").write_text("<!-- table: published -->\n<!-- /table -->")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/README.md").touch()
    with pytest.raises(ConfigurationError, match=r"^--reference SOURCE is missing.*tanaka2020"):
        publish.publish(tmp_path / "grid", None, Console(quiet=True), tmp_path)
    assert not (tmp_path / "figures/results").exists()


def test_results_of_several_settings_are_not_published_together(tmp_path):
    runs = collect(FIGURES / "results" / published()["grid"])
    runs.summary.loc[0, "epochs"] += 1
    write_collected(runs, tmp_path)
    with pytest.raises(ConfigurationError, match="one setting at a time"):
        publish.publish(tmp_path, None, Console(quiet=True), tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_the_run_that_is_shown_is_plain_and_nearest_to_90_percent():
    runs = pd.DataFrame(
        [
            row(sparsity=0.98, run_id="sparser"),
            row(sparsity=0.9, run_id="inverted", ablation="invert"),
            row(sparsity=0.9, run_id="other form", variant="iterative"),
            row(sparsity=0.9, run_id="second", seed=1),
            row(sparsity=0.9, run_id="first"),
            row(method="grasp", sparsity=0.6, run_id="only"),
            row(method="prospr", ablation="shuffle", run_id="never"),
            row(method="lottery_ticket", variant="levels-3_init-xavier", run_id="xavier"),
            row(method="lottery_ticket", variant="levels-3", run_id="default"),
        ]
    )
    assert publish.representatives(runs) == {
        **{"SNIP": "first", "grasp": "only", "lottery_ticket": "default"}
    }


def test_a_published_notebook_says_nothing_of_its_machine(tmp_path):
    notebook = nbformat.v4.new_notebook(
        metadata={"papermill": {"input_path": "/somewhere"}, "widgets": {"state": {}}}
    )
    cell = nbformat.v4.new_code_cell("seed = 0  # a stream\ndata_dir = None\nepochs = None")
    cell.metadata = {"tags": ["parameters"]}
    given = nbformat.v4.new_code_cell(
        '# Parameters\nseed = 3\ndata_dir = None\nresults_dir = "/somewhere"\nepochs = 2'
    )
    given.metadata = {"tags": ["injected-parameters"], "papermill": {}, "execution": {}}
    plain = nbformat.v4.new_code_cell("data_dir = 1", metadata={"tags": [], "execution": {}})
    notebook.cells = [cell, given, plain]
    nbformat.write(notebook, tmp_path / "a.ipynb")
    cleaned = publish.cleaned(tmp_path / "a.ipynb")
    assert cleaned.cells[0].source == "seed = 3  # a stream\ndata_dir = None\nepochs = 2"
    assert (cleaned.cells[1].source, cleaned.cells[1].metadata) == ("data_dir = 1", {})
    assert cleaned.metadata == {
        "language_info": {"name": "python"},
        "given": {"seed": 3, "epochs": 2},
    }
    assert "/somewhere" not in json.dumps(cleaned)


@pytest.fixture
def notebook(tmp_path):
    def with_code(code, **about):
        cells = [nbformat.v4.new_code_cell(code, metadata=about)]
        kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}}
        path = tmp_path / "study.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
        return path

    return with_code


def test_a_rendered_study_is_its_source_executed(notebook):
    path = notebook("print(6 * 7)")
    assert main(["render", str(path)]) == 0
    (cell,) = nbformat.read(path.with_name("rendered.ipynb"), as_version=4).cells
    assert (cell.source, cell.outputs[0].text) == ("print(6 * 7)", "42\n")
    assert not nbformat.read(path, as_version=4).cells[0].outputs


def test_a_rendered_notebook_has_the_parameters_of_the_command(notebook, capsys):
    path = notebook("seed = 0\ndataset = None", tags=["parameters"])
    assert main(["render", str(path), "-p", "seed=3", "-p", "dataset=cifar10"]) == 0
    given = nbformat.read(path.with_name("rendered.ipynb"), as_version=4).metadata["given"]
    assert given == {"seed": 3, "dataset": "cifar10"}
    assert main(["render", str(path), "-p", "sed=3"]) == 2
    assert "-p parameter='sed' is not known (did you mean 'seed'?)" in capsys.readouterr().err


def test_a_study_that_fails_leaves_the_earlier_copy(notebook, capsys):
    path = notebook("raise ValueError('no such table')")
    path.with_name("rendered.ipynb").write_text("earlier")
    assert main(["render", str(path)]) == 1
    assert "study.ipynb failed: ValueError: no such table" in capsys.readouterr().err
    assert path.with_name("rendered.ipynb").read_text() == "earlier"


@pytest.mark.parametrize("name", ["rendered.ipynb", "missing.ipynb", "study.py"])
def test_only_source_notebooks_are_rendered(name, tmp_path, capsys):
    if name != "missing.ipynb":
        (tmp_path / name).write_text("{}")
    assert main(["render", str(tmp_path / name)]) == 2
    assert f"{name} is not a source notebook" in capsys.readouterr().err


def test_a_grid_published_beside_another_keeps_earlier_runs_and_the_figures(tmp_path):
    def part(name, shift=0.0):
        """A grid's folder with two of the committed runs in it."""
        runs = collect(FIGURES / "results" / published()["grid"])
        chosen = runs.summary.query("method == @name")["run_id"].iloc[:2]
        tables = {}
        for table in ("summary", "epochs", "layers"):
            whole = getattr(runs, table)
            part = whole[(whole["method"] == name) & whole["run_id"].isin(chosen)]
            tables[table] = part.reset_index(drop=True)
        tables["summary"]["test_accuracy"] += shift
        root = tmp_path / f"{name}{shift}" / "grid"
        write_collected(Collected(**tables), root)
        return root, tables["summary"]

    home = tmp_path / "home"
    console = Console(quiet=True)
    first, random = part("random")
    second, _ = part("SNIP")
    changed, shifted = part("SNIP", shift=1.0)
    for root in (first, second, changed):
        publish.publish_beside(root, console, home)
    found = collect(home / "figures" / "results" / "grid")
    expected = pd.concat([shifted, random], ignore_index=True)
    pd.testing.assert_frame_equal(found.summary, expected)
    for table in (found.epochs, found.layers):
        assert set(table["run_id"]) == set(expected["run_id"])
        assert not table.duplicated().any()
    assert not (home / "README.md").exists()
    assert [path.name for path in (home / "figures").iterdir()] == ["results"]


def test_published_curves_are_for_the_figures(capsys):
    assert main(["publish", "mnist", "--beside", "--reference", "mge2024"]) == 2
    assert "--reference: the figures are not drawn with --beside" in capsys.readouterr().err


def test_a_table_takes_its_place_in_the_readme():
    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    before = "Above\n<!-- table: one -->\nold\n<!-- /table -->\nbelow"
    after = publish.with_tables(before, {"one": table})
    rows = "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |\n"
    assert after == f"Above\n<!-- table: one -->\n{rows}<!-- /table -->\nbelow"
    assert publish.with_tables(after, {"one": table}) == after
    with pytest.raises(ConfigurationError, match="no table is called one"):
        publish.with_tables(before, {"two": table})


def test_effects_are_differences_seed_by_seed_with_their_interval():
    runs = pd.DataFrame(
        [
            *(row(test_accuracy=80.0 + 9 * s, seed=s) for s in (0, 1, 2)),
            *(row(test_accuracy=81.0 + 10 * s, seed=s, ablation="shuffle") for s in (0, 1, 2)),
            row(test_accuracy=79.0, ablation="reinit"),  # one seed
            row(test_accuracy=90.0, seed=7, ablation="reinit"),  # its counterpart was not run
            row(test_accuracy=10.0, ablation="invert", sparsity=0.5),  # nothing to compare with
            row(sparsity=0.0, test_accuracy=90.0),
        ]
    )
    shuffled, redrawn = plots.ablation_effects(runs).to_dict("records")
    half = 4.302653 / 3**0.5  # t(0.975; 2), and the differences are 1, 2, 3
    assert (shuffled["method"], shuffled["ablation"], shuffled["baseline"]) == (
        *("SNIP", "shuffle"),
        "none",
    )
    assert [shuffled[name] for name in ("mean", "low", "high", "n")] == pytest.approx(
        [2, 2 - half, 2 + half, 3]
    )
    assert (redrawn["mean"], redrawn["n"]) == (-1, 1)
    assert np.isnan(redrawn["low"])
    effects = plots.by_sparsity(plots.ablation_effects(runs))
    assert effects.loc[("SNIP", "mask shuffled"), "90%"] == "+2.00 ± 2.48 (3)"
    assert effects.loc[("SNIP", "weights redrawn"), "90%"] == "−1.00 (1)"
    assert effects.shape == (2, 1)


def test_a_difference_is_marked_where_its_interval_excludes_zero():
    runs = [row(method="random", test_accuracy=50.0 + s, seed=s) for s in range(3)]
    for method, differences in (("SNIP", (4, 5, 6)), ("grasp", (-4, -5, -6)), ("synflow", (9, 0))):
        for seed, difference in enumerate(differences):
            runs.append(row(method=method, test_accuracy=50.0 + seed + difference, seed=seed))
    runs.append(row(ablation="shuffle"))  # only unmodified ones are compared
    table = plots.by_sparsity(plots.random_compared(pd.DataFrame(runs)))
    assert list(table.index) == ["SNIP", "GraSP", "SynFlow"]
    assert list(table["90%"]) == [
        "+5.00 ± 2.48 (3) ▲",
        "−5.00 ± 2.48 (3) ▼",
        "+4.50 ± 57.18 (2)",
    ]


def test_published_accuracies_are_compared_where_both_have_one():
    ours = [row(test_accuracy=80.0), row(test_accuracy=82.0, seed=1), row(sparsity=0.5)]
    ours = pd.DataFrame([*ours, row(method="random", test_accuracy=60.0)])
    uniform = row(method="random", variant="uniform", test_accuracy=61.0)
    theirs = pd.DataFrame([row(test_accuracy=85.5), uniform])
    theirs = theirs.assign(source="mge2024", replicates=[3, None])
    both = plots.beside_published(ours, theirs)
    assert list(both["difference"]) == [-1, -4.5]
    schedule = "1 epochs, theirs 160"
    assert plots.published_table(both).to_numpy().tolist() == [
        ["Random", "unmodified", "90%", "60.00 (1)", "61.00", "−1.00", schedule],
        [
            *("SNIP", "unmodified", "90%", "81.00 ± 12.71 (2)", "85.50", "−4.50"),
            f"{schedule}; 2 runs, theirs 3",
        ],
    ]
    alike = plots.beside_published(ours.assign(epochs=160), theirs)
    assert list(alike["likely_reason"]) == ["", "2 runs, theirs 3"]
    elsewhere = theirs.assign(sparsity=0.123)
    assert plots.beside_published(ours, elsewhere).empty
    assert plots.beside_published(ours, elsewhere.iloc[:0]).empty
    with pytest.raises(ConfigurationError, match="choose one source"):
        plots.beside_published(ours, pd.concat([theirs, theirs.assign(source="wang2020")]))


def test_the_order_of_methods_is_compared_also_where_it_is_another():
    accuracies = {"random": (60, 61), "SNIP": (70, 64), "grasp": (65, 63), "synflow": (68, 62)}
    ours = pd.DataFrame([row(method=m, test_accuracy=a) for m, (a, _) in accuracies.items()])
    shuffled = ours.assign(ablation="shuffle", test_accuracy=99.0)
    theirs = pd.DataFrame([row(method=m, test_accuracy=b) for m, (_, b) in accuracies.items()])
    theirs = pd.concat([theirs, theirs.assign(ablation="shuffle")])
    theirs = theirs.assign(source="mge2024", replicates=3)
    orders = plots.orders_compared(plots.beside_published(pd.concat([ours, shuffled]), theirs))
    assert orders[["sparsity", "n", "rho"]].to_numpy().tolist() == [[0.9, 4, pytest.approx(0.8)]]
    assert orders["least_p"].iloc[0] == pytest.approx(2 / 24)
    (shown,) = plots.orders_table(orders).to_numpy().tolist()
    ends = ["SNIP, SynFlow, GraSP, Random", "SNIP, GraSP, SynFlow, Random"]
    assert shown == ["90%", 4, "0.80", "0.33", "0.08", *ends]
    upside_down = theirs.assign(test_accuracy=-theirs["test_accuracy"])
    orders = plots.orders_compared(plots.beside_published(ours, upside_down))
    assert plots.orders_table(orders)["Spearman's ρ"].to_list() == ["−0.80"]
