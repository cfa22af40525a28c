"""Somebody destroys the working group, or forgets it: it comes back, and is told."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import redis

import bus
from bus import auditor, keys, records
from bus.agent import Agent
from bus.handlers import Handler
from tests.support import agents, work
from tests.support.desk import GROUP, Desk
from tests.support.keyspace import wounds
from tests.support.waiting import wait_until


def destroy(client: redis.Redis, topic: str) -> None:
    client.xgroup_destroy(bus.task_stream(topic), GROUP)


def told(client: redis.Redis, topic: str) -> list[tuple[str, str]]:
    """What was repaired, and its name, in the event log."""
    rows: Any = client.xrange(keys.named("events", topic))
    return [(f["detail"], f["id"]) for _, f in rows if f["event"] == "repaired"]


# --- counted and told


def test_a_destroyed_group_is_made_again_once_counted_and_told(
    test_topic: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    bus.enqueue_task(test_topic, 1)
    destroy(redis_client, test_topic)

    made = [bus.create_consumer_group(test_topic, GROUP) for _ in range(3)]

    assert made == [True, False, False]
    assert bus.stats(test_topic)["repaired"] == 1
    assert told(redis_client, test_topic) == [("group", GROUP)]
    said = [r.getMessage() for r in caplog.records if "repaired" in r.getMessage()]
    assert said == [f"{test_topic}: repaired 1 group (the first: group {GROUP})"]


def test_a_first_group_and_an_observers_are_no_repair(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    bus.set_limits(test_topic, results_keep=5)
    bus.create_consumer_group(test_topic, "watchers", observe=True)
    bus.create_consumer_group(test_topic, GROUP)
    redis_client.xgroup_destroy(bus.task_stream(test_topic), "watchers")

    bus.read_group(test_topic, "watchers", "me", block_ms=0)

    assert bus.stats(test_topic)["repaired"] == 0
    assert Desk(test_topic).one().record.n == 0


@pytest.mark.parametrize("by", ["a reader", "the audit"])
def test_settings_that_were_lost_name_the_group_again(
    test_topic: str, redis_client: redis.Redis, by: str
) -> None:
    """Whoever reads next under another name does not get the tasks for it."""
    bus.create_consumer_group(test_topic, GROUP)
    redis_client.delete(keys.named("settings", test_topic))

    if by == "the audit":
        assert auditor.audit(test_topic).mended == [f"settings {GROUP}"]
    bus.create_consumer_group(test_topic, "another")

    assert bus.stats(test_topic)["group"] == GROUP
    assert bus.stats(test_topic)["repaired"] == 1
    assert told(redis_client, test_topic) == [("settings", GROUP)]


def test_a_group_from_before_the_counters_knew_it_is_known_by_the_settings(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    redis_client.hdel(keys.named("counters", test_topic), "group")
    destroy(redis_client, test_topic)

    bus.create_consumer_group(test_topic, GROUP)

    assert told(redis_client, test_topic) == [("group", GROUP)]
    assert redis_client.hget(keys.named("counters", test_topic), "group") == GROUP


def test_a_topic_that_was_deleted_begins_anew(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    bus.enqueue_task(test_topic, 1)
    bus.delete_topic(test_topic)

    bus.create_consumer_group(test_topic, "another")

    assert bus.stats(test_topic)["group"] == "another"
    assert bus.stats(test_topic)["repaired"] == 0


# --- fences


@pytest.mark.parametrize("also", [None, "settings"])
def test_no_fence_comes_twice(
    test_topic: str, redis_client: redis.Redis, also: str | None
) -> None:
    """Whoever had the task writes under an older fence than who has it now."""
    desks = [Desk(test_topic, f"desk#{number:08}") for number in range(3)]
    bus.enqueue_task(test_topic, 1)
    items = [desks[0].one()]
    for desk in desks[1:]:
        destroy(redis_client, test_topic)
        if also:
            redis_client.delete(keys.named(also, test_topic))
        bus.create_consumer_group(test_topic, GROUP)
        items.append(desk.one())

    assert len({item.sid for item in items}) == 1
    assert [item.record.n for item in items] == [0, 1, 2]
    ends = [
        desk.complete(item)[0] for desk, item in zip(desks[:2], items[:2], strict=True)
    ]
    assert ends == ["fenced", "fenced"]
    assert desks[2].complete(items[2]) == ["ok"]
    assert wounds(redis_client, test_topic) == []


def test_a_reader_by_hand_is_given_a_new_fence(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    [(sid, first)] = bus.read_group(test_topic, GROUP, "me", block_ms=0)
    destroy(redis_client, test_topic)

    [(_, second)] = bus.read_group(test_topic, GROUP, "me", block_ms=0)

    assert (first["fence"], second["fence"]) == (f"{sid}.0", f"{sid}.1")


def test_what_comes_afterwards_begins_with_its_first_fence(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    bus.enqueue_task(test_topic, "before")
    destroy(redis_client, test_topic)
    bus.create_consumer_group(test_topic, GROUP)
    bus.enqueue_task(test_topic, "after")

    assert [item.record.n for item in desk.claim(2)] == [1, 0]


@pytest.mark.parametrize(
    ("sid", "last", "expected"),
    [
        ("5-0", None, False),
        ("5-0", "", False),
        ("5-0", "0-0", False),
        ("5-0", "5-0", True),
        ("5-1", "5-0", False),
        ("9-0", "10-0", True),
        ("10-0", "9-9", False),
    ],
)
def test_entries_are_compared_as_numbers(
    sid: str, last: str | None, expected: bool
) -> None:
    assert records.is_upto(sid, last) is expected


# --- agents


def test_a_run_goes_on_under_its_new_fence(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """The agent that has it in hand is given it again: there is nobody else."""
    runs, go_on = [], threading.Event()

    async def hold(payload: Any, task: Any) -> Any:
        runs.append(task.fence)
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return payload

    task_id = bus.enqueue_task(test_topic, 1)
    with agents.running(test_topic, hold, group=GROUP):
        wait_until(lambda: runs, 10)
        sid = runs[0].rpartition(".")[0]
        destroy(redis_client, test_topic)
        wait_until(lambda: fence_of(redis_client, test_topic, task_id) == 1, 10)
        wait_until(lambda: bus.stats(test_topic)["running"] == 1, 10)
        go_on.set()
        task = bus.wait_result(task_id, test_topic, timeout_s=10)

    assert (task.state, task.fence) == ("done", f"{sid}.1")
    assert runs == [f"{sid}.0"]
    assert bus.stats(test_topic)["lost"] == 0


def fence_of(client: redis.Redis, topic: str, task_id: str) -> int:
    text: Any = client.hget(keys.named("tasks", topic), task_id)
    return records.parse_record(text).n if text else -1


def test_agents_finish_what_they_had_however_often_it_is_destroyed(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(300))
    with agents.running(test_topic, work.nap, concurrency=10, group=GROUP):
        for done in (30, 90, 150):
            wait_until(lambda n=done: bus.stats(test_topic)["done"] >= n, 20)
            destroy(redis_client, test_topic)
        wait_until(lambda: bus.stats(test_topic)["done"] == 300, 30)

    rows = bus.tail_results(test_topic, 500)
    stats = bus.stats(test_topic)
    assert sorted(row["id"] for _, row in rows) == sorted(ids)
    assert (stats["lost"], stats["dead"], stats["ledger"]["drift"]) == (0, 0, 0)
    assert stats["repaired"] == 3
    assert wounds(redis_client, test_topic) == []


def test_an_agent_ends_where_the_topic_has_another_working_group_now(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """It would wait for tasks of a group that nobody makes again; a start joins."""
    agent = Agent([Handler(test_topic, work.echo)], group=GROUP)

    async def life() -> None:
        running = asyncio.create_task(agent.main())
        first = bus.enqueue_task(test_topic, 1)
        await asyncio.to_thread(bus.wait_result, first, test_topic, 20)
        redis_client.hset(keys.named("settings", test_topic), "group", "others")
        destroy(redis_client, test_topic)
        await asyncio.wait_for(running, 20)

    with pytest.raises(bus.BusError, match="is 'others' now"):
        asyncio.run(life())
