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

from . import (
    auditor,
    errors,
    scripts,
    topics,
)
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
_TRIM_EVERY: Final = 5  # ticks
_REGISTRY_EVERY: Final = 3
_SAY_EVERY_S: Final = 60.0


class Janitor(threading.Thread):
    """A thread that does the duties about once a second until closed."""

    def __init__(self, consumer: str, steady_s: Callable[[], float]) -> None:
        super().__init__(name="mesh-janitor", daemon=True)
        self._consumer = consumer
        self._steady_s = steady_s
        self._closed = threading.Event()
        self._known: set[str] = set()
        self._cursor = 0  # of the walk through all keys
        self._said: dict[str, float] = {}

    def run(self) -> None:
        ticks, next_tick = 0, 0.0
        while not self._closed.is_set():
            wait_s = _TICK_S
            try:
                names = self._topics()
                wait_s = min([_TICK_S, *map(self._promoted, names)])
                if time.monotonic() >= next_tick:
                    ticks += 1
                    again_s = self._tick(ticks, names)
                    pause_s = min(_TICK_S * random.uniform(0.7, 1.1), again_s)
                    next_tick = time.monotonic() + pause_s
            except (errors.BusError, redis.RedisError, OSError) as exc:
                self._say("", exc)
                with contextlib.suppress(errors.BusError):
                    auditor.audit_registry()
            left_s = conf.JUDGE_AFTER_S - self._steady_s()
            if 0 < left_s < wait_s:
                wait_s, next_tick = left_s, 0.0  # judge as soon as we may
            if (tick_s := next_tick - time.monotonic()) > 0:
                wait_s = min(wait_s, tick_s)
            self._closed.wait(max(wait_s, 0.005))

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
