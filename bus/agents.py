"""The registry of agents: who is there, and since when not.

Liveness belongs to a consumer: the agent id plus a nonce of this process start for our
own runtime, the agent id itself for agents written by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import redis

from . import connection, errors, keys, messages, records, refusals, replies, scripts

ID: Final = keys.AGENT_SHAPE.pattern
STATES: Final = ("live", "idle", "late", "deaf", "draining", "gone")
_TTL_MOST_S = 24 * 3600
DRAIN: Final = 2  # kept, and the agent is to finish what it has in hand and end


def register_agent(
    agent_id: str,
    agent_type: str,
    ttl_seconds: float = 60,
    meta: dict[str, Any] | None = None,
) -> None:
    """Register an agent for `ttl_seconds`, or renew its registration whole.

    `meta` is any JSON object, shown to operators. While the registration lives, tasks
    read under the agent's id stay its own; when it ends they are anybody's.
    """
    record = new_record(agent_id, agent_type, meta)
    register(agent_id, agent_id, ttl_seconds, record)


def new_record(agent_id: str, agent_type: str, meta: Any) -> dict[str, Any]:
    """What an agent by hand or over HTTP tells of itself, checked."""
    if meta is not None and not isinstance(meta, dict):
        raise errors.InvalidPayload("meta is not a JSON object")
    return {
        "agent_id": keys.check_agent(agent_id),
        "agent_type": _type(agent_type),
        "meta": {} if meta is None else meta,
    }


def register(
    agent_id: str,
    consumer: str,
    ttl_s: float,
    record: dict[str, Any],
    client: redis.Redis | None = None,
) -> int:
    """Register a consumer of an agent; its expiry in server ms."""
    args = [agent_id, consumer, _ttl_ms(ttl_s), messages.encode(record)]
    more = [keys.agent_key(agent_id)]
    retry_s = None if client is None else 0
    return int(scripts.run("register", "", args, more, client=client, retry_s=retry_s))


def heartbeat_agent(agent_id: str, ttl_seconds: float = 60) -> bool:
    """Keep a registration for `ttl_seconds` more; False if there is none to keep."""
    return beat(agent_id, agent_id, ttl_seconds, None).kept > 0


class Beaten(NamedTuple):
    """What a beat came to: 1 where it was kept, DRAIN, or 0 where nothing was to keep.

    `other` is the record that it replaced, where another process under the same id had
    written it, else empty; `alive` counts all that are registered.
    """

    kept: int
    other: dict[str, Any]
    alive: int


def beat(
    agent_id: str,
    consumer: str,
    ttl_s: float,
    record: dict[str, Any] | None,
    client: redis.Redis | None = None,
) -> Beaten:
    """Renew a consumer's registration, with a new record if given; never creates."""
    call = beat_call(agent_id, consumer, ttl_s, record)
    retry_s = None if client is None else 0  # on its own the caller tries again
    return parse_beat(scripts.run(*call, client=client, retry_s=retry_s))


def beat_call(
    agent_id: str, consumer: str, ttl_s: float, record: dict[str, Any] | None
) -> scripts.Call:
    """`beat` as a call of its script."""
    body = b"" if record is None else messages.dump(record)
    args = [agent_id, consumer, _ttl_ms(ttl_s), body]
    return "beat", "", args, [keys.agent_key(agent_id)]


def parse_beat(reply: list[Any]) -> Beaten:
    """What `beat_call` came to."""
    return Beaten(int(reply[0]), messages.parse_row(reply[1]), int(reply[2]))


def drain_agent(agent_id: str) -> None:
    """Tell an agent to take nothing more, finish what it has in hand, and end.

    It hears of that with its next beat. What drains is this process, or for agents by
    hand and over HTTP this registration: the next one takes tasks again. AgentNotFound
    if it is not registered (any more).
    """
    record = get_agent(agent_id)
    args = [agent_id, record["consumer"] or agent_id]
    if not scripts.run("drain", "", args, [keys.agent_key(agent_id)]):
        raise errors.AgentNotFound(f"agent {agent_id!r} is not registered (any more)")


def deregister_agent(agent_id: str) -> bool:
    """End a registration; whether there was one. Tasks left in hand are free."""
    return deregister(agent_id, agent_id)


def deregister(agent_id: str, consumer: str, retry_s: float | None = None) -> bool:
    """End the registration of a consumer of an agent."""
    more = [keys.agent_key(agent_id)]
    args = [consumer, agent_id]
    return bool(scripts.run("deregister", "", args, more, retry_s=retry_s))


def list_agents() -> list[dict[str, Any]]:
    """Every live agent: `agent_id, agent_type, meta, …`, sorted by id."""
    with refusals.guard():
        client = connection.reader()
        known = client.zrange(keys.AGENTS, 0, -1)
        ids = sorted({keys.agent_of(consumer) for consumer in known})
        texts = client.mget(list(map(keys.agent_key, ids))) if ids else []
    rows = (messages.parse_row(text) for text in texts if text)
    return [row for row in rows if row]


def overview() -> list[dict[str, Any]]:
    """Every agent of the last 24 h, also those that are gone; live ones first, by id.

    Beside what the agent told of itself (`agent_id, agent_type, meta`, and for our
    runtime `topics, slots, in_flight, done, failed, ended_per_minute, rss_bytes, cpu,
    version, host, pid, started_at, last_read_at, namesake` (who lives under this id as
    well, by mistake), over HTTP `topics, lease_s`; None where it told nothing), and
    `per_topic`: of each `slots, in_flight, run_s` (mean s), `why` if it takes none now:

    expires_in_s  seconds its registration has left, 0 once it is gone
    last_beat_at  its last registration or heartbeat
    state         gone      expired or deregistered; the last record is kept 24 h
                  late      no heartbeat for 0.6 of its ttl: two missed beats of ours
                  draining  it finishes what it has in hand, or was told to
                  deaf      it beats, but its reads failed for more than 6 s
                  idle      nothing in flight
                  live      anything else
    """
    return [row for each in seen() if (row := each.row())]


