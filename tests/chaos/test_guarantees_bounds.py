"""Guarantees about bounds of backlog, letters and memory: they refuse, never delete."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import errors, keys
from tests.support import agents, chronicle
from tests.support.keyspace import wounds
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

SUITE = "S6 bounds"
EACH = int(os.environ.get("MESH_BOUNDS_TASKS", "250"))  # per producer
ROUNDS = int(os.environ.get("MESH_BOUNDS_ROUNDS", "2"))
PRODUCERS = 8
MB = 1024 * 1024
FILL = "x" * 4_000


async def a_moment(payload: Any, task: Any) -> Any:
    """A millisecond of work."""
    await asyncio.sleep(0.001)
    return payload


async def dead_at_first(payload: Any, task: bus.Task) -> Any:
    """Every tenth is done only once it is replayed."""
    if payload["n"] % 10 == 0 and task.epoch == 0:
        raise bus.GiveUp("as asked")
    return payload["n"]


async def never(payload: Any, task: Any) -> Any:
    """Always a dead letter."""
    raise bus.GiveUp("as asked")


@contextmanager
def watched(topic: str, name: str) -> Iterator[list[int]]:
    """The values a count of the topic's stats takes meanwhile."""
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            seen.append(int(bus.stats(topic)[name]))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def produced(topic: str, each: int) -> tuple[list[str], int]:
    """What producers that send at once get: ids accepted, how many were refused."""

    def produce(producer: int) -> tuple[list[str], int]:
        accepted, refused = [], 0
        for number in range(each):
            try:
                accepted.append(bus.enqueue_task(topic, {"n": number, "by": producer}))
            except errors.TopicFull:
                refused += 1
        return accepted, refused

    with ThreadPoolExecutor(PRODUCERS) as pool:
        parts = list(pool.map(produce, range(PRODUCERS)))
    ids = list(itertools.chain.from_iterable(part[0] for part in parts))
    return ids, sum(part[1] for part in parts)


def states(topic: str, ids: list[str]) -> set[str]:
    """In which states these tasks are."""
    return {bus.get_task(task_id, topic).state for task_id in ids}


def test_g6_the_bound_of_the_backlog_refuses_new_work_and_deletes_none(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """A full topic refuses (`TopicFull`, 429); no accepted task is ever deleted for it,
    and it never refuses a retry, a promotion or a replay."""
    bound = EACH
    bus.set_limits(test_topic, backlog_max=bound, results_keep=100_000)
    dead = bus.enqueue_task(test_topic, {"n": "dead"})
    with agents.running(test_topic, never):
        wait_until(lambda: bus.stats(test_topic)["dead"] == 1, 10)

    with watched(test_topic, "backlog") as backlog:
        early, refused_early = produced(test_topic, EACH)
        full = bus.stats(test_topic)["backlog"]
        bus.replay(dead, test_topic)
        beyond = bus.stats(test_topic)["backlog"]
        with agents.running(test_topic, a_moment):
            late, refused_late = produced(test_topic, EACH)
            wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 60)

    ids, refused = early + late, refused_early + refused_late
    assert (full, beyond) == (bound, bound + 1)
    assert max(backlog) == beyond
    assert len(early) == bound
    assert len(ids) + refused == 2 * EACH * PRODUCERS
    assert late, "the agents made room"
    assert bus.stats(test_topic)["accepted"] == len(ids) + 1
    assert states(test_topic, [*ids, dead]) == {"done"}
    assert wounds(redis_client, test_topic) == []
    chronicle.record(SUITE, tasks=len(ids) + 1, lost=0, double=0)


def test_g7_dead_letters_are_never_dropped_a_full_store_stops_intake_alone(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """At their bound dead letters stop the intake of their topic, nothing else: what
    was accepted still runs and may die, and no letter goes."""
    bound = EACH // 2
    bus.set_limits(test_topic, dead_max=bound)
    with watched(test_topic, "dead") as dead, agents.running(test_topic, never):
        ids, refused = produced(test_topic, EACH)
        wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 60)

    assert refused > 0
    assert len(ids) >= bound
    assert dead == sorted(dead), "letters went"
    assert {letter.id for letter in bus.list_dead(test_topic, 100_000)} == set(ids)
    with pytest.raises(errors.TopicFull):
        bus.enqueue_task(test_topic, {"n": "more"})
    with ThreadPoolExecutor(PRODUCERS) as pool:
        list(pool.map(lambda task_id: bus.replay(task_id, test_topic), ids))
    assert bus.enqueue_task(test_topic, {"n": "welcome"})
    with agents.running(test_topic, a_moment):
        wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 60)
    assert states(test_topic, ids) == {"done"}
    assert wounds(redis_client, test_topic) == []
    chronicle.record(SUITE, tasks=len(ids) + 1, lost=0, double=0)


@pytest.fixture
def limited(redis_client: redis.Redis) -> Iterator[Callable[[int], None]]:
    """Give the server so many bytes beside what it uses now; below 0 it has none."""

    def limit(beside: int) -> None:
        used = int(redis_client.info("memory")["used_memory"])  # type: ignore[index]
        redis_client.config_set("maxmemory", max(1, used + beside))

    yield limit
    redis_client.config_set("maxmemory", 0)


