"""Every key stays within its bound, and memory comes back after a drain."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import auditor, conf, decisions, janitor, keys
from tests.support import agents, work
from tests.support.desk import Desk
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def small(settings: Settings) -> None:
    """Bounds that a test can pass."""
    settings.MESH_RESULTS_KEEP = 50
    settings.MESH_DONE_WINDOW_S = 0
    settings.MESH_DONE_INDEX_MAX = 80
    settings.MESH_BIN_MAX = 5


def size(client: redis.Redis, topic: str, name: str) -> int:
    key = keys.named(name, topic)
    kind = str(client.type(key))
    sizes: dict[str, Any] = {
        "none": lambda _: 0,
        "hash": client.hlen,
        "zset": client.zcard,
        "stream": client.xlen,
    }
    return int(sizes[kind](key))


# After a life of 1,000 tasks of every kind, with nothing left to do. What is not named
# here is of no topic, or only of tests.
AT_MOST = {
    "tasks_stream": 0,
    "tasks": 0,
    "delayed": 0,
    "parked": 0,
    "attempts": 0,
    "results": 50,
    "done": 50,
    "dead": 20,
    "dead_index": 40,  # an alias beside each at most
    "errors": 20,
    "bin": 5,
    "seen0": 202,
    "seen1": 202,
    "minutes": 181,
    "hours": 721,
    "counters": 20,
    "settings": 10,
    "events": 10_100,
    "audit": 12,
}
NOT_OF_A_TOPIC = {"topics", "format", "agents", "gone", "draining", "log"}
NOT_OF_A_TOPIC |= {"replays", "open_replays"}  # test_bulk_replay.py has their bounds


def test_every_key_of_the_table_stays_within_its_bound(
    test_topic: str, redis_client: redis.Redis, small: None
) -> None:
    desk = Desk(test_topic)
    for n in range(200):
        bus.enqueue_task(test_topic, n, idempotency_key=str(n))
    bus.enqueue_many(test_topic, range(800))
    waiting = [bus.enqueue_task(test_topic, n, delay_s=60) for n in range(20)]
    words = map("".join, itertools.product("abcdefg", repeat=2))
    for _ in range(10):
        items = desk.claim(100)
        for item in items[:4]:
            desk.fail(item, final=True, message=next(words))
        desk.complete(*items[4:])
    for task_id in waiting:
        bus.cancel(task_id, test_topic)
    for letter in bus.list_dead(test_topic)[:20]:
        decisions.discard(letter.id, test_topic)

    janitor.trim(test_topic)
    auditor.audit(test_topic)

    assert set(AT_MOST) | NOT_OF_A_TOPIC == set(keys.NAMES)
    found = {name: size(redis_client, test_topic, name) for name in AT_MOST}
    assert {name: n for name, n in found.items() if n > AT_MOST[name]} == {}
    groups = list(redis_client.scan_iter(keys.group_key(test_topic, "*")))
    assert len(groups) == found["errors"] == found["dead"] == 20


def test_memory_is_back_where_it_was_after_a_drain(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    """20,000 tasks, as in the promise; its 30 s are over at once."""
    settings.MESH_DONE_WINDOW_S = 0
    assert conf.conf.RESULTS_KEEP == 10_000

    def drained(rounds: int) -> int:
        bus.enqueue_many(test_topic, [{"pad": "x" * 150}] * 20_000)
        done = rounds * 20_000
        wait_until(lambda: bus.stats(test_topic)["done"] == done, 30)
        janitor.trim(test_topic)
        redis_client.memory_purge()
        return int(redis_client.info("memory")["used_memory"])

    with agents.running(test_topic, work.echo):
        before = drained(1)  # results, index and connections are there from now on
        after = drained(2)

    assert after <= before * 1.1 + 2**20
