"""The duties every agent and server shares, without leader or lock.

Promote what is due, take tasks of dead owners, trim, audit, find topics that fell off
the list, forget agents long gone.
Every duty is a script that finds nothing to do when somebody else was first.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import redis

from . import auditor, connection, errors, keys, refusals, scripts, topics
from .conf import conf
from .judge import Judge, take, take_from_child

__all__ = [
    "Janitor",
    "Judge",
    "forget_agents",
    "promote",
    "take",
    "take_from_child",
    "trim",
]

log = logging.getLogger("bus.janitor")

_TICK_S: Final = 1.0
_TURN: Final = 0.6  # of a tick: shorter than the shortest wait, so one is enough
# Whatever somebody wrote there by hand, each looks for itself as often as this.
_ALONE_S: Final = 30.0
_TRIM_EVERY: Final = 5  # ticks
_REGISTRY_EVERY: Final = 3
_SAY_EVERY_S: Final = 60.0


class Janitor(threading.Thread):
    """A thread that does the duties until closed, about once a second in turn with all
    others."""

    def __init__(self, consumer: str, steady_s: Callable[[], float]) -> None:
        super().__init__(name="mesh-janitor", daemon=True)
        self._consumer = consumer
        self._steady_s = steady_s
        self._closed = threading.Event()
        self._known: set[str] = set()
        self._cursor = 0  # of the walk through all keys
        self._alone_at = 0.0  # when it looks, whoever has looked before
        self._said: dict[str, float] = {}

    def run(self) -> None:
        ticks = 0
        due_at = judge_at = math.inf  # what we see coming, we come back for ourselves
        while not self._closed.is_set():
            wait_s = _TICK_S * random.uniform(0.7, 1.0)
            try:
                now = time.monotonic()
                first = self._is_first(now)
                if first or now >= min(due_at, judge_at):
                    names = self._topics()
                    due_s = min([_TICK_S, *map(self._promoted, names)])
                    due_at = now + due_s if due_s < _TICK_S else math.inf
                    if first or now >= judge_at:
                        ticks += 1
                        again_s = self._tick(ticks, names)
                        judge_at = time.monotonic() + again_s
            except (errors.BusError, redis.RedisError, OSError) as exc:
                due_at = judge_at = math.inf
                self._say("", exc)
                with contextlib.suppress(errors.BusError):
                    auditor.audit_registry()
            left_s = conf.JUDGE_AFTER_S - self._steady_s()
            if 0 < left_s < wait_s:
                judge_at = time.monotonic() + left_s  # judge as soon as we may
            wait_s = min(wait_s, min(due_at, judge_at) - time.monotonic())
            self._closed.wait(max(wait_s, 0.005))

    def _is_first(self, now: float) -> bool:
        """Whether it is for us to look, since nobody has for most of a tick.

        A hundred janitors look no more often than two. Whoever may not judge yet looks
        for itself, and takes no turn from those who may.
        """
        first = self._steady_s() < conf.JUDGE_AFTER_S or not self._alone_at
        if not first:
            px = max(1, round(_TURN * _TICK_S * 1000))
            try:
                with refusals.guard():
                    client = connection.reader()
                    # Left out for long, it takes the turn from whatever stands there.
                    nx = now < self._alone_at
                    first = bool(client.set(keys.TURN, self._consumer, nx=nx, px=px))
            except errors.BusUnavailable:  # its memory is full, say: the duties go on
                first = True
        if first:
            self._alone_at = now + _ALONE_S
        return first

    def _topics(self) -> list[str]:
        """Every topic, also one whose name fell off the list.

        Somebody deleted the list, or sent to a topic at the moment of its deletion.
        """
        found = topics.list_topics()
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
        log.log(logging.DEBUG if quiet else logging.WARNING, "janitor: %s", said)
        if not quiet:
            self._said = {**self._said, said: now + _SAY_EVERY_S}

    def close(self) -> None:
        """Stop after the duty at hand."""
        self._closed.set()

    def _tick(self, tick: int, names: list[str]) -> float:
        """The duties that once a second is enough for; in how many s at the latest they
        are due again."""
        # After an outage of the server everybody looks dead; they get time to beat.
        may_judge = self._steady_s() >= conf.JUDGE_AFTER_S
        judge = Judge(self._consumer) if may_judge else None
        for topic in names:
            # One topic in trouble does not keep the others from being looked after.
            try:
                if judge is not None:
                    judge.reclaim(topic)
                if tick % _TRIM_EVERY == 0:
                    trim(topic)
            except errors.BusError as exc:
                self._say(topic, exc)
        auditor.tick(names, self._say)
        if tick % _REGISTRY_EVERY == 0:
            auditor.audit_registry()
            self._look_for_topics()
        if tick % 60 == 0:
            forget_agents()
        return math.inf if judge is None else judge.again_s

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

    def _promoted(self, topic: str) -> float:
        """Seconds until the next task of the topic is due."""
        try:
            return promote(topic)
        except errors.BusError as exc:
            self._say(topic, exc)
            return _TICK_S


def promote(topic: str) -> float:
    """Move what is due into the stream; seconds until the next one is due."""
    while True:
        moved, next_ms = scripts.run("promote", topic, [100], retry_s=0)
        if moved < 100:
            return _TICK_S if next_ms < 0 else max(next_ms, 1) / 1000


def trim(topic: str) -> None:
    """Keep results, index and bin within their bounds."""
    window = (conf.DONE_WINDOW_S, conf.DONE_INDEX_MAX, conf.BIN_KEEP_S)
    scripts.run("trim", topic, [conf.RESULTS_KEEP, *window], retry_s=0)


def forget_agents() -> None:
    """Drop records of agents that are gone for long."""
    args: list[Any] = [conf.GONE_AGENTS_KEEP_S, conf.GONE_AGENTS_KEEP]
    scripts.run("forget_agents", "", args, retry_s=0)
