"""A grid file -> the parameters of its runs.

title: ...
description: ...
gpus: 2                            # optional; that share the training of each run
defaults: {protocol: quick}        # optional; every block starts from them
runs:
  - method: [SNIP, synflow]        # a block is the product of its lists
    sparsity: [0.6, 0.95]
    ablation: none
  - {method: path/to/file.py:name}   # from outside, see common.pruning.outside
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.base.errors import ConfigurationError, shown, unknown
from common.pruning import outside
from common.runs.experiment import PARAMETERS
from common.runs.options import whole
from common.runs.registry import option_names

MOST = 100_000  # runs of a block
_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Grid:
    """A batch of runs; `blocks` hold the values of each key, their product is a block's runs."""

    name: str
    path: Path
    title: str
    description: str
    blocks: tuple[Mapping[str, list], ...]
    gpus: int = 1

    def runs(self, overrides: Mapping[str, list] | None = None) -> Iterator[tuple[str, dict]]:
        """(where it stands, {method and parameters}) of every run, in the file's order.

        `overrides` replace a parameter's values in every block.
        """
        for number, block in enumerate(self.blocks, 1):
            values = {**block, **(overrides or {})}
            if (runs := math.prod(map(len, values.values()))) > MOST:
                raise ConfigurationError(
                    f"{self.path}: block {number} is {runs:,} runs, more than {MOST:,}: its lists "
                    "multiply"
                )
            for combination in itertools.product(*values.values()):
                yield f"{self.path}: block {number}", dict(zip(values, combination, strict=True))


def keys() -> tuple[str, ...]:
    """What a run may be told: its method, the parameters of all, those that some trials have."""
    common = (name for name in PARAMETERS if name != "results_dir")
    return ("method", *common, *option_names())


def names(folder: Path) -> list[str]:
    """The grids in `folder`."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find(name: str, folder: Path, methods: Iterable[str]) -> Grid:
    """The grid `name`: a file of `folder`, or the path of a YAML file.

    Raises ConfigurationError as `load` does, or with the choices.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return load(Path(name), methods)
    if name not in names(folder):
        raise unknown("grid", name, [*names(folder), "or the path of a YAML file"])
    return load(folder / f"{name}.yaml", methods)


def load(path: Path, methods: Iterable[str]) -> Grid:
    """Read a grid file. Raises ConfigurationError: which file, which key, what would be right."""
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not a readable grid file ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML: {error}") from error
    content = _mapping(content, f"{path}", ("title", "description", "gpus", "defaults", "runs"))
    for key in ("title", "description"):
        if not isinstance(content.get(key, ""), str):
            raise ConfigurationError(f"{path}: {key} must be a line of text")
    defaults = _mapping(content.get("defaults", {}), f"{path}: defaults", keys())
    for key, value in defaults.items():
        if not isinstance(value, _SCALARS):
            raise ConfigurationError(
                f"{path}: defaults: {key} must be one value, not {shown(value)}"
            )
    runs = content.get("runs")
    if not isinstance(runs, list) or not runs:
        raise ConfigurationError(f"{path}: runs must be a list of at least one block")
    blocks = [
        _block(block, defaults, f"{path}: block {number}", list(methods))
        for number, block in enumerate(runs, 1)
    ]
    return Grid(
        path.stem,
        path,
        content.get("title", path.stem),
        content.get("description", ""),
        tuple(blocks),
        whole(f"{path}: gpus", content.get("gpus", 1), least=1, most=64),
    )


def overrides(settings: Iterable[str]) -> dict[str, list]:
    """`name=value` settings of the command line -> {name: values}.

    A value is a YAML scalar; `a,b` or `[a, b]` are several.
    """
    found: dict[str, list] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigurationError(f"-p {shown(setting)}: write it as name=value")
        if name not in keys():
            raise unknown("-p parameter", name, keys())
        if "," in text and not text.startswith("["):
            text = f"[{text}]"
        try:
            found[name] = _values(read_yaml(text), f"-p {name}")
        except yaml.YAMLError as error:
            raise ConfigurationError(f"-p {shown(setting)}: the value is not valid YAML") from error
    return found


def read_yaml(text: str) -> object:
    """What the YAML says. Raises yaml.YAMLError for everything that PyYAML cannot read, of which it
    lets some pass as errors of Python's own (`!!int x`, a 13th month, a thousand brackets)."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deep") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise yaml.YAMLError(f"a value that cannot be read ({error})") from error


def single(values: Mapping[str, list]) -> dict[str, object]:
    """{name: its one value}. Raises ConfigurationError where there are several."""
    if several := [name for name, found in values.items() if len(found) > 1]:
        raise ConfigurationError(f"-p {several[0]}: a notebook is executed with one value")
    return {name: value for name, (value,) in values.items()}


def _block(block: object, defaults: Mapping, where: str, methods: list[str]) -> dict[str, list]:
    block = {**defaults, **_mapping(block, where, keys())}
    values = {key: _values(value, f"{where}: {key}") for key, value in block.items()}
    if "method" not in values:
        raise ConfigurationError(f"{where}: method is missing; choose from: {', '.join(methods)}")
    for method in values["method"]:
        if method not in methods and not outside.is_spec(method):
            raise unknown(f"{where}: method", method, methods)
    return values


def _mapping(value: object, where: str, keys: tuple[str, ...]) -> dict:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where} must be `key: value` lines, with keys {', '.join(keys)}")
    for key in value:
        if key == "results_dir":
            raise ConfigurationError(f"{where}: results_dir is the command line's: --results DIR")
        if key not in keys:
            raise unknown(f"{where}: key", key, keys)
    return value


def _values(value: object, where: str) -> list:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigurationError(f"{where} is an empty list: give at least one value")
    for one in values:
        if not isinstance(one, _SCALARS):
            raise ConfigurationError(
                f"{where} must be a value or a list of values, not {shown(one)}"
            )
    return values


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, where PyYAML lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # the parent class has an error for it
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)
