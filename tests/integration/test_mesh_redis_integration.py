"""Streams and groups on the real server, as agents written by hand meet them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import errors, janitor, judge, looks
from tests.support import waiting

GROUP = "anything I like"


def drain(
    topic: str,
    finish: Callable[[str, dict[str, Any]], Any],
    *,
    group: str = GROUP,
    consumer: str = "by-hand",
    count: int = 7,
) -> list[Any]:
    """What an agent written by hand does, until nothing comes any more."""
    seen = []
    while entries := bus.read_group(topic, group, consumer, count, block_ms=0):
        for entry_id, fields in entries:
            finish(entry_id, fields)
            seen.append(fields["payload"])
    return seen


def keys_of(topic: str) -> dict[bytes, bytes | None]:
    """Every key of one topic with its serialised value."""
    with redis.Redis.from_url(bus._redis_url()) as client:
        names = list(client.scan_iter(match=f"*{{{topic}}}*", count=1_000))
        return {name: client.dump(name) for name in names}


def somebody_waits(client: redis.Redis) -> None:
    """Until a reader blocks in the server."""
    waiting.wait_until(lambda: client.info("clients")["blocked_clients"])


# --- the clients: any command of Redis, also several in one round trip


def test_a_pipeline_of_the_shared_client_is_one_round_trip(
    test_topic: str, redis_client: redis.Redis
) -> None:
    key = bus.result_stream(test_topic)
    with bus.get_redis().pipeline(transaction=False) as both:
        both.xadd(key, {"json": "1"})
        both.xlen(key)
        entry_id, length = both.execute()

    assert (length, redis_client.xrange(key)) == (1, [(entry_id, {"json": "1"})])


def test_a_pipeline_of_the_asyncio_client_is_one_round_trip(
    test_topic: str, redis_client: redis.Redis
) -> None:
    key = bus.result_stream(test_topic)

    async def ask() -> list[Any]:
        async with bus.get_redis_async().pipeline(transaction=True) as both:
            both.xadd(key, {"json": "1"})
            both.xlen(key)
            return await both.execute()

    entry_id, length = asyncio.run(ask())

    assert (length, redis_client.xrange(key)) == (1, [(entry_id, {"json": "1"})])


# --- the story: an agent of four functions drains a topic for good


def test_an_agent_of_four_functions_drains_a_topic_for_good(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_many(test_topic, range(50))

    def finish(entry_id: str, fields: dict[str, Any]) -> None:
        row = f'{{"id":"{fields["id"]}","result":{fields["payload"] * 2}}}'
        redis_client.xadd(bus.result_stream(test_topic), {"json": row})
        assert bus.ack(test_topic, GROUP, entry_id) == 1

    seen = drain(test_topic, finish)

    stats = bus.stats(test_topic)
    assert seen == list(range(50))
    assert redis_client.xlen(bus.task_stream(test_topic)) == 0
    assert (stats["backlog"], stats["done"], stats["ledger"]["drift"]) == (0, 50, 0)
    assert bus.tail_results(test_topic)[0][1]["result"] == 98


def test_an_agent_by_hand_drains_a_topic_with_failures_for_good(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_many(test_topic, range(60))

    def finish(entry_id: str, fields: dict[str, Any]) -> None:
        if fields["payload"] % 3:
            bus.ack(test_topic, GROUP, entry_id)
        else:
            letter = {"error": "divisible", "payload": fields["payload"]}
            bus.move_to_dead(test_topic, entry_id, letter)

    drain(test_topic, finish)

    stats = bus.stats(test_topic)
    assert redis_client.xlen(bus.task_stream(test_topic)) == 0
    assert redis_client.xpending(bus.task_stream(test_topic), GROUP)["pending"] == 0
    assert (stats["done"], stats["dead"], stats["backlog"]) == (40, 20, 0)
    assert stats["ledger"]["drift"] == 0


def test_the_largest_payload_can_be_moved_to_dead_as_it_is(test_topic: str) -> None:
    bus.enqueue_task(test_topic, "x" * (256 * 1024 - 2))
    [(entry_id, fields)] = bus.read_group(test_topic, GROUP, "me", block_ms=0)

    bus.move_to_dead(test_topic, entry_id, fields["payload"])

    assert bus.list_dead(test_topic)[0].payload == fields["payload"]


def deepest() -> Any:
    payload: Any = 1
    for _ in range(32):
        payload = [payload]
    return payload


@pytest.mark.parametrize(
    "payload", ["x" * (256 * 1024 - 2), deepest()], ids=["largest", "deepest"]
)
def test_every_legal_payload_can_be_moved_to_dead_with_its_error(
    test_topic: str, payload: Any
) -> None:
    """Else an agent by hand that wraps what failed never gets rid of it."""
    bus.enqueue_task(test_topic, payload)
    [(entry_id, fields)] = bus.read_group(test_topic, GROUP, "me", block_ms=0)

    bus.move_to_dead(
        test_topic, entry_id, {"error": "no", "payload": fields["payload"]}
    )

    assert bus.stats(test_topic)["dead"] == 1


def test_many_agents_by_hand_share_a_topic_without_doing_anything_twice(
    test_topic: str,
) -> None:
    bus.enqueue_many(test_topic, range(300))

    def agent(number: int) -> list[Any]:
        return drain(
            test_topic,
            lambda entry_id, _: bus.ack(test_topic, GROUP, entry_id),
            consumer=f"agent-{number}",
        )

    with ThreadPoolExecutor(6) as pool:
        seen = [n for part in pool.map(agent, range(6)) for n in part]

    assert sorted(seen) == list(range(300))
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


# --- groups


def test_a_group_made_late_still_gets_the_first_task(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, "early")

    bus.create_consumer_group(test_topic, GROUP)

    [(_, fields)] = bus.read_group(test_topic, GROUP, "me", block_ms=0)
    assert fields["id"] == task_id


def test_the_first_group_is_the_working_group(test_topic: str) -> None:
    bus.create_consumer_group(test_topic, "first")
    bus.create_consumer_group(test_topic, "second")

    assert bus.stats(test_topic)["group"] == "first"


def test_reading_makes_the_group_and_the_first_reader_the_working_one(
    test_topic: str,
) -> None:
    bus.enqueue_task(test_topic, 1)

    bus.read_group(test_topic, "first", "me", block_ms=0)
    bus.read_group(test_topic, "second", "me", block_ms=0)

    assert bus.stats(test_topic)["group"] == "first"


def test_of_many_groups_made_at_once_one_becomes_the_working_group(
    test_topic: str,
) -> None:
    names = [f"g{n}" for n in range(8)]

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: bus.create_consumer_group(test_topic, n), names))

    assert made == [True] * 8
    assert bus.stats(test_topic)["group"] in names


def test_an_observer_sees_all_and_moves_nothing(test_topic: str) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    ids = bus.enqueue_many(test_topic, range(3))

    seen = bus.read_group(test_topic, "audit", "eye", 10, block_ms=0)
    acked = [bus.ack(test_topic, "audit", entry_id) for entry_id, _ in seen]

    assert [fields["id"] for _, fields in seen] == ids
    assert acked == [1, 1, 1]
    assert bus.stats(test_topic)["waiting"] == 3


def test_an_observer_reads_on_while_the_working_group_works(test_topic: str) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    bus.enqueue_many(test_topic, range(4))
    first = bus.read_group(test_topic, "audit", "eye", 2, block_ms=0)

    drain(test_topic, lambda entry_id, _: bus.ack(test_topic, GROUP, entry_id))

    assert len(first) == 2
    assert bus.read_group(test_topic, "audit", "eye", 2, block_ms=0) == []


def test_an_observer_that_comes_first_stays_an_observer(test_topic: str) -> None:
    bus.create_consumer_group(test_topic, "audit", observe=True)
    task_id = bus.enqueue_task(test_topic, 1)

    [(entry_id, _)] = bus.read_group(test_topic, "audit", "eye", block_ms=0)
    bus.ack(test_topic, "audit", entry_id)

    assert bus.get_task(task_id, test_topic).state == "waiting"


def test_an_acknowledging_observer_ends_no_task_before_there_is_a_working_group(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """An observer in any language: XREADGROUP, then ack."""
    key = bus.task_stream(test_topic)
    bus.create_consumer_group(test_topic, "audit", observe=True)
    task_id = bus.enqueue_task(test_topic, 1)
    redis_client.xreadgroup("audit", "eye", {key: ">"})
    [(entry_id, _)] = redis_client.xrange(key)

    assert bus.ack(test_topic, "audit", entry_id) == 1
    assert bus.get_task(task_id, test_topic).state == "waiting"


def test_a_group_destroyed_under_its_readers_comes_back_from_the_start(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_many(test_topic, range(3))
    bus.read_group(test_topic, GROUP, "me", 2, block_ms=0)
    redis_client.xgroup_destroy(bus.task_stream(test_topic), GROUP)

    again = drain(test_topic, lambda entry_id, _: bus.ack(test_topic, GROUP, entry_id))

    stats = bus.stats(test_topic)
    assert again == [0, 1, 2]
    assert (stats["done"], stats["backlog"], stats["ledger"]["drift"]) == (3, 0, 0)


def test_a_reader_that_waits_survives_the_end_of_its_group(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    key = bus.task_stream(test_topic)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(bus.read_group, test_topic, GROUP, "me", 1, 10_000)
        somebody_waits(redis_client)

        redis_client.xgroup_destroy(key, GROUP)
        task_id = bus.enqueue_task(test_topic, 1)

        [(_, fields)] = read.result(9)
    assert fields["id"] == task_id


def test_a_flushed_server_is_a_new_start_for_a_reader(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, "before")
    bus.read_group(test_topic, GROUP, "me", block_ms=0)
    redis_client.flushall()

    task_id = bus.enqueue_task(test_topic, "after")

    [(_, fields)] = bus.read_group(test_topic, GROUP, "me", block_ms=0)
    assert fields["id"] == task_id


# --- reading


@pytest.mark.parametrize("count", [1, 3, 100])
def test_a_read_gives_no_more_than_asked(test_topic: str, count: int) -> None:
    bus.enqueue_many(test_topic, range(5))

    entries = bus.read_group(test_topic, GROUP, "me", count, block_ms=0)

    assert len(entries) == min(count, 5)


def test_a_thousand_tasks_can_be_read_at_once(test_topic: str) -> None:
    ids = bus.enqueue_many(test_topic, range(1_000))

    entries = bus.read_group(test_topic, GROUP, "me", 1_000, block_ms=0)

    assert [fields["id"] for _, fields in entries] == ids


def test_nobody_is_given_a_task_that_somebody_has(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    bus.read_group(test_topic, GROUP, "me", block_ms=0)

    assert bus.read_group(test_topic, GROUP, "you", block_ms=0) == []
    assert bus.read_group(test_topic, GROUP, "me", block_ms=0) == []


def test_a_read_that_waits_gets_what_comes_meanwhile(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(bus.read_group, test_topic, GROUP, "me", 1, 10_000)
        somebody_waits(redis_client)

        task_id = bus.enqueue_task(test_topic, 1)

        [(_, fields)] = read.result(5)
    assert fields["id"] == task_id


def test_a_read_can_wait_longer_than_the_socket_timeout(
    test_topic: str, settings: Settings
) -> None:
    settings.MESH_SOCKET_TIMEOUT_S = 0.3
    began = time.monotonic()

    entries = bus.read_group(test_topic, GROUP, "me", block_ms=1_200)

    assert entries == []
    assert time.monotonic() - began >= 1.2


def test_a_read_that_does_not_wait_is_back_at_once(test_topic: str) -> None:
    began = time.monotonic()

    assert bus.read_group(test_topic, GROUP, "me", block_ms=0) == []
    assert time.monotonic() - began < 5


def test_a_task_taken_from_its_agent_reaches_the_next_reader(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, "stranded")
    bus.read_group(test_topic, GROUP, "lost", block_ms=0)

    taken = judge.take(test_topic, GROUP, "lost", idle_ms=0)

    [(_, fields)] = bus.read_group(test_topic, GROUP, "next", block_ms=0)
    assert taken == 1
    assert fields["id"] == task_id


def test_a_task_taken_from_its_agent_keeps_its_place_in_the_queue(
    test_topic: str,
) -> None:
    bus.enqueue_many(test_topic, ["first", "second"])
    bus.read_group(test_topic, GROUP, "lost", block_ms=0)
    judge.take(test_topic, GROUP, "lost", idle_ms=0)

    entries = bus.read_group(test_topic, GROUP, "next", 2, block_ms=0)

    assert [fields["payload"] for _, fields in entries] == ["first", "second"]


def test_each_delivery_of_a_task_has_a_fence_of_its_own(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    [(_, first)] = bus.read_group(test_topic, GROUP, "lost", block_ms=0)
    judge.take(test_topic, GROUP, "lost", idle_ms=0)

    [(_, second)] = bus.read_group(test_topic, GROUP, "next", block_ms=0)

    assert first["fence"] != second["fence"]
    assert first["fence"].rpartition(".")[0] == second["fence"].rpartition(".")[0]


def test_a_reader_that_waits_gets_a_task_that_is_handed_over(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    bus.read_group(test_topic, GROUP, "lost", block_ms=0)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(bus.read_group, test_topic, GROUP, "next", 1, 10_000)
        somebody_waits(redis_client)

        judge.take(test_topic, GROUP, "lost", idle_ms=0)

        [(_, fields)] = read.result(5)
    assert fields["id"] == task_id


def test_a_task_that_was_cancelled_while_it_waited_is_never_read(
    test_topic: str,
) -> None:
    ids = bus.enqueue_many(test_topic, range(3))

    bus.cancel(ids[1], test_topic)

    seen = drain(test_topic, lambda entry_id, _: bus.ack(test_topic, GROUP, entry_id))
    assert seen == [0, 2]


# --- ack


def test_an_ack_in_another_group_does_not_end_the_task(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    [(entry_id, _)] = bus.read_group(test_topic, GROUP, "me", block_ms=0)

    assert bus.ack(test_topic, "no such group", entry_id) == 0
    assert bus.get_task(task_id, test_topic).state == "running"


def test_an_ack_of_what_nobody_has_read_does_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    task_id = bus.enqueue_task(test_topic, 1)
    [(entry_id, _)] = redis_client.xrange(bus.task_stream(test_topic))

    assert bus.ack(test_topic, GROUP, entry_id) == 0
    assert bus.get_task(task_id, test_topic).state == "waiting"


@pytest.mark.parametrize("entry_id", ["1-0", "0-0", "99999999999999-7"])
def test_an_ack_of_an_unknown_entry_does_nothing(
    test_topic: str, entry_id: str
) -> None:
    bus.create_consumer_group(test_topic, GROUP)

    assert bus.ack(test_topic, GROUP, entry_id) == 0
    assert bus.stats(test_topic)["done"] == 0


@pytest.mark.parametrize("end", [bus.ack, bus.move_to_dead], ids=["ack", "dead"])
def test_another_spelling_of_an_entry_id_loses_no_task(
    test_topic: str, end: Callable[..., Any]
) -> None:
    """The server takes 0…5-0 for 5-0; whoever compares texts must not."""
    task_id = bus.enqueue_task(test_topic, 1)
    [(entry_id, _)] = bus.read_group(test_topic, GROUP, "me", block_ms=0)
    args = (GROUP, f"0{entry_id}") if end is bus.ack else (f"0{entry_id}", {})

    try:
        end(test_topic, *args)
    except errors.InvalidName:
        expected = "running"
    else:
        expected = "done" if end is bus.ack else "dead"

    assert bus.get_task(task_id, test_topic).state == expected


# --- topics


def test_two_topics_never_touch_each_other(test_topic: str) -> None:
    other = f"{test_topic}:b"
    bus.enqueue_many(other, range(3), delay_s=60)
    task_id = bus.enqueue_task(other, 1)
    [(entry_id, _)] = bus.read_group(other, GROUP, "me", block_ms=0)
    bus.move_to_dead(other, entry_id, {})
    before = keys_of(other)

    ids = bus.enqueue_many(test_topic, range(10))
    bus.enqueue_task(test_topic, 1, task_id=task_id)
    for number, (found, _) in enumerate(
        bus.read_group(test_topic, GROUP, "me", 6, block_ms=0)
    ):
        if number % 2:
            bus.ack(test_topic, GROUP, found)
        else:
            bus.move_to_dead(test_topic, found, {})
    bus.replay(ids[0], test_topic)
    bus.discard(ids[2], test_topic)
    bus.undo(ids[2], test_topic)
    bus.cancel(ids[9], test_topic)
    bus.pause(test_topic)
    bus.set_limits(test_topic, results_keep=1)
    looks.promote(test_topic)
    janitor.trim(test_topic)

    assert len(before) > 5
    assert keys_of(other) == before


def test_every_topic_that_was_used_is_known(test_topic: str) -> None:
    for n in range(3):
        bus.enqueue_task(f"{test_topic}:{n}", 1)
    bus.create_consumer_group(f"{test_topic}:read", GROUP)

    assert bus.list_topics() == [
        f"{test_topic}:0",
        f"{test_topic}:1",
        f"{test_topic}:2",
        f"{test_topic}:read",
    ]


def test_a_task_is_found_without_its_topic(test_topic: str) -> None:
    topics = [f"{test_topic}:{n}" for n in range(5)]
    ids = [bus.enqueue_task(topic, topic) for topic in topics]

    assert [bus.get_task(task_id).topic for task_id in ids] == topics


def test_an_unknown_task_is_unknown(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    unknown = "0198c0de-0000-7000-8000-00000000abcd"

    for topic in (None, test_topic, f"{test_topic}:never"):
        with pytest.raises(errors.TaskNotFound, match=unknown):
            bus.get_task(unknown, topic)


def test_a_paused_topic_gives_nothing_and_loses_nothing(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    bus.pause(test_topic)

    assert bus.read_group(test_topic, GROUP, "me", block_ms=50) == []
    assert (bus.stats(test_topic)["waiting"], bus.stats(test_topic)["paused"]) == (1, 1)

    bus.resume(test_topic)
    assert len(bus.read_group(test_topic, GROUP, "me", block_ms=0)) == 1


def test_a_pause_catches_what_a_waiting_reader_receives(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(bus.read_group, test_topic, GROUP, "me", 1, 700)
        somebody_waits(redis_client)
        bus.pause(test_topic)

        bus.enqueue_task(test_topic, 1)

        assert read.result(5) == []
    assert bus.stats(test_topic)["waiting"] == 1


def test_a_topic_nobody_used_has_empty_stats(test_topic: str) -> None:
    stats = bus.stats(test_topic)

    assert (stats["backlog"], stats["dead"], stats["ledger"]["drift"]) == (0, 0, 0)
    assert (stats["group"], stats["oldest_s"]) == (None, None)


def test_the_age_of_the_oldest_task_counts_what_waits(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(3))
    bus.read_group(test_topic, GROUP, "me", 3, block_ms=0)
    running = bus.stats(test_topic)["oldest_s"]
    judge.take(test_topic, GROUP, "me", idle_ms=0)

    waiting.wait_until(lambda: (bus.stats(test_topic)["oldest_s"] or 0) > 0.02)

    assert running is None
    assert bus.stats(test_topic)["oldest_s"] < 60


def test_scripts_survive_a_flush_of_the_servers_scripts(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    redis_client.script_flush()

    [(entry_id, _)] = bus.read_group(test_topic, GROUP, "me", block_ms=0)
    redis_client.script_flush()

    assert bus.get_task(task_id).state == "running"
    redis_client.script_flush()
    assert bus.ack(test_topic, GROUP, entry_id) == 1
