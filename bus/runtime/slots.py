"""Slots that run handlers: threads, processes behind threads, coroutines on the loop.

Each kind takes runs, starts them in order, and hands every finished one back once.
There is no task and no timeout object per run: slots live as long as the agent, and one
sweeper looks at the deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from typing import Final

from .. import databases
from ..handlers import Handler
from . import processes
from .coroutines import AsyncSlots
from .runs import STUCK_PER_SLOT, Finished, Run

log = logging.getLogger("bus.agent")

# Until another try where the system had no process to give.
_NO_PROCESS_S: Final = 0.5


class ThreadSlots:
    """Sync handlers, each on a thread of its own or on that thread's child process."""

    def __init__(self, handler: Handler, size: int, finished: Finished) -> None:
        self.size = size
        self._handler = handler
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._ready: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._out: deque[Run] = deque()
        self._woken = False
        self._lock = threading.Lock()
        self._children: dict[Run, processes.Child] = {}
        self._serving = 0  # threads that take runs
        self._hung = 0  # threads whose run was given up on
        for _ in range(size):
            self._start_thread()

    @property
    def stuck(self) -> bool:
        """Whether so many threads hang that no more are started."""
        return self._hung > self.size * STUCK_PER_SLOT

    def put(self, run: Run) -> None:
        """Queue a run; an idle thread starts it."""
        self._ready.put(run)

    def take_unstarted(self) -> list[Run]:
        """The runs no thread has started, which become the caller's again."""
        runs = []
        with contextlib.suppress(queue.Empty):
            while True:
                run = self._ready.get_nowait()
                if run is not None:
                    runs.append(run)
        return runs

    def stop(self, run: Run, why: str) -> None:
        """Give up on a started run; it comes back finished at once, `stopped` set.

        A process is killed. A thread cannot be: it is left to itself, another takes its
        slot, and what it returns one day is dropped.
        """
        with self._lock:
            if run.over:
                return
            run.over, run.stopped, run.finished = True, why, time.monotonic()
            run.started = run.started or run.finished
            child = self._children.get(run)
            if child is not None:
                # Before the lock is free, with which its thread takes the next run to
                # the same process.
                child.kill()
            else:
                self._hung += 1
                self._serving -= 1
        if child is None and not self.stuck:
            self._start_thread()
        self._finished(run)

    async def close(self) -> None:
        """End all idle threads; hung ones are daemons and end with the process."""
        for _ in range(self.size):
            self._ready.put(None)
        for child in list(self._children.values()):
            child.kill()

    def _start_thread(self) -> None:
        self._serving += 1
        threading.Thread(target=self._slot, name="mesh-slot", daemon=True).start()

    def _slot(self) -> None:
        child = processes.Child(self._handler) if self._handler.cpu else None
        try:
            while True:
                if child is not None:
                    _prepare(child)  # before a run: starting is not its time
                run = self._ready.get()
                if run is None or not self._serve(run, child):
                    return
                databases.tidy()
        finally:
            if child is not None:
                child.kill()
            databases.close()

    def _serve(self, run: Run, child: processes.Child | None) -> bool:
        """Run one; False when this thread is not needed any more."""
        with self._lock:
            stopped_already = run.over  # between the queue and here
            if not stopped_already:
                run.started = time.monotonic()
                if child is not None:
                    self._children[run] = child
        if not stopped_already:
            self._execute(run, child)
        with self._lock:
            self._children.pop(run, None)
            given_up, run.over = run.over, True
            if not given_up:
                run.finished = time.monotonic()
            elif child is None or stopped_already:
                self._hung -= 1
                if self._serving >= self.size:
                    return False  # somebody else has this slot now
                self._serving += 1
        if not given_up:
            self._hand_back(run)
        return True

    def _execute(self, run: Run, child: processes.Child | None) -> None:
        try:
            payload = run.payload()
            if child is not None:
                run.value = child.call(run.context(payload), lambda: not run.over)
            else:
                databases.tidy()  # in its time: closing may take a while as well
                run.value = run.handler.function(payload, run.context(payload))
        except Exception as exc:
            run.error = exc
        except BaseException as exc:  # SystemExit must not end the slot
            run.error = RuntimeError(f"the handler raised {type(exc).__name__}")

    def _hand_back(self, run: Run) -> None:
        """One wake-up of the loop for all runs that finish before it looks."""
        self._out.append(run)
        with self._lock:
            if self._woken:
                return
            self._woken = True
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        with self._lock:
            self._woken = False
        while self._out:
            self._finished(self._out.popleft())


def _prepare(child: processes.Child) -> None:
    """Have the process started, whenever the system is able to."""
    while True:
        try:
            child.prepare()
            return
        except OSError as exc:
            log.warning("no process for a slot yet: %s", exc)
            time.sleep(_NO_PROCESS_S)


Slots = AsyncSlots | ThreadSlots


def make(handler: Handler, size: int, finished: Finished) -> Slots:
    """Slots of the kind a handler needs."""
    if handler.is_async:
        return AsyncSlots(size, finished)
    return ThreadSlots(handler, size, finished)
