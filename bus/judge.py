"""Who is dead: decided from registry and connections; its tasks are handed over."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import redis

from . import (
    agents,
    connection,
    errors,
    failures,
    keys,
    messages,
    refusals,
    scripts,
    words,
)
from .conf import conf
from .looks import Look

log = logging.getLogger("bus.janitor")

_FAREWELL_S: Final = 1.0  # for the connections of a process that ended to go
_ENDED_MS: Final = 60_000  # of silence before a consumer without connection goes
_SILENT_MS: Final = 3_600_000  # before any other goes that holds nothing
_SETTLED_MS: Final = 1_500  # rows of a dead owner are at least this idle
_MISSED: Final = 1.5  # beats after which one that renews its tasks has missed one
_JUST_AFTER_S: Final = 0.02  # its end: not a moment before the server agrees
_JUMP_MS: Final = 2_000  # of the server's clock, beyond how it is set right bit by bit
_GONE: Final = "the agent was gone"


class Evenness:
    """For how long the server's clock has gone as evenly as our monotonic one.

    Who sets its time, or resumes its machine, ages all registrations and all tasks in
    hand at once. Ours goes on while this process is stopped, and so does the server's;
    while the machine sleeps it stands still.
    """

    def __init__(self) -> None:
        self._seen: tuple[int, float] | None = None
        self._jumped_at = -math.inf

    def compare(self, server_ms: int, asked_at: float) -> None:
        """The server's time, told since we asked: more cannot have passed for us."""
        now = time.monotonic()
        if self._seen is not None:
            seen_ms, seen_at = self._seen
            if server_ms - seen_ms > (now - seen_at) * 1000 + _JUMP_MS:
                self._jumped_at = now
        self._seen = server_ms, asked_at

    @property
    def even_s(self) -> float:
        """Seconds since it jumped, as far as we know."""
        return time.monotonic() - self._jumped_at


class Judge:
    """Who is dead, decided once per tick from one look at registry and connections.

    An owner is dead if its registration has expired and no connection carries its name,
    or if its tasks were idle for one lease. In a crowd registrations last longer than
    tasks may wait, so one without a connection that renewed nothing for as long as the
    usual one lasts is dead as well. Agents written by hand are registered under
    the consumer name itself and keep their tasks while the registration lives. Those
    over HTTP have the lease they registered with, and nothing else counts for them.
    Who is not `sure` that the server was there all the time judges by the lease alone.
    The server's clock tells how long tasks were idle: for no longer than `even_s`, the
    time since it jumped, as when its machine was suspended.
    """

    def __init__(
        self,
        me: str,
        sure: Callable[[], bool] = lambda: True,
        even_s: float = math.inf,
    ) -> None:
        self._me = me
        self._even_ms = even_s * 1000
        self._sure = functools.cache(sure)  # asked where somebody seems dead
        self.again_s = math.inf  # until one who missed a beat is dead
        self._looked = False
        self._names: set[str] | None = None

    def reclaim(self, topic: str, *, tidy: bool = True) -> int:
        """Take the tasks of dead owners of one topic; how many.

        With `tidy` consumers that have ended are removed as well.
        """
        args = ["1" if tidy else "0"]
        return self._heed(topic, scripts.run("holding", topic, args, retry_s=0))

    def heed(self, seen: Look, *, tidy: bool) -> int:
        """`reclaim` with what was seen of the topic just now."""
        if isinstance(seen.holding, Exception):
            return self.reclaim(seen.topic, tidy=tidy)
        return self._heed(seen.topic, seen.holding)

    def _heed(self, topic: str, holding: Sequence[Any]) -> int:
        group, rows = holding
        consumers = [_facts(row) for row in rows]
        holding = [
            c for c in consumers if c["name"] != keys.HANDED_OVER and c["pending"]
        ]
        self._drop_gone(topic, group, consumers)
        if not holding:
            return 0
        expiries = registered_until([c["name"] for c in holding])
        now_ms = agents.server_ms()
        taken = 0
        for consumer, expiry in zip(holding, expiries, strict=True):
            verdict = self._verdict(consumer, expiry, now_ms)
            if verdict is not None and verdict[0] <= self._even_ms:
                taken += take(topic, group, consumer["name"], *verdict)
        return taken

    def _verdict(
        self, consumer: dict[str, Any], expiry: float | None, now_ms: int
    ) -> tuple[int, str] | None:
        """How idle rows must be to be taken, and why; None if all of them stay."""
        name = consumer["name"]
        lent_s = keys.lease_of(name)
        if lent_s is not None:
            return _lease_over(lent_s)  # over HTTP there is no connection to judge by
        lease_ms, lease_over = int(conf.LEASE_S * 1000), _lease_over(conf.LEASE_S)
        by_hand = keys.agent_of(name) == name
        if expiry is None and by_hand:
            return lease_over
        if expiry is None or expiry < now_ms:
            if name == self._me or not self._is_cut_off(name):
                return lease_over
            # One of ours that was never registered died before its first beat; it gets
            # the time that a registration would have given it.
            settled_ms = int(conf.EXPIRY_S * 1000) if expiry is None else _SETTLED_MS
            return min(settled_ms, lease_ms), _GONE
        if expiry - now_ms < conf.EXPIRY_S * 500:  # a beat is missing
            self._come_again(expiry - now_ms)
        if by_hand:
            return None
        unrenewed_ms = int(conf.EXPIRY_S * 1000)
        if consumer["idle"] >= unrenewed_ms:
            if self._is_cut_off(name):
                return min(unrenewed_ms, lease_ms), _GONE
        elif consumer["idle"] >= conf.BEAT_S * _MISSED * 1000:
            # Under a registration made for rare beats this is all there is to see; who
            # is left of a crowd that was killed would look again too late.
            self._come_again(unrenewed_ms - consumer["idle"])
        return lease_over

    def _is_cut_off(self, name: str) -> bool:
        """Whether no connection carries the name, on a server that was there all along:
        after an outage nobody has one, and the lease alone counts."""
        return self.connected(name) is False and self._sure()

    def _come_again(self, after_ms: float) -> None:
        """Have a look at the moment when somebody may be dead."""
        self.again_s = min(self.again_s, after_ms / 1000 + _JUST_AFTER_S)

    def connected(self, name: str) -> bool | None:
        """Whether a connection carries the owner's name; None if we may not look."""
        if not self._looked:
            self._looked = True
            try:
                text = connection.reader().execute_command("CLIENT", "LIST")
                self._names = _client_names(text)
            except redis.RedisError:
                self._names = None
        if self._names is None:
            return None
        return keys.client_name(name) in self._names

    def _drop_gone(self, topic: str, group: str, rows: list[dict[str, Any]]) -> None:
        """Remove consumers that hold nothing, and have ended or are silent for long.

        One that comes back is made again by its next read.
        """
        for row in rows:
            name, idle_ms = row["name"], row["idle"]
            if (
                row["pending"]
                or idle_ms < _ENDED_MS
                or name in (keys.HANDED_OVER, self._me)
            ):
                continue
            ours = keys.agent_of(name) != name
            ended = ours and self.connected(name) is False
            if ended or idle_ms >= _SILENT_MS:
                least = _ENDED_MS if ended else _SILENT_MS
                scripts.run("drop_consumer", topic, [group, name, least], retry_s=0)


