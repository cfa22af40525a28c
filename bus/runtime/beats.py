"""The thread that keeps an agent alive in the eyes of the mesh.

Its own thread and its own connection: a handler that holds the loop must not cost the
agent its life. It renews the registration and the lease of every task in hand, once a
second, and reports what the server answered to the loop.

In a crowd an agent that has nothing to do beats more rarely, under a registration that
lasts longer: nobody loses anything by it. What it takes in hand ends that at once. A
crowd are those who serve the same topic: of what is handed over they hear by their
beats, and it must not wait for the rare beat of the only one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import redis

from .. import agents, connection, deliveries, errors, keys, lines, trips
from ..conf import conf
from ..deliveries import Beat, Delivery
from . import crowds

log = logging.getLogger("bus.agent")

_RAREST: Final = 5.0  # times as long as usual from beat to beat
_BEATS_IN_TTL: Final = 2.5  # of those that are rare: late only after one is missed
_HEED_S: Final = 0.2  # within which an idle agent sees that it has something in hand


class Held(Protocol):
    """What a beat needs to know of one topic of the agent."""

    topic: str
    group: str

    def leased(self) -> list[Delivery]:
        """Deliveries whose lease is to be renewed, read from the beat thread."""

    def beaten(self, beat: Beat) -> None:
        """What the server answered; called from the beat thread."""

    def reached(self) -> None:
        """The server is there, again or for the first time; called from the thread."""


class Beats(threading.Thread):
    """Beats every `BEAT_S` until closed; reconnects within half a second.

    A lane reads from its first beat on, which is after the registration. `drain` is
    called while an operator wants the agent to end, `broken` hears of a bug that ended
    the beats.
    """

    def __init__(
        self,
        agent_id: str,
        consumer: str,
        record: Callable[[], dict[str, Any]],
        topics: Sequence[Held],
        drain: Callable[[], None],
        broken: Callable[[Exception], None],
    ) -> None:
        super().__init__(name="mesh-beats", daemon=True)
        self._id, self._consumer = agent_id, consumer
        self._record, self._topics = record, topics
        self._drain, self._broken = drain, broken
        self._client: redis.Redis | None = None
        self._closed = threading.Event()
        self._steady_since: float | None = None
        self._said = ""  # why the last beat failed
        self.alive = 0  # agents with a registration at the last beat
        self._beside: dict[str, int] = {}  # by topic, how many take its tasks
        self._stretch = 1.0  # how many times as long as usual this beat is to last
        self._news = False  # whether the last beat told of something to heed
        self._asked = False  # for a beat at once
        self._known = False  # whether a registration under our id was ours before
        self._namesake = ("", 0.0)  # who else beats under it, and when it was met

    @property
    def steady_s(self) -> float:
        """Seconds of unbroken beats; nobody is judged before enough of them."""
        since = self._steady_since
        return 0.0 if since is None else time.monotonic() - since

    def hurry(self) -> None:
        """Have the next beat at once; for other threads."""
        self._asked = self._stretch > 1

    def confirmed(self) -> bool:
        """Whether the server is the one of all these beats, as of now.

        Between two rare beats it may have been away without our noticing: then all who
        lost their connections look dead. For other threads; waits for a beat.
        """
        asked_at = time.monotonic()
        self.hurry()
        while self._asked and not self._closed.is_set():
            if time.monotonic() - asked_at > conf.SOCKET_TIMEOUT_S:
                return False
            time.sleep(_HEED_S / 4)
        return self.steady_s >= conf.JUDGE_AFTER_S

    @property
    def namesake(self) -> str | None:
        """Another process that lives under the same id, as a person looks for it."""
        said, met_at = self._namesake
        return said if said and time.monotonic() - met_at < self._ttl_s else None

    @property
    def _ttl_s(self) -> float:
        """How long the registration is to last without another beat."""
        rare_s = conf.BEAT_S * self._stretch * _BEATS_IN_TTL
        return conf.EXPIRY_S if self._stretch == 1 else max(conf.EXPIRY_S, rare_s)

    def run(self) -> None:
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                self._beat()
                if self._steady_since is None:
                    self._steady_since = time.monotonic()
                    self._said = ""
                    for topic in self._topics:
                        topic.reached()
                pause = conf.BEAT_S * self._stretch - (time.monotonic() - began)
            except (errors.BusError, redis.RedisError, OSError) as exc:
                said, self._said = self._said, str(exc)
                # Once is enough: until it beats an agent takes no task.
                level = logging.DEBUG if said == self._said else logging.WARNING
                log.log(level, "no beat: %s", exc)
                self._steady_since = None
                self._drop_client()
                pause = min(0.3, conf.BEAT_S)
            except Exception as exc:
                log.exception("the beats are broken")
                self._broken(exc)
                return
            self._asked = False  # its beat, or the failure of it, is known
            self._rest(max(pause, 0.01))
        self._drop_client()

    def _rest(self, pause_s: float) -> None:
        """Wait for the next beat; not where a rare one would come too late."""
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0:
            rare = self._stretch > 1
            if self._closed.wait(min(left_s, _HEED_S) if rare else left_s):
                return
            if rare and (self._news or self._asked or self._busy()):
                until = min(until, time.monotonic())

    def _busy(self) -> bool:
        return any(topic.leased() for topic in self._topics)

    def close(self) -> None:
        """Stop beating; the registration ends by itself or by `deregister`."""
        self._closed.set()

    def _beat(self) -> None:
        if self._client is None:
            name = keys.client_name(self._consumer)
            self._client = connection.dedicated(name=name)
        calm = self._known and not (self._news or self._busy())
        fewest = min(self.alive, *self._beside.values()) if self._beside else 0
        self._stretch = crowds.stretch(fewest, _RAREST) if calm else 1.0
        self._news = False
        record, ttl = {**self._record(), "namesake": self.namesake}, self._ttl_s
        client = self._client
        if self._stretch > 1 and self._in_one_trip(client, ttl, record):
            return
        told = agents.beat(self._id, self._consumer, ttl, record, client)
        self._heed(told, client, ttl, record)
        for topic in self._topics:
            try:
                self._renew(topic, client)
            except errors.BusUnavailable:
                raise
            except errors.BusError as exc:
                # What somebody broke in one topic costs the others no lease.
                log.warning("%s: no lease is renewed: %s", topic.topic, exc)

    def _in_one_trip(
        self, client: redis.Redis, ttl_s: float, record: dict[str, Any]
    ) -> bool:
        """The beat of one with nothing in hand; False where it is to go step by step.

        To be woken costs the server more than what it is woken for.
        """
        calls = [agents.beat_call(self._id, self._consumer, ttl_s, record)]
        calls += [
            deliveries.heartbeat_call(each.topic, each.group, self._consumer, ())
            for each in self._topics
        ]
        try:
            told, *rest = trips.run_all(calls, lines.Line(client))
        except errors.BusUnavailable:
            raise
        except errors.BusError:  # a script it does not know, a topic somebody broke
            return False
        self._heed(agents.parse_beat(told), client, ttl_s, record)
        for topic, reply in zip(self._topics, rest, strict=True):
            self._hear(topic, deliveries.parse_heartbeat(reply, ()))
        return True

    def _heed(
        self,
        told: agents.Beaten,
        client: redis.Redis,
        ttl_s: float,
        record: dict[str, Any],
    ) -> None:
        """What the registration came to."""
        self.alive = told.alive
        if told.other and self._known:
            self._meet(told.other)
        self._known = True
        if not told.kept:
            agents.register(self._id, self._consumer, ttl_s, record, client)
        elif told.kept == agents.DRAIN:
            self._drain()

    def _meet(self, other: dict[str, Any]) -> None:
        """Say that somebody beat under our id since we did.

        What the first beat meets is most often who was killed a moment ago, and whose
        place we take.
        """
        said = "an agent written by hand"
        if other.get("pid") is not None:
            said = f"process {other['pid']} on {other.get('host')}"
        if self.namesake != said:
            log.warning(
                "%s lives under the id %s as well: no task is lost, but pages and "
                "explain show now one and now the other; give each an id of its own",
                said,
                self._id,
            )
        self._namesake = (said, time.monotonic())

    def _renew(self, topic: Held, client: redis.Redis) -> None:
        """Renew the leases of one topic; with nothing in hand just hear the answer."""
        held = topic.leased()
        for at in range(0, max(len(held), 1), deliveries.BATCH):
            part = held[at : at + deliveries.BATCH]
            beat = deliveries.heartbeat(
                client, topic.topic, topic.group, self._consumer, part
            )
            self._hear(topic, beat)

    def _hear(self, topic: Held, beat: Beat) -> None:
        self._news |= beat.paused or beat.handed_over
        self._beside[topic.topic] = beat.consumers
        topic.beaten(beat)

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
