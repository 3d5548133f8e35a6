"""Where runs are carried out: on this machine, or on a cluster (`common.sweep.dask.cluster`)."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from common.results.run_folder import SHARING
from common.sweep.execute import Outcome, execute
from common.sweep.plan import Job
from common.sweep.slots import Slot


class Pool(Protocol):
    """Takes jobs, at most `capacity()` at a time."""

    def capacity(self) -> int:
        """Runs at a time; asked again and again, since workers may come and go."""

    def submit(self, job: Job, since: float) -> Future[Outcome]:
        """Carry out the job as `execute` does."""

    def retry_pool(self) -> Pool | None:
        """For runs that died for lack of memory: a pool where fewer share a device. None if no
        run shared one."""

    def close(self) -> None:
        """End the runs under way with everything they started, and wait for that."""


class Local:
    """One run at a time in each of the slots, in threads that wait for the runs' processes."""

    def __init__(self, slots: list[Slot]) -> None:
        self._slots = slots
        self._runs = Counter(slot.gpu for slot in slots)
        self._stop = threading.Event()
        self._executor = ThreadPoolExecutor(len(slots), thread_name_prefix="run")
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in slots:
            self._free.put(slot)

    def capacity(self) -> int:
        return len(self._slots)

    def submit(self, job: Job, since: float) -> Future[Outcome]:
        return self._executor.submit(self._carry_out, job, since)

    def retry_pool(self) -> Local | None:
        """One run on each GPU; where that is so already, one on the machine."""
        by_gpu = {slot.gpu: slot for slot in self._slots}
        fewer = list(by_gpu.values()) if len(by_gpu) < len(self._slots) else self._slots[:1]
        return Local(fewer) if len(fewer) < len(self._slots) else None

    def close(self) -> None:
        self._stop.set()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _carry_out(self, job: Job, since: float) -> Outcome:
        slot = self._free.get_nowait()  # as many as there are threads
        try:
            sharing = {SHARING: str(self._runs[slot.gpu])} if slot.gpu else {}
            share = {**slot.environment, **sharing}
            return execute(job, since, self._stop, share, slot.processes)
        finally:
            self._free.put(slot)
