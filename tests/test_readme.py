"""The README's own commands and code, run as they stand there."""

import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from common.pruning import METHODS
from common.sweep.grid import load
from common.training.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "trials/README.md", "trials/grids/README.md", "common/README.md")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(language: str, *names: str) -> list[str]:
    """The code blocks of some pages, in their order."""
    return re.findall(rf"```{language}\n(.*?)```", "".join(map(page, names)), re.DOTALL)


COMMANDS = [
    line.split("  #")[0].strip()
    for block in blocks("bash", *PAGES)
    for line in block.splitlines()
    if line
]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_has_the_target(command):
    shown = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "trials run quick" in shown.stdout or "pytest" in shown.stdout


@pytest.mark.slow
def test_notebook_and_batch_commands_run_in_a_copy(tmp_path):
    clone(tmp_path)
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    commands = [c for c in COMMANDS if not c.startswith("make") and "middling" not in c]
    assert len(commands) >= 8
    for command in commands:
        # Two runs say as much about the command as forty.
        if "run quick" in command and "dry" not in command:
            command += " -p method=magnitude -p ablation=none"
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert len(list(tmp_path.glob("results/quick/magnitude/*/summary.csv"))) == 3
    assert (tmp_path / "results/quick/summary.csv").is_file()
    assert (tmp_path / "results/quick/figures/accuracy.png").is_file()


@pytest.mark.parametrize("name", ["README.md", "common/README.md"])
def test_pruning_in_three_lines(name):
    code = blocks("python", name)[0]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    names = {"model": model, "images": images, "labels": labels, "optimizer": optimizer}
    exec(code, names)
    assert int((model[1].weight != 0).sum()) == 64
    assert int(names["masks"]["1.weight"].sum()) == 64


def clone(folder: Path) -> None:
    """The tracked files as they are now."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())


INSTALLED = """
import sys
from importlib.metadata import entry_points, requires

(trials,) = entry_points(group="console_scripts", name="trials")
assert any(line.startswith("torch>=") for line in requires("pruning-at-initialization"))
sys.exit(trials.load()(["run", "quick", "--dry-run"]))
"""


@pytest.mark.slow
def test_what_pip_installs_runs_from_outside_the_clone(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    clone(tmp_path / "clone")
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    told = [sys.executable, "-c", build]
    done = subprocess.run(told, cwd=tmp_path / "clone", capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]) as wheel:
        wheel.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    options = {"cwd": tmp_path / "elsewhere", "env": environment, "capture_output": True}
    done = subprocess.run([sys.executable, "-c", INSTALLED], **options, text=True)
    assert done.stdout.endswith("41 runs, 0 done, 41 left; none started\n"), done.stderr
    read = {".ipynb", ".yaml", ".csv"}
    clones = [
        p for n in ("common", "trials", "figures") for p in (tmp_path / "clone" / n).rglob("*")
    ]
    there = {p.relative_to(tmp_path / "clone") for p in clones if p.suffix in read}
    installed = {p.relative_to(tmp_path / "site") for p in (tmp_path / "site").rglob("*")}
    assert there <= installed


def follow_adding_to_it(folder: Path) -> None:
    """In a clone, do what common/README.md says: the first command, and every snippet put into the
    file that its first line names."""
    subprocess.run([sys.executable, "-m", "trials", "new", "middling"], cwd=folder, check=True)
    text = page("common/README.md").partition("## Adding to it")[2].partition("\n## ")[0]
    snippets = re.findall(r"```python\n# (\S+?)(, at its end)?\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == text.count("```python") == 5
    for name, at_end, code in snippets:
        path = folder / name
        before = path.read_text(encoding="utf-8") + "\n\n" if at_end else ""
        path.write_text(before + code, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "trials", "forms"], cwd=folder, check=True)


RUN_IT = """
from common.runs.experiment import configure
from common.runs.run import Run

