"""One topic in an agent: what is in hand, from the claim until the server knows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import redis.asyncio

from .. import connection, deliveries, errors, handlers, keys, pace, records
from ..deliveries import Beat, Delivery, Seat
from ..handlers import Handler
from . import intake, reports, runs, slots
from .quiet import Quiet
from .runs import CANCELLED, FENCED, TIMED_OUT, Run

log = logging.getLogger("bus.agent")

_UNSTARTED_S: Final = 0.05  # of work an agent may hold without having started it
_UNSTARTED_MOST: Final = 300
_UNSENT_MOST: Final = 500  # finished tasks that wait for the server
_SWEEP_S: Final = 0.05
_HOARD_S: Final = 0.25  # unstarted beside no task that ends: they go back
_GIVE_BACK_S: Final = 0.7  # for each step of giving back when an agent ends
_LEASE_GRACE_S: Final = 5.0  # a run this long past its deadline loses its lease


class Lane:
    """The life of one topic in one agent process."""

    def __init__(
        self, handler: Handler, group: str, consumer: str, size: int, quiet: Quiet
    ) -> None:
        self.topic, self.group = handler.topic, group
        self.handler, self.size = handler, size
        self.held: dict[str, Run] = {}  # by sid, from claim until the server knows
        self._returning: set[str] = set()  # fences that are on their way back
        self.closing = False
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._run_s = 0.0  # moving average of how long a task takes
        self._mean = runs.Mean(size)  # the same over more, for those who ask
        self._last_end = time.monotonic()
        client = connection.adedicated(name=keys.client_name(consumer))
        self._seat = Seat(client, self.topic, group, consumer)
        self._quiet = quiet
        self.intake = intake.Intake(self._seat, self, quiet)
        self.reports = reports.Reports(
            self._seat, handler, self.intake, self.held, self._forget, self._break
        )
        self._slots = slots.make(handler, size, self._finished)
        # Done when a bug has broken the lane; then it holds the exception.
        self.broken: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = False
        self.spawn(self._sweep())

    # --- what is in hand

    def wanted(self) -> int:
        """How many tasks to take now: free slots and a little to start next."""
        unsent = self.reports.unsent
        full = self._slots.stuck or unsent >= _UNSENT_MOST
        if self.closing or self.intake.paused or full:
            return 0
        ahead = 0
        if self._run_s:  # unknown before the first task has ended
            ahead = min(_UNSTARTED_MOST, int(_UNSTARTED_S * self.size / self._run_s))
        free = self.size + ahead - (len(self.held) - unsent)
        return max(0, min(free, deliveries.BATCH))

    def knows(self, item: Delivery) -> bool:
        """Whether it is in hand, or was: the server may not know that yet."""
        run, fence = self.held.get(item.sid), item.fence
        in_hand = run is not None and run.delivery.fence == fence
        return in_hand or fence in self._returning or self.reports.keeps(fence)

    async def room(self) -> None:
        """Wait a little for something to be finished."""
        self._room.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._room.wait(), 0.25)

    def take(self, item: Delivery) -> None:
        """Have a delivery run as soon as a slot is free.

        Where somebody made its group anew, it may be what runs here already. Then that
        run goes on under the new fence, which nobody else was given; one that is on its
        way to the server is refused there, and the task runs again.
        """
        held = self.held.get(item.sid)
        if held is not None:
            held.again = held.over or bool(held.stopped)
            if not held.again:
                held.delivery = item
            return
        own_s = records.timeout_s(item.record.options)
        seconds = handlers.timeout_of(self.handler, own_s, self.intake.topic_timeout_s)
        now = time.monotonic()
        run = self.held[item.sid] = Run(item, self.handler, seconds, now)
        self._slots.put(run)

    # --- the end of a run

    def _finished(self, run: Run) -> None:
        """A run came back from its slot: on the loop, once per run."""
        took_s = max(run.finished - run.started, 1e-5)
        self._run_s += (took_s - self._run_s) * (0.05 if self._run_s else 1.0)
        self._mean.add(took_s)
        self._last_end = run.finished
        try:
            self.reports.report(run)
        except Exception as exc:  # the slot that calls us would die of it unheard
            self._break(exc)

    def _forget(self, run: Run) -> None:
        self.held.pop(run.delivery.sid, None)
        self._room.set()
        if run.again:
            self.intake.look_for_ours()

    def _stop(self, run: Run, why: str) -> None:
        """End a run from outside, started or not."""
        if run.over:
            return
        if run.started:
            self._slots.stop(run, why)
            return
        # Not started: take everything out and put the others back in order.
        unstarted = self._slots.take_unstarted()
        for other in unstarted:
            if other is not run:
                self._slots.put(other)
        if run not in unstarted:
            self._slots.stop(run, why)  # a thread has just taken it
            return
        run.over, run.stopped = True, why
        run.started = run.finished = time.monotonic()
        self.reports.report(run)

    async def _sweep(self) -> None:
        stuck = False
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            stuck = runs.tell_stuck(self.topic, stuck, self._slots.stuck)
            unstarted = []
            for run in list(self.held.values()):
                if not run.started:
                    unstarted.append(run.taken)
                if not run.over and now > run.deadline:
                    self._slots.stop(run, TIMED_OUT)
            # One that has just come has not been waiting since the last one ended.
            since = max(self._last_end, min(unstarted, default=now))
            if unstarted and (self._slots.stuck or now - since > _HOARD_S):
                # The tasks at hand take longer than the last ones did: what waits
                # behind them belongs to whoever is free.
                self._run_s = max(self._run_s, _HOARD_S)
                self._last_end = now
                await self.release_unstarted()

    # --- beats

    def told(self) -> dict[str, Any]:
        """Slots, tasks in hand, and the s that one runs; read from the beat thread."""
        held = list(self.held.values())
        told: dict[str, Any] = {"slots": self.size, "in_flight": len(held)}
        told["run_s"] = self._mean.told(held)
        told["why"] = None
        if self._slots.stuck or self._quiet.reserved:
            told["slots"] = 0
            told["why"] = pace.STUCK if self._slots.stuck else pace.ALONE
        return told

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

    def reached(self) -> None:
        """The server is there again, perhaps another one, which knows less of us."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.intake.look_for_ours)

    def _on_beat(self, beat: Beat) -> None:
        if not (self._reading or self.closing):
            # Not before the first beat, which comes after the registration: tasks of an
            # agent that was killed unregistered would wait for a whole lease.
            self._reading = True
            self.spawn(self.intake.read())
        self.intake.heed(beat)
        for why, items in ((FENCED, beat.fenced), (CANCELLED, beat.cancelled)):
            for item in items:
                run = self.held.get(item.sid)
                # A run that is over is on its way to the server, which may have
                # forgotten it already.
                if run is not None and run.delivery is item and not run.over:
                    log.info("%s: %s is %s", self.topic, item.id, why)
                    self._stop(run, why)
        if self.closing:
            return
        if self.intake.paused:
            self.spawn(self.release_unstarted())
        elif beat.handed_over:
            self.intake.handed_over()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run beside; a bug in it breaks the lane."""
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
        unstarted = self._slots.take_unstarted()
        for run in unstarted:
            self.held.pop(run.delivery.sid, None)
        try:
            await self.give_back([run.delivery for run in unstarted])
        except errors.BusError:
            self.intake.look_for_ours()

    async def give_back(self, items: list[Delivery]) -> None:
        """Return deliveries unstarted; BusError where the server may not know of it.

        Until it answers they still stand as ours there: whoever looks for tasks of ours
        must not take them up again, and run what goes to another agent at that moment.
        """
        fences = {item.fence for item in items}
        self._returning |= fences
        try:
            await deliveries.release(self._seat, items)
        finally:
            self._returning -= fences

    async def drain(self, out_of_time: Callable[[], bool]) -> None:
        """Take nothing more, give back the unstarted, let the rest finish.

        Ends soon after it is `out_of_time` whatever handlers and server do: leases see
        to what could not be given back.
        """
        self.closing = True
        self._room.set()
        await _within(_GIVE_BACK_S, self.release_unstarted())
        while (self.held or self.reports.busy) and not out_of_time():
            await asyncio.sleep(0.01)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:  # in a lane that broke all may have ended
            await asyncio.wait(tasks, timeout=_GIVE_BACK_S)
        # What still runs is stopped unreported, and goes back with the rest below.
        for run in list(self.held.values()):
            if not run.over:
                self._slots.stop(run, FENCED)
        await self._slots.close()
        await self.reports.close()
        await _within(_GIVE_BACK_S, self.intake.close())
        await _within(_GIVE_BACK_S, self._release_own_rows())
        await _within(_GIVE_BACK_S, self._seat.client.aclose())

    async def _release_own_rows(self) -> None:
        """The last step: whatever the server still counts as ours goes back."""
        while True:
            found = await deliveries.recover(self._seat, "")
            await deliveries.release(self._seat, found.deliveries)
            if not found.after:
                return


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Do what can be done in this time; the server may be away while we end."""
    with contextlib.suppress(
        asyncio.TimeoutError, errors.BusError, redis.RedisError, OSError
    ):
        await asyncio.wait_for(work, seconds)
