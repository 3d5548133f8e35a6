"""The sweep: hand jobs to a pool, watch, report, and stop when told to."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from common.base.files import write_probe
from common.results.run_folder import is_done
from common.sweep.estimate import Estimate
from common.sweep.execute import Outcome
from common.sweep.plan import Job
from common.sweep.pool import Pool
from common.sweep.progress import Display, State

TICK = 0.2  # seconds
AGAIN = 3.0  # seconds between looks at what other sweeps are doing
ROOM = 2**18  # bytes; where not even these can be written, no run can leave its results
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass(frozen=True)
class Ended:
    """How a sweep ended. unfinished: jobs without a result; signal: what stopped it, if anything;
    out_of_time: it stopped for its time budget; trouble: what made it give up."""

    done: int
    failed: dict[Job, str]
    unfinished: list[Job]
    signal: signal.Signals | None = None
    out_of_time: bool = False
    trouble: str | None = None

    @property
    def status(self) -> int:
        """The exit status: 0 all done, or all that the time budget allowed; 1 some failed;
        128 + n stopped by signal n."""
        if self.signal:
            return 128 + self.signal
        return int(bool(self.failed or self.trouble or (self.unfinished and not self.out_of_time)))


@dataclass
class _Queue:
    """The jobs that a pool is to do. short_of_memory: they died here for lack of memory."""

    waiting: deque[Job]
    since: float
    running: dict[Future[Outcome], Job] = field(default_factory=dict)
    claimed_elsewhere: list[Job] = field(default_factory=list)
    short_of_memory: list[Job] = field(default_factory=list)
    look_again: float = 0.0


class Sweep:
    """Carries out the jobs that are not done, longest first. A failing run stops no other.

    Runs that another sweep is doing are waited for, and taken over if it dies. Runs that die for
    lack of memory are tried again when the others are through, with fewer at a time on a device.
    since: the file time at which the sweep began; failures before it are tried again. deadline: by
    the monotonic clock; no run starts that is not expected to end by then, and what is still under
    way then is stopped, to be continued from its checkpoint.
    """

    def __init__(
        self, jobs: list[Job], since: float, console: Console, deadline: float = math.inf
    ) -> None:
        self.jobs, self.since, self.deadline = jobs, since, deadline
        self._console = console
        self._estimate = Estimate()
        self._estimate.learn_from_folders(jobs)
        self._state = State(total=len(jobs))
        self._stop = threading.Event()
        self._out_of_time = False
        self._trouble: str | None = None

    def run(self, pool: Pool) -> Ended:
        """Do the work in `pool`, and close it."""
        todo = [job for job in self.jobs if not is_done(job.folder)]
        self._state.done = len(self.jobs) - len(todo)
        with Display(self._console) as self._display, _signals(self._stop) as received:
            queue = _Queue(deque(self._estimate.longest_first(todo)), self.since)
            while True:
                fewer = pool.retry_pool()
                self._work_through(queue, pool, retry=fewer is not None)
                if not queue.short_of_memory or self._stop.is_set():
                    break
                pool = fewer
                # Their failures have just been recorded, and are not to count here.
                queue = _Queue(deque(queue.short_of_memory), math.inf)
            self._state.done = sum(is_done(job.folder) for job in self.jobs)
            self._state.running.clear()
            self._display.show(self._state, last=True)
        failed = self._state.failed
        left = [job for job in self.jobs if job not in failed and not is_done(job.folder)]
        stopped_by = received[0] if received else None
        out_of_time = self._out_of_time and bool(left) and not (stopped_by or self._trouble)
        return Ended(self._state.done, failed, left, stopped_by, out_of_time, self._trouble)

    def _work_through(self, queue: _Queue, pool: Pool, retry: bool) -> None:
        try:
            while (
                queue.waiting or queue.running or queue.claimed_elsewhere
            ) and not self._stop.is_set():
                self._submit(queue, pool)
                for future in _finished(queue.running):
                    job = queue.running.pop(future)
                    del self._state.running[job]
                    self._take_in(job, _outcome(future), queue, retry)
                if (
                    queue.claimed_elsewhere
                    and not queue.waiting
                    and time.monotonic() >= queue.look_again
                ):
                    queue.waiting.extend(queue.claimed_elsewhere)
                    queue.claimed_elsewhere.clear()
                self._state.claimed_elsewhere = len(queue.claimed_elsewhere)
                self._state.to_retry = len(queue.short_of_memory)
                self._state.seconds_left = self._time_left(queue, pool.capacity())
                self._display.show(self._state)
                if time.monotonic() >= self.deadline:
                    self._out_of_time = True
                    self._stop.set()
        except ConnectionError as error:  # the pool's machines are out of reach
            self._trouble = str(error)
            self._stop.set()
        finally:
            pool.close()

    def _submit(self, queue: _Queue, pool: Pool) -> None:
        now = time.monotonic()
        while queue.waiting and len(queue.running) < pool.capacity():
            job = queue.waiting.popleft()
            if now + (self._estimate.rest(job) or 0) > self.deadline:
                self._out_of_time = True
                continue
            queue.running[pool.submit(job, queue.since)] = job
            self._state.running[job] = now

    def _take_in(self, job: Job, outcome: Outcome, queue: _Queue, retry: bool) -> None:
        if outcome.state == "done" or is_done(job.folder):
            self._state.done += 1
            if outcome.seconds:
                self._estimate.learn(job, outcome.seconds)
        elif outcome.short_of_memory and retry:
            queue.short_of_memory.append(job)
            self._display.say(f"{job.name}: {outcome.error}; will be tried again alone")
        elif outcome.state == "failed":
            if self._trouble or (trouble := _no_room(job)):
                self._trouble = self._trouble or trouble
                self._stop.set()
                return
            self._state.failed[job] = outcome.error or ""
            self._display.failure(job, outcome.error or "")
        else:
            queue.claimed_elsewhere.append(job)
            queue.look_again = time.monotonic() + AGAIN

    def _time_left(self, queue: _Queue, workers: int) -> float | None:
        waiting = [self._estimate.rest(job) for job in [*queue.waiting, *queue.claimed_elsewhere]]
        expected = {job: self._estimate.expect(job) for job in self._state.running}
        if None in waiting or None in expected.values():
            return None
        now = time.monotonic()
        rest = [max(expected[job] - (now - t), 0) for job, t in self._state.running.items()]
        return max((sum(waiting) + sum(rest)) / max(workers, 1), max(rest, default=0))


def _finished(running: dict[Future, Job]) -> set[Future]:
    if not running:
        time.sleep(TICK)
        return set()
    return wait(running, timeout=TICK, return_when=FIRST_COMPLETED).done


def _outcome(future: Future[Outcome]) -> Outcome:
    """Of a finished future; what went wrong around the run is a failure like any other."""
    if error := future.exception():
        return Outcome("failed", f"{type(error).__name__}: {error}")
    return future.result()


def _no_room(job: Job) -> str | None:
    """Why no run can leave its results any more: a full disk, a quota, a folder that is gone."""
    try:
        write_probe(job.folder.parent, ROOM)
    except OSError as error:
        return f"nothing can be written to {job.folder.parent} any more ({error.strerror})"
    return None


@contextmanager
def _signals(stop: threading.Event) -> Iterator[list[signal.Signals]]:
    """Set `stop` on Ctrl-C, SIGTERM or a closed terminal; yields the signals that came.

    What the caller ignores (nohup) stays ignored. Outside the main thread nothing is caught.
    """
    received: list[signal.Signals] = []

    def handle(signum: int, frame: object) -> None:
        received.append(signal.Signals(signum))
        stop.set()

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
