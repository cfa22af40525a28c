"""What the mesh does when the server, the network or an operator fails it."""

from __future__ import annotations

import asyncio
from typing import Any

import redis

import bus
from tests.support import agents
from tests.support.waiting import wait_until


async def nap(payload: Any, task: Any) -> Any:
    await asyncio.sleep(0.05)
    return payload


def test_an_agent_goes_on_when_an_operator_destroys_its_group(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(400))

    with agents.running(test_topic, nap, concurrency=10):
        wait_until(lambda: bus.stats(test_topic)["done"] > 50, 10, "50 tasks are done")
        redis_client.xgroup_destroy(bus.task_stream(test_topic), "default")
        wait_until(lambda: bus.stats(test_topic)["done"] == 400, 20, "all are done")

    rows = bus.tail_results(test_topic, 500)
    stats = bus.stats(test_topic)
    assert sorted(row["id"] for _, row in rows) == sorted(ids)
    assert (stats["lost"], stats["dead"], stats["ledger"]["drift"]) == (0, 0, 0)


def test_connections_killed_and_scripts_flushed_cost_no_task(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(600))

    with agents.running(test_topic, nap, concurrency=20):
        for done in range(50, 351, 60):
            wait_until(
                lambda done=done: bus.stats(test_topic)["done"] > done,
                20,
                f"{done} tasks are done",
            )
            redis_client.client_kill_filter(_type="normal", skipme=True)
            redis_client.script_flush()
        wait_until(lambda: bus.stats(test_topic)["done"] == 600, 30, "all are done")

    rows = bus.tail_results(test_topic, 700)
    assert sorted(row["id"] for _, row in rows) == sorted(ids)
    assert bus.stats(test_topic)["lost"] == 0
