"""Reports of one kind on their way to the server: in batches, one batch at a time.

What finds no batch in flight goes at once, what comes meanwhile goes together with the
next. Nothing waits for a timer.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from .. import deliveries
from .runs import Run

# A script holds up the server: large results go in smaller batches.
_BATCH_BYTES: Final = 4 * 1024 * 1024


R = TypeVar("R")


class Outbox(Generic[R]):
    """Sends reports in the order they came; `told` hears what became of each.

    `alone` may send one that finds none in flight within the step that brings it: the
    task of a loop that `send` takes costs as much as the rest of it. `broken` hears
    of a bug in what is done with its answer, as the loop does of one in a task.
    """

    def __init__(
        self,
        send: Callable[[list[R]], Awaitable[list[str]]],
        told: Callable[[Run, R, str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        broken: Callable[[BaseException | None], None],
        alone: Callable[[R], asyncio.Future[Any] | None] = lambda report: None,
    ) -> None:
        self._send, self._told, self._spawn = send, told, spawn
        self._broken, self._alone = broken, alone
        self._waiting: deque[tuple[Run, R, int]] = deque()
        self._sending = self._closed = False

    def __len__(self) -> int:
        """How many wait for the batch in flight."""
        return len(self._waiting)

    def put(self, run: Run, report: R, size: int) -> None:
        """Take a report of about `size` bytes; it goes now or with the next batch."""
        if self._sending:
            self._waiting.append((run, report, size))
            return
        answer = self._alone(report)
        self._sending = True
        if answer is None:
            self._waiting.append((run, report, size))
            self._spawn(self._empty())
        else:
            heard = functools.partial(self._answered, run, report, size)
            answer.add_done_callback(heard)

    def close(self) -> None:
        """Make nothing more of the answer to one that was sent alone."""
        self._closed = True

    def _answered(
        self, run: Run, report: R, size: int, answer: asyncio.Future[Any]
    ) -> None:
        taken = not answer.cancelled() and not answer.exception() and answer.result()
        if self._closed:
            return
        try:
            if not taken:
                self._waiting.appendleft((run, report, size))
            if self._waiting:
                self._spawn(self._empty())
            else:
                self._sending = False
            if taken:
                self._told(run, report, deliveries.OK)
        except Exception as exc:
            self._broken(exc)

    async def _empty(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                outcomes = await self._send([report for _, report in batch])
                for (run, report), outcome in zip(batch, outcomes, strict=True):
                    self._told(run, report, outcome)
        finally:
            self._sending = False

    def _next(self) -> list[tuple[Run, R]]:
        batch: list[tuple[Run, R]] = []
        left = _BATCH_BYTES
        while self._waiting and len(batch) < deliveries.BATCH and left > 0:
            run, report, size = self._waiting.popleft()
            batch.append((run, report))
            left -= size
        return batch
