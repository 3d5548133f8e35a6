"""The rooms of common/: who may import whom."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the ground up: a room imports from those below it and from itself. Rooms of one floor do not
# know each other.
FLOORS = (
    ("base",),
    ("datasets",),
    ("models", "pruning", "results"),
    ("training",),
    ("runs",),
    ("plots",),
    ("tickets", "structured"),
    ("studies",),
    ("sweep",),
    ("check",),
    ("commands",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
DEFERRED = re.compile(r"common(\.\w+)+")  # modules that are imported by name, see base/deferred
FILES = sorted((ROOT / "common").glob("*/**/*.py"))


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from, wherever it does, for an annotation too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and DEFERRED.fullmatch(str(node.value)):
            names = [node.value]
        parts = [name.split(".") for name in names]
        found |= {part[1] for part in parts if part[0] == "common" and len(part) > 1}
        assert not any(part[0] == "trials" for part in parts), f"{path}: common/ knows no trial"
    return found


def test_every_room_has_its_floor():
    assert {path.relative_to(ROOT / "common").parts[0] for path in FILES} == set(FLOOR)
    assert [path.name for path in (ROOT / "common").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("room", FLOOR)
def test_imports_run_one_way(room):
    files = [path for path in FILES if path.relative_to(ROOT / "common").parts[0] == room]
    wrong = {
        f"{path.relative_to(ROOT)} imports {other}"
        for path in files
        for other in imported(path)
        if other != room and FLOOR[other] >= FLOOR[room]
    }
    assert not wrong
