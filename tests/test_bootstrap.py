"""The set-up cell on images that lack something, with and without a network."""

import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
import pytest

from common.base import bootstrap

ROOT = Path(__file__).resolve().parent.parent
NOWHERE = "http://127.0.0.1:9/simple"  # a package index that does not answer


# What the image has stays, what it lacks comes


def wheel(folder, name, version, *requires):
    """An empty package, as a wheel."""
    information = f"{name}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {one}\n" for one in requires)
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}"
        file.writestr(f"{information}/METADATA", about)
        file.writestr(
            f"{information}/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr(f"{information}/RECORD", "")
    return folder / f"{name}-{version}-py3-none-any.whl"


@pytest.fixture
def image(tmp_path):
    """A Python with an old torch and its numpy; `run(code)` there, `versions()` of what it has."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "image"], check=True)
    python = tmp_path / "image" / "bin" / "python"
    had = tmp_path / "had"
    present = [
        wheel(had, "torch", "2.3.0+cu121"),
        wheel(had, "numpy", "1.26.4"),
        wheel(had, "rich", "13.0"),
    ]
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": NOWHERE,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", *present], env=variables, check=True
    )

    class Image:
        def run(self, code):
            return subprocess.run(
                [python, "-c", textwrap.dedent(code)], env=variables, capture_output=True, text=True
            )

        def versions(self):
            code = (
                "import json, importlib.metadata as m\n"
                "print(json.dumps({d.name: d.version for d in m.distributions()}))"
            )
            return json.loads(self.run(code).stdout)

    return Image()


INSTALL = """
    from pathlib import Path
    from common.base import bootstrap

    bootstrap.KAGGLE = Path({kaggle!r})
    bootstrap.install_missing(Path({requirements!r}))
"""


@pytest.mark.slow
def test_the_images_torch_survives_whatever_is_installed_beside_it(image, tmp_path):
    attached = tmp_path / "kaggle" / "datasets" / "somebody" / "wheels"
    attached.mkdir(parents=True)
    wheel(attached, "torch", "2.9.0")
    wheel(attached, "torchvision", "0.24.0", "torch==2.9.0")
    wheel(attached, "torchvision", "0.18.0", "torch==2.3.0")
    wheel(attached, "torchbearer", "0.5.5", "torch>=1.0.0", "numpy", "helper")
    wheel(attached, "helper", "1.0")
    wheel(attached, "numpy", "2.3.0")
    wheel(attached, "rich", "14.0")
    wheel(attached, "pandas", "3.0", "numpy>=2")
    wheel(attached, "pandas", "2.2", "numpy>=1.26")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(
        "# a comment\ntorch>=2.4\ntorchvision>=0.18\ntorchbearer>=0.5.5   # why\nnumpy>=1.26\n"
        "pandas>=2.1\nrich>=13.4\njupyterlab>=4.0\n"
    )
    before = image.versions()
    code = INSTALL.format(kaggle=str(tmp_path / "kaggle"), requirements=str(requirements))
    done = image.run(code)
    assert done.returncode == 0, done.stderr
    said = "Installing torchvision>=0.18, torchbearer>=0.5.5, pandas>=2.1, rich>=13.4"
    assert done.stdout.strip() == said
    after = image.versions()
    assert after == {
        **before,
        **{"torchvision": "0.18.0", "torchbearer": "0.5.5", "helper": "1.0"},
        **{"pandas": "2.2", "rich": "14.0"},
    }
    assert after["torch"] == "2.3.0+cu121"
    again = image.run(code)
    assert (again.returncode, again.stdout) == (0, ""), "nothing is missing any more"


@pytest.mark.slow
def test_without_network_and_wheels_the_error_says_what_to_attach(image, tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("torch>=2.4\ntorchbearer>=0.5.5\n")
    code = INSTALL.format(kaggle=str(tmp_path / "kaggle"), requirements=str(requirements))
    done = image.run(code)
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("RuntimeError: torchbearer>=0.5.5 could not be installed.")
    assert "internet" in error
    assert 'pip download --no-deps --only-binary=:all: "torchbearer>=0.5.5"' in error
    # One of the wheels was forgotten: it is named.
    wheel(tmp_path / "kaggle", "unrelated", "1.0")
    wheel(tmp_path / "kaggle" / "wheels", "torchbearer", "0.5.5", "forgotten")
    error = image.run(code).stderr.strip().splitlines()[-1]
    assert "No matching distribution found for forgotten" in error
    assert "torchbearer" not in image.versions()


def test_nothing_is_installed_elsewhere(monkeypatch):
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(bootstrap, "missing", lambda *_: pytest.fail("not looked for"))
    bootstrap.prepare()


@pytest.mark.parametrize(
    "command",
    [["-c", "from common.base import bootstrap; bootstrap.prepare()"], ["-m", "trials", "list"]],
)
def test_without_docstrings_the_error_says_what_to_unset(command):
    command = [sys.executable, "-OO", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode > 0) == ("", True)
    assert "rror: PYTHONOPTIMIZE=2 (python -OO)" in done.stderr.splitlines()[-1]


def test_requirements_are_lower_bounds_that_leave_an_images_torch():
    lines = [
        line.split("#")[0].strip()
        for line in bootstrap.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    ]
    bounds = dict(line.split(">=") for line in filter(None, lines))
    assert [int(part) for part in bounds["torch"].split(".")] <= [2, 4]
    wanted, pinned = bootstrap.missing()
    assert wanted == []
    assert f"torch=={metadata.version('torch')}" in pinned


# Colab's image of August 2026: what it runs on.
COLAB = {
    **{"ipykernel": "6.17.1", "ipywidgets": "7.7.1", "jupyter_client": "7.4.9"},
    **{"ipython": "7.34.0", "traitlets": "5.7.1", "notebook": "6.5.7"},
}


@pytest.fixture
def colab(monkeypatch):
    """This Python with Colab's front end; `colab(name=version)`: with these as well, None: not
    there."""
    installed, original = dict(COLAB), metadata.version

    def version(name):
        found = installed[name.lower()] if name.lower() in installed else original(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    installed["jupyterlab"] = None
    monkeypatch.setattr(metadata, "version", version)
    return lambda **more: installed.update(more)


def test_nothing_of_colabs_front_end_is_installed_or_replaced(colab):
    wanted, pinned = bootstrap.missing()
    assert wanted == []
    assert {f"{name}=={version}" for name, version in COLAB.items()} <= set(pinned)
    assert not any(line.startswith("jupyterlab") for line in pinned)
    colab(torchbearer=None, papermill=None)
    wanted, pinned = bootstrap.missing()
    assert sorted(line.split(">=")[0] for line in wanted) == ["papermill", "torchbearer"]
    assert {f"{name}=={version}" for name, version in COLAB.items()} <= set(pinned)


@pytest.mark.parametrize("version", [None, "1.0"])
def test_a_front_end_that_is_old_or_missing_is_left_alone(colab, version):
    colab(**dict.fromkeys(COLAB, version))
    wanted, pinned = bootstrap.missing()
    assert wanted == []
    assert ("ipykernel==1.0" in pinned) == (version is not None)


def test_the_requirements_are_met_by_colabs_image():
    lines = bootstrap.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    bounds = dict(line.split("#")[0].strip().split(">=") for line in lines if ">=" in line)
    for name in COLAB.keys() & bounds.keys():
        assert not bootstrap._older(COLAB[name], bounds[name]), name


# The set-up cell


SETUP = next(
    cell.source
    for cell in nbformat.read(ROOT / "trials/synflow/synflow.ipynb", as_version=4).cells
    if cell.cell_type == "code"
)


def set_up(cwd, kaggle="nowhere", home="nowhere"):
    """Run the set-up cell in an empty folder `cwd`; `kaggle` and `home` in place of the real."""
    source = SETUP.replace("/kaggle/input", str(kaggle))
    source = source.replace('HOME = ""', f'HOME = "{home}"')
    assert str(kaggle) in source
    assert str(home) in source
    cwd.mkdir(exist_ok=True)
    # Without the site-packages, where the suite may be installed.
    command = [sys.executable, "-I", "-S", "-c", source]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def suite(tmp_path):
    """Makes a stand-in for the suite in a folder; it says where it was found."""

    def make(folder):
        (folder / "common" / "base").mkdir(parents=True)
        (folder / "common" / "base" / "__init__.py").touch()
        (folder / "common" / "base" / "bootstrap.py").write_text(
            "def prepare():\n    print('prepared', __file__)\n"
        )
        return folder

    return make


@pytest.mark.parametrize(
    "place", ["pruning", "pruning/pruning-at-initialization-main", "datasets/me/pruning/main"]
)
def test_the_suite_is_found_among_the_attached(suite, tmp_path, place):
    (tmp_path / "input" / "images" / "common").mkdir(parents=True)  # someone else's folder
    home = suite(tmp_path / "input" / place)
    done = set_up(tmp_path / "working", kaggle=tmp_path / "input")
    assert done.stdout.strip() == f"prepared {home / 'common' / 'base' / 'bootstrap.py'}"
    assert list((tmp_path / "working").iterdir()) == [], "nothing was cloned"


def test_the_suite_is_cloned_once_and_then_reused(suite, tmp_path):
    home = suite(tmp_path / "home")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], cwd=home, check=True)
    for address in (f"file://{home}", f"file://{tmp_path}/gone"):
        done = set_up(tmp_path / "working", home=address)
        base = tmp_path / "working" / "pruning-at-initialization" / "common" / "base"
        assert done.stdout.strip() == f"prepared {base / 'bootstrap.py'}", done.stderr


def test_without_network_the_set_up_says_what_to_attach(tmp_path):
    done = set_up(tmp_path / "working", home=f"file://{tmp_path}/gone")
    error = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(
        r"RuntimeError: Turn the internet on, or attach the repository .*gone as a data set", error
    )
