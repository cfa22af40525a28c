"""The duties every agent and server shares, without leader or lock.

Promote what is due, take tasks of dead owners, trim, audit, find topics that fell off
the list, forget agents long gone.
Every duty is a script that finds nothing to do when somebody else was first. The more
janitors there are, the less often each of them looks: a hundred idle agents would keep
the server busy with looks alone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from typing import Any, Final, Protocol

import redis

from . import (
    auditor,
    connection,
    errors,
    keys,
    looks,
    refusals,
    scripts,
    topics,
)
from .conf import conf
from .judge import Evenness, Judge, take_from_child

__all__ = [
    "Janitor",
    "Pulse",
    "Sharing",
    "forget_agents",
    "take_from_child",
    "trim",
]

log = logging.getLogger("bus.janitor")

_TICK_S: Final = 1.0
_LOOKS_PER_S: Final = 8  # of all janitors together, once there are more than these
_PERIOD_MOST_S: Final = 12.5
_HEED_S: Final = 0.25  # within which a janitor sees that others have gone
_TRIM_EVERY: Final = 5  # ticks
_TIDY_EVERY: Final = 5
_SHARED_S: Final = 1.3  # of period: what can wait, a crowd does that often more rarely
_REGISTRY_EVERY: Final = 3
_SAY_EVERY_S: Final = 60.0
_OF_THE_SERVER: Final = (errors.BusError, redis.RedisError, OSError)


class Pulse(Protocol):
    """What a janitor needs to know of the beats of its agent."""

    @property
    def steady_s(self) -> float:
        """Seconds of unbroken beats."""

    @property
    def alive(self) -> int:
        """How many agents had a registration at the last beat."""

    def hurry(self) -> None:
        """Have the next beat at once."""

    def confirmed(self) -> bool:
        """Whether the server is the one of all these beats, as of now."""


class Sharing:
    """How often one of the janitors looks.

    Together they look at least `_LOOKS_PER_S` times a second. Whoever looks counts the
    others; in between every agent that goes may have been one of them, so that those
    who survive a massacre look as often as they must from their next beat on.
    """

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self.clock = Evenness()
        self._janitors, self._of = 1, 0

    def count(self) -> list[str]:
        """Look who is there; the topics on the list. BusError without a server."""
        asked_at = time.monotonic()
        with refusals.guard():
            pipe = connection.reader().pipeline(transaction=False)
            pipe.smembers(keys.TOPICS)
            pipe.time()
            pipe.zrange(keys.AGENTS, 0, -1, withscores=True)
            listed, (now_s, rest_us), rows = pipe.execute()
        self.clock.compare(now_s * 1000 + rest_us // 1000, asked_at)
        names = [name for name, until_ms in rows if until_ms >= now_s * 1000]
        self._janitors = sum(map(keys.is_of_runtime, names))  # others have none
        self._of = len(names)
        return list(listed)

    @property
    def period_s(self) -> float:
        """Seconds between two looks of one janitor."""
        gone = max(0, self._of - self._pulse.alive)
        left = (self._janitors - gone) / _LOOKS_PER_S
        return _TICK_S * min(max(left, 1.0), _PERIOD_MOST_S)


class Janitor(threading.Thread):
    """A thread that does its share of the duties until closed.

    About once a second, or as often as its `Sharing` asks for.
    """

    def __init__(self, consumer: str, pulse: Pulse) -> None:
        super().__init__(name="mesh-janitor", daemon=True)
        self._consumer = consumer
        self._pulse = pulse
        self.sharing = Sharing(pulse)
        self._closed = threading.Event()
        self._known: set[str] = set()
        self._cursor = 0  # of the walk through all keys
        self._said: dict[str, float] = {}
        self._ticks = 0
        self._tick_at, self._share, self._again_s = -math.inf, 1.0, math.inf
        self._judged = False  # at the last tick

    def run(self) -> None:
        while not self._closed.is_set():
            looked = time.monotonic()
            try:
                if self._tick_in() <= 0:
                    due_s = self._tick(self._topics(self.sharing.count()))
                else:
                    names = self._topics(topics.list_topics())
                    seen = looks.look(names, tidy=None)
                    due_s = min(map(self._due_s, seen), default=math.inf)
            except _OF_THE_SERVER as exc:
                self._say("", exc)
                with contextlib.suppress(errors.BusError):
                    auditor.audit_registry()
                self._closed.wait(_TICK_S)
            except Exception:
                # A thread that ended would be missed by nobody.
                log.exception("janitor: a mistake of ours; starting over")
                self._closed.wait(_TICK_S)
            else:
                self._rest(looked + due_s)

    def _rest(self, until: float) -> None:
        """Wait until then or the next tick, with an eye on who else is there."""
        while not self._closed.is_set():
            wait_s = min(until - time.monotonic(), self._tick_in())
            self._closed.wait(min(max(wait_s, 0.005), _HEED_S))
            if wait_s <= _HEED_S:
                return

    def _tick_in(self) -> float:
        """Seconds until the next tick; it comes early where a judge is missed."""
        pause_s = min(self.sharing.period_s * self._share, self._again_s)
        left_s = self._tick_at + pause_s - time.monotonic()
        if not self._judged:
            may_judge_s = conf.JUDGE_AFTER_S - self._sure_s
            left_s = min(left_s, may_judge_s) if may_judge_s > 0 else 0.0
        return left_s

    def _topics(self, found: list[str]) -> list[str]:
        """These and every other known topic whose name fell off the list.

        Somebody deleted the list, or sent to a topic at the moment of its deletion.
        """
        for topic in self._known.difference(found):
            if topics.is_there(topic):
                topics.bring_back(topic)
                found.append(topic)
        self._known = set(found)
        return sorted(found)

    def _say(self, topic: str, exc: Exception) -> None:
        """Tell of a duty that fails, once a minute; an absent server others tell of."""
        said, now = f"{topic}: {exc}" if topic else str(exc), time.monotonic()
        quiet = isinstance(exc, errors.BusUnavailable) or self._said.get(said, 0) > now
        if not quiet and not isinstance(exc, _OF_THE_SERVER):
            log.error("janitor: a mistake of ours; %s", said, exc_info=exc)
        else:
            log.log(logging.DEBUG if quiet else logging.WARNING, "janitor: %s", said)
        if not quiet:
            self._said = {**self._said, said: now + _SAY_EVERY_S}

    def close(self) -> None:
        """Stop after the duty at hand."""
        self._closed.set()

    @property
    def _sure_s(self) -> float:
        """Seconds since when the living could show it: after an outage of the server,
        or a jump of its clock, everybody looks dead and gets time to beat."""
        return min(self._pulse.steady_s, self.sharing.clock.even_s)

    def _tick(self, names: list[str]) -> float:
        """The duties, those among them that once a period is enough for; seconds until
        the next task is due."""
        self._ticks += 1
        self._judged = self._sure_s >= conf.JUDGE_AFTER_S
        judge, even_s = None, self.sharing.clock.even_s
        if self._judged:
            judge = Judge(self._consumer, self._pulse.confirmed, even_s)
        tidy, due_s = self._turn(_TIDY_EVERY), math.inf
        for seen in looks.look(names, tidy=None if judge is None else tidy):
            due_s = min(due_s, self._due_s(seen))
            # One topic in trouble does not keep the others from being looked after.
            try:
                if judge is not None and judge.heed(seen, tidy=tidy):
                    self._pulse.hurry()  # it tells our lanes of what they can take
                if self._turn(_TRIM_EVERY):
                    trim(seen.topic)
            except Exception as exc:
                self._say(seen.topic, exc)
        # Of all looks that janitors try for a topic one a second is granted.
        if self._turn(1):
            auditor.tick(names, self._say)
        if self._turn(_REGISTRY_EVERY):
            auditor.audit_registry()
            self._look_for_topics()
        if self._ticks % 60 == 0:
            forget_agents()
        self._again_s = math.inf if judge is None else judge.again_s
        self._share = random.uniform(0.7, 1.1)
        self._tick_at = time.monotonic()
        return due_s

    def _turn(self, ticks: int) -> bool:
        """Whether this is one tick of so many, and of more where many share the duty.

        Unlike the dead it does not have to be met within seconds by who is left.
        """
        shared = max(1, round(self.sharing.period_s / _SHARED_S))
        return self._ticks % (ticks * shared) == 0

    def _look_for_topics(self) -> None:
        """A stretch of all keys, for topics that fell off the list unseen.

        Nobody may have known them since: no janitor was there, nobody sends to them.
        """
        try:
            self._cursor, lost = topics.unlisted(self._cursor)
            for topic in lost:
                topics.bring_back(topic)
        except errors.BusError as exc:
            self._say("", exc)

    def _due_s(self, seen: looks.Look) -> float:
        """Seconds until the next task of the topic is due."""
        try:
            return seen.due_s()
        except Exception as exc:
            self._say(seen.topic, exc)
            return _TICK_S


def trim(topic: str) -> None:
    """Keep results, index and bin within their bounds."""
    window = (conf.DONE_WINDOW_S, conf.DONE_INDEX_MAX, conf.BIN_KEEP_S)
    scripts.run("trim", topic, [conf.RESULTS_KEEP, *window], retry_s=0)


def forget_agents() -> None:
    """Drop records of agents that are gone for long."""
    args: list[Any] = [conf.GONE_AGENTS_KEEP_S, conf.GONE_AGENTS_KEEP]
    scripts.run("forget_agents", "", args, retry_s=0)
