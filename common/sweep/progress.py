"""The sweep's one progress display: live in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from common.sweep.estimate import in_words
from common.sweep.job import Job

REFRESH = 0.5  # seconds
PLAIN = 30.0  # seconds between plain lines


@dataclass
class State:
    """Where a sweep stands. running: since when, by the monotonic clock; left: seconds expected."""

    total: int
    done: int = 0
    failed: dict[Job, str] = field(default_factory=dict)
    running: dict[Job, float] = field(default_factory=dict)
    elsewhere: int = 0
    left: float | None = None

    def in_words(self) -> str:
        """One line: 12/45 done, 1 failed, 2 running, about 3 min left."""
        parts = [f"{self.done}/{self.total} done"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{len(self.running)} running"] if self.running else []
        parts += [f"{self.elsewhere} under way elsewhere"] if self.elsewhere else []
        if self.left is not None and self.done + len(self.failed) < self.total:
            parts.append(f"about {in_words(self.left)} left")
        return ", ".join(parts)


class Display:
    """Shows a `State` as it changes; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._next = 0.0
        self._said = ""

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, state: State, last: bool = False) -> None:
        """Bring the display up to date, if it is time or if this is the `last` state."""
        now = time.monotonic()
        if now < self._next and not last:
            return
        self._next = now + (REFRESH if self._live else PLAIN)
        if self._live:
            self._live.update(_render(state, now), refresh=True)
        elif (line := state.in_words()) != self._said:
            self._said = line
            self._console.print(f"{time.strftime('%H:%M:%S')}  {line}", soft_wrap=True)

    def failure(self, job: Job, error: str) -> None:
        """Say at once that a run failed."""
        self._console.print(
            f"[red]failed[/red] {escape(job.name)}: {escape(error)}", soft_wrap=True
        )


def how_far(folder: Path) -> str:
    """How far the run in `folder` is, by its progress.json: `epoch 3/8, 87.5 %`."""
    try:
        told = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        stage = told["stage"] if told["stage"] != "train" else "epoch"
        epoch = f" {told['epoch']}/{told['epochs']}" if told["stage"] == "train" else ""
        accuracy = told["test_accuracy"]
        return f"{stage}{epoch}" + (f", {accuracy:.1f} %" if accuracy is not None else "")
    except (OSError, ValueError, KeyError, TypeError):
        return "starting"


def _render(state: State, now: float) -> Group:
    over = state.done + len(state.failed)
    top = Table.grid(padding=(0, 2))
    top.add_row(ProgressBar(state.total, over, width=30), escape(state.in_words()))
    workers = Table.grid(padding=(0, 2))
    workers.add_column(no_wrap=True, overflow="ellipsis")
    for job, since in state.running.items():
        workers.add_row(escape(job.name), how_far(job.folder), in_words(now - since))
    return Group(top, workers)
