"""A blocking read brings tasks together with what decides whether they may run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

import bus
from bus import connection, incoming, keys, wire
from bus.deliveries import Claimed, Seat
from bus.incoming import Arrived
from tests.support import agents, work
from tests.support.keyspace import wounds
from tests.support.waiting import wait_until

GROUP = "workers"
ME = "me#00000001"


def read(topic: str, want: int = 20, after: str = "0-0") -> tuple[Arrived, Claimed]:
    """What one read brings and what of it may run."""

    async def ask() -> Any:
        reader = connection.adedicated(block_s=1)
        client = connection.adedicated()
        seat = Seat(client, topic, GROUP, ME)
        try:
            arrived = await incoming.wait_for_new(seat, reader, want, 1.0, after)
            assert arrived is not None
            return arrived, await incoming.verify(seat, arrived)
        finally:
            await reader.aclose()
            await client.aclose()

    arrived, claimed = asyncio.run(ask())
    return arrived, claimed


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands that agents' connections sent beside the blocking reads."""
    seen: list[str] = []
    ask_all = wire.Wire.ask_all

    async def noted(
        self: wire.Wire, *commands: tuple[Any, ...], more_s: float = 0.0
    ) -> list[Any]:
        seen.append("+".join(command[0] for command in commands))
        return await ask_all(self, *commands, more_s=more_s)

    monkeypatch.setattr(wire.Wire, "ask_all", noted)
    return seen


def test_what_comes_alone_needs_no_second_trip(
    test_topic: str, calls: list[str]
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    bus.set_limits(test_topic, timeout_s=7)
    task_id = bus.enqueue_task(test_topic, {"n": 1})

    _, claimed = read(test_topic)

    [item] = claimed.deliveries
    assert (item.id, item.json, item.record.attempt) == (task_id, '{"n":1}', 0)
    assert claimed.timeout_s == 7
    assert claimed.now_ms >= int(item.sid.partition("-")[0])
    assert calls == ["XREADGROUP+EVALSHA"]


def test_what_was_in_hand_before_is_passed_over(
    test_topic: str, calls: list[str]
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    bus.enqueue_many(test_topic, range(15))
    first, _ = read(test_topic)
    last = first.entries[-1][0]
    task_id = bus.enqueue_task(test_topic, "later")

    calls.clear()
    arrived, claimed = read(test_topic, after=last)

    assert [item.id for item in claimed.deliveries] == [task_id]
    assert list(arrived.records) == [arrived.entries[0][0]]
    assert calls == ["XREADGROUP+EVALSHA"]


def test_a_crowd_of_entries_is_asked_for_by_its_ids(
    test_topic: str, calls: list[str]
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    ids = bus.enqueue_many(test_topic, range(15))

    _, claimed = read(test_topic)

    assert [item.id for item in claimed.deliveries] == ids
    assert calls == ["XREADGROUP+EVALSHA", "HMGET+HMGET"]


def test_where_the_last_sid_leads_nowhere_the_ids_are_asked_for(
    test_topic: str,
) -> None:
    """Somebody wrote an id beyond all times, and the audit took it back."""
    bus.create_consumer_group(test_topic, GROUP)
    task_id = bus.enqueue_task(test_topic, 1)

    _, claimed = read(test_topic, after="9999999999999999-0")

    assert [item.id for item in claimed.deliveries] == [task_id]


def test_a_server_that_forgot_its_scripts_is_told_again(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    ids = [bus.enqueue_task(test_topic, n) for n in range(2)]
    redis_client.script_flush()

    for task_id in ids:
        _, claimed = read(test_topic, want=1)
        assert [item.id for item in claimed.deliveries] == [task_id]


def test_a_topic_without_its_group_is_told_as_that(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    with pytest.raises(redis.ResponseError, match="NOGROUP"):
        read(test_topic)


NOT_AS_IT_STANDS: dict[str, Callable[[redis.Redis, str, str], Any]] = {
    "paused": lambda client, topic, task_id: bus.pause(topic),
    "without a record": lambda client, topic, task_id: client.hdel(
        keys.named("tasks", topic), task_id
    ),
    "with the record of another entry": lambda client, topic, task_id: client.hset(
        keys.named("tasks", topic), task_id, "1-1|0|0|0|0||"
    ),
    "with a record in no shape": lambda client, topic, task_id: client.hset(
        keys.named("tasks", topic), task_id, "banana"
    ),
    "with a record that only begins well": lambda client, topic, task_id: client.hset(
        keys.named("tasks", topic),
        task_id,
        str(client.hget(keys.named("tasks", topic), task_id)).replace("|0|0", "|x|0"),
    ),
    "a suspect": lambda client, topic, task_id: client.hset(
        keys.named("tasks", topic),
        task_id,
        str(client.hget(keys.named("tasks", topic), task_id)).replace(
            "|0|0|0|0||", "|0|0|9|3||"
        ),
    ),
    "of a group made once more": lambda client, topic, task_id: client.hset(
        keys.named("settings", topic), "renewed", "9999999999999-0"
    ),
    "written by hand": lambda client, topic, task_id: client.xadd(
        bus.task_stream(topic), {"json": "1"}
    ),
}


@pytest.mark.parametrize("what", NOT_AS_IT_STANDS)
def test_what_may_not_run_as_it_stands_is_left_to_the_script(
    test_topic: str, redis_client: redis.Redis, what: str
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    task_id = bus.enqueue_task(test_topic, 1)
    NOT_AS_IT_STANDS[what](redis_client, test_topic, task_id)

    _, claimed = read(test_topic)

    assert claimed is None


def test_nothing_that_comes_is_run_twice_or_left_out_however_it_comes(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Alone, in crowds, behind what is in hand, by a server that forgets scripts."""
    ids: list[str] = []
    with agents.running(test_topic, work.echo, concurrency=3):
        for size in (1, 1, 15, 2, 1, 40, 1, 12, 3):
            if size == 2:
                redis_client.script_flush()
            ids += bus.enqueue_many(test_topic, range(size))
            if size in (1, 40):
                wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 20)
        wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 20)

    rows: Any = redis_client.xrange(bus.result_stream(test_topic))
    assert sorted(fields["id"] for _, fields in rows) == sorted(ids)
    assert wounds(redis_client, test_topic) == []
