"""Somebody made a key one of another type: a verb is refused whole, or done whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

import bus
from bus import keys, purges, scripts
from tests.support.desk import GROUP, Desk
from tests.support.town import Town, build_town

TOPICAL = (
    *("tasks_stream", "results", "dead", "tasks", "delayed", "parked", "done"),
    *("dead_index", "bin", "minutes", "hours", "attempts", "errors", "counters"),
    *("settings", "events"),
)


VERBS: dict[str, Callable[[Town, Desk], Any]] = {
    "enqueue": lambda t, d: bus.enqueue_task(t.topic, 1),
    "enqueue for later": lambda t, d: bus.enqueue_task(t.topic, 1, delay_s=60),
    "enqueue under a key": lambda t, d: bus.enqueue_task(
        t.topic, 1, idempotency_key="order 7"
    ),
    "cancel what waits": lambda t, d: bus.cancel(t.waiting, t.topic),
    "cancel what is delayed": lambda t, d: bus.cancel(t.delayed, t.topic),
    "complete": lambda t, d: d.complete(*d.recover()),
    "fail": lambda t, d: d.fail(d.recover()[0], final=True),
    "fail for now": lambda t, d: d.fail(d.recover()[0]),
    "take from the dead": lambda t, d: d.lose(),
    "discard": lambda t, d: bus.discard(t.dead, t.topic),
    "discard alike": lambda t, d: purges.discard_alike(
        t.topic, bus.list_dead(t.topic)[0].fingerprint
    ),
    "replay": lambda t, d: bus.replay(t.dead, t.topic),
    "run now": lambda t, d: bus.run_now(t.delayed, t.topic),
    "ack": lambda t, d: bus.ack(t.topic, GROUP, t.sid),
    "settle": lambda t, d: scripts.run("settle", t.topic, ["0", "mark"]),
    "make the group": lambda t, d: bus.create_consumer_group(t.topic, GROUP),
    "move to dead": lambda t, d: bus.move_to_dead(t.topic, t.sid, 1),
}


def dumped(client: redis.Redis) -> dict[str, object]:
    return {
        str(name): client.dump(name)
        for name in client.scan_iter(count=1000)
        if "events" not in str(name)
    }


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_stops_half_way(
    redis_client: redis.Redis, test_topic: str, verb: str
) -> None:
    refused = 0
    for name in [*TOPICAL, "<group>"]:
        redis_client.flushall()
        town = build_town(redis_client, test_topic)
        desk = Desk(test_topic)
        where = town.group() if name == "<group>" else keys.named(name, test_topic)
        redis_client.delete(where)
        redis_client.set(where, "not ours")
        before = dumped(redis_client)

        try:
            VERBS[verb](town, desk)
        except bus.BusError:
            refused += 1
            after = dumped(redis_client)
            changed = {
                key for key in before | after if before.get(key) != after.get(key)
            }
            assert changed == set(), name

    assert refused
