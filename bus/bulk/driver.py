"""Drives bulk replays: a thread of every agent and web server, one driver for each.

Whoever holds a job's short lease drives it. All that matters is kept on the server, so
a driver that dies is replaced within seconds, and one that only seemed dead is refused
by its fence. What a driver remembers itself is how many letters its rate lets through.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

import redis

from .. import errors, replays
from . import pace as paces
from . import parts, record
from .pace import Counts
from .record import Job

log = logging.getLogger("bus.replays")

_IDLE_S: Final = 1.0  # between looks for something to drive
_SLICE_S: Final = 0.5  # for one job, before others have their turn
_TICK_S: Final = 0.25
_FOLLOW_MS: Final = 86_400_000  # outcomes are waited for without any news
_SAY_EVERY_S: Final = 60.0


class Foreman(threading.Thread):
    """A thread that drives the open bulk replays nobody else drives.

    `idle_s` says how long to wait between two looks for one.
    """

    def __init__(self, idle_s: Callable[[], float] = lambda: _IDLE_S) -> None:
        super().__init__(name="mesh-foreman", daemon=True)
        self._idle_s = idle_s
        self._me = secrets.token_hex(8)
        self._closed = threading.Event()
        self._drives: dict[str, Drive] = {}
        self._said_at = -_SAY_EVERY_S

    def run(self) -> None:
        while not self._closed.is_set():
            wait_s = self._idle_s() * random.uniform(0.8, 1.2)
            try:
                wait_s = min(wait_s, self.round())
            except (errors.BusError, redis.RedisError, OSError) as exc:
                self._say(exc)
            except Exception:
                # A thread that ended would be missed by nobody.
                log.exception("bulk replay: a mistake of ours; starting over")
                self._drives = {}
            self._closed.wait(max(wait_s, 0.005))

    def close(self) -> None:
        """Stop after the batch at hand."""
        self._closed.set()

    def round(self) -> float:
        """A turn for each open bulk replay; s until there is more to do, or inf."""
        open_ids = record.ids(only_open=True)
        self._drives = {i: d for i, d in self._drives.items() if i in open_ids}
        wait_s = math.inf
        for job_id, job in zip(open_ids, record.read(open_ids), strict=True):
            if self._closed.is_set():
                break
            if job is None:
                record.forget(job_id)  # its record went with its time
            elif job.state == record.FROZEN:
                _drop_unstarted(job)
            else:
                wait_s = min(wait_s, self._turn(job_id))
        return wait_s

    def _turn(self, job_id: str) -> float:
        """One in trouble does not keep the others from being driven."""
        try:
            return self._drive(job_id)
        except errors.BusUnavailable:
            raise
        except errors.BusError as exc:
            self._say(exc)
            return _IDLE_S

    def _drive(self, job_id: str) -> float:
        job = record.hold(job_id, self._me)
        if job is None:  # somebody else has it
            self._drives.pop(job_id, None)
            return math.inf
        drive = self._drives.get(job_id)
        if drive is None or drive.job.fence != job.fence:
            drive = self._drives[job_id] = Drive(job, self._me)
        drive.job = job
        return drive.go_on(time.monotonic() + _SLICE_S)

    def _say(self, exc: Exception) -> None:
        """An absent server others tell of."""
        quiet = isinstance(exc, errors.BusUnavailable)
        if not quiet and time.monotonic() - self._said_at > _SAY_EVERY_S:
            self._said_at = time.monotonic()
            log.warning("bulk replay: %s", exc)


def _drop_unstarted(job: Job) -> None:
    """A preview that nobody came back to; its record says by whose clock it is old."""
    if record.age_ms(job) < replays.UNSTARTED_S * 1000:
        return
    with contextlib.suppress(errors.Conflict, errors.NotFound):  # started just now
        replays.put_away(job)


class Drive:
    """One bulk replay as long as this process drives it."""

    def __init__(self, job: Job, driver: str) -> None:
        self.job, self._driver = job, driver
        self._credit = 0.0  # letters the rate lets through
        self._credited_at = time.monotonic()
        self._due: dict[str, float] = {}  # when to look at a topic's outcomes again
        self._counts: dict[str, Counts] = {}
        ended = job.state == record.CANCELLED
        for topic in job.topics:
            parts.halt(topic, job.id, job.fence, drop=ended)
            self._look(topic)
        self._gauge = job.gauge or paces.start(self._sum())
        self._told = (job.counts, job.gauge)

    def go_on(self, until: float) -> float:
        """Drive it until then at most; seconds until there is more to do.

        What is written down at the end is for eyes: each batch is its own checkpoint.
        """
        try:
            return self._go_on(until)
        except errors.BusUnavailable:
            raise
        except errors.BusError as exc:
            # A key of a wrong type, say: it would go wrong again until somebody looks.
            log.warning("bulk replay %s stops: %s", self.job.id, exc)
            if self.job.state == record.RUNNING:
                self._tell(record.STOPPED, str(exc)[:500])
            return _IDLE_S

    def _go_on(self, until: float) -> float:
        # Not all the time for outcomes, or new letters would wait for old ones.
        wait_s = self._settle(until - _SLICE_S / 2)
        counts = self._sum()
        if self.job.state != record.RUNNING:
            given_up = record.age_ms(self.job) > _FOLLOW_MS
            over = self.job.state == record.CANCELLED and (not counts.open or given_up)
            self._tell(close=over)
            return wait_s
        while True:
            verdict = paces.decide(self.job.pace, counts, self._gauge)
            self._gauge = verdict.gauge
            if verdict.stop:
                self._tell(record.STOPPED, verdict.stop)
                return _IDLE_S
            if verdict.finished:
                self._tell(record.DONE, close=True)
                return _IDLE_S
            count = min(verdict.allow, self._affordable())
            if count < 1:
                break
            if not self._replay(count):
                return 0.0  # somebody changed its course: take it anew
            counts = self._sum()
            # However slow the server is, a slice does something.
            if time.monotonic() > until:
                break
        if not counts.todo and record.age_ms(self.job) > _FOLLOW_MS:
            why = f"{counts.open:,} outcomes are unknown after a day"
            self._tell(record.DONE, why, close=True)
            return _IDLE_S
        self._tell()
        if verdict.allow < 1:
            return wait_s
        return 0.0 if self.job.pace.rate is None else min(_TICK_S, wait_s)

    def _sum(self) -> Counts:
        rows = [each.as_dict() for each in self._counts.values()]
        return Counts(**{name: sum(row[name] for row in rows) for name in rows[0]})

    def _affordable(self) -> int:
        """How many letters the rate lets through now; a second's worth at most."""
        rate = self.job.pace.rate
        if rate is None:
            return parts.BATCH
        now = time.monotonic()
        earned = rate * (now - self._credited_at)
        self._credit = min(self._credit + earned, max(rate, 1.0))
        self._credited_at = now
        return min(int(self._credit), parts.BATCH)

    def _replay(self, count: int) -> bool:
        """Put up to so many letters back to work; False where it is not ours any more.

        Topics take turns, so that a canary tries each of them, as far as it goes.
        """
        left = {t: c.todo for t, c in self._counts.items() if c.todo}
        had = {t: _handled(self._counts[t]) for t in left}
        share = dict.fromkeys(left, 0)
        for _ in range(count):
            able = [topic for topic in left if share[topic] < left[topic]]
            if not able:
                break
            share[min(able, key=lambda topic: had[topic] + share[topic])] += 1
        before = self._sum().replayed
        for topic, part in share.items():
            if not part:
                continue
            if not parts.replay(topic, self.job, part):
                return False
            self._look(topic, 0)
        self._credit -= self._sum().replayed - before
        return True

    def _settle(self, until: float) -> float:
        """Look for outcomes that are due; seconds until the next ones are."""
        for topic, counts in self._counts.items():
            while counts.open and self._due[topic] <= time.monotonic() < until:
                if self._look(topic) < parts.LOOKS:
                    break
        waits = [self._due[t] for t, c in self._counts.items() if c.open]
        if not waits:
            return _IDLE_S
        return min(max(min(waits) - time.monotonic(), 0.02), _IDLE_S)

    def _look(self, topic: str, looks: int = parts.LOOKS) -> int:
        """Look at a topic's part; how many outcomes that covered."""
        found = parts.look(topic, self.job.id, looks)
        self._counts[topic] = found.counts
        wait_s = _IDLE_S if found.next_ms is None else found.next_ms / 1000
        self._due[topic] = time.monotonic() + wait_s
        return found.looked

    def _tell(
        self, state: str | None = None, why: str = "", *, close: bool = False
    ) -> None:
        """Write down how far it is, where that is news."""
        counts, gauge = self._sum(), self._gauge
        if state is None and not close and (counts, gauge) == self._told:
            return
        told = record.tell(
            self.job, self._driver, counts, gauge, state, why, close=close
        )
        if told:
            self._told = (counts, gauge)
        if told and state is not None:
            log.info("bulk replay %s is %s%s", self.job.id, state, why and f": {why}")


def _handled(counts: Counts) -> int:
    return counts.replayed + counts.skipped + counts.failed