chosen = {"variant": "in_ten_rounds", "ablation": "mirror", "model": "perceptron", "epochs": 0}
run = Run(configure("middling", **chosen))
run.prune(), run.train()
print(run.save()[["parameters_prunable", "parameters_kept"]].values.tolist())
"""


@pytest.mark.slow
def test_what_the_readme_adds_is_added_by_following_it(tmp_path):
    clone(tmp_path)
    follow_adding_to_it(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", RUN_IT], cwd=tmp_path, capture_output=True, text=True
    )
    size = 64 * 64 + 64 * 10
    assert done.stdout == f"[[{size}, {round(0.1 * size)}]]\n", done.stderr
    story = (tmp_path / "trials/middling/middling.ipynb").read_text()
    for offered in ("mirror", "perceptron", "in_ten_rounds"):
        assert offered in story
    assert "mirror" in (tmp_path / "trials/SNIP/SNIP.ipynb").read_text()


@pytest.mark.slow
def test_a_method_so_added_runs_is_drawn_and_leaves_the_tests_green(tmp_path):
    clone(tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    follow_adding_to_it(tmp_path)
    few = ["-p", "sparsity=0.9", "-p", "epochs=1"]
    for command in [c for c in COMMANDS if "method=random,middling" in c]:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(command)[2:], *few],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert len(list(tmp_path.glob("results/quick/middling/*/summary.csv"))) == 2
    assert (tmp_path / "results/quick/figures/accuracy.png").is_file()
    files = ["house", "notebooks", "readme", "registry", "cli", "experiment", "grids"]
    tests = [f"tests/test_{name}.py" for name in files]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "not slow", *tests, "-k", "not adds"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


FURTHER = (
    "trials/your_method/README.md",
    "figures/README.md",
    "common/sweep/README.md",
    "tests/README.md",
)


@pytest.mark.parametrize("name", [*PAGES, *FURTHER])
def test_links_within_the_repository_lead_somewhere(name):
    path = ROOT / name
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{path}: {target}"
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), f"{path}: {target}"


def test_the_grid_in_the_readme_is_a_grid(tmp_path):
    path = tmp_path / "order.yaml"
    path.write_text(blocks("yaml", "trials/grids/README.md")[0], encoding="utf-8")
    assert len(list(load(path, METHODS).runs())) == 9 + 6


def test_the_protocol_table_says_what_the_code_does():
    for name, protocol in PROTOCOLS.items():
        row = re.search(rf"^\| `{name}` \|(.*,.*,.*,.*)$", page("trials/README.md"), re.MULTILINE)[
            1
        ]
        assert f"| {protocol.epochs}, {protocol.batch_size} |" in row
        decay = f"{protocol.weight_decay:.0e}".replace("e-0", "e-")
        assert f"| {protocol.learning_rate:g}, wd {decay}" in row
        milestones = ", ".join(map(str, protocol.milestones))
        constant = f"x{protocol.gamma:g} at {milestones}" if milestones else "none"
        schedules = {"steps": constant, "linear": "linear to 0"}
        assert f"| {schedules[protocol.schedule]} |" in row
        assert ("Nesterov" in row) == protocol.nesterov
        assert ("no momentum" in row) == (protocol.momentum == 0)
        assert protocol.momentum in (0, 0.9)
        assert ("U(0,1)" in row) == (protocol.batchnorm == "uniform")
        assert ("LeCun" in row) == (protocol.init == "lecun_normal")
        assert ("flip, crop" in row) == (protocol.augment == "flip_crop")


def test_the_method_table_lists_every_variant():
    for method, variants in METHODS.items():
        row = re.search(rf"^\| `{method}` \|(.*)$", page("trials/README.md"), re.MULTILINE)[1]
        for variant in filter(None, variants):
            assert f"`{variant}`" in row.split("|")[-2]


def test_every_line_of_the_fault_list_names_its_test():
    text = page("trials/grids/README.md")
    table = text.partition("What happens when something breaks")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(lines) >= 15
    for line in lines:
        file, name = re.search(r"`(test_\w+\.py)::(test_\w+)` \|$", line).groups()
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), line
