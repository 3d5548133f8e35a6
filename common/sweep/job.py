"""A run, ready to be carried out: what plans make and executors take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One run, ready to be carried out on any machine that sees the repository and the results.

    kind: runs of one kind take about the same time. cost: relative time, where nothing is known.
    memory: bytes that it takes on a GPU at most, roughly.
    """

    method: str
    run_id: str
    folder: Path
    notebook: Path
    parameters: Mapping[str, object] = field(compare=False)
    kind: tuple = ()
    cost: float = 1.0
    memory: float = 0.0

    @property
    def name(self) -> str:
        """The run's name within its grid."""
        return f"{self.method}/{self.run_id}"