class Seen(NamedTuple):
    """An agent of the last 24 h whose record nobody has read yet."""

    agent_id: str
    beat_ms: int
    ttl_ms: int
    json: str
    told: str | None  # the consumer of this agent that is to drain, if any
    now_ms: int

    @property
    def gone(self) -> bool:
        """Whether its registration has ended."""
        return self.now_ms - self.beat_ms >= self.ttl_ms

    def record(self) -> dict[str, Any]:
        """What it told of itself and its `state`; empty where that is no record."""
        record = messages.parse_row(self.json)
        if record:
            if self.told and self.told == (record.get("consumer") or self.agent_id):
                record["state"] = "draining"
            record["state"] = _state(record, self.now_ms - self.beat_ms, self.ttl_ms)
        return record

    def row(self) -> dict[str, Any] | None:
        """Its row of `overview`; None where its record is none."""
        record = self.record()
        if not record:
            return None
        meta, served = record.get("meta"), record.get("topics")
        shares = record.get("per_topic")
        return {
            "agent_id": self.agent_id,
            "agent_type": record.get("agent_type"),
            "meta": meta if isinstance(meta, dict) else {},
            "state": record["state"],
            "expires_in_s": max(0, self.beat_ms + self.ttl_ms - self.now_ms) / 1000,
            "last_beat_at": messages.iso(self.beat_ms),
            "topics": served if isinstance(served, list) else [],
            "per_topic": shares if isinstance(shares, dict) else {},
            **{name: record.get(name) for name in _TOLD},
        }


def _seen(agent_id: str, text: str, told: str | None, now_ms: int) -> Seen | None:
    """From a kept record `last beat|ttl|json`; None for something else."""
    beat, _, rest = text.partition("|")
    ttl, _, json = rest.partition("|")
    beat_ms, ttl_ms = records.number(beat), records.number(ttl)
    if beat_ms is None or ttl_ms is None:
        return None
    return Seen(agent_id, beat_ms, ttl_ms, json, told, now_ms)


def seen(near: Callable[[str, str], bool] = lambda who, text: True) -> list[Seen]:
    """Whom `overview` has and are `near` by id and text, in its order: few of many."""
    with refusals.guard():
        pipe = connection.reader().pipeline(transaction=False)
        pipe.hgetall(keys.GONE).hgetall(keys.DRAINING).time()
        kept, told, now = pipe.execute()
    now_ms = replies.clock_ms(now)
    by_id = sorted(each for each in kept.items() if near(*each))
    found = (_seen(who, text, told.get(who), now_ms) for who, text in by_id)
    return sorted(filter(None, found), key=lambda one: one.gone)


def serving(topic: str, also: str = "") -> list[dict[str, Any]]:
    """Rows of `overview` of those that may serve the topic, and of the agent `also`."""
    near = seen(lambda who, text: f'"{topic}"' in text or who == also)  # as in JSON
    return [row for each in near if (row := each.row())]


def get_agent(agent_id: str) -> dict[str, Any]:
    """One row of `overview`; AgentNotFound if nobody was there under this id lately."""
    keys.check_agent(agent_id)
    with refusals.guard():
        pipe = connection.reader().pipeline(transaction=False)
        pipe.hget(keys.GONE, agent_id).hget(keys.DRAINING, agent_id).time()
        text, told, now = pipe.execute()
    found = _seen(agent_id, text or "", told, replies.clock_ms(now))
    row = found and found.row()
    if not row:
        raise errors.AgentNotFound(
            f"no agent {agent_id!r}: it never registered here, or left over a day ago"
        )
    return row


# What an agent may tell of itself beside its name, type and meta.
_TOLD: Final = (
    *("consumer", "slots", "in_flight", "done", "failed", "ended_per_minute"),
    *("rss_bytes", "cpu", "version", "host", "pid", "started_at", "last_read_at"),
    *("lease_s", "namesake"),
)
_LATE_SHARE: Final = 0.6  # of the ttl: 1.8 s of 3 s are two missed beats of 0.8 s
_DEAF_S: Final = 6.0  # of reads that fail, or are overdue


def _state(record: dict[str, Any], age_ms: int, ttl_ms: int) -> str:
    if age_ms >= ttl_ms:
        return "gone"
    if age_ms > _LATE_SHARE * ttl_ms:
        return "late"
    if record.get("state") == "draining":
        return "draining"
    unread_s = record.get("unread_s")
    if isinstance(unread_s, (int, float)) and unread_s > _DEAF_S:
        return "deaf"
    return "idle" if record.get("in_flight") == 0 else "live"


def server_ms() -> int:
    """The server's time in ms, by which registrations expire."""
    with refusals.guard():
        return replies.clock_ms(connection.reader().time())


def _type(agent_type: str) -> str:
    ok = isinstance(agent_type, str) and 0 < len(agent_type) <= 64
    if not ok or not agent_type.isprintable():
        raise errors.InvalidName(
            f"agent type {agent_type!r:.80} is not 1 to 64 letters"
        )
    return agent_type


def _ttl_ms(ttl_s: float) -> int:
    ok = isinstance(ttl_s, (int, float)) and not isinstance(ttl_s, bool)
    if not ok or not 0 < ttl_s <= _TTL_MOST_S:
        raise errors.InvalidOption(
            f"ttl_seconds {ttl_s!r} is not above 0 s, up to 24 h"
        )
    return max(1, int(ttl_s * 1000))
