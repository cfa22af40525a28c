"""The agent runtime: one process that runs the tasks of its topics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

from . import (
    address,
    agents,
    announcement,
    errors,
    fitness,
    groups,
    keys,
    layout,
    messages,
    words,
)
from .bulk.driver import Foreman
from .conf import conf
from .handlers import Handler
from .home import child
from .janitor import Janitor
from .runtime import lane, processes, quiet, rate, usage
from .runtime.beats import Beats

try:
    import uvloop  # comes with uvicorn[standard], where there is one
except ImportError:
    uvloop = None  # type: ignore[assignment]

log = logging.getLogger("bus.agent")

VERSION: Final = "0.1.0"
_FAREWELL_S: Final = 0.5
_REPEAT_S: Final = 1.0  # within which one stop may come as several signals
GRACE_S: Final = 4.0  # for running tasks; `up` ends everything within 10 s
_CONCURRENCY: Final = {"async": 100, "thread": 8, "process": os.cpu_count() or 1}


def default_id() -> str:
    """`host-pid`, unique among the processes that are alive."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")
    return f"{host[:100] or 'host'}-{os.getpid()}"


class Agent:
    """Registers, beats, reads, runs, drains on a signal, deregisters."""

    def __init__(
        self,
        found: Sequence[Handler],
        *,
        agent_id: str | None = None,
        concurrency: int | None = None,
        group: str = "default",
        grace_s: float = GRACE_S,
    ) -> None:
        if not found:
            raise errors.HandlerError(
                "no handler: decorate a function with @handler in an app's agents.py, "
                "or name one with --handler package.module:function"
            )
        self.id = keys.check_agent(agent_id or default_id())
        self.consumer = keys.consumer_of(self.id)
        self._handlers = list(found)
        self._concurrency = concurrency
        self._group = group
        self._grace_s = grace_s
        self._retired = False  # by an operator, who lets tasks take their time
        self._until = math.inf  # monotonic s until which running tasks may go on
        self._stop_asked = False
        self._signals: dict[int, float] = {}  # when each came first, monotonic s
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: list[lane.Lane] = []
        self._threads: list[Beats | Janitor | Foreman] = []
        self._started = time.monotonic()
        self._state = "live"
        self._cpu = (time.monotonic(), usage.cpu_s())
        self._rate = rate.Rate()

    def run(self) -> None:
        """Run until a signal tells to stop, then drain; who insists ends it at once.

        A second SIGINT insists, and any signal that comes 1 s after the first or later.
        """
        # A signal may come before the loop can take it.
        for number in _stop_signals():
            signal.signal(number, lambda *_: self.stop())
        # Not asyncio.run: that waits for coroutines that ignore their cancellation.
        loop = uvloop.new_event_loop() if uvloop else asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        _run(loop, loop.create_task(self.main(signals=True)))

    def stop(self) -> None:
        """Begin to drain; safe from any thread."""
        self._stop_asked = True
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)

    def retire(self) -> None:
        """Begin to drain as an operator wants it: what runs may run to its end."""
        if not self._stop_asked:
            self._retired = True
            self.stop()

    def _hurry(self) -> None:
        """From now on tasks in hand have the time of a stop, and no more."""
        self._until = min(self._until, time.monotonic() + self._grace_s)

    def _out_of_time(self) -> bool:
        return time.monotonic() > self._until

    async def main(self, *, signals: bool = False) -> None:
        """The whole life, on the running loop."""
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        if signals:
            for number in _stop_signals():
                self._loop.add_signal_handler(number, self._signalled, number)
        stopping = self._loop.create_task(self._stopping.wait())
        serving = self._loop.create_task(self._serve())
        if self._stop_asked:
            self._stopping.set()
        await asyncio.wait((stopping, serving), return_when=asyncio.FIRST_COMPLETED)
        broke = serving.exception() if serving.done() else None
        # From here on no lane is added to those that drain. More than once: awaiting
        # with a timeout can swallow a cancellation on Python 3.11.
        while not (stopping.done() and serving.done()):
            stopping.cancel()
            serving.cancel()
            await asyncio.wait((stopping, serving), timeout=0.1)
        self._state = "draining"
        served = bool(self._threads)
        if served:
            log.info("agent %s drains", self.id)
        if not self._retired:
            self._hurry()
        await asyncio.gather(*(each.drain(self._out_of_time) for each in self._lanes))
        for thread in self._threads:
            thread.close()
        await asyncio.to_thread(self._leave)
        if served:
            log.info("agent %s ended", self.id)
        if broke is not None:
            raise broke

    def _leave(self) -> None:
        """End the registration, after the last beat that could renew it."""
        for thread in self._threads:
            thread.join(1.0)
        # Not worth more than a moment: without it the registration just expires.
        with contextlib.suppress(errors.BusError):
            if self._lanes:
                self._last_beat()
            agents.deregister(self.id, self.consumer, retry_s=0.2)

    def _last_beat(self) -> None:
        """What it did since its beat before is kept for those who ask later."""
        url, record = address.checked_url(), self.record()
        with announcement.client(url, timeout_s=_FAREWELL_S) as client:
            agents.beat(self.id, self.consumer, conf.EXPIRY_S, record, client)

    async def _serve(self) -> None:
        """Read and run until something breaks that should not, or a stop comes."""
        shared = quiet.Quiet()
        for found in self._handlers:
            group = await self._join(found.topic)
            if self._stop_asked:
                return
            size = self._concurrency or found.concurrency or _CONCURRENCY[found.kind]
            self._lanes.append(lane.Lane(found, group, self.consumer, size, shared))
        shared.lanes = self._lanes
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[None] = loop.create_future()

        def breaks(exc: Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(_fail, broken, exc)

        beats = Beats(
            self.id, self.consumer, self.record, self._lanes, self.retire, breaks
        )
        janitor = Janitor(self.consumer, beats)
        foreman = Foreman(lambda: janitor.sharing.period_s)
        self._threads = [beats, janitor, foreman]
        for thread in self._threads:
            thread.start()
        topics = ", ".join(
            f"{each.topic} ({words.count(each.size, 'slot')})" for each in self._lanes
        )
        log.info("agent %s serves %s", self.id, topics)
        child.tell_serving()
        # A deaf agent, or one that does not beat, is worse than a dead one: a bug ends
        # the process, and whoever supervises it starts another.
        await asyncio.gather(broken, *(each.broken for each in self._lanes))

    def _signalled(self, number: int) -> None:
        """Drain. A repeat soon after is no wish: the kernel tells of a parent's death
        once per thread of the parent, and service managers signal whole groups.
        """
        assert self._stopping is not None
        now = time.monotonic()
        first = min(self._signals.values(), default=now)
        by_hand = number == signal.SIGINT and number in self._signals
        if by_hand or now - first > _REPEAT_S:
            processes.kill_all()
            os._exit(130)  # the mesh hands our tasks over
        self._signals.setdefault(number, now)
        self._hurry()
        self._stop_asked = True
        self._stopping.set()

    async def _join(self, topic: str) -> str:
        """The working group; a server that is not there yet is waited for."""
        while True:
            try:
                await fitness.acheck()
                await layout.acheck()  # before the first write
                return await groups.ajoin_group(topic, self._group)
            except errors.BusUnavailable as exc:
                log.warning("%s", exc)
                await asyncio.sleep(0.3)

    def _server_time(self, at: float) -> str | None:
        """A monotonic time on the server's clock; None before it told us the time.

        Our own clock may be wrong by hours, and pages compare this with others' times.
        """
        clock_ms = max(each.intake.clock_ms for each in self._lanes)
        return messages.iso(int(clock_ms + at * 1000)) if clock_ms else None

    def record(self) -> dict[str, Any]:
        """What operators see of this agent; read from the beat thread."""
        now, cpu = time.monotonic(), usage.cpu_s()
        then, before = self._cpu
        self._cpu = (now, cpu)
        done = sum(each.reports.done for each in self._lanes)
        failed = sum(each.reports.failed for each in self._lanes)
        return {
            "agent_id": self.id,
            "agent_type": "mesh",
            "consumer": self.consumer,
            "state": self._state,
            "topics": [each.topic for each in self._lanes],
            "slots": sum(each.size for each in self._lanes),
            "in_flight": sum(len(each.held) for each in self._lanes),
            "per_topic": {each.topic: each.told() for each in self._lanes},
            "done": done,
            "failed": failed,
            "ended_per_minute": self._rate.per_minute(now, done + failed),
            "rss_bytes": usage.rss_bytes(),
            "cpu": round((cpu - before) / (now - then), 3) if now > then else 0.0,
            "version": VERSION,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self._server_time(self._started),
            "last_read_at": self._server_time(
                min(each.intake.last_read for each in self._lanes)
            ),
            "unread_s": round(max(each.intake.unread_s for each in self._lanes), 1),
            "meta": {},
        }


def _stop_signals() -> list[signal.Signals]:
    """What tells to stop; a closed terminal too, unless started under nohup."""
    found = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


def _run(loop: asyncio.AbstractEventLoop, main: asyncio.Task[None]) -> None:
    """Run the loop to the end of `main`, past the SystemExit of a task beside it,
    which leaves the loop as well: whoever of a handler awaits that task hears of it."""
    while not main.done():
        try:
            loop.run_until_complete(main)
        except (KeyboardInterrupt, SystemExit) as exc:
            log.error("a task raised %s", type(exc).__name__)
    main.result()


def _fail(future: asyncio.Future[None], exc: Exception) -> None:
    if not future.done():
        future.set_exception(exc)