def _lease_over(lease_s: float) -> tuple[int, str]:
    return int(lease_s * 1000), f"its lease of {lease_s:g} s ended"


def take(topic: str, group: str, owner: str, idle_ms: int, why: str = _GONE) -> int:
    """Hand over (or bury as poison) every task of an owner that is idle so long; `why`
    becomes the error of the attempt."""
    fp = failures.fingerprint(failures.POISON)
    args: list[Any] = [group, owner, idle_ms, conf.MAX_DELIVERIES, topic]
    args += [conf.RESULTS_KEEP, fp, messages.dump(failures.POISON)]
    args += [re.sub(r"[^A-Za-z0-9:._@~#-]", "?", keys.agent_of(owner))[:160], why]
    taken = 0
    while True:
        reply: list[int] = scripts.run(
            "reclaim", topic, args, [keys.group_key(topic, fp)], retry_s=0
        )
        handed, buried, seen = reply
        taken += handed + buried
        if handed or buried:
            tasks = words.count(handed + buried, "task")
            log.warning("%s: took %s of %s", topic, tasks, owner)
        if seen < 100:
            return taken


def holders(topic: str, retry_s: float | None = None) -> tuple[str, list[str]]:
    """The working group of a topic, '' without one, and which consumers hold tasks."""
    group, rows = scripts.run("holding", topic, ["0"], retry_s=retry_s)
    return group, [each["name"] for each in map(_facts, rows) if each["pending"]]


def take_from_child(pid: int) -> int:
    """Take the tasks of an agent process whose parent saw it end; how many.

    For the parent: it knows at once what a judge finds out after seconds. An agent that
    ended as it should has nothing left. Never raises: what fails is for the judges.
    """
    taken = 0
    with contextlib.suppress(errors.BusError, redis.RedisError, OSError):
        here = socket.gethostname()
        for row in agents.overview():
            if row["pid"] != pid or row["host"] != here or not row["consumer"]:
                continue
            # Another container may have our host name, and a process of this pid.
            if _connected_for(row["consumer"], _FAREWELL_S):
                continue
            agents.deregister(row["agent_id"], row["consumer"], retry_s=0)
            for topic in row["topics"]:
                group, names = holders(keys.check_topic(topic), retry_s=0)
                if row["consumer"] in names:
                    taken += take(topic, group, row["consumer"], 0)
    return taken


def _connected_for(consumer: str, most_s: float) -> bool:
    """Whether a connection carries the name for that long, or we may not look."""
    until = time.monotonic() + most_s
    while Judge("").connected(consumer) is not False:
        if time.monotonic() > until:
            return True
        time.sleep(0.02)
    return False


def registered_until(consumers: list[str]) -> list[float | None]:
    """Per consumer, one at least, its expiry in server ms; None if not registered."""
    with refusals.guard():
        scores = connection.reader().execute_command("ZMSCORE", keys.AGENTS, *consumers)
    return [None if score is None else float(score) for score in scores]


def _facts(row: Any) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    return dict(zip(row[::2], row[1::2], strict=True))


def _client_names(reply: Any) -> set[str]:
    """Names of all connections, from either shape redis-py makes of CLIENT LIST."""
    if isinstance(reply, list):
        return {str(client.get("name", "")) for client in reply}
    return set(re.findall(r"\bname=(\S*)", str(reply)))
