"""Slots for coroutine handlers, which are long-lived tasks on the running loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Final

from .. import databases
from .runs import STUCK_PER_SLOT, Finished, Run

log = logging.getLogger("bus.agent")

# How long handlers that never wait may keep the loop from reading and flushing.
_TURN_S: Final = 0.002
# How long a coroutine may go on after it was cancelled.
_IGNORED_S: Final = 1.0


class AsyncSlots:
    """Coroutine handlers on the running loop."""

    def __init__(self, size: int, finished: Finished) -> None:
        self.size = size
        self._finished = finished
        self._ready: deque[Run] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving = 0  # slots that take runs
        self._hung = 0  # slots whose run was given up on
        for _ in range(size):
            self._start_slot()
        _async_slots.add(self)

    @property
    def stuck(self) -> bool:
        """Whether so many runs hang that no more are started."""
        return self._hung > self.size * STUCK_PER_SLOT

    @property
    def busy(self) -> int:
        """Slots that are in a run, or between two."""
        return self._serving - len(self._idle)

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
            self._hung += 1
            self._serving -= 1
            if not self.stuck:
                self._start_slot()
            self._finished(run)

    async def close(self) -> None:
        """End all slots; one whose handler ignores that ends with the process."""
        self._closing = True
        _async_slots.discard(self)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_IGNORED_S)

    def _start_slot(self) -> None:
        self._serving += 1
        task = self._loop.create_task(self._slot())
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """Have another slot in the place of one that did not end by itself."""
        self._tasks.discard(task)
        if self._closing or not (task.cancelled() or task.exception()):
            return
        if not task.cancelled():
            log.error("a slot is broken", exc_info=task.exception())
        self._idle = [sleeper for sleeper in self._idle if not sleeper.done()]
        self._serving -= 1
        self._start_slot()

    async def _slot(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        ready, clock, opened = self._ready, time.monotonic, databases.opened
        turn = clock()
        while True:
            while not ready:
                sleeper = self._loop.create_future()
                self._idle.append(sleeper)
                await sleeper
                turn = clock()
            run = ready.popleft()
            run.task, run.started = me, clock()
            leaves = False
            try:
                if opened:
                    _tidy()
                payload = run.payload()
                run.value = await run.handler.function(payload, run.context(payload))
            except asyncio.CancelledError as exc:
                run.error = exc
                # Ours (deadline, cancel, fence) ends the run; another's, which may be
                # the handler's own, the slot as well: the loop may be about to end.
                leaves = not run.stopped and me.cancelling() > 0
            except Exception as exc:
                run.error = exc
            except BaseException as exc:
                if isinstance(exc, GeneratorExit) and not self._loop.is_running():
                    raise  # nobody waits for this coroutine any more
                run.error = RuntimeError(f"the handler raised {type(exc).__name__}")
            if self._closing or (run.over and not self._serves_again()):
                return
            # Also a cancellation that the handler swallowed must not reach the next.
            while me.cancelling():
                me.uncancel()
            if not run.over:
                run.finished, run.task, run.over = clock(), None, True
                self._finished(run)
            if leaves:
                raise asyncio.CancelledError
            if opened:
                _tidy()
            if run.finished - turn > _TURN_S:
                await asyncio.sleep(0)
                turn = clock()

    def _serves_again(self) -> bool:
        """Whether a slot is needed whose run was given up on and has ended."""
        self._hung -= 1
        if self._serving >= self.size:
            return False  # somebody else has its place
        self._serving += 1
        return True


# All of this process: their runs share a thread for its databases.
_async_slots: Final[set[AsyncSlots]] = set()


def _tidy() -> None:
    """Around the run of a slot, which counts as busy itself."""
    busy = sum(each.busy for each in list(_async_slots))
    databases.tidy_shared(in_use=busy > 1)
