"""One topic in an agent: claim what can start soon, run it, give back the rest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Coroutine
from typing import Any, Final

import redis.asyncio

from . import (
    connection,
    deliveries,
    errors,
    groups,
    handlers,
    keys,
    records,
    reports,
    slots,
)
from .deliveries import Beat, Delivery, Seat
from .handlers import Handler
from .quiet import Quiet
from .runs import CANCELLED, FENCED, TIMED_OUT, Run

log = logging.getLogger("bus.agent")

_BLOCK_S: Final = 2.0
_UNSTARTED_S: Final = 0.05  # of work an agent may hold without having started it
_UNSTARTED_MOST: Final = 300
_UNSENT_MOST: Final = 500  # finished tasks that wait for the server
_SWEEP_S: Final = 0.05
_LEASE_GRACE_S: Final = 5.0  # a run this long past its deadline loses its lease


class Lane:
    """The life of one topic in one agent process."""

    def __init__(
        self, handler: Handler, group: str, consumer: str, size: int, quiet: Quiet
    ) -> None:
        self.topic, self.group = handler.topic, group
        self.handler, self.size, self._quiet = handler, size, quiet
        self.held: dict[str, Run] = {}  # by sid, from claim until the server knows
        self.paused = False
        self.last_read = time.time()
        self._closing = False
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._run_s = 0.01  # moving average of how long a task takes
        self._topic_timeout_s: float | None = None
        self._claiming = asyncio.Lock()
        name = keys.client_name(consumer)
        self._reader = connection.adedicated(block_s=_BLOCK_S, name=name)
        self._seat = Seat(connection.adedicated(name=name), self.topic, group, consumer)
        self.reports = reports.Reports(self._seat, handler, self._forget, self._break)
        self._slots = slots.make(handler.kind, size, self._finished)
        # Done when a bug has broken the lane; then it holds the exception.
        self.broken: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        for work in (self._read(), self._sweep()):
            self._spawn(work)

    # --- claiming

    def _wanted(self) -> int:
        """How many tasks to take now: free slots and a little to start next."""
        unsent = self.reports.unsent
        if self._closing or self.paused or self._slots.stuck or unsent >= _UNSENT_MOST:
            return 0
        ahead = min(_UNSTARTED_MOST, int(_UNSTARTED_S * self.size / self._run_s))
        free = self.size + ahead - (len(self.held) - unsent)
        return max(0, min(free, deliveries.BATCH))

    async def _read(self) -> None:
        pause_s, recover = 0.05, True
        while not self._closing:
            try:
                if recover:
                    await self._recover()
                    recover = False
                await self._read_once()
                pause_s = 0.05
            except (errors.BusError, redis.RedisError, OSError) as exc:
                # The reply may be lost while its tasks are ours: read our own first.
                recover = True
                if groups.is_nogroup(exc):
                    await self._rejoin()
                    continue
                log.warning("%s: reading stopped for now: %s", self.topic, exc)
                await self._reader.connection_pool.disconnect()
                await asyncio.sleep(pause_s * (0.5 + random.random()))
                pause_s = min(pause_s * 2, 0.5)

    async def _rejoin(self) -> None:
        """Make the group again, which somebody deleted."""
        try:
            await groups.ajoin_group(self.topic, self.group)
        except errors.BusError as exc:
            log.warning("%s: %s", self.topic, exc)
            await asyncio.sleep(0.5)

    async def _read_once(self) -> None:
        await self._quiet.may_read(self)
        want = self._wanted()
        if not want:
            self._room.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._room.wait(), 0.25)
            return
        if await self._claim(want):
            return
        # A script cannot block: read here, let the script check what came.
        sids = await deliveries.wait_for_new(self._seat, self._reader, want, _BLOCK_S)
        self.last_read = time.time()
        if sids:
            await self._claim(len(sids), sids)

    async def _claim(self, want: int, sids: list[str] | None = None) -> bool:
        """Take up to `want` tasks; whether any came. Suspects are run alone."""
        async with self._claiming:
            alone = self._quiet.reserved_by(self)
            claimed = await deliveries.claim(self._seat, want, alone, sids)
            self._seen(claimed.now_ms)
            self._topic_timeout_s = claimed.timeout_s
            self.paused = claimed.paused
            if self._closing or not self._quiet.open_for(self):
                # Something began to drain, or asked for quiet, while we were away.
                await deliveries.release(self._seat, claimed.deliveries)
                return False
            for item in claimed.deliveries:
                self._take(item)
        if alone:
            await self._finish_alone()
        elif claimed.suspects:
            await self._quiet.reserve(self)
            if self._quiet.reserved_by(self):
                return await self._claim(1)
        return bool(claimed.deliveries)

    async def _finish_alone(self) -> None:
        """Wait until what was claimed in quiet is finished and known to the server."""
        while self.held and not self._closing:
            await asyncio.sleep(0.002)
        self._quiet.end(self)

    def _take(self, item: Delivery) -> None:
        if item.sid in self.held:
            return
        own_s = None
        if item.record.options:
            text = records.parse_options(item.record.options).get("t")
            own_s = float(text) if text else None
        seconds = handlers.timeout_of(self.handler, own_s, self._topic_timeout_s)
        run = self.held[item.sid] = Run(item, self.handler, seconds)
        self._slots.put(run)

    async def _recover(self) -> None:
        """Take up tasks that are ours on the server but were lost on the way here."""
        after = ""
        while True:
            now_ms, after, items = await deliveries.recover(self._seat, after)
            self._seen(now_ms)
            for item in items:
                self._take(item)
            if not after:
                return

    def _seen(self, now_ms: int) -> None:
        self.last_read = time.time()
        self.reports.clock_ms = now_ms - time.monotonic() * 1000

    async def _claim_handed_over(self) -> None:
        """Rows handed over do not wake a reader that blocks in the server."""
        want = self._wanted()
        if want and self._quiet.open_for(self):
            # An error shows up at the reader as well, which deals with it.
            with contextlib.suppress(errors.BusError, redis.RedisError, OSError):
                await self._claim(want)

    # --- the end of a run

    def _finished(self, run: Run) -> None:
        """A run came back from its slot: on the loop, once per run."""
        took_s = max(run.finished - run.started, 1e-5)
        self._run_s += (took_s - self._run_s) * 0.05
        self.reports.report(run)

    def _forget(self, run: Run) -> None:
        self.held.pop(run.delivery.sid, None)
        self._room.set()

    def _stop(self, run: Run, why: str) -> None:
        """End a run from outside, started or not."""
        if run.over:
            return
        if run.started:
            self._slots.stop(run, why)
            return
        # Not started: take everything out and put the others back in order.
        for other in self._slots.take_unstarted():
            if other is not run:
                self._slots.put(other)
        run.over, run.stopped = True, why
        run.started = run.finished = time.monotonic()
        self.reports.report(run)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            for run in list(self.held.values()):
                if not run.over and now > run.deadline:
                    self._slots.stop(run, TIMED_OUT)

    # --- beats

    def leased(self) -> list[Delivery]:
        """What to renew: everything in hand but attempts that should have ended.

        Read from the beat thread; `list` of a dict's values is one step of CPython.
        """
        latest = time.monotonic() - _LEASE_GRACE_S
        return [x.delivery for x in list(self.held.values()) if latest < x.deadline]

    def beaten(self, beat: Beat) -> None:
        """The server's answer to a beat, handed from the beat thread to the loop."""
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._on_beat, beat)

    def _on_beat(self, beat: Beat) -> None:
        self.paused = beat.paused
        for why, items in ((FENCED, beat.fenced), (CANCELLED, beat.cancelled)):
            for item in items:
                run = self.held.get(item.sid)
                # A run that is over is on its way to the server, which may have
                # forgotten it already.
                if run is not None and not run.over:
                    log.info("%s: %s is %s", self.topic, item.id, why)
                    self._stop(run, why)
        if self._closing:
            return
        if self.paused:
            self._spawn(self.release_unstarted())
        elif beat.handed_over and self._wanted() and not self._claiming.locked():
            self._spawn(self._claim_handed_over())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._break(task.exception())

    def _break(self, exc: BaseException | None) -> None:
        if exc is not None and not self.broken.done():
            log.error("%s: the lane is broken", self.topic, exc_info=exc)
            self.broken.set_exception(exc)

    # --- the end of the lane

    async def release_unstarted(self) -> None:
        """Give back what no slot has started."""
        runs = self._slots.take_unstarted()
        for run in runs:
            self.held.pop(run.delivery.sid, None)
        with contextlib.suppress(errors.BusError):
            await deliveries.release(self._seat, [run.delivery for run in runs])

    async def drain(self, grace_s: float) -> None:
        """Take nothing more, give back the unstarted, let the rest finish."""
        self._closing = True
        self._room.set()
        await self.release_unstarted()
        until = time.monotonic() + grace_s
        while (self.held or self.reports.busy) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # What still runs is stopped unreported, and goes back with the rest below.
        for run in list(self.held.values()):
            if not run.over:
                self._slots.stop(run, FENCED)
        await self._slots.close()
        await self.reports.close()
        with contextlib.suppress(errors.BusError, redis.RedisError, OSError):
            await self._release_own_rows()
        await self._seat.client.aclose()
        await self._reader.aclose()

    async def _release_own_rows(self) -> None:
        """The last step: whatever the server still counts as ours goes back."""
        while True:
            _, after, items = await deliveries.recover(self._seat, "")
            await deliveries.release(self._seat, items)
            if not after:
                return
