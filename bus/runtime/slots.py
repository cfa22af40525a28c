"""Slots that run handlers: coroutines on the loop, threads, processes behind threads.

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
from collections.abc import Callable
from typing import Final

from .. import errors
from ..handlers import Handler
from . import processes
from .runs import CANCELLED, FENCED, TIMED_OUT, Run

log = logging.getLogger("bus.agent")

Finished = Callable[[Run], None]

# How long handlers that never wait may keep the loop from reading and flushing.
_TURN_S: Final = 0.002
# How long a coroutine may go on after it was cancelled.
_IGNORED_S: Final = 1.0
# Until another try where the system had no process to give.
_NO_PROCESS_S: Final = 0.5
# Threads that hang beyond their deadline before the agent stops taking tasks.
_STUCK_PER_SLOT: Final = 4


class AsyncSlots:
    """Coroutine handlers on the running loop."""

    def __init__(self, size: int, finished: Finished) -> None:
        self.size = size
        self._finished = finished
        self._ready: deque[Run] = deque()
        self._idle: list[asyncio.Future[None]] = []
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._closing = False
        self._tasks = {loop.create_task(self._slot()) for _ in range(size)}
        self.stuck = False

    def put(self, run: Run) -> None:
        """Queue a run; an idle slot starts it."""
        self._ready.append(run)
        while self._idle:
            sleeper = self._idle.pop()
            if not sleeper.done():
                sleeper.set_result(None)
                break

    def take_unstarted(self) -> list[Run]:
        """The runs no slot has started, which become the caller's again."""
        runs = list(self._ready)
        self._ready.clear()
        return runs

    def stop(self, run: Run, why: str) -> None:
        """Cancel a started run; it comes back finished, with `stopped` set.

        Called again for one that swallowed its cancellation, it gives up on it: another
        slot takes the place, and what the run returns one day is dropped.
        """
        if run.over or run.task is None:
            return
        now = time.monotonic()
        if not run.stopped:
            run.stopped, run.finished = why, now
            run.task.cancel()
        elif now - run.finished > _IGNORED_S:
            run.over, run.finished = True, now
            self._tasks.add(self._loop.create_task(self._slot()))
            self._finished(run)

    async def close(self) -> None:
        """End all slots; one whose handler ignores that ends with the process."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=_IGNORED_S)

    async def _slot(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        ready, clock = self._ready, time.monotonic
        turn = clock()
        while True:
            while not ready:
                sleeper = self._loop.create_future()
                self._idle.append(sleeper)
                await sleeper
                turn = clock()
            run = ready.popleft()
            run.task, run.started = me, clock()
            try:
                payload = run.payload()
                run.value = await run.handler.function(payload, run.context(payload))
            except asyncio.CancelledError as exc:
                # Ours (deadline, cancel, fence) ends the run; a foreign one the slot.
                if not run.stopped and me.cancelling():
                    raise
                run.error = exc
            except Exception as exc:
                run.error = exc
            except (KeyboardInterrupt, SystemExit) as exc:
                run.error = RuntimeError(f"the handler raised {type(exc).__name__}")
            if run.over or self._closing:
                return  # given up on; another slot has this place
            # Also a cancellation that the handler swallowed must not reach the next.
            while me.cancelling():
                me.uncancel()
            run.finished, run.task, run.over = clock(), None, True
            self._finished(run)
            if run.finished - turn > _TURN_S:
                await asyncio.sleep(0)
                turn = clock()


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
        return self._hung > self.size * _STUCK_PER_SLOT

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
            if child is None:
                self._hung += 1
                self._serving -= 1
        if child is not None:
            child.kill()
        elif not self.stuck:
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
        finally:
            if child is not None:
                child.kill()

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
                run.value = child.call(run.context(payload))
            else:
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


def stop_error(run: Run) -> BaseException | None:
    """The error a stopped run counts as; None when it is not to be reported."""
    if run.stopped == TIMED_OUT:
        return TimeoutError(f"the attempt took longer than {run.timeout_s:g} s")
    if run.stopped == CANCELLED:
        return errors.GiveUp("cancelled while it ran")
    assert run.stopped == FENCED
    return None
