"""Names now, code when it is used.

Importing torch takes seconds, and most of what the command line is asked needs the names of
methods, models and data sets alone. So the registries are tables of names and numbers, and their
functions are imported by the first call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Module:
    """A module that is not imported yet: `Module("torch.nn.init").ones_` is a function that imports
    it when it is called."""

    path: str

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__"):  # what copy and pickle ask for
            raise AttributeError(name)
        return Function(self.path, name)


@dataclass(frozen=True)
class Function:
    """A function by its module and name; calling it imports it."""

    module: str
    name: str

    @property
    def __name__(self) -> str:
        return self.name

    def load(self) -> Callable:
        """The function itself. Raises AttributeError if the module has none of that name."""
        return getattr(import_module(self.module), self.name)

    def __call__(self, *arguments: object, **options: object) -> object:
        return self.load()(*arguments, **options)


def exports(package: str, names: Iterable[str], files: Iterable[str]) -> Callable[[str], object]:
    """A `__getattr__` for the package (PEP 562) that finds `names` in its `files` on first use."""
    names, files = frozenset(names), tuple(files)

    def find(name: str) -> object:
        if name in names:
            for file in files:
                module = import_module(f"{package}.{file}")
                if name in vars(module):
                    setattr(sys.modules[package], name, vars(module)[name])
                    return vars(module)[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
