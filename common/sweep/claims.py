"""Who does a run: at most one process, on whatever machine sees the results folder.

A run's folder holds `attempt-1.json`, `attempt-2.json`, ... To claim the run is to create the next
one, which only one process can; it may do so unless the last attempt is under way. Attempts stay
when they end, so what was seen to be abandoned can be taken over only once. The owner touches its
file now and then (an attempt on another machine whose file grows old is abandoned) and at the end
writes into it what came of the run.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from common.base.files import write_probe
from common.results import run_folder
from common.sweep import processes

BEAT = 15.0  # seconds between touches
ABANDONED = 180.0  # seconds; a network file system may show a file's age a minute late


@dataclass(frozen=True)
class Attempt:
    """What is known of an attempt. state: running, done, failed or stopped; changed: file time."""

    number: int
    path: Path
    changed: float
    state: str
    content: dict

    @property
    def error(self) -> str:
        """The last line of what went wrong."""
        return self.content.get("error") or ""

    @property
    def seconds(self) -> float | None:
        """How long the run took, once it ended."""
        return self.content.get("seconds")

    def under_way(self) -> bool:
        """Whether someone is still at it."""
        if self.state != "running":
            return False
        if self.content.get("machine") == processes.machine():
            return any(processes.alive(process) for process in self.content["processes"])
        try:
            now = write_probe(self.path.parent)
        except OSError:  # we may only look
            now = time.time()
        return now - self.changed < ABANDONED


class Claim:
    """An attempt that is ours."""

    def __init__(self, folder: Path, number: int, previous: Attempt | None) -> None:
        """Raises FileExistsError if someone else has it, OSError if nothing can be written."""
        self.path = folder / f"attempt-{number}.json"
        self.previous = previous
        self._next = folder / f"attempt-{number + 1}.json"
        self._content = {
            "state": "running",
            "machine": processes.machine(),
            "processes": [processes.identity(os.getpid())],
            "started": time.time(),
        }
        descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(self._content, file)
        except OSError:  # a full disk
            self.withdraw()
            raise

    def shared_with(self, pid: int) -> None:
        """The claim holds as long as this process or the child `pid` lives."""
        self._content["processes"].append(processes.identity(pid))
        run_folder.write_json(self.path, self._content)

    def beat(self) -> bool:
        """Say that we are alive; False if the run was given to someone else meanwhile."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return not self._next.exists()

    def end(self, state: str, error: str | None = None) -> float:
        """Write what came of the run; returns the seconds that it took.

        Where nothing can be written (a full disk) the claim is withdrawn, so that it holds nobody
        up.
        """
        seconds = time.time() - self._content["started"]
        ended = {"state": state, "error": error, "seconds": round(seconds, 2)}
        try:
            run_folder.write_json(self.path, {**self._content, **ended})
        except OSError:
            self.withdraw()
        return seconds

    def withdraw(self) -> None:
        """Leave no trace: there was nothing to do."""
        self.path.unlink(missing_ok=True)


def last(folder: Path) -> Attempt | None:
    """The latest attempt at the run in `folder`."""
    try:
        found = [re.fullmatch(r"attempt-(\d+)\.json", name) for name in os.listdir(folder)]
    except OSError:  # not there, or no folder
        return None
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        return None
    number = max(numbers)
    path = folder / f"attempt-{number}.json"
    try:
        with open(path, encoding="utf-8") as file:
            changed, text = os.fstat(file.fileno()).st_mtime, file.read()
    except FileNotFoundError:  # withdrawn just now
        return None
    try:
        content = json.loads(text)
    except ValueError:  # just created, or its disk was full: its age will tell
        content = {"state": "running"}
    return Attempt(number, path, changed, content["state"], content)


def take(folder: Path) -> Claim | None:
    """Claim the run in `folder`, which exists; None if it is under way somewhere."""
    previous = last(folder)
    if previous and previous.under_way():
        return None
    try:
        return Claim(folder, previous.number + 1 if previous else 1, previous)
    except FileExistsError:
        return None
