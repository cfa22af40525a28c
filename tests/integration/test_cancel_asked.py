"""Where a cancel was asked for while a task ran, it ends `cancelled`: however that run
ends, and nobody begins another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis
from pytest_django import Settings

import bus
from bus import auditor, connection, deliveries, incoming, keys, leases, scripts
from bus.deliveries import Claimed, Seat
from bus.incoming import Arrived
from tests.support.desk import GROUP, Desk
from tests.support.keyspace import wounds

LAST = "18446744073709551615-18446744073709551615"


def asked(topic: str, desk: Desk) -> deliveries.Delivery:
    """A task in the desk's hand that is asked to be cancelled."""
    bus.enqueue_task(topic, {"n": 1})
    item = desk.one()
    assert bus.cancel(item.id, topic) == "running"
    return item


def is_cancelled(client: redis.Redis, topic: str, task_id: str) -> bool:
    task = bus.get_task(task_id, topic)
    assert wounds(client, topic) == []
    assert bus.stats(topic)["ledger"]["drift"] == 0
    return (task.state, task.payload) == ("cancelled", {"n": 1})


# --- an agent by hand gives up on it


def test_what_its_agent_moves_to_dead_is_cancelled(
    test_topic: str, redis_client: redis.Redis
) -> None:
    item = asked(test_topic, Desk(test_topic))

    letter = bus.move_to_dead(test_topic, item.sid, {"error": "stopped"})

    assert letter == ""
    assert is_cancelled(redis_client, test_topic, item.id)
    assert bus.list_dead(test_topic) == []
    [attempt] = bus.get_task(item.id, test_topic).attempts
    assert attempt["error"]["message"] == "stopped"


def test_a_repeat_of_that_makes_no_letter_either(
    test_topic: str, redis_client: redis.Redis
) -> None:
    item = asked(test_topic, Desk(test_topic))

    said = [bus.move_to_dead(test_topic, item.sid, 1) for _ in range(2)]

    assert said == ["", ""]
    assert bus.list_dead(test_topic) == []
    assert is_cancelled(redis_client, test_topic, item.id)


# --- nobody has it in hand any more


@pytest.mark.parametrize("deliveries_allowed", [1, 5])
def test_what_a_deleted_consumer_had_in_hand_is_cancelled(
    test_topic: str,
    redis_client: redis.Redis,
    settings: Settings,
    deliveries_allowed: int,
) -> None:
    settings.MESH_MAX_DELIVERIES = deliveries_allowed
    desk = Desk(test_topic)
    item = asked(test_topic, desk)
    stream = bus.task_stream(test_topic)
    redis_client.xgroup_delconsumer(stream, GROUP, desk.consumer)

    auditor.audit(test_topic)

    assert is_cancelled(redis_client, test_topic, item.id)
    assert bus.stats(test_topic)["dead"] == 0


def handed_over(client: redis.Redis, topic: str) -> str:
    """A row in nobody's hand with a cancel on record; its task."""
    desk = Desk(topic)
    item = asked(topic, desk)
    stream, tasks = bus.task_stream(topic), keys.named("tasks", topic)
    client.xclaim(stream, GROUP, keys.HANDED_OVER, 0, [item.sid], justid=True)
    client.hset(tasks, item.id, f"{item.sid}|0|0|1|0|c|")
    return item.id


def claimed(topic: str) -> int:
    return len(Desk(topic, "other#00000001").claim(5))


def lent(topic: str) -> int:
    leases.register("over-http", "t", 60, None, None)
    return len(leases.claim(topic, "over-http", 5).lent)


@pytest.mark.parametrize("take", [claimed, lent])
def test_what_was_handed_over_is_given_to_nobody(
    test_topic: str, redis_client: redis.Redis, take: Callable[[str], int]
) -> None:
    task_id = handed_over(redis_client, test_topic)
    bus.enqueue_task(test_topic, "behind it")

    assert take(test_topic) == 1
    assert is_cancelled(redis_client, test_topic, task_id)


@pytest.mark.parametrize("take", [claimed, lent])
def test_it_waits_for_as_long_as_no_row_can_tell_of_its_end(
    test_topic: str, redis_client: redis.Redis, take: Callable[[str], int]
) -> None:
    task_id = handed_over(redis_client, test_topic)
    bus.enqueue_task(test_topic, "behind it")
    results = bus.result_stream(test_topic)
    redis_client.xadd(results, {"by": "hand"}, id=LAST)
    redis_client.xdel(results, LAST)

    assert take(test_topic) == 1
    assert bus.get_task(task_id, test_topic).state == "waiting"


@pytest.mark.parametrize("take", [claimed, lent])
def test_what_a_new_group_delivers_again_is_given_to_nobody(
    test_topic: str, redis_client: redis.Redis, take: Callable[[str], int]
) -> None:
    item = asked(test_topic, Desk(test_topic))
    redis_client.xgroup_destroy(bus.task_stream(test_topic), GROUP)
    bus.create_consumer_group(test_topic, GROUP)

    assert take(test_topic) == 0
    assert is_cancelled(redis_client, test_topic, item.id)


# --- it came to an agent that has not begun it


@pytest.mark.parametrize("paused", [True, False])
def test_what_has_come_and_is_not_begun_is_cancelled(
    test_topic: str, redis_client: redis.Redis, paused: bool
) -> None:
    desk = Desk(test_topic)
    item = asked(test_topic, desk)
    if paused:
        bus.pause(test_topic)

    args = deliveries.claim_args(GROUP, desk.consumer, 1, False, [item.sid])
    *_, given = scripts.run("claim", test_topic, args)

    assert given == []
    assert is_cancelled(redis_client, test_topic, item.id)


def test_the_short_way_of_a_claim_does_not_begin_it(test_topic: str) -> None:
    desk = Desk(test_topic)
    item = asked(test_topic, desk)
    flat = ["id", item.id, "json", item.json, "meta", ""]
    found = {item.sid: f"{item.sid}|0|0|0|0|c|"}
    arrived = Arrived([(item.sid, flat)], 1, [None, None, None], found)

    async def verified() -> Claimed | None:
        client = connection.adedicated()
        try:
            seat = Seat(client, test_topic, GROUP, desk.consumer)
            return await incoming.verify(seat, arrived)
        finally:
            await client.aclose()

    assert asyncio.run(verified()) is None
