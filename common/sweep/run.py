"""The sweep: hand jobs to an executor, watch, report, and stop when told to."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from common.results import is_done
from common.sweep.estimate import Estimate
from common.sweep.execute import Outcome, execute
from common.sweep.job import Job
from common.sweep.progress import Display, State

TICK = 0.2  # seconds
AGAIN = 3.0  # seconds between looks at what other sweeps are doing
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass(frozen=True)
class Ended:
    """How a sweep ended. left: jobs without a result; signal: what stopped it, if anything."""

    done: int
    failed: dict[Job, str]
    left: int
    signal: signal.Signals | None

    @property
    def status(self) -> int:
        """The exit status: 0 all done, 1 some failed, 128 + n stopped by signal n."""
        return 128 + self.signal if self.signal else int(bool(self.failed or self.left))


def sweep(
    jobs: list[Job], executor: Executor, capacity: int, since: float, console: Console
) -> Ended:
    """Carry out the jobs that are not done, at most `capacity` at a time, longest first.

    A failing run stops no other. Runs that another sweep is doing are waited for, and taken over
    if it dies. since: the file time at which the sweep began; failures before it are tried again.
    """
    estimate = Estimate()
    estimate.learn_from_folders(jobs)
    todo = [job for job in jobs if not is_done(job.folder)]
    state = State(total=len(jobs), done=len(jobs) - len(todo))
    waiting = deque(estimate.longest_first(todo))
    elsewhere: list[Job] = []
    running: dict[Future[Outcome], Job] = {}
    stop = threading.Event()
    look_again = 0.0
    with Display(console) as display, _signals(stop) as received:
        try:
            while (waiting or running or elsewhere) and not stop.is_set():
                while waiting and len(running) < capacity:
                    job = waiting.popleft()
                    running[executor.submit(execute, job, since, stop)] = job
                    state.running[job] = time.monotonic()
                for future in _finished(running):
                    job = running.pop(future)
                    del state.running[job]
                    outcome = _outcome(future)
                    if outcome.state == "done":
                        state.done += 1
                        if outcome.seconds:
                            estimate.learn(job, outcome.seconds)
                    elif outcome.state == "failed":
                        state.failed[job] = outcome.error or ""
                        display.failure(job, state.failed[job])
                    else:
                        elsewhere.append(job)
                        look_again = time.monotonic() + AGAIN
                if elsewhere and not waiting and time.monotonic() >= look_again:
                    waiting.extend(elsewhere)
                    elsewhere.clear()
                state.elsewhere = len(elsewhere)
                state.left = _time_left(estimate, state, [*waiting, *elsewhere], capacity)
                display.show(state)
        finally:
            stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
        state.done = sum(is_done(job.folder) for job in jobs)
        state.running.clear()
        display.show(state, last=True)
    left = sum(job not in state.failed and not is_done(job.folder) for job in jobs)
    return Ended(state.done, state.failed, left, received[0] if received else None)


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


def _time_left(estimate: Estimate, state: State, jobs: list[Job], workers: int) -> float | None:
    rest = estimate.total(jobs)
    if rest is None or estimate.total(state.running) is None:
        return None
    now = time.monotonic()
    under_way = [max(estimate.expect(job) - (now - t), 0) for job, t in state.running.items()]
    return max((rest + sum(under_way)) / workers, max(under_way, default=0))


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
