"""Methods from outside the repository: a file, or what an installed package offers.

`my_method.py` (from here or from the suite's folder), `my_method.py:name`, or the name of an entry
point of the group `trials.methods`. A file is a score of the suite's signature, (model, context),
and whatever it needs; a `METHOD` (`common.pruning.Method`) in it may say more. It stands by itself:
tables know it as `name@<beginning of its hash>`, so a file that was changed is another method.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from common.base.errors import ConfigurationError, unknown
from common.base.paths import ROOT
from common.pruning.methods import METHODS, Method

GROUP = "trials.methods"
OPTIONS = {"iterations": int, "schedule": str, "scope": str, "images_per_class": int}

_SPEC = re.compile(r"(?P<place>.+?)(?::(?P<name>\w+))?(?:@(?P<digest>[0-9a-f]{8}))?", re.DOTALL)


@dataclass(frozen=True)
class Outside:
    """A method from outside, registered in `METHODS` under its label.

    label: name@hash, the method of tables and folders. spec: by which any process on this machine
    finds the very same again. path: the file of its `score`.
    """

    label: str
    spec: str
    path: Path
    score: Callable


LOADED: dict[str, Outside] = {}  # by label


def is_spec(method: str) -> bool:
    """Whether this names a method from outside: by a file, or by an entry point."""
    place = _SPEC.fullmatch(str(method))["place"] if method else ""
    return place.endswith(".py") or (place not in METHODS and place in _offered())


def register(spec: str, variant: str = "") -> Outside:
    """Load a method from outside and add it to `METHODS`, where it has the variant "" and this one.

    spec: a file or an entry point, with `@hash` only if it is still the one of that hash. variant:
    of `variant_of`. Raises ConfigurationError, with the file's line, where it cannot be had.
    """
    parts = _SPEC.fullmatch(spec)
    place, name = parts["place"], parts["name"]
    if place.endswith(".py"):
        path = Path(place).expanduser()
        path = (path if path.exists() else ROOT / path).resolve()
        found, label = _from_file(path, name), name or path.stem
        own = f"{path}:{name}" if name else str(path)
    else:
        found, path = _from_package(_offered()[place])
        label = own = place
    method = found if isinstance(found, Method) else Method(found)
    score = inspect.unwrap(method.score)
    _check_signature(score, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if parts["digest"] not in (None, digest[:8]):
        raise ConfigurationError(f"{path} has changed: it was {parts['digest']}, is {digest[:8]}")
    label = f"{label}@{digest[:8]}"
    method = dataclasses.replace(method, origin=f"{path.name}:{digest[:12]}")
    METHODS.setdefault(label, {"": method})
    if variant:
        METHODS[label][variant] = _with_options(method, variant)
    return LOADED.setdefault(label, Outside(label, f"{own}@{digest[:8]}", path, score))


def variant_of(**options: object) -> str:
    """The variant that these OPTIONS make of a method, such as `iterations-10+scope-erk`; those
    that are None stay as the file has them."""
    return "+".join(f"{name}-{value}" for name, value in options.items() if value is not None)


def line_of(error: BaseException, path: Path) -> int | None:
    """The line of `path` in which an error was raised, or from which what raised it was called."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None


def _from_file(path: Path, name: str | None) -> Callable | Method:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror})") from None
    module = ModuleType(f"outside_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look their module up
    try:
        exec(compile(content, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        told = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigurationError(
            f"{path}:{line_of(error, path)}: {type(error).__name__}: {told}"
        ) from error
    functions = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and key[0] != "_"
    }
    method = vars(module).get("METHOD")
    if method is not None and not isinstance(method, Method):
        raise ConfigurationError(
            f"{path}: METHOD is of type {type(method).__name__}; write METHOD = Method(score, "
            "iterations=10), with Method of common.pruning"
        )
    if name and name not in functions:
        raise unknown(f"{path}: function", name, functions)
    if method and name in (None, inspect.unwrap(method.score).__name__):
        return method
    if not name and len(functions) != 1:
        there = f"{len(functions)} functions ({', '.join(functions)})" if functions else "none"
        raise ConfigurationError(
            f"{path} defines {there}: name the score as {path.name}:NAME, or begin the others' "
            "names with an underscore"
        )
    return functions[name or next(iter(functions))]


def _from_package(entry: EntryPoint) -> tuple[Callable | Method, Path]:
    try:
        found = entry.load()
    except Exception as error:
        raise ConfigurationError(
            f"{entry.name} ({entry.value}): {type(error).__name__}: {error}"
        ) from error
    score = inspect.unwrap(found.score if isinstance(found, Method) else found)
    return found, Path(inspect.getsourcefile(score)).resolve()


def _offered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _check_signature(score: Callable, path: Path) -> None:
    try:
        inspect.signature(score).bind("model", "context")
    except (TypeError, ValueError):
        line = score.__code__.co_firstlineno
        raise ConfigurationError(
            f"{path}:{line}: {score.__name__}{inspect.signature(score)} does not take "
            "(model, context)"
        ) from None


def _with_options(method: Method, variant: str) -> Method:
    options = {}
    for part in variant.split("+"):
        name, _, value = part.partition("-")
        if name not in OPTIONS:
            raise unknown("variant", variant, [f"{name}-VALUE" for name in OPTIONS])
        try:
            options[name] = OPTIONS[name](value)
        except ValueError:
            raise ConfigurationError(f"{name}={value!r} is not a whole number") from None
    return dataclasses.replace(method, **options)