def filled(topic: str) -> list[str]:
    """Ids of tasks that were accepted until the server had no memory left."""
    ids: list[str] = []
    for number in range(5_000):
        payload = {"n": number, "fill": FILL}
        try:
            ids.append(bus.enqueue_task(topic, payload))
        except errors.BusUnavailable as refusal:
            assert refusal.outcome == "not_written"
            return ids
    raise AssertionError("20 MB found their place in 8")


def held(client: redis.Redis, topic: str) -> dict[str, str]:
    """What a refused enqueue must not change: each key of the topic and its content.

    Not as DUMP gives it: a hash or set that the server is rehashing changes its order.
    """
    reads: dict[str, Callable[[str], Any]] = {
        "stream": lambda key: client.xrange(key),
        "hash": lambda key: sorted(client.hgetall(key).items()),  # type: ignore[union-attr]
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    found = {}
    for key in client.scan_iter(match=f"*{{{topic}}}*", count=1_000):
        content = reads[client.type(key)](key)  # type: ignore[index]
        digest = hashlib.sha256(repr(content).encode()).hexdigest()
        found[key] = f"{len(content)} parts, {digest}"
    return found


def test_g12_at_maxmemory_enqueue_is_refused_whole_and_all_else_goes_through(
    test_topic: str,
    redis_client: redis.Redis,
    limited: Callable[[int], None],
    settings: Settings,
) -> None:
    """Claims, completions, failures, cancels, replays, discards, promotions, registry:
    all pass without memory, also for agents that start only then; enqueues of any form
    are refused whole; after relief all goes on by itself."""
    settings.MESH_SEND_RETRY_S = 0.2
    bus.set_limits(test_topic, results_keep=50)
    total, fine = 0, {"done", "cancelled", "discarded"}
    for _ in range(ROUNDS):
        limited(8 * MB)
        soon = [
            bus.enqueue_task(test_topic, {"n": 1}, delay_s=1 + n / 50)
            for n in range(20)
        ]
        ids = filled(test_topic)
        limited(-MB)

        before = held(redis_client, test_topic)
        for send in (
            lambda: bus.enqueue_task(test_topic, {"n": 1}),
            lambda: bus.enqueue_task(test_topic, {"n": 1}, delay_s=60),
            lambda: bus.enqueue_task(test_topic, {"n": 1}, idempotency_key="k"),
            lambda: bus.enqueue_many(test_topic, [{"n": n} for n in range(300)]),
        ):
            with pytest.raises(errors.BusUnavailable):
                send()
        # What is due may have gone to the stream meanwhile; nobody promotes here.
        assert held(redis_client, test_topic) == before

        for task_id in ids[:50]:
            assert bus.cancel(task_id, test_topic) == "cancelled"
        bus.pause(test_topic)
        bus.resume(test_topic)
        with agents.process(
            test_topic, "tests.chaos.test_guarantees_bounds:dead_at_first"
        ):
            wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 60)
            limited(-MB)
            letters = [letter.id for letter in bus.list_dead(test_topic, 10_000)]
            discarded, replayed = letters[:5], letters[5:]
            for task_id in discarded:
                bus.discard(task_id, test_topic)
            for task_id in replayed:
                bus.replay(task_id, test_topic)
            wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 60)
            with pytest.raises(errors.BusUnavailable):
                bus.enqueue_task(test_topic, {"n": 1})

            limited(8 * MB)
            again = bus.enqueue_task(test_topic, {"n": 1})
            assert bus.wait_result(again, test_topic, timeout_s=10).state == "done"

        stats = bus.stats(test_topic)
        total += len(ids) + len(soon) + 1
        ended = sum(stats[state] for state in fine)
        assert (ended, stats["dead"]) == (total, 0)
        assert len(replayed) > 50
    assert wounds(redis_client, test_topic) == []
    chronicle.record(
        SUITE, tasks=total, lost=0, double=0, faults={"memory taken away": ROUNDS}
    )


def test_g14_what_went_through_leaves_nothing_behind(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    """Memory is bounded by what is live and by what is kept, not by what went through;
    one entry that stays long keeps no more than its own node of the stream."""
    settings.MESH_DONE_WINDOW_S = 1
    bus.set_limits(test_topic, results_keep=50)
    stream = bus.task_stream(test_topic)
    # One key each, made by the first call after a minute, or by the audit's next round.
    by_the_clock = {keys.named(name, test_topic) for name in ("hours", "audit")}

    def drained(count: int) -> None:
        bus.enqueue_many(test_topic, ["x" * 200] * count)
        wait_until(lambda: bus.stats(test_topic)["backlog"] == 1, 60)
        index = keys.named("done", test_topic)
        wait_until(lambda: int(redis_client.zcard(index)) <= 50, 30, "trimmed")  # type: ignore[arg-type]

    def used() -> int:
        return int(redis_client.info("memory")["used_memory"])  # type: ignore[index]

    old = bus.enqueue_task(test_topic, "stays")
    assert bus.read_group(test_topic, "default", "by-hand", 1)[0][1]["id"] == old
    bus.register_agent("by-hand", "long", ttl_seconds=600)
    with agents.running(test_topic, a_moment):
        drained(500)
        before, names = used(), set(redis_client.scan_iter())
        drained(EACH * PRODUCERS)

        assert set(redis_client.scan_iter()) <= names | by_the_clock
        assert used() < before * 1.1 + MB
    assert int(redis_client.memory_usage(stream) or 0) < 64 * 1024
    assert redis_client.xlen(bus.result_stream(test_topic)) == 50
    chronicle.record(SUITE, tasks=EACH * PRODUCERS + 501, lost=0, double=0)
