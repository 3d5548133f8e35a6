"""The sweep's one progress display: live in a terminal or notebook, plain lines elsewhere."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from common.results import run_folder
from common.sweep.estimate import in_words
from common.sweep.plan import Job

REFRESH = 0.5  # seconds
PLAIN = 30.0  # seconds between plain lines


@dataclass
class State:
    """Where a sweep stands. running: since when, by the monotonic clock; claimed_elsewhere: under
    way in other sweeps; to_retry: to be tried again alone; seconds_left: as expected."""

    total: int
    done: int = 0
    failed: dict[Job, str] = field(default_factory=dict)
    running: dict[Job, float] = field(default_factory=dict)
    claimed_elsewhere: int = 0
    to_retry: int = 0
    seconds_left: float | None = None

    def in_words(self) -> str:
        """One line: 12/45 done, 1 failed, 2 running, about 3 min left, until 14:05."""
        parts = [f"{self.done}/{self.total} done"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{len(self.running)} running"] if self.running else []
        parts += [f"{self.claimed_elsewhere} under way elsewhere"] if self.claimed_elsewhere else []
        parts += [f"{self.to_retry} to be tried again alone"] if self.to_retry else []
        if self.seconds_left is not None and self.done + len(self.failed) < self.total:
            end = time.strftime("%H:%M", time.localtime(time.time() + self.seconds_left))
            parts.append(f"about {in_words(self.seconds_left)} left, until {end}")
        return ", ".join(parts)


class Display:
    """Shows a `State` as it changes; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: _Notebook | Live | None = None
        if console.is_jupyter:
            self._live = _Notebook()
        elif console.is_terminal:
            self._live = Live(console=console, auto_refresh=False)
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

    def say(self, text: str) -> None:
        """Say something at once."""
        self._console.print(escape(text), soft_wrap=True)


class _Notebook:
    """As `rich.live.Live`, without a widget: one output that is replaced, so that a saved notebook
    holds the last state alone."""

    def start(self) -> None:
        from IPython.display import display

        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def update(self, content: RenderableType, refresh: bool) -> None:
        # Drawn apart from the cell's own console, which would print it.
        console = Console(record=True, force_jupyter=False, width=100, file=io.StringIO())
        console.print(content)
        html = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>", clear=False)
        bundle = {"text/html": html, "text/plain": console.export_text()}
        self._handle.update(bundle, raw=True)

    def stop(self) -> None:
        pass


def how_far(folder: Path) -> str:
    """How far the run in `folder` is, by its progress.json: `epoch 3/8, 87.5 %`."""
    told = run_folder.read_progress(folder)
    if told is None:
        return "starting"
    stage, accuracy = told["stage"], told["test_accuracy"]
    words = [stage] if stage != "train" else []
    if stage == "train" or told["epoch"]:
        words.append(f"epoch {told['epoch']}/{told['epochs']}")
    if accuracy is not None:
        words.append(f"{accuracy:.1f} %")
    return ", ".join(words)


def _render(state: State, now: float) -> Group:
    over = state.done + len(state.failed)
    top = Table.grid(padding=(0, 2))
    top.add_row(ProgressBar(state.total, over, width=30), escape(state.in_words()))
    workers = Table.grid(padding=(0, 2))
    workers.add_column(no_wrap=True, overflow="ellipsis")
    for job, since in state.running.items():
        workers.add_row(escape(job.name), how_far(job.folder), in_words(now - since))
    return Group(top, workers)
