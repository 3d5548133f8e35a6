"""How long runs take, learned from those that are finished."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, median

from common.results.run_folder import checkpoint, is_done, read_progress
from common.sweep import claims
from common.sweep.plan import Job


class Estimate:
    """Expected seconds of a run: the median of its kind, else scaled from other kinds by cost."""

    def __init__(self) -> None:
        self._seconds: dict[tuple, list[float]] = defaultdict(list)
        self._costs: dict[tuple, float] = {}
        self._medians: dict[tuple, float] = {}
        self._per_cost: float | None = None

    def learn(self, job: Job, seconds: float) -> None:
        """A run took this long."""
        self._seconds[job.kind].append(seconds)
        self._costs[job.kind] = job.cost
        self._medians[job.kind] = median(self._seconds[job.kind])
        self._per_cost = fmean(self._medians.values()) / fmean(self._costs.values())

    def learn_from_folders(self, jobs: Iterable[Job]) -> None:
        """What the finished ones among `jobs` took."""
        for job in jobs:
            attempt = claims.last(job.folder) if is_done(job.folder) else None
            # A later attempt may have continued from a checkpoint.
            if attempt and attempt.state == "done" and attempt.seconds and attempt.number == 1:
                self.learn(job, attempt.seconds)

    def expect(self, job: Job) -> float | None:
        """Seconds that the job will take from its start; None before anything is known."""
        if job.kind in self._medians:
            return self._medians[job.kind]
        return None if self._per_cost is None else self._per_cost * job.cost

    def rest(self, job: Job) -> float | None:
        """Seconds that the job will still take if it starts now, from its checkpoint if it has
        one; None before anything is known."""
        whole = self.expect(job)
        return None if whole is None else whole * (1 - trained(job.folder))

    def longest_first(self, jobs: Iterable[Job]) -> list[Job]:
        """Sorted so that no long run is left for the end; as given where about equally long."""
        return sorted(jobs, key=lambda job: -round(math.log2(self.expect(job) or job.cost)))

    def total(self, jobs: Iterable[Job]) -> float | None:
        """Seconds that all jobs will take one after the other; None before anything is known."""
        return None if self._per_cost is None else sum(self.expect(job) for job in jobs)


def trained(folder: Path) -> float:
    """The share of its epochs that the run in `folder` need not do again."""
    told = read_progress(folder)
    if told is None or not checkpoint(folder).is_file():
        return 0.0
    return min(max(told["epoch"] / max(told["epochs"], 1), 0.0), 1.0)


def in_words(seconds: float | None) -> str:
    """A duration for people: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
