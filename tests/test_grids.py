"""Grid files: what is refused, what they expand to, and those that are shipped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from common import datasets
from common.base.errors import ConfigurationError
from common.base.files import make_writable
from common.sweep import claims, grid, plan
from common.sweep.estimate import Estimate, in_words
from common.sweep.plan import Job

METHODS = ["random", "magnitude", "SNIP", "grasp", "synflow", "ntk_sap", "prospr"]
GRIDS = Path(__file__).parents[1] / "trials" / "grids"
NOTEBOOKS = {method: Path(f"{method}.ipynb") for method in METHODS}
HEAD = "title: A title\ndescription: What it is.\n"


def load(tmp_path: Path, text: str, head: str = HEAD) -> grid.Grid:
    path = tmp_path / "mine.yaml"
    path.write_text(head + text)
    return grid.load(path, METHODS)


def planned(tmp_path: Path, text: str, *settings: str) -> list[Job]:
    return plan.plan(load(tmp_path, text), tmp_path / "out", NOTEBOOKS, grid.overrides(settings))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("runs: []", ["runs", "at least one block"]),
        ("runs: {method: SNIP}", ["runs", "list"]),
        ("runs:\n- {methud: SNIP}", ["block 1", "'methud'", "did you mean 'method'", "sparsity"]),
        ("runs:\n- {sparsity: 0.9}", ["block 1", "method is missing", "synflow"]),
        ("runs:\n- {method: snip2}", ["block 1", "'snip2'", "SNIP", "grasp"]),
        ("runs:\n- {method: SNIP, sparsity: []}", ["block 1", "sparsity", "empty list"]),
        ("runs:\n- {method: SNIP, sparsity: {a: 1}}", ["sparsity", "a value or a list"]),
        ("runs:\n- {method: SNIP, seed: [[1, 2]]}", ["seed", "a value or a list"]),
        ("runs:\n- {method: SNIP, results_dir: out}", ["results_dir", "--results"]),
        ("runs:\n- {method: SNIP, seed: 1, seed: 2}", ["'seed'", "twice"]),
        ("runs:\n- SNIP", ["block 1", "key: value"]),
        ("defaults: {seed: [1, 2]}\nruns:\n- {method: SNIP}", ["defaults", "seed", "one value"]),
        ("defaults: {sed: 1}\nruns:\n- {method: SNIP}", ["defaults", "'sed'", "'seed'"]),
        (
            "runs:\n- {method: SNIP}\nnote: x",
            ["'note'", "description, gpus, defaults, runs"],
        ),
        ("runs: [", ["not valid YAML"]),
        *(
            (f"runs:\n- {{method: SNIP, seed: {value}}}", ["not valid YAML"])
            for value in ("!!int x", "!!bool abc", "!!timestamp x", "2020-13-45", "9" * 5000)
        ),
        ("runs: " + "[" * 1000 + "]" * 1000, ["not valid YAML", "nested too deep"]),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(tmp_path, text)
    for word in ["mine.yaml", *words]:
        assert word in str(error.value)


def test_title_and_description_are_text_if_they_are_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="description must be"):
        load(tmp_path, "runs:\n- {method: SNIP}", head="title: A title\ndescription: [3]\n")
    assert load(tmp_path, "runs:\n- {method: SNIP}", head="").title == "mine"


def test_a_file_that_is_missing_or_a_name_that_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml"):
        grid.find("nowhere.yaml", GRIDS, METHODS)
    with pytest.raises(ConfigurationError, match=r"did you mean 'quick'.*frankle2021.*seed"):
        grid.find("quik", GRIDS, METHODS)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("{method: SNIP, sparsity: 1.0}", ["sparsity=1.0", "[0, 1)"]),
        ("{method: SNIP, sparsity: high}", ["sparsity='high'"]),
        ("{method: SNIP, ablation: shufle}", ["ablation", "'shufle'", "shuffle"]),
        ("{method: SNIP, seed: 1.5}", ["seed=1.5", "whole number"]),
        ("{method: SNIP, model: vgg16}", ["model='vgg16'", "8x8"]),
        ("{method: SNIP, variant: ler}", ["variant", "'ler'", "iterative"]),
        ("{method: SNIP, protocol: 7}", ["protocol='7'", "frankle2021"]),
    ],
)
def test_a_wrong_run_says_where_it_stands(tmp_path: Path, run: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        planned(tmp_path, f"runs:\n- {{method: random}}\n- {run}")
    for word in ["mine.yaml: block 2", "method='SNIP'", *words]:
        assert word in str(error.value)


def test_a_block_is_the_product_of_its_lists(tmp_path: Path) -> None:
    text = "defaults: {epochs: 1}\nruns:\n- {method: [SNIP, grasp], sparsity: [0.5, 0.9], seed: 3}"
    jobs = planned(tmp_path, text)
    chosen = [(job.method, job.parameters["sparsity"]) for job in jobs]
    assert chosen == [("SNIP", 0.5), ("SNIP", 0.9), ("grasp", 0.5), ("grasp", 0.9)]
    assert {job.parameters["seed"] for job in jobs} == {3}
    assert {job.parameters["epochs"] for job in jobs} == {1}
    assert jobs[0].folder == tmp_path / "out" / "SNIP" / jobs[0].run_id
    assert jobs[0].notebook == NOTEBOOKS["SNIP"]
    assert jobs[0].parameters["results_dir"] == str(tmp_path / "out")


def test_a_product_in_the_billions_is_an_error_at_once(tmp_path: Path) -> None:
    many = f"[{', '.join(map(str, range(2000)))}]"
    text = f"runs:\n- {{method: SNIP, seed: {many}, epochs: {many}, batch_size: {many}}}"
    with pytest.raises(ConfigurationError, match="block 1 is 8,000,000,000 runs, more than"):
        planned(tmp_path, text)


def test_a_block_overrides_the_defaults(tmp_path: Path) -> None:
    text = "defaults: {seed: 1, method: random}\nruns:\n- {seed: 2}\n- {method: SNIP}"
    jobs = planned(tmp_path, text)
    assert [(job.method, job.parameters["seed"]) for job in jobs] == [("random", 2), ("SNIP", 1)]


def test_identical_runs_become_one(tmp_path: Path) -> None:
    # Spelt differently: the protocol's own values are the default ones.
    text = "runs:\n- {method: SNIP, sparsity: [0.5, 0.5]}\n- {method: SNIP, sparsity: 0.5, seed: 0}"
    assert len(planned(tmp_path, text)) == 1


def test_settings_of_the_command_line(tmp_path: Path) -> None:
    text = "runs:\n- {method: SNIP, sparsity: [0.5, 0.9]}\n- {method: random}"
    jobs = planned(tmp_path, text, "sparsity=0.7", "seed=1,2", "epochs=[0]")
    chosen = [tuple(job.parameters[k] for k in ("sparsity", "seed", "epochs")) for job in jobs]
    assert chosen == [(0.7, 1, 0), (0.7, 2, 0)] * 2
    for setting, words in {
        "sparsity": "name=value",
        "spars=1": "sparsity",
        "seed=[1": "YAML",
        "seed=!!int x": "YAML",
    }.items():
        with pytest.raises(ConfigurationError, match=words):
            grid.overrides([setting])


def test_a_relative_data_folder_is_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = planned(tmp_path, "runs:\n- {method: SNIP}", "data_dir=images")
    assert job.parameters["data_dir"] == str(tmp_path / "images")


def test_data_is_checked_once_for_each_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(datasets, "check", lambda *arguments: checked.append(arguments))
    text = "runs:\n- {method: [SNIP, grasp], model: lenet_300_100, dataset: [mnist, digits]}"
    plan.check_data(planned(tmp_path, text))
    assert checked == [("mnist", None), ("digits", None)]


def test_a_results_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        make_writable(tmp_path / "file" / "results", "choose a folder with --results")


@pytest.mark.parametrize(
    ("name", "number"),
    [("quick", 41), ("seed", 81), ("frankle2021", 3610), ("tanaka2020", 732), ("mnist", 738)],
)
def test_the_shipped_grids(tmp_path: Path, name: str, number: int) -> None:
    shipped = grid.find(name, GRIDS, METHODS)
    jobs = plan.plan(shipped, tmp_path, NOTEBOOKS)
    assert len(jobs) == number
    assert f"{number} runs" in (GRIDS / f"{name}.yaml").read_text()
    assert {job.parameters["protocol"] for job in jobs} == {name}
    assert not list(tmp_path.iterdir()), "planning touches nothing"


def test_the_lengths_of_schedule_length_and_of_cifar10_are_no_run_twice(tmp_path: Path) -> None:
    def jobs(name: str) -> list[Job]:
        return plan.plan(grid.find(name, GRIDS, METHODS), tmp_path, NOTEBOOKS)

    def cells(name: str) -> list[tuple]:
        keys = ("seed", "sparsity", "ablation", "dataset", "model", "protocol")
        return sorted((j.method, *(j.parameters[k] for k in keys)) for j in jobs(name))

    lengths = jobs("schedule_length")
    assert len(lengths) == 84
    assert "84 runs" in (GRIDS / "schedule_length.yaml").read_text()
    assert not {j.name for j in lengths} & {j.name for j in jobs("cifar10")}
    # Four times the same runs; the cifar10 grid has them once more, in its protocol's 15 epochs.
    assert set(cells("schedule_length")) <= set(cells("cifar10"))
    assert set(Counter(cells("schedule_length")).values()) == {4}
    assert {j.parameters["epochs"] for j in lengths} == {2, 4, 8, 30}


def test_frankle_and_tanaka_sparsities() -> None:
    def sparsities(name: str) -> list[float]:
        return sorted({run["sparsity"] for _, run in grid.find(name, GRIDS, METHODS).runs()})

    assert sparsities("frankle2021")[1:] == pytest.approx(
        [1 - 0.8**k for k in range(1, 19)], abs=6e-4
    )
    assert sparsities("tanaka2020") == pytest.approx(
        [1 - 10 ** -(k / 4) for k in range(13)], abs=1e-6
    )


def test_expected_times_are_learned(tmp_path: Path) -> None:
    text = "runs:\n- {method: SNIP, epochs: [1, 3], seed: [0, 1]}\n- {method: grasp, epochs: 3}"
    short, _, long, other, grasp = planned(tmp_path, text)
    estimate = Estimate()
    assert estimate.expect(short) is None
    assert estimate.total([short]) is None
    for job in (short, long):
        job.folder.mkdir(parents=True)
        claims.take(job.folder).end("done")
        (job.folder / "summary.csv").write_text("")
        file = job.folder / "attempt-1.json"
        file.write_text(file.read_text().replace('"seconds": 0.0', f'"seconds": {job.cost}'))
    estimate.learn_from_folders([short, long, other])
    assert estimate.expect(other) == long.cost
    assert estimate.expect(grasp) == pytest.approx(grasp.cost), "scaled from the others"
    assert estimate.longest_first([short, grasp, long]) == [grasp, long, short]


def test_durations_in_words() -> None:
    words = [in_words(seconds) for seconds in (None, 12.3, 89, 125, 5400, 36000 + 299)]
    assert words == ["unknown", "12 s", "89 s", "2 min", "1 h 30 min", "10 h 05 min"]


def test_a_method_can_be_set_for_every_run(tmp_path: Path) -> None:
    text = "runs:\n- {method: [random, SNIP], sparsity: [0.5, 0.9]}"
    assert {job.method for job in planned(tmp_path, text, "method=grasp")} == {"grasp"}
    assert len(planned(tmp_path, text, "method=grasp")) == 2  # what became identical is one run
    with pytest.raises(ConfigurationError, match=r"'gasp'.*did you mean 'grasp'"):
        planned(tmp_path, text, "method=gasp")
