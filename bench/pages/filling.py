"""Fills a server for the pages: what the reads of the API ask, and life beside it.

In every topic something waits, runs, is done and is dead, and an hour of minutes has
counts; agents tell of themselves what ours do.
"""

from __future__ import annotations

import time
from typing import Any, Final

import bus
from bench.http import filling
from bench.http.filling import Size
from bus import agents, connection, endings, fences, keys, leases, messages, replays

MODULE: Final = "bench.pages.filling"
AGENTS: Final = 500
SMALL: Final = Size(tasks=2_000, topics=20, dead=200, agents=20)
_HOLDER: Final = "holder"
_KEPT_S: Final = 24 * 3600
_SERVES: Final = 5  # topics of an agent
_RING: Final = 180  # minutes a topic keeps
_COUNTED: Final = 60  # of them that a page shows


def fill(size: Size) -> dict[str, str]:
    """Fill the server of this process; the names that pages are asked by."""
    names = filling.fill(Size(size.tasks, size.topics, size.dead, agents=0))
    topics = bus.list_topics()
    leases.register(_HOLDER, "by hand", _KEPT_S, None, leases.LEASE_MOST_S)
    for topic in topics:
        _live(topic)
        _count(topic)
    for n in range(size.agents):
        _register(n, [topics[(n + at) % len(topics)] for at in range(_SERVES)])
    group = bus.dead_groups(filling.TOPIC)[0]["fingerprint"]
    chosen = replays.select(topics=[filling.TOPIC], group=group)
    job = replays.create(chosen, start=False)
    return {**names, "agent": "agent-0", "group": group, "job": job.id}


def _live(topic: str) -> None:
    """One task that runs, one that is done, one that is dead."""
    bus.create_consumer_group(topic, "default")
    bus.enqueue_many(topic, range(3))
    lent = leases.claim(topic, _HOLDER, 3).lent
    done, dead, _ = [endings.fence_of(each.topic, each.id, each.fence) for each in lent]
    fences.complete([(done, b"1")])
    fences.fail([(dead, fences.Failed("Jam", "no paper", final=True))])


def _count(topic: str) -> None:
    """The rows of an hour, as `prelude.lua` writes them; for eyes only, the ledger
    does not read them."""
    minute = int(time.time()) // 60
    counts = "d=40 t=2 x=1 w3=9 w4=20 w5=8 w6=3 r2=12 r3=20 r4=11"
    rows = {
        str(at % _RING): f"{at} A=0 {counts}" for at in range(minute - _COUNTED, minute)
    }
    connection.reader().hset(keys.named("minutes", topic), mapping=rows)


def _register(n: int, topics: list[str]) -> None:
    agent_id, now = f"agent-{n}", messages.iso(int(time.time() * 1000))
    share = {"slots": 10, "in_flight": 1, "run_s": 0.25}
    record: dict[str, Any] = {
        "agent_id": agent_id,
        "agent_type": "mesh",
        "consumer": keys.consumer_of(agent_id),
        "state": "live",
        "topics": topics,
        "slots": 10 * len(topics),
        "in_flight": len(topics),
        "per_topic": dict.fromkeys(topics, share),
        "done": 123_456,
        "failed": 78,
        "ended_per_minute": 600.0,
        "rss_bytes": 80_000_000,
        "cpu": 0.5,
        "version": "1.0",
        "host": "bench",
        "pid": 1_000 + n,
        "started_at": now,
        "last_read_at": now,
        "unread_s": 0.0,
        "meta": {},
    }
    agents.register(agent_id, record["consumer"], _KEPT_S, record)


if __name__ == "__main__":
    filling.main(fill)
